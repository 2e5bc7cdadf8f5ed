//! Pipes and devices where files are expected, to read from and to write to.

use crate::bad_model::with_model;
use crate::common::{Running, Workspace, fixture, replace_line, signal, text, tiny_sweep};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is found instead of a small file.
const TRAPS: [(&str, &str); 3] = [
    ("pipe", "it is a pipe, not a plain file"),
    ("zero", "it is a device, not a plain file"),
    ("huge", "bytes or more; at most"),
];

fn set_trap(path: &Path, kind: &str) {
    let _ = fs::remove_file(path);
    match kind {
        "pipe" => {
            let status = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(status.success());
        }
        "zero" => symlink("/dev/zero", path).unwrap(),
        // Takes no space on the disk.
        _ => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
    }
}

/// Runs a command that must end soon, by itself, with an error that has `parts`.
#[track_caller]
fn refuses(workspace: &Workspace, args: &[&str], parts: &[&str]) {
    let start = Instant::now();
    let outcome = workspace.start(args).wait();
    assert!(!outcome.status.success(), "{outcome}");
    assert!(start.elapsed() < Duration::from_secs(60), "{outcome}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "no `{part}`\n{outcome}");
    }
}

#[test]
fn a_models_files_must_be_plain_and_of_some_size() {
    for (kind, why) in TRAPS {
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            let workspace = with_model();
            set_trap(&workspace.path("model").join(file), kind);
            refuses(&workspace, &["tiny.toml"], &[file, why]);
        }
    }
    for (kind, why) in &TRAPS[..2] {
        let workspace = with_model();
        let file = "model.safetensors";
        set_trap(&workspace.path("model").join(file), kind);
        refuses(&workspace, &["tiny.toml"], &[file, why]);
    }
}

#[test]
fn sweeps_recipes_queries_and_requests_must_be_plain_and_of_some_size() {
    for (kind, why) in TRAPS {
        let workspace = Workspace::with_tiny_sweep();
        workspace.run(&["tiny.toml"]).succeeds();
        for name in ["trap.toml", "trap.py", "trap.wasm", "trap.sql", "trap.json"] {
            set_trap(&workspace.path(name), kind);
        }
        refuses(&workspace, &["trap.toml"], &["trap.toml", why]);
        for recipe in ["trap.py", "trap.wasm"] {
            let set = format!("recipe={recipe}");
            // A link must not lead out of the folder anyway.
            let why = if kind == "zero" {
                "leads to `/dev/zero`"
            } else {
                why
            };
            refuses(&workspace, &["tiny.toml", "--set", &set], &[recipe, why]);
        }
        refuses(&workspace, &["sql", "-f", "trap.sql"], &["trap.sql", why]);
        let test = ["recipes", "test", "grid", "--request", "trap.json"];
        refuses(&workspace, &test, &["trap.json", why]);
    }
}

#[test]
fn data_must_be_plain_files() {
    for (kind, _) in &TRAPS[..2] {
        for name in ["texts.jsonl", "texts.parquet", "texts.txt"] {
            let workspace = Workspace::new();
            set_trap(&workspace.path(name), kind);
            let line = format!("dataset = '{}'", text(&workspace.path(name)));
            workspace.write("tiny.toml", replace_line(&tiny_sweep(), "dataset", &line));
            // Only files count as data.
            refuses(&workspace, &["tiny.toml"], &["does not exist"]);
        }
    }
}

#[test]
fn an_saes_files_must_be_plain() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let job = workspace.sql_value("SELECT min(dir) FROM job");
    let job = format!("runs/{}", job.as_str().unwrap());
    let sae = format!("{job}/layers.0");
    for (kind, why) in TRAPS {
        for file in ["cfg.json", "sae.safetensors"] {
            let path = workspace.path(&sae).join(file);
            let good = fs::read(&path).unwrap();
            set_trap(&path, kind);
            let encode = ["encode", &sae, "--text", "a", "-o", "a.parquet"];
            let model = text(&fixture("tiny-llama")).to_owned();
            let args = [&encode[..], &["--model", &model, "--hookpoint", "layers.0"]].concat();
            // Only files make a folder one of an SAE; a file without an end is not weights.
            let why = match (file, kind) {
                ("cfg.json", "pipe" | "zero") => "there is no SAE in",
                ("sae.safetensors", "huge") => file,
                _ => why,
            };
            refuses(&workspace, &args, &[why]);
            fs::remove_file(&path).unwrap();
            fs::write(&path, good).unwrap();
        }
    }
}

