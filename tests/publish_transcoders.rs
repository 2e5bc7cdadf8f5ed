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
        .refuses(&["`layer_0.safetensors` of `org/saes` has another SAE"])
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
            "circuit-tracer's layout does not support `layers.0.mlp`",
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
        .refuses(&["each of 4 layers, `layers.1.mlp` is missing"])
        .hints("the MLPs of all layers");
    of("hookpoint = 'layers.1' AND seed = 0")
        .refuses(&["`layers.1` is not the MLP of a layer"])
        .hints("layers.3.mlp");
    assert!(server.requests().is_empty(), "asked before it was checked");
}

/// The MLPs of the model alone, and with another hookpoint; each kind with and without a skip connection.
fn cross_layer_sweep() -> String {
    let others = MLPS.replace(']', ", 'layers.3']");
    let sweep = sweep("['batchtopk', 'topk']", &format!("[{MLPS}, {others}]"));
    let sweep = replace_line(&sweep, "skip_connection", "cross_layer = true");
    replace_line(
        &sweep,
        "activation",
        "activation = ['batchtopk', 'topk']\nskip_connection = [false, true]",
    )
}

fn of_job(kind: &str, has_skip: bool, hookpoint: &str) -> String {
    let job = format!(
        "SELECT job_id FROM job WHERE kind = 'cross-layer {kind}'
         AND json_extract(config, '$.skip_connection') = {has_skip}
         AND (SELECT count(*) FROM sae WHERE sae.job_id = job.job_id) = {}",
        if hookpoint.is_empty() { 4 } else { 5 }
    );
    format!("job_id IN ({job})")
}

#[test]
fn the_layers_of_a_cross_layer_transcoder_are_published_together() {
    let (server, workspace) = trained(&cross_layer_sweep());
    let of_mlps = of_job("batchtopk", false, "");
    let refused = |condition: &str| {
        let args = ["publish", "--repo", REPO, "--where", condition];
        run(&server, &workspace, &args)
    };
    refused(&format!("{of_mlps} AND hookpoint != 'layers.2.mlp'"))
        .refuses(&["for each of 4 layers, `layers.2.mlp` is missing"])
        .hints("all of it must be chosen");
    refused(&format!("{of_mlps} AND hookpoint != 'layers.3.mlp'"))
        .refuses(&["for each of 4 layers, `layers.3.mlp` is missing"]);
    let others = of_job("batchtopk", false, "layers.3");
    refused(&others).refuses(&["`layers.3` is not the MLP of a layer"]);
    refused(&format!("{others} AND hookpoint != 'layers.3'"))
        .refuses(&["`layers.0.mlp` writes to `layers.3` too"])
        .hints("as its only hookpoints");
    let what = "a layer of a cross-layer transcoder of the kind";
    refused(&of_job("topk", false, ""))
        .refuses(&["no layout supports `layers.0.mlp`", &format!("{what} topk")])
        .hints("batchtopk, relu or jumprelu");
    let with_skip = of_job("batchtopk", true, "");
    refused(&with_skip).refuses(&[&format!("{what} batchtopk with a skip connection")]);
    publish(&server, &workspace, &["--where", &with_skip])
        .refuses(&["circuit-tracer's layout does not support `layers.0.mlp`"]);
    let for_saelens = [
        "publish", "--repo", REPO, "--layout", "saelens", "--where", &of_mlps,
    ];
    run(&server, &workspace, &for_saelens)
        .refuses(&["saelens's layout does not support"])
        .hints("`--layout circuit-tracer` does");
    assert!(server.requests().is_empty(), "asked before it was checked");

    // It is the layout of all that has a layout.
    refused(&of_mlps).succeeds();
    let mut files = server.files(REPO, "main");
    files.remove(".gitattributes").expect("the Hub's own");
    let of_layers = ["W_dec", "W_enc"].map(|name| {
        let file = |layer| format!("{name}_{layer}.safetensors");
        (0..4).map(file).collect::<Vec<_>>()
    });
    let expected = [
        vec!["README.md".into()],
        of_layers.concat(),
        vec!["config.yaml".into()],
    ];
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected.concat());
    let config = String::from_utf8(files["config.yaml"].clone()).unwrap();
    let start = "model_kind: \"cross_layer_transcoder\"\nmodel_name: \"tiny-llama\"\n";
    assert!(config.starts_with(start), "{config}");
    let header = String::from_utf8_lossy(&files["W_enc_1.safetensors"]).into_owned();
    for tensor in ["W_enc_1", "b_enc_1", "b_dec_1", "threshold_1"] {
        assert!(header.contains(&format!("\"{tensor}\"")), "{tensor}");
    }
    let header = String::from_utf8_lossy(&files["W_dec_1.safetensors"]).into_owned();
    assert!(header.contains("\"shape\":[64,3,32]"), "{header}");
    let card_of_layers = card(&server);
    for part in [
        "library_name: circuit-tracer",
        "A cross-layer transcoder of 4 layers on activations of tiny-llama",
        "| `W_enc_2.safetensors` | `layers.2.mlp` | circuit-tracer | cross-layer batchtopk |",
        "load_transcoder_from_hub(\"org/saes\")",
    ] {
        assert!(
            card_of_layers.contains(part),
            "no `{part}` in\n{card_of_layers}"
        );
    }
    let rows = workspace.sql("SELECT layout, count(*) AS n FROM publication_file GROUP BY 1");
    let expected = json!([{"layout": null, "n": 2}, {"layout": "circuit-tracer", "n": 8}]);
    assert_eq!(Value::from(rows), expected);
    let again = refused(&of_mlps).succeeds();
    again.remarks(&["everything was there already"]);
    assert_eq!(card(&server), card_of_layers);
}

/// circuit-tracer knows one set by the `config.yaml` of its folder.
#[test]
fn sets_of_both_kinds_are_not_put_into_one_folder() {
    let sweep = replace_line(
        &sweep("['relu']", &format!("[{MLPS}]")),
        "skip_connection",
        "",
    );
    let sweep = replace_line(
        &sweep,
        "activation",
        "activation = ['relu']\ncross_layer = [false, true]",
    );
    let (server, workspace) = trained(&sweep);
    publish(&server, &workspace, &["--where", &of_kind("relu")]).succeeds();
    let cross_layer = ["--where", "kind = 'cross-layer relu'"];
    publish(&server, &workspace, &cross_layer)
        .refuses(&["`layer_0.safetensors` of `org/saes` has another SAE"])
        .hints("--prefix");
    let elsewhere = [&cross_layer[..], &["--prefix", "clt", "--revision", "v2"]].concat();
    publish(&server, &workspace, &elsewhere).succeeds();
    let card = String::from_utf8(server.files(REPO, "v2")["README.md"].clone()).unwrap();
    let part = "load_transcoder_from_hub(\"org/saes/clt@v2\")";
    assert!(card.contains(part), "{card}");
}
