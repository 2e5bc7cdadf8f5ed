//! `sae-run publish --layout circuit-tracer`, to a Hub on this machine.

use crate::common::{Outcome, Workspace, replace_line, small_sweep};
use crate::publish::{REPO, TOKEN, card, run};
use hub_server::HubServer;
use serde_json::{Value, json};

/// The MLPs of the model.
const MLPS: &str = "['layers.0.mlp', 'layers.1.mlp', 'layers.2.mlp', 'layers.3.mlp']";

fn sweep(activations: &str, hookpoints: &str) -> String {
    let sweep = replace_line(
        &small_sweep(),
        "k = ",
        &format!("activation = {activations}"),
    );
    let sweep = replace_line(
        &sweep,
        "save_every",
        "save_every = 5\neval_fraction = 0.2\ntranscode = true\nskip_connection = true",
    );
    replace_line(&sweep, "hookpoints", &format!("hookpoints = {hookpoints}"))
}

fn trained(sweep: &str) -> (HubServer, Workspace) {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    (server, workspace)
}

fn publish(server: &HubServer, workspace: &Workspace, args: &[&str]) -> Outcome {
    let always = ["publish", "--repo", REPO, "--layout", "circuit-tracer"];
    run(server, workspace, &[&always, args].concat())
}

fn of_kind(kind: &str) -> String {
    format!("kind = 'transcoder {kind}'")
}

#[test]
fn the_transcoders_of_a_job_are_a_set() {
    let kinds = "['batchtopk', 'relu', 'topk']";
    let (server, workspace) = trained(&sweep(kinds, &format!("[{MLPS}]")));
    publish(&server, &workspace, &["--where", &of_kind("batchtopk")]).succeeds();
    let mut files = server.files(REPO, "main");
    files.remove(".gitattributes").expect("the Hub's own");
    let expected = [
        "README.md",
        "config.yaml",
        "layer_0.safetensors",
        "layer_1.safetensors",
        "layer_2.safetensors",
        "layer_3.safetensors",
    ];
    assert_eq!(files.keys().collect::<Vec<_>>(), expected);
    let config = String::from_utf8(files["config.yaml"].clone()).unwrap();
    let expected = [
        "model_kind: \"transcoder_set\"\nmodel_name: \"tiny-llama\"\nscan: \"org/saes\"\n",
        "feature_input_hook: \"mlp.hook_in\"\nfeature_output_hook: \"mlp.hook_out\"\n",
    ];
    assert_eq!(config, expected.concat());
    let header = String::from_utf8_lossy(&files["layer_2.safetensors"]).into_owned();
    for tensor in ["activation_function.threshold", "W_skip", "W_enc"] {
        assert!(header.contains(tensor), "{tensor}");
    }
    let card_of_set = card(&server);
    for part in [
        "library_name: circuit-tracer",
        "| `layer_2.safetensors` | `layers.2.mlp` | circuit-tracer | transcoder batchtopk |",
        "load_transcoder_from_hub(\"org/saes\")",
    ] {
        assert!(card_of_set.contains(part), "no `{part}` in\n{card_of_set}");
    }
    for part in ["sae-run encode", "from sparsify", "from sae_lens"] {
        assert!(!card_of_set.contains(part), "`{part}` in\n{card_of_set}");
    }
    let rows = workspace.sql("SELECT layout, count(*) AS n FROM publication_file GROUP BY 1");
    let expected = json!([{"layout": null, "n": 2}, {"layout": "circuit-tracer", "n": 4}]);
    assert_eq!(Value::from(rows), expected);

    // Another set goes elsewhere only, next to the same SAEs in another layout.
    let relu = of_kind("relu");
    publish(&server, &workspace, &["--where", &relu])
        .refuses(&["`layer_0.safetensors` of `org/saes` holds another SAE"])
        .hints("--prefix");
    let elsewhere = ["--layout", "saelens", "--prefix", "v1", "--where", &relu];
    publish(&server, &workspace, &elsewhere).succeeds();
    let files = server.files(REPO, "main");
    let config = String::from_utf8(files["v1/config.yaml"].clone()).unwrap();
    assert!(config.contains("\nscan: \"org/saes//v1\"\n"), "{config}");
    let card_of_both = card(&server);
    for part in [
        "| `layer_2.safetensors` | `layers.2.mlp` | circuit-tracer | transcoder batchtopk |",
        "| `v1/layers.2.mlp` | `layers.2.mlp` | saelens, circuit-tracer | transcoder relu |",
        "sae-run encode org/saes --hookpoint v1/layers.0.mlp",
        "load_transcoder_from_hub(\"org/saes/v1\")",
    ] {
        assert!(
            card_of_both.contains(part),
            "no `{part}` in\n{card_of_both}"
        );
    }

    publish(&server, &workspace, &["--where", &of_kind("topk")])
        .refuses(&[
            "circuit-tracer's layout cannot hold `layers.0.mlp`",
            "a transcoder of the kind topk with a skip connection",
        ])
        .hints("`--layout sparsify` does");
    let two = ["--where", "kind != 'transcoder topk'", "--prefix", "v2"];
    publish(&server, &workspace, &two).refuses(&["the transcoders of one job, these are of 2"]);
}

#[test]
fn what_is_not_a_set_is_refused_by_name() {
    let two = "[['layers.0.mlp', 'layers.2.mlp'], ['layers.1.mlp', 'layers.1']]";
    let seeds = "\ninit_seeds = [0, 1]";
    let sweep = sweep("['relu']", two).replace("\ntranscode", &format!("{seeds}\ntranscode"));
    let (server, workspace) = trained(&sweep);
    let of = |condition: &str| publish(&server, &workspace, &["--where", condition]);
    of("hookpoint IN ('layers.0.mlp', 'layers.2.mlp')")
        .refuses(&["`layers.0.mlp/seed0` and `layers.0.mlp/seed1` are of layer 0"])
        .hints("seed = 0");
    of("hookpoint IN ('layers.0.mlp', 'layers.2.mlp') AND seed = 0")
        .refuses(&["each of 4 layers, there is none of layer 1"])
        .hints("all of them as hookpoints");
    of("hookpoint = 'layers.1' AND seed = 0")
        .refuses(&["`layers.1` is not the MLP of a layer"])
        .hints("layers.3.mlp");
    assert!(server.requests().is_empty(), "asked before it was checked");
}
