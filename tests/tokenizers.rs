//! Folders whose tokenizer transformers rebuilds: what planning says, and whose tokens are trained on.

use crate::common::{Workspace, fixture, replace_line, small_sweep, text};
use hub_server::HubServer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

/// `TokenizersBackend` is not picked for it.
const CLASS: &str = r#"{"tokenizer_class": "GPT2TokenizerFast"}"#;
const SAID: &str = "transformers' `GPT2Tokenizer` give different tokens in ";
const TRANSFORMERS: [&str; 3] = ["tiny.toml", "--set", "train.tokenizer_class=transformers"];

/// What transformers gives for `tiny-llama` with a pre-tokenizer that its class puts another for, and the
/// texts.
fn golden() -> (Value, Vec<String>) {
    let golden = fs::read(fixture("tokenizer_classes/tokens.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["of"] == "tiny-llama");
    let texts = golden["texts"].as_array().unwrap().iter();
    let texts = texts.map(|text| text.as_str().unwrap().to_owned());
    (case.unwrap().clone(), texts.collect())
}

/// That model in `model`, the texts in `data.jsonl`, and a sweep of one job with them.
fn workspace(case: &Value, texts: &[String]) -> Workspace {
    let workspace = Workspace::new();
    for name in ["config.json", "model.safetensors"] {
        let content = fs::read(fixture("tiny-llama").join(name)).unwrap();
        workspace.write(&format!("model/{name}"), content);
    }
    let tokenizer = fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    tokenizer["pre_tokenizer"] = case["patch"]["pre_tokenizer"].clone();
    workspace.write("model/tokenizer.json", tokenizer.to_string());
    workspace.write("model/tokenizer_config.json", CLASS);
    let lines = texts
        .iter()
        .map(|text| json!({ "text": text }).to_string() + "\n");
    workspace.write("data.jsonl", lines.collect::<String>());
    let sweep = small_sweep();
    let model = format!("model = '{}'", text(&workspace.path("model")));
    let sweep = [
        ("model = ", &model[..]),
        ("dataset", "dataset = 'data.jsonl'"),
        ("ctx_len", "ctx_len = 16"),
        ("batch_size", "batch_size = 2"),
        ("hookpoints", "hookpoints = [['layers.1']]"),
    ]
    .iter()
    .fold(sweep, |sweep, (start, line)| {
        replace_line(&sweep, start, line)
    });
    workspace.write("tiny.toml", sweep);
    workspace
}

#[test]
fn planning_says_that_transformers_makes_other_tokens() {
    let (case, texts) = golden();
    let workspace = workspace(&case, &texts);
    let planned = workspace.run(&["plan", "tiny.toml"]).succeeds();
    let planned = planned
        .remarks(&[SAID, "of the first 13 documents of `data.jsonl`"])
        .hints("`tokenizer_class = \"transformers\"`");
    assert_eq!(planned.stderr.matches(SAID).count(), 1, "{planned}");
    let planned = workspace.run(&[&["plan"], &TRANSFORMERS[..]].concat());
    planned
        .succeeds()
        .remarks(&[SAID])
        .hints("`tokenizer_class = \"file\"`");

    for class in ["TokenizersBackend", "CodeLlamaTokenizerFast"] {
        let config = CLASS.replace("GPT2TokenizerFast", class);
        workspace.write("model/tokenizer_config.json", config);
        let planned = workspace.run(&["plan", "tiny.toml"]).succeeds();
        assert!(!planned.stderr.contains("different tokens"), "{planned}");
    }
    let planned = workspace.run(&[&["plan"], &TRANSFORMERS[..]].concat());
    planned
        .refuses(&["tokenizer_config.json", "`CodeLlamaTokenizer`"])
        .hints("`tokenizer_class = \"file\"`");
    let unknown = ["plan", "tiny.toml", "--set", "train.tokenizer_class=fast"];
    workspace
        .run(&unknown)
        .refuses(&["train.tokenizer_class", "`file`, `transformers`"]);
}

#[test]
fn data_of_the_hub_is_looked_at_when_it_is_here() {
    let (case, texts) = golden();
    let workspace = workspace(&case, &texts);
    let data = fs::read(workspace.path("data.jsonl")).unwrap();
    workspace.write("source/data/train-00000-of-00001.jsonl", data);
    let server = HubServer::start();
    server.add_dataset("org/texts", &workspace.path("source"));
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    let sweep = replace_line(&sweep, "dataset", "dataset = 'org/texts'");
    workspace.write("tiny.toml", sweep);
    for (args, n_times) in [
        (&["plan", "tiny.toml"][..], 0),
        (&["tiny.toml"], 1),
        (&["plan", "tiny.toml"], 1),
    ] {
        let outcome = workspace.run_with(&[("HF_ENDPOINT", &server.url())], args);
        let outcome = outcome.succeeds();
        assert_eq!(outcome.stderr.matches(SAID).count(), n_times, "{outcome}");
    }
}

#[test]
fn the_tokens_of_transformers_are_trained_on_where_they_are_asked_for() {
    let (case, texts) = golden();
    let workspace = workspace(&case, &texts);
    workspace.run(&["tiny.toml"]).succeeds();
    let of_file = workspace.sql("SELECT job_id, token_digest FROM job");
    workspace.run(&TRANSFORMERS).succeeds();
    let with_class = "SELECT job_id, token_digest FROM job
        WHERE json_extract(config, '$.tokenizer_class') = 'transformers'";
    let of_class = workspace.sql(with_class);
    let ([of_file], [of_class]) = (&of_file[..], &of_class[..]) else {
        panic!("{of_file:?}, {of_class:?}");
    };
    assert_ne!(of_file["job_id"], of_class["job_id"]);

    // The tokens that it was trained on, which its digest names, are those of transformers.
    let args = [
        "data",
        "data.jsonl",
        "--model",
        "model",
        "--json",
        "--ctx-len",
        "16",
    ];
    let of_its_class = ["--tokenizer-class", "transformers", "--out", "all.bin"];
    let made = workspace
        .run(&[&args[..], &of_its_class].concat())
        .succeeds();
    assert_eq!(made.json()["digest"], of_class["token_digest"]);
    let sequences: BTreeSet<Vec<u16>> = fs::read(workspace.path("all.bin"))
        .unwrap()
        .chunks(32)
        .map(|row| {
            row.chunks(2)
                .map(|id| u16::from_le_bytes([id[0], id[1]]))
                .collect()
        })
        .collect();
    let joined: Vec<u16> = serde_json::from_value(case["joined"].clone()).unwrap();
    let n_whole = (joined.len() - 1) / 16;
    let expected = joined.chunks(16).take(n_whole).map(<[u16]>::to_vec);
    assert_eq!(sequences, expected.collect());
    let of_the_file = workspace.run(&args).succeeds().json();
    assert_eq!(of_the_file["digest"], of_file["token_digest"]);

    // What is encoded with its SAEs later has the same tokens.
    let n_tokens = |job: &Value, more: &[&str]| {
        let job = job["job_id"].as_str().unwrap();
        let args = [
            "encode",
            job,
            "--text",
            &texts[5],
            "--out",
            "rows.safetensors",
        ];
        let outcome = workspace
            .run(&[&args[..], &["--json"], more].concat())
            .succeeds();
        outcome.json()["n_tokens"].clone()
    };
    let n_expected = json!(case["ids"][5].as_array().unwrap().len());
    assert_eq!(n_tokens(of_class, &[]), n_expected);
    assert_ne!(n_tokens(of_file, &[]), n_expected);
    let named = ["--tokenizer-class", "transformers"];
    assert_eq!(n_tokens(of_file, &named), n_expected);
}