#[test]
fn output_goes_through_links_devices_and_pipes() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let page = workspace.run(&["report", "-o", "-"]).succeeds().stdout;
    assert!(page.starts_with("<!doctype html>") || page.starts_with("<!DOCTYPE html>"));
    // As root, `/dev/stdout` itself was replaced by a file once.
    let through = workspace.run(&["report", "-o", "/dev/stdout"]).succeeds();
    assert!(through.stdout.len() > page.len() / 2);
    assert!(Path::new("/dev/stdout").is_symlink());

    workspace.write("web/page.html", "old");
    symlink("web/page.html", workspace.path("link.html")).unwrap();
    symlink("/dev/null", workspace.path("null.html")).unwrap();
    for out in ["link.html", "null.html"] {
        workspace.run(&["report", "-o", out]).succeeds();
        assert!(workspace.path(out).is_symlink());
    }
    let written = fs::read_to_string(workspace.path("web/page.html")).unwrap();
    assert!(written.len() > page.len() / 2);
    let null = fs::metadata("/dev/null").unwrap();
    assert!(null.file_type().is_char_device());
}

#[test]
fn encodings_and_tokens_go_through_a_pipe() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let job = workspace.sql_value("SELECT min(job_id) FROM job");
    let encode = |out| {
        [
            "encode",
            job.as_str().unwrap(),
            "--text",
            "once upon",
            "-o",
            out,
        ]
    };
    workspace.run(&encode("plain.safetensors")).succeeds();
    let expected = fs::read(workspace.path("plain.safetensors")).unwrap();
    let got = read_while(&workspace, "pipe.safetensors", &encode("pipe.safetensors"));
    assert_eq!(got, expected);

    let (model, texts) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let data = |out| {
        [
            "data",
            "--model",
            text(&model),
            text(&texts),
            "--ctx-len",
            "16",
            "--out",
            out,
        ]
    };
    workspace.run(&data("plain.bin")).succeeds();
    let expected = fs::read(workspace.path("plain.bin")).unwrap();
    assert_eq!(
        read_while(&workspace, "pipe.bin", &data("pipe.bin")),
        expected
    );
    let mut command = workspace.command(&data("-"));
    assert_eq!(command.output().unwrap().stdout, expected);
}

/// What a command writes into a pipe.
fn read_while(workspace: &Workspace, pipe: &str, args: &[&str]) -> Vec<u8> {
    let path = workspace.path(pipe);
    set_trap(&path, "pipe");
    let reader = {
        let path = path.clone();
        std::thread::spawn(move || fs::read(path).unwrap())
    };
    let running: Running = workspace.start(args);
    running.wait().succeeds();
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    reader.join().unwrap()
}

/// A folder whose tokenizer splits texts by the regular expression `regex`, and a data set of one text.
fn with_regex(regex: &str, document: &str) -> Workspace {
    let workspace = with_model();
    let path = workspace.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["pre_tokenizer"] = json!({
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
    });
    fs::write(path, tokenizer.to_string()).unwrap();
    workspace.write("texts.jsonl", json!({"text": document}).to_string());
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    let line = format!("dataset = '{}'", text(&workspace.path("texts.jsonl")));
    let sweep = replace_line(&sweep, "dataset", &line);
    workspace.write("tiny.toml", replace_line(&sweep, "retries", "retries = 3"));
    workspace
}

#[test]
fn a_regular_expression_that_goes_back_without_end_is_bad_input() {
    let workspace = with_regex("(x+x+)+y", &"x".repeat(1000));
    workspace
        .run(&["tiny.toml"])
        .fails(&["tokenizer.json", "retry-limit-in-match over"]);
    let attempts = workspace.sql("SELECT status FROM attempt");
    assert_eq!(attempts, [json!({"status": "failed"})]);
}

#[test]
fn a_document_that_takes_minutes_does_not_hold_a_stop() {
    let words = format!("{} ", "x".repeat(20)).repeat(4000);
    let workspace = with_regex("(x+x+)+y", &words);
    let data = ["data", "--model", "model", "--ctx-len", "16", "texts.jsonl"];
    for args in [&data[..], &["tiny.toml"]] {
        let mut running = workspace.start(args);
        std::thread::sleep(Duration::from_secs(5));
        assert!(running.status().is_none());
        signal(running.pid(), "INT");
        let asked = Instant::now();
        running.wait().exits(130);
        assert!(
            asked.elapsed() < Duration::from_secs(60),
            "{:?}",
            asked.elapsed()
        );
    }
}
