//! Data sets and tokenizers in other forms than programs usually write them give the same tokens.

use super::{data, describe};
use crate::common::{Workspace, fixture, text};
use serde_json::{Value, json};
use std::fs;

/// Documents that are long enough for some sequences.
fn documents() -> Vec<String> {
    let file = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let rows = file
        .lines()
        .take(60)
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| row["text"].as_str().unwrap().to_owned())
        .collect()
}

fn joined(rows: impl Iterator<Item = String>, between: &str) -> String {
    rows.collect::<Vec<_>>().join(between)
}

/// The tokens of a data set, in training order.
fn tokens(workspace: &Workspace, dataset: &str, args: &[&str]) -> Vec<u8> {
    describe(workspace, dataset, &[args, &["--out", "out.bin"]].concat());
    fs::read(workspace.path("out.bin")).unwrap()
}

#[test]
fn json_and_csv_may_be_laid_out_in_any_way() {
    let workspace = Workspace::new();
    let documents = documents();
    let rows = || documents.iter().map(|text| json!({"text": text}));
    let objects = || rows().map(|row| row.to_string());
    let pretty = rows().map(|row| serde_json::to_string_pretty(&row).unwrap());
    let scored = objects().map(|row| row.replacen('{', "{\"score\": NaN, ", 1));
    let quoted = || {
        documents
            .iter()
            .map(|text| format!("\"{}\"", text.replace('"', "\"\"")))
    };
    let indexed = quoted()
        .enumerate()
        .map(|(idx, field)| format!("{idx},{field},1"));
    workspace.write("lines.jsonl", joined(objects(), "\n"));
    workspace.write("pretty.jsonl", joined(pretty, "\n"));
    workspace.write("one_line.jsonl", joined(objects(), ""));
    workspace.write("texts.json", json!(documents).to_string());
    workspace.write("scored.jsonl", joined(scored, "\n"));
    workspace.write("lines.jsonl.txt", joined(objects(), "\n"));
    workspace.write("folder/lines.jsonl.txt", joined(objects(), "\n"));
    let blank = format!("text\n \t\n{}\n  \n", joined(quoted(), "\n"));
    workspace.write("blank.csv", blank);
    workspace.write(
        "indexed.csv",
        format!("text,n\n{}\n", joined(indexed, "\n")),
    );
    let card = "\u{feff}---\nconfigs:\n- config_name: it\n  data_files: y/*.jsonl\n---\n";
    workspace.write("card/README.md", card);
    workspace.write("card/x/other.jsonl", "{\"text\": \"other\"}\n");
    workspace.write("card/y/lines.jsonl", joined(objects(), "\n"));

    let expected = tokens(&workspace, "lines.jsonl", &[]);
    assert!(expected.len() > 64 * 2 * 10);
    for dataset in [
        "pretty.jsonl",
        "one_line.jsonl",
        "texts.json",
        "scored.jsonl",
        "lines.jsonl.txt",
        "folder",
        "blank.csv",
        "indexed.csv",
        "card",
    ] {
        assert!(tokens(&workspace, dataset, &[]) == expected, "{dataset}");
    }
}

#[test]
fn a_split_may_be_made_of_parts() {
    let workspace = Workspace::new();
    let documents = documents();
    let lines = |texts: &[String]| {
        joined(
            texts.iter().map(|text| json!({"text": text}).to_string()),
            "\n",
        )
    };
    workspace.write("all/train.jsonl", lines(&documents));
    workspace.write("all/test.jsonl", lines(&documents[..20]));
    workspace.write("some.jsonl", lines(&documents[10..40]));
    workspace.write(
        "both.jsonl",
        lines(&[&documents[45..], &documents[..20]].concat()),
    );
    for (split, same) in [
        ("train[10:40]", "some.jsonl"),
        ("train[-50:-20]", "some.jsonl"),
        ("train[75%:]+test", "both.jsonl"),
    ] {
        let expected = tokens(&workspace, same, &[]);
        let args = ["--split", split];
        assert!(tokens(&workspace, "all", &args) == expected, "{split}");
    }
    data(&workspace, "all", &["--split", "train[:5"]).refuses(&["`split`", "cannot be `train[:5`"]);
    data(&workspace, "all", &["--split", "train+dev"])
        .refuses(&["no split `dev`"])
        .hints("`train`, `test`");
}

#[test]
fn a_tokenizer_needs_no_weights_and_may_begin_with_a_mark() {
    let workspace = Workspace::new();
    let dataset = fixture("tiny.jsonl");
    let expected = tokens(&workspace, text(&dataset), &[]);
    let model = fixture("tiny-llama");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let content = fs::read_to_string(model.join(name)).unwrap();
        let content = match name {
            "config.json" => content.replacen('{', "{\"time_step_limit\": [0.0, Infinity],", 1),
            _ => content,
        };
        workspace.write(&format!("model/{name}"), format!("\u{feff}{content}"));
    }
    let args = [
        "data",
        text(&dataset),
        "--ctx-len",
        "64",
        "--model",
        "model",
        "--out",
        "out.bin",
    ];
    workspace.run(&args).succeeds();
    assert!(fs::read(workspace.path("out.bin")).unwrap() == expected);
}

#[test]
fn hints_would_help_on_this_very_data() {
    let workspace = Workspace::with_small_sweep();
    let messages = json!({"messages": [{"role": "user", "content": "a"}]});
    workspace.write("chat.jsonl", messages.to_string());
    let other = json!({"messages": [], "text": null, "body": "a", "id": 3});
    workspace.write("other.jsonl", other.to_string());
    workspace.write(
        "ids.jsonl",
        json!({"input_ids": "1 2", "text": "a"}).to_string(),
    );
    for (dataset, problem, hint) in [
        (
            "chat.jsonl",
            "no column `text`",
            "and this file has no such column",
        ),
        (
            "other.jsonl",
            "has null",
            "set `text_column` to one of `body`",
        ),
        ("ids.jsonl", "not a list of token ids", "on_bad_row"),
    ] {
        let set = format!("train.dataset={dataset}");
        let planned = workspace.run(&["plan", "tiny.toml", "--set", &set]);
        planned.refuses(&[dataset, problem]).hints(hint);
    }
    let sets = [
        "--set",
        "train.dataset=chat.jsonl",
        "--set",
        "train.text_column=messages",
    ];
    workspace
        .run(&[&["plan", "tiny.toml"][..], &sets].concat())
        .refuses(&["has a list, not a text"])
        .hints("on_bad_row");
}
