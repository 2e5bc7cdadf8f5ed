//! Models of the Hub, served by a Hub on this machine.

use crate::common::{Outcome, Workspace, fixture, replace_line, small_sweep, text};
use hub_server::{Access, Fault, HubServer};
use serde_json::json;

const MODEL: &str = "org/tiny";

/// A Hub with the tiny model, and the small sweep on it.
fn with_hub() -> (HubServer, Workspace) {
    let server = HubServer::start();
    server.add_model(MODEL, &fixture("tiny-llama"));
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep_on(MODEL));
    (server, workspace)
}

fn sweep_on(model: &str) -> String {
    replace_line(&small_sweep(), "model", &format!("model = '{model}'"))
}

fn run(server: &HubServer, workspace: &Workspace, args: &[&str]) -> Outcome {
    workspace.run_with(&[("HF_ENDPOINT", &server.url())], args)
}

fn asked_for(server: &HubServer, part: &str) -> bool {
    let requests = server.requests();
    requests.iter().any(|request| request.target.contains(part))
}

#[test]
fn hookpoints_ask_for_no_weights() {
    let (server, workspace) = with_hub();
    let here = workspace.run(&["hookpoints", fixture("tiny-llama").to_str().unwrap()]);
    let there = run(&server, &workspace, &["hookpoints", MODEL]).succeeds();
    assert_eq!(here.succeeds().stdout, there.stdout);
    assert!(
        !asked_for(&server, "safetensors"),
        "{:?}",
        server.requests()
    );
}

#[test]
fn planning_asks_for_no_weights_and_training_for_each_file_once() {
    let (server, workspace) = with_hub();
    run(&server, &workspace, &["plan", "tiny.toml"]).succeeds();
    assert!(!asked_for(&server, "resolve/main/model.safetensors"));
    let outcome = run(&server, &workspace, &["tiny.toml"]).succeeds();
    outcome.remarks(&["downloading `org/tiny`: 100 % of"]);
    let counted = workspace.sql_value("SELECT count(*) FROM result WHERE fvu < 1");
    assert_eq!(counted, json!(3));
    server.forget_requests();
    run(&server, &workspace, &["tiny.toml", "--fresh", "--yes"]).succeeds();
    assert!(!asked_for(&server, "/resolve/"), "{:?}", server.requests());
}

/// The numbers are those of the same files in a folder; the id is the commit's.
#[test]
fn the_same_saes_as_from_a_folder() {
    let (server, workspace) = with_hub();
    run(&server, &workspace, &["tiny.toml"]).succeeds();
    let from_folder = Workspace::with_small_sweep();
    from_folder.run(&["tiny.toml"]).succeeds();
    let saes = |workspace: &Workspace| {
        let files = workspace.trained().into_iter();
        let saes = files.filter(|(path, _)| path.ends_with("sae.safetensors"));
        saes.map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let (mut here, mut there) = (saes(&workspace), saes(&from_folder));
    here.sort_unstable();
    there.sort_unstable();
    assert_eq!(here.len(), 3);
    assert!(here == there);
}

#[test]
fn offline_the_cache_is_enough() {
    let (server, workspace) = with_hub();
    run(&server, &workspace, &["tiny.toml"]).succeeds();
    drop(server);
    let offline = |args: &[&str]| workspace.run_with(&[("HF_HUB_OFFLINE", "1")], args);
    offline(&["tiny.toml", "--fresh", "--yes"]).succeeds();
    let other = offline(&["hookpoints", "org/other"]);
    other.refuses(&["`org/other`", "offline"]);
}

#[test]
fn a_hub_that_is_out_of_reach() {
    let (server, workspace) = with_hub();
    run(&server, &workspace, &["hookpoints", MODEL]).succeeds();
    let url = server.url();
    drop(server);
    let gone = |args: &[&str]| workspace.run_with(&[("HF_ENDPOINT", &url)], args);
    let outcome = gone(&["hookpoints", MODEL]).succeeds();
    outcome.remarks(&["taking commit", "from the cache"]);
}

#[test]
fn a_revision_is_another_model() {
    let (server, workspace) = with_hub();
    let older = workspace.path("older");
    std::fs::create_dir(&older).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, older.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(older.join("NOTES.md"), "An older one.").unwrap();
    let commit = server.add_revision(MODEL, "step1000", &older);
    let digest = |more: &[&str]| {
        let args = [&["plan", "tiny.toml", "--json"], more].concat();
        run(&server, &workspace, &args).succeeds().json()["jobs"][0]["model_digest"].clone()
    };
    let branch = digest(&["--set", "train.revision=step1000"]);
    assert_eq!(branch, json!(commit));
    assert_eq!(
        branch,
        digest(&["--set", &format!("train.revision={commit}")])
    );
    assert_ne!(branch, digest(&[]));
    let unknown = run(
        &server,
        &workspace,
        &["hookpoints", MODEL, "--revision", "step9"],
    );
    unknown.refuses(&["`step9`", "`org/tiny`"]);
}

#[test]
fn a_folder_has_no_revisions() {
    let workspace = Workspace::with_small_sweep();
    let outcome = workspace.run(&["plan", "tiny.toml", "--set", "train.revision=main"]);
    outcome
        .refuses(&["revision `main`"])
        .hints("leave `revision` out");
}

#[test]
fn a_jobs_revision_is_not_that_of_another_model() {
    let (server, workspace) = with_hub();
    let trained = ["tiny.toml", "--set", "train.revision=main"];
    run(&server, &workspace, &trained).succeeds();
    let job = workspace.sql_value("SELECT job_id FROM job LIMIT 1");
    let (model, data) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let named = ["--model", text(&model), "--dataset", text(&data)];
    let some = ["--ctx-len", "64", "--max-examples", "2"];
    let args = [&["eval", job.as_str().unwrap()][..], &named, &some].concat();
    run(&server, &workspace, &args)
        .succeeds()
        .remarks(&["not recorded"]);
}

#[test]
fn models_that_are_not_to_be_had() {
    let (server, workspace) = with_hub();
    let refused = |model: &str| run(&server, &workspace, &["hookpoints", model]);
    refused("org/none")
        .refuses(&["`org/none`"])
        .hints("looked for it at");
    refused("../tiny").refuses(&["model `../tiny` does not exist"]);
    server.add_model("org/gated", &fixture("tiny-llama"));
    server.set_token("hf_right");
    server.restrict("org/gated", Access::Gated);
    refused("org/gated")
        .refuses(&["`org/gated`"])
        .hints("HF_TOKEN");
    let variables = [("HF_ENDPOINT", &*server.url()), ("HF_TOKEN", "hf_right")];
    let granted = workspace.run_with(&variables, &["hookpoints", "org/gated", "norm"]);
    granted.succeeds();
}

/// What the Hub sends instead of a file does not become the file.
#[test]
fn a_damaged_download_is_told_and_mended() {
    let (server, workspace) = with_hub();
    server.fail(Fault::garble().on("GET").on("model.safetensors"));
    let outcome = run(&server, &workspace, &["tiny.toml"]);
    outcome.refuses(&["model.safetensors", "`org/tiny`"]);
    server.heal();
    run(&server, &workspace, &["tiny.toml"]).succeeds();
}
