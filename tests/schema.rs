//! The JSON schema of sweep files: every sweep passes, and a mistake does not.

use crate::common::Workspace;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// As the first line of a sweep names it, next to the sweep.
const FILE: &str = "sweep.schema.json";

fn sweeps() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .collect()
}

fn schema() -> Value {
    let printed = Workspace::unprepared().run(&["schema"]).succeeds();
    serde_json::from_str(&printed.stdout).unwrap()
}

/// What an editor says of a sweep.
fn mistakes(sweep: &Value) -> String {
    let validator = Validator::new(&schema()).unwrap();
    let mistakes = validator
        .iter_errors(sweep)
        .map(|error| format!("{} at {}", error, error.instance_path()));
    mistakes.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_sweep_names_the_schema_and_passes_it() {
    for path in sweeps() {
        let text = fs::read_to_string(&path).unwrap();
        let first = format!("#:schema {FILE}\n");
        assert!(text.starts_with(&first), "{}", path.display());
        assert!(path.with_file_name(FILE).is_file());
        let sweep: Value = toml::from_str(&text).unwrap();
        assert_eq!(mistakes(&sweep), "", "{}", path.display());
    }
}

#[test]
fn the_file_is_what_the_command_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let file: Value = serde_json::from_slice(&fs::read(folder.join(FILE)).unwrap()).unwrap();
    assert!(
        file == schema(),
        "run `sae-run schema > sweeps/{FILE}` again"
    );
}

#[test]
fn mistakes_are_found_where_they_are() {
    let good = json!({
        "name": "s",
        "train": {"model": "m", "dataset": "d", "k": 32, "lr": 0.001, "data_args": "name=en"},
        "vary": {"anything": [1, "two"]},
        "launch": {"nproc_per_node": 2, "device": "cuda:0"},
    });
    assert_eq!(mistakes(&good), "");
    for (pointer, key, value, part) in [
        ("/train", "expansion_facto", json!(8), "expansion_facto"),
        ("/launch", "retry", json!(1), "retry"),
        ("", "reciep", json!("grid"), "reciep"),
        ("/train", "k", json!("many"), "/train/k"),
        ("/train", "k", json!(-1), "/train/k"),
        ("/train", "optimizer", json!("sgd"), "/train/optimizer"),
        (
            "/launch",
            "nproc_per_node",
            json!(0.5),
            "/launch/nproc_per_node",
        ),
    ] {
        let mut bad = good.clone();
        bad.pointer_mut(pointer).unwrap()[key] = value;
        let found = mistakes(&bad);
        assert!(found.contains(part), "no `{part}`: {found}");
    }
}

#[test]
fn settings_say_what_they_are() {
    let schema = schema();
    let k = &schema["definitions"]["TrainConfig"]["properties"]["k"];
    let what = "Latents a token may use; with batchtopk on average, which may have a fraction. \
                Without effect with relu,\njumprelu and gated.";
    assert_eq!(k["description"], what);
    assert_eq!(k["default"], 32);
}

#[test]
fn the_page_of_settings_lists_each_with_its_default_and_each_preset() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let page = fs::read_to_string(page).unwrap();
    let schema = schema();
    let settings = schema["definitions"]["TrainConfig"]["properties"]
        .as_object()
        .unwrap();
    for (key, setting) in settings
        .iter()
        .filter(|(key, _)| !["model", "dataset"].contains(&key.as_str()))
    {
        let default = match &setting["default"] {
            Value::Null | Value::Object(_) => String::new(),
            Value::String(name) => format!("`{name}`"),
            other => format!("`{other}`"),
        };
        let row = format!("| `{key}` | {default} | ");
        assert!(page.contains(&row), "docs/settings.md has no `{row}`");
    }
    for (preset, _) in plan::presets() {
        assert!(
            page.contains(&format!("`{preset}`")),
            "docs/settings.md has no `{preset}`"
        );
    }
}
