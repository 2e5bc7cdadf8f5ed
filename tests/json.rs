//! What `--json` prints, compared with the shapes in docs/json.md: each heading there is a command that is run here.

use crate::common::{Outcome, Workspace, fixture, small_sweep, text};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A shape of the page.
struct Shape {
    command: String,
    object: Value,
}

/// The commands in the headings, with the object that comes first after each.
fn shapes() -> Vec<Shape> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let page = fs::read_to_string(page).unwrap();
    let sections = page.split("\n## `sae-run ").skip(1);
    let shapes = sections.map(|section| {
        let (command, rest) = section.split_once('`').unwrap();
        let (_, block) = rest.split_once("```json\n").unwrap();
        let (block, _) = block.split_once("```").unwrap();
        let object = serde_json::from_str(block);
        Shape {
            command: command.to_owned(),
            object: object.unwrap_or_else(|error| panic!("{command}: {error}")),
        }
    });
    shapes.collect()
}

/// A workspace with what the placeholders of the page mean.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    let sweep = small_sweep().replace("[vary]", "eval_fraction = 0.2\n[vary]");
    workspace.write("tiny.toml", &sweep);
    workspace.write("other.toml", sweep.replace("'tiny'", "'other'"));
    workspace
        .run(&["other.toml", "--runs-dir", "elsewhere"])
        .succeeds();
    workspace
}

fn run(workspace: &Workspace, command: &str) -> Outcome {
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let word = |word| match word {
        "SWEEP.toml" => "tiny.toml",
        "SWEEP" => "tiny",
        "JOB" => "tiny/hookpoints=layers.0",
        "OTHER_JOB" => "tiny/hookpoints=layers.1.mlp+layers.2",
        "OTHER_RUNS_FOLDER" => "elsewhere",
        "QUERY" => "SELECT job FROM result",
        "MODEL" => text(&model),
        "DATASET" => text(&dataset),
        other => other,
    };
    let args: Vec<&str> = command.split(' ').map(word).collect();
    workspace.run_with(&[("HF_HUB_OFFLINE", "1")], &args)
}

/// Compares what was printed with its shape. Empty lists and objects there mean any content.
fn check(shape: &Value, printed: &Value, at: &str) {
    match (shape, printed) {
        (Value::Object(shape), Value::Object(printed)) if !shape.is_empty() => {
            let [mut wanted, mut found] =
                [shape, printed].map(|object| object.keys().collect::<Vec<_>>());
            wanted.sort();
            found.sort();
            assert_eq!(found, wanted, "{at}");
            for (key, shape) in shape {
                check(shape, &printed[key], &format!("{at}.{key}"));
            }
        }
        (Value::Array(shape), Value::Array(printed)) => {
            let pairs = printed
                .iter()
                .filter_map(|item| Some((shape.first()?, item)));
            pairs.for_each(|(shape, item)| check(shape, item, at));
        }
        (Value::Null, _) | (_, Value::Null) => {}
        (shape, printed) => {
            let kind = std::mem::discriminant::<Value>;
            assert_eq!(kind(shape), kind(printed), "{at}: {printed}");
        }
    }
}

#[test]
fn every_object_has_the_shape_of_the_page() {
    let workspace = workspace();
    let shapes = shapes();
    assert!(shapes.len() > 20);
    for Shape { command, object } in shapes {
        let outcome = run(&workspace, &command).succeeds();
        let printed = outcome.json();
        assert!(
            outcome.stdout.starts_with("{\n  \"schema\": 1,"),
            "{outcome}"
        );
        check(&object, &printed, &command);
    }
}

#[test]
fn every_command_with_an_object_is_on_the_page() {
    let workspace = Workspace::unprepared();
    let help = workspace.run(&["--help"]).succeeds().stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md"));
    let page = page.unwrap();
    let mut n_found = 0;
    for name in names.filter(|name| *name != "help") {
        let help = workspace.run(&[name, "--help"]);
        if help.stdout.contains("--json") {
            let is_there = page.contains(&format!("`sae-run {name} "));
            assert!(is_there, "docs/json.md has no `sae-run {name} --json`");
            n_found += 1;
        }
    }
    assert!(n_found > 15, "{n_found}");
}

#[test]
fn a_run_that_begins_nothing_and_a_dry_run_print_an_object_too() {
    let workspace = Workspace::with_tiny_sweep();
    let plan = workspace.run(&["tiny.toml", "--dry-run", "--json"]);
    assert_eq!(plan.succeeds().json()["sweep"], "tiny");
    workspace
        .run(&["tiny.toml", "--json", "--progress", "json"])
        .exits(2)
        .remarks(&["cannot be used with"]);
    let nothing = workspace.run(&["watch", "--json", "--runs-dir", "none"]);
    nothing.refuses(&["there is no database"]);
}
