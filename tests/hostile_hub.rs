//! A Hub that means harm: the program ends, soon, and says what is wrong with which Hub.

use crate::common::{Outcome, Workspace, fixture, replace_line, small_sweep};
use hub_server::{Fault, HubServer};
use std::time::{Duration, Instant};

const MODEL: &str = "org/tiny";
const DATASET: &str = "org/texts";

/// A Hub with the tiny model and a data set, and a sweep on both.
fn with_hub() -> (HubServer, Workspace) {
    let server = HubServer::start();
    server.add_model(MODEL, &fixture("tiny-llama"));
    let workspace = Workspace::new();
    let texts = workspace.path("published");
    std::fs::create_dir(&texts).unwrap();
    std::fs::copy(fixture("tiny.jsonl"), texts.join("train.jsonl")).unwrap();
    server.add_dataset(DATASET, &texts);
    let sweep = replace_line(&small_sweep(), "model", &format!("model = '{MODEL}'"));
    workspace.write("tiny.toml", sweep);
    (server, workspace)
}

/// Runs with a second of patience, and not for long.
#[track_caller]
fn soon(server: &HubServer, workspace: &Workspace, args: &[&str]) -> Outcome {
    let start = Instant::now();
    let variables = [
        ("HF_ENDPOINT", &*server.url()),
        ("SAE_RUN_HUB_PATIENCE", "1"),
    ];
    let outcome = workspace.run_with(&variables, args);
    assert!(start.elapsed() < Duration::from_secs(40), "{outcome}");
    outcome
}

/// What is refused names the repository and the Hub.
#[track_caller]
fn refuses(server: &HubServer, outcome: Outcome, repo: &str, reason: &str) -> Outcome {
    outcome.refuses(&[repo, &server.url(), reason])
}

const HOOKPOINTS: [&str; 2] = ["hookpoints", MODEL];
const DATA: [&str; 4] = ["data", DATASET, "--model", MODEL];

#[test]
fn answers_without_an_end() {
    for part in ["/revision/", "/tree/"] {
        let (server, workspace) = with_hub();
        server.fail(Fault::endless().on(part));
        let outcome = soon(&server, &workspace, &HOOKPOINTS);
        refuses(&server, outcome, MODEL, "is longer than 33.6 MB").hints("HF_ENDPOINT");
    }
    let (server, workspace) = with_hub();
    server.fail(Fault::endless_refusal(404).on("GET /org/tiny/resolve"));
    soon(&server, &workspace, &HOOKPOINTS).refuses(&[MODEL]);
}

#[test]
fn listings_without_an_end() {
    for (fault, reason) in [
        (Fault::same_page(), "returns to an earlier page"),
        (Fault::endless_pages(), "has more than 2000 pages"),
    ] {
        let (server, workspace) = with_hub();
        server.fail(fault.on("/tree/"));
        let outcome = soon(&server, &workspace, &HOOKPOINTS);
        refuses(&server, outcome, MODEL, reason).hints("HF_ENDPOINT");
    }
}

#[test]
fn lengths_that_cannot_be() {
    for n_bytes in [u64::MAX, u64::MAX - 1, 1 << 62] {
        let (server, workspace) = with_hub();
        server.claim_size(MODEL, "model.safetensors", n_bytes);
        server.claim_size(MODEL, "config.json", n_bytes);
        let outcome = soon(&server, &workspace, &["tiny.toml"]);
        refuses(&server, outcome, MODEL, "config.json").hints("HF_ENDPOINT");
    }
}

/// The most that a listing may say: there is no space for it.
#[test]
fn a_listing_that_claims_more_than_a_disk_has() {
    let (server, workspace) = with_hub();
    server.claim_size(MODEL, "model.safetensors", 1 << 44);
    let outcome = soon(&server, &workspace, &["tiny.toml"]);
    outcome
        .refuses(&[MODEL, "17592.2 GB", "are free"])
        .hints("HF_HUB_CACHE");
    server.claim_size(MODEL, "tokenizer.json", 1_000_000_000_000);
    let elsewhere = Workspace::new();
    let outcome = soon(&server, &elsewhere, &HOOKPOINTS);
    outcome.refuses(&[MODEL, "tokenizer.json", "1000.0 GB"]);
}

#[test]
fn a_trickle_ends() {
    let two_seconds = Fault::trickle(Duration::from_secs(2)).on("GET");
    for part in ["/revision/", "/tree/", "/resolve/"] {
        let (server, workspace) = with_hub();
        server.fail(two_seconds.clone().on(part));
        let outcome = soon(&server, &workspace, &HOOKPOINTS);
        refuses(&server, outcome, MODEL, "less than 1024 bytes a second")
            .hints("SAE_RUN_HUB_PATIENCE");
    }
    let (server, workspace) = with_hub();
    server.fail(two_seconds.clone().on("model.safetensors"));
    let outcome = soon(&server, &workspace, &["tiny.toml"]);
    refuses(&server, outcome, MODEL, "less than 1024 bytes a second");
    server.heal();
    server.fail(two_seconds.on("/datasets/"));
    let outcome = soon(&server, &workspace, &DATA);
    refuses(&server, outcome, DATASET, "less than 1024 bytes a second");
}

