//! Crosscoders, published to a Hub on this machine.

use crate::common::{Outcome, Workspace, fixture, replace_line, small_sweep, text};
use crate::publish::{REPO, TOKEN, card, run};
use crate::second_model::make_model;
use hub_server::HubServer;
use serde_json::{Value, json};
use std::fs;

const HOOKPOINTS: &str = "layers.1+layers.2+layers.3";

fn sweep() -> String {
    let kinds = "activation = ['batchtopk', 'relu', 'topk']";
    let sweep = replace_line(&small_sweep(), "k = ", kinds);
    let sweep = replace_line(
        &sweep,
        "save_every",
        "save_every = 5\neval_fraction = 0.2\nk = 6\ncrosscoder = true\ncrosscoder_norm = 'mixed'",
    );
    let hookpoints = "hookpoints = [['layers.1', 'layers.2', 'layers.3']]";
    replace_line(&sweep, "hookpoints", hookpoints)
}

fn publish(server: &HubServer, workspace: &Workspace, kind: &str, more: &[&str]) -> Outcome {
    let condition = format!("kind = 'crosscoder {kind}'");
    let always = ["publish", "--repo", REPO, "--where", &condition];
    run(server, workspace, &[&always, more].concat())
}

fn trained() -> (HubServer, Workspace) {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep());
    workspace.run(&["tiny.toml"]).succeeds();
    (server, workspace)
}

#[test]
fn crosscoders_are_published_as_they_were_trained() {
    let (server, workspace) = trained();
    for layout in ["sparsify", "saelens", "circuit-tracer"] {
        publish(&server, &workspace, "batchtopk", &["--layout", layout])
            .refuses(&[
                &format!("{layout}'s layout does not support `crosscoder` of job"),
                "a crosscoder of the kind batchtopk",
            ])
            .hints("`--layout crosscoder-learning` does");
    }
    assert!(server.requests().is_empty(), "asked before it was checked");

    publish(&server, &workspace, "batchtopk", &[]).succeeds();
    let mut files = server.files(REPO, "main");
    files.remove(".gitattributes").expect("the Hub's own");
    let expected = [
        "README.md",
        "crosscoder/cfg.json",
        "crosscoder/config.json",
        "crosscoder/model.safetensors",
    ];
    assert_eq!(files.keys().collect::<Vec<_>>(), expected);
    let sql = "SELECT checkpoint FROM result WHERE kind = 'crosscoder batchtopk'";
    let dir = workspace.sql_value(sql);
    let dir = workspace.path("runs").join(dir.as_str().unwrap());
    for path in &expected[1..] {
        let name = path.strip_prefix("crosscoder/").unwrap();
        assert!(files[*path] == fs::read(dir.join(name)).unwrap(), "{path}");
    }
    let card_of_one = card(&server);
    for part in [
        "library_name: dictionary_learning",
        "A crosscoder on activations of tiny-llama",
        &format!(
            "| `crosscoder` | `{HOOKPOINTS}` | crosscoder-learning | crosscoder batchtopk | 96 | 64 | 6 |"
        ),
        "`crosscoder` is a crosscoder: its latents are those of `layers.1`, `layers.2`, `layers.3` together",
        "plus a tenth of the sum of their norms (`crosscoder_norm = \"mixed\"`, k = 6).",
        "from dictionary_learning import BatchTopKCrossCoder",
        "folder = snapshot_download(\"org/saes\", allow_patterns=\"crosscoder/*\")\n",
        "BatchTopKCrossCoder.from_pretrained(folder + \"/crosscoder\", from_hub=True)",
        "sae-run encode org/saes --hookpoint crosscoder ",
    ] {
        assert!(card_of_one.contains(part), "no `{part}` in\n{card_of_one}");
    }
    let rows = workspace.sql("SELECT layout, count(*) AS n FROM publication_file GROUP BY 1");
    let expected = json!([{"layout": null, "n": 1}, {"layout": "crosscoder-learning", "n": 3}]);
    assert_eq!(Value::from(rows), expected);
}

