//! Tokenising that is killed, stopped, short of room, or done twice at once.

use super::cached_rows;
use crate::common::{Running, Workspace, finish, fixture, signal, text, until};
use serde_json::json;
use std::fs;

const CTX_LEN: usize = 64;

/// Twenty-five batches of documents: enough to be disturbed in the middle.
fn long_text() -> String {
    let document = |i: u64| {
        let words = "whales in é and à, ".repeat(1 + (i % 17) as usize);
        format!("{{\"text\": \"Document {i}: {words}\"}}\n")
    };
    (0..25 * 2048).map(document).collect()
}

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("long.jsonl", long_text());
    workspace
}

fn args() -> [String; 7] {
    let model = fixture("tiny-llama");
    let ctx_len = CTX_LEN.to_string();
    let args = [
        "data",
        "long.jsonl",
        "--model",
        text(&model),
        "--json",
        "--ctx-len",
        &ctx_len,
    ];
    args.map(str::to_owned)
}

fn start(workspace: &Workspace, name: &str) -> Running {
    let args = args();
    let command = workspace.command(&args.each_ref().map(String::as_str));
    let file = |stream: &str| workspace.path(&format!("{name}.{stream}.txt"));
    Running::start(command, file("stdout"), file("stderr"))
}

/// Whether the folder of tokens has a file with this ending.
fn has_file(workspace: &Workspace, end: &str) -> bool {
    let folder = fs::read_dir(workspace.path("cache/tokens"));
    let mut files = folder.into_iter().flatten().flatten();
    files.any(|entry| entry.file_name().to_string_lossy().ends_with(end))
}

/// Waits until there is something to resume from.
fn wait_for_journal(workspace: &Workspace) {
    until("an entry in the journal", || {
        assert!(!has_file(workspace, ".tokens"), "too late to disturb it");
        has_file(workspace, ".partial.json").then_some(())
    });
}

/// Runs the command again: it resumes, and ends as if nothing had happened.
#[track_caller]
fn goes_on_to_the_same_end(disturbed: &Workspace) {
    assert!(!has_file(disturbed, ".tokens"));
    let args = args();
    let args = args.each_ref().map(String::as_str);
    let resumed = disturbed.run(&args).succeeds();
    let resumed = resumed.remarks(&["tokenising continues after"]).json();
    let other = workspace();
    let undisturbed = other.run(&args).succeeds().json();
    for key in ["digest", "n_documents", "n_tokens", "n_dropped_tokens"] {
        assert_eq!(resumed[key], undisturbed[key], "{key}");
    }
    let n_row_bytes = 2 * CTX_LEN;
    assert!(cached_rows(disturbed, n_row_bytes) == cached_rows(&other, n_row_bytes));
    assert!(!has_file(disturbed, ".partial"));
    assert!(!has_file(disturbed, ".json"));
}

#[test]
fn tokenising_that_is_killed_is_taken_up() {
    let workspace = workspace();
    let running = start(&workspace, "killed");
    wait_for_journal(&workspace);
    running.kill();
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn ctrl_c_stops_tokenising_so_that_it_goes_on() {
    let workspace = workspace();
    for name in ["TERM", "INT"] {
        let mut running = start(&workspace, name);
        match name {
            "TERM" => wait_for_journal(&workspace),
            _ => running.says("tokenising continues after"),
        }
        signal(running.pid(), name);
        let remarks = [
            "again to stop at once",
            "stopped; run the same command again",
        ];
        running.wait().exits(130).remarks(&remarks);
    }
    goes_on_to_the_same_end(&workspace);
}

/// Starts the command, and holds it in the middle of its work.
fn start_and_hold(workspace: &Workspace) -> Running {
    let running = start(workspace, "held");
    until("the work's begin", || {
        has_file(workspace, ".partial").then_some(())
    });
    signal(running.pid(), "STOP");
    running
}

#[test]
fn two_processes_at_once_make_the_tokens_once() {
    let workspace = workspace();
    let first = start_and_hold(&workspace);
    let mut second = start(&workspace, "second");
    second.says("waiting for another process that tokenises the same data");
    signal(first.pid(), "CONT");
    let (first, second) = (first.wait().succeeds(), second.wait().succeeds());
    assert_eq!(first.json(), second.json());
    let waits = second.stderr.matches("waiting").count();
    assert_eq!(waits, 1, "{second}");
    assert!(!has_file(&workspace, ".partial"));
    assert!(!cached_rows(&workspace, 2 * CTX_LEN).is_empty());
}

#[test]
fn a_process_that_waits_can_be_stopped() {
    let workspace = workspace();
    let first = start_and_hold(&workspace);
    let mut second = start(&workspace, "second");
    second.says("waiting for another process");
    signal(second.pid(), "INT");
    second.wait().exits(130);
    first.kill();
}

/// With less room for files than the tokens need, as on a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_while_tokenising_leaves_no_tokens_that_are_trusted() {
    let workspace = Workspace::new();
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let args = ["data", text(&dataset), "--model", text(&model), "--json"];
    let args = [&args[..], &["--ctx-len", "64"]].concat();
    let whole = workspace.command(&args);
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "bash"]);
    limited.arg(whole.get_program()).args(whole.get_args());
    limited.envs(
        whole
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    limited.current_dir(workspace.path(""));
    finish(limited)
        .refuses(&["cannot write", ".partial"])
        .hints("is there space?");
    let is_trusted = |path: &String| path.ends_with(".tokens");
    assert!(!workspace.files("cache").keys().any(is_trusted));

    let described = workspace.run(&args).succeeds().json();
    assert_eq!(described["n_sequences"], json!(1025));
}