/// Each answer begins the file again and gives one byte.
#[test]
fn a_byte_an_answer_is_given_up() {
    let (server, workspace) = with_hub();
    server.fail(Fault::cut_answer(1).on("GET").on("signature"));
    let outcome = soon(&server, &workspace, &["tiny.toml"]);
    refuses(&server, outcome, MODEL, "cannot reach the Hub");
}

#[test]
fn waits_in_a_row_are_told_and_end() {
    let (server, workspace) = with_hub();
    server.fail(Fault::rate_limit(2));
    let outcome = soon(&server, &workspace, &HOOKPOINTS);
    outcome.remarks(&[&format!("{} asks to wait 2 seconds", server.url())]);
    let (server, workspace) = with_hub();
    server.fail(Fault::rate_limit(2));
    let outcome = soon(&server, &workspace, &HOOKPOINTS);
    refuses(&server, outcome, MODEL, "after 4 seconds of waiting").hints("wait, then");
    // A single wait that is longer than anyone waits.
    let (server, workspace) = with_hub();
    server.fail(Fault::rate_limit(u32::MAX));
    let start = Instant::now();
    let outcome = soon(&server, &workspace, &HOOKPOINTS);
    assert!(start.elapsed() < Duration::from_secs(4));
    refuses(&server, outcome, MODEL, "for 4294967295 seconds");
}

#[test]
fn publishing_to_a_hub_that_means_harm() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    for (fault, reason) in [
        (Fault::endless().on("/preupload/"), "is longer than"),
        (Fault::trickle(Duration::from_secs(2)), "bytes a second"),
        (Fault::rate_limit(2), "seconds of waiting"),
    ] {
        let server = HubServer::start();
        server.set_token("hf_right");
        server.fail(fault);
        let variables = [
            ("HF_ENDPOINT", &*server.url()),
            ("HF_TOKEN", "hf_right"),
            ("SAE_RUN_HUB_PATIENCE", "1"),
        ];
        let start = Instant::now();
        let args = ["publish", "tiny", "--repo", "org/saes", "--force"];
        let outcome = workspace.run_with(&variables, &args);
        assert!(start.elapsed() < Duration::from_secs(40), "{outcome}");
        refuses(&server, outcome, "org/saes", reason);
    }
}

#[test]
fn a_patience_that_is_none() {
    let workspace = Workspace::new();
    for odd in ["0", "soon", "1e9", "-5"] {
        let variables = [("SAE_RUN_HUB_PATIENCE", odd)];
        let outcome = workspace.run_with(&variables, &HOOKPOINTS);
        outcome.refuses(&["SAE_RUN_HUB_PATIENCE"]);
    }
}

/// Whatever is done with it, a secret in the address is in no file and on no screen.
#[test]
fn a_secret_in_the_address_is_told_to_nobody() {
    const SECRET: &str = "hunter2hunter2";
    let (server, workspace) = with_hub();
    let host = server.url().replace("http://", "");
    for endpoint in [
        format!("http://me:{SECRET}@{host}"),
        format!("http://{SECRET}@{host}"),
        format!("http://{host}?token={SECRET}"),
        format!("http://{host}/#{SECRET}"),
        format!("ftp://{host}/{SECRET}"),
        SECRET.to_owned(),
    ] {
        for args in [
            &["tiny.toml"][..],
            &["plan", "tiny.toml", "--json"],
            &HOOKPOINTS,
            &DATA,
            &["doctor"],
            &["publish", "tiny", "--repo", "org/saes"],
        ] {
            let variables = [("HF_ENDPOINT", &*endpoint), ("HF_TOKEN", "hf_right")];
            let outcome = workspace.run_with(&variables, args);
            assert!(!outcome.status.success(), "{args:?}\n{outcome}");
            assert!(!outcome.to_string().contains(SECRET), "{outcome}");
        }
        let outcome = workspace.run_with(&[("HF_ENDPOINT", &endpoint)], &HOOKPOINTS);
        outcome.refuses(&["HF_ENDPOINT"]).hints("HF_TOKEN");
    }
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    for (path, (_, bytes)) in workspace.files("") {
        let bytes = bytes.windows(SECRET.len());
        assert!(
            !bytes.into_iter().any(|part| part == SECRET.as_bytes()),
            "{path}"
        );
    }
}