#[test]
fn one_whose_hookpoints_choose_apart_says_so_to_its_readers() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    let decoupled = "crosscoder_norm = 'decoupled'\nnormalize_decoder = false\nrescale_acts_by_decoder_norm = true";
    let sweep = sweep().replace("crosscoder_norm = 'mixed'", decoupled);
    let sweep = replace_line(&sweep, "activation = ", "activation = ['batchtopk']");
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    publish(&server, &workspace, "batchtopk", &[]).succeeds();
    let files = server.files(REPO, "main");
    let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
    let model = json("crosscoder/config.json");
    assert_eq!(model["dict_class"], "BatchTopKCrossCoder");
    assert_eq!(model["code_normalization"], "DECOUPLED");
    assert_eq!(model["num_layers"], 3);
    let cfg = json("crosscoder/cfg.json");
    assert_eq!(cfg["code_normalization"], "decoupled");
    assert_eq!(
        cfg["threshold_ema_by_hookpoint"].as_array().unwrap().len(),
        3
    );
    let card = card(&server);
    for part in [
        "the norm of its decoder's row at each hookpoint (`crosscoder_norm = \"decoupled\"`, k = 6).",
        "Each hookpoint has its own active latents, `k` of them on average, and its own threshold",
        "from dictionary_learning import BatchTopKCrossCoder",
    ] {
        assert!(card.contains(part), "no `{part}` in\n{card}");
    }
}

#[test]
fn several_crosscoders_are_in_one_repository_and_found_there() {
    let (server, workspace) = trained();
    publish(&server, &workspace, "batchtopk", &[]).succeeds();
    // Another one at the same path is refused, and is added elsewhere.
    publish(&server, &workspace, "relu", &[])
        .refuses(&["`crosscoder` of `org/saes` has another SAE"])
        .hints("--prefix");
    publish(&server, &workspace, "relu", &["--prefix", "v1"]).succeeds();
    // crosscoder_learning has no class for it.
    publish(&server, &workspace, "topk", &["--prefix", "a/b"]).succeeds();
    let files = server.files(REPO, "main");
    let has = |path: &str| files.contains_key(path);
    assert!(has("v1/crosscoder/config.json") && has("a/b/crosscoder/model.safetensors"));
    assert!(!has("a/b/crosscoder/config.json"));
    let card_of_all = card(&server);
    for part in [
        "3 crosscoders on activations",
        "| crosscoder relu | 96 | 64 | - |",
        "`crosscoder_norm = \"mixed\"`).",
    ] {
        assert!(card_of_all.contains(part), "no `{part}` in\n{card_of_all}");
    }

    // It is found there again, by itself.
    let model = fixture("tiny-llama");
    let args = [
        "encode",
        REPO,
        "--hookpoint",
        "crosscoder",
        "--text",
        "Call me Ishmael.",
    ];
    let out = ["--model", text(&model), "--out", "latents.parquet"];
    run(&server, &workspace, &[&args[..], &out].concat()).succeeds();
    assert!(workspace.path("latents.parquet").is_file());
}

#[test]
fn a_crosscoder_over_two_models_names_both_and_no_folder() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    make_model(&workspace.path("secret/tuned"), 0.8);
    let sweep = replace_line(
        &small_sweep(),
        "save_every",
        "crosscoder = true\ncrosscoder_model = 'secret/tuned'",
    );
    let sweep = replace_line(
        &sweep,
        "hookpoints",
        "hookpoints = [['layers.1', 'layers.2']]",
    );
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    publish(&server, &workspace, "topk", &["--force"]).succeeds();
    let card = card(&server);
    for part in [
        "A crosscoder on activations of tiny-llama, tuned, trained on",
        "`layers.1`, `layers.2`, `2:layers.1`, `2:layers.2` together",
        "\"crosscoder_model\": \"tuned\"",
    ] {
        assert!(card.contains(part), "no `{part}` in\n{card}");
    }
    assert!(!card.contains("secret"), "{card}");
}
