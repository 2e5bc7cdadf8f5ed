//! `sae-run encode`: SAEs of a job, a folder and a Hub, on texts and on a data set.

use crate::common::{Outcome, Workspace, fixture, text};
use hub_server::HubServer;
use lm::{LanguageModel, LoadOptions, Taps};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tokens::Tokenizer;

const TEXTS: [&str; 2] = ["Call me Ishmael.", "Some years ago, never mind how long"];

/// A job with SAEs at `layers.1.mlp` and `layers.2`.
fn trained() -> (Workspace, String) {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let jobs = workspace.sql("SELECT job_id, count(*) AS n FROM result GROUP BY job_id ORDER BY n");
    let job = jobs.last().unwrap()["job_id"].as_str().unwrap().to_owned();
    (workspace, job)
}

/// A folder with two SAEs, and the model that they are for.
fn folder_of_saes() -> Workspace {
    let workspace = Workspace::new();
    for (seed, name) in ["layers.1.mlp", "layers.2"].into_iter().enumerate() {
        let cfg = sae::SaeConfig::topk(32, 64, 4);
        let sae = sae::Sae::new(cfg, seed as i64, Device::Cpu).unwrap();
        sae.save_to_disk(&workspace.path("saes").join(name))
            .unwrap();
    }
    let settings = json!({"model": text(&fixture("tiny-llama")), "ctx_len": 64});
    workspace.write("saes/config.json", settings.to_string());
    workspace
}

/// The columns of a safetensors file, and the names of its SAEs.
struct Latents {
    columns: HashMap<String, Tensor>,
    saes: Value,
}

impl Latents {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let saes = header["__metadata__"]["saes"].as_str().unwrap();
        Self {
            columns: sae::tensors_by_name(path).unwrap(),
            saes: serde_json::from_str(saes).unwrap(),
        }
    }

    fn ints(&self, column: &str) -> Vec<i64> {
        Vec::try_from(self.columns[column].to_kind(Kind::Int64)).unwrap()
    }

    /// Sequence, position, token, SAE and latent, with the activation.
    fn rows(&self) -> Vec<([i64; 5], f32)> {
        let columns = ["sequence", "position", "token_id", "sae", "latent"];
        let columns = columns.map(|column| self.ints(column));
        let acts = Vec::<f32>::try_from(&self.columns["activation"]).unwrap();
        let row = |row: usize| columns.each_ref().map(|column| column[row]);
        acts.into_iter()
            .enumerate()
            .map(|(index, act)| (row(index), act))
            .collect()
    }
}

/// What `Sae::encode` gives for texts, each by itself, in the order of the file.
fn by_hand(job_dir: &Path, names: &[&str], texts: &[&str]) -> Vec<([i64; 5], f32)> {
    let model_dir = fixture("tiny-llama");
    let tokenizer = Tokenizer::from_dir(&model_dir).unwrap();
    let model = LanguageModel::load(&model_dir, &LoadOptions::default()).unwrap();
    let taps = Taps::new(model.facts(), names).unwrap();
    let mut rows = Vec::new();
    for (sequence, text) in texts.iter().enumerate() {
        let ids: Vec<i64> = tokenizer
            .tokenize(text)
            .unwrap()
            .into_iter()
            .map(i64::from)
            .collect();
        let activations = model
            .forward(&Tensor::from_slice(&ids).view([1, -1]), &taps)
            .unwrap();
        for (sae_idx, name) in names.iter().enumerate() {
            let sae = sae::Sae::load_from_disk(&job_dir.join(name), Device::Cpu).unwrap();
            let encoded = sae
                .encode(&activations.get(name).unwrap().view([-1, 32]))
                .unwrap();
            for (position, &id) in ids.iter().enumerate() {
                let mut of_token: Vec<_> = (0..sae.cfg.k as i64)
                    .map(|slot| [position as i64, slot])
                    .map(|at| {
                        let act = encoded.latent_acts.double_value(&at) as f32;
                        let latent = encoded.latent_indices.int64_value(&at);
                        (
                            [sequence as i64, position as i64, id, sae_idx as i64, latent],
                            act,
                        )
                    })
                    .filter(|(_, act)| *act > 0.0)
                    .collect();
                of_token.sort_by(|a, b| b.1.total_cmp(&a.1));
                rows.extend(of_token);
            }
        }
    }
    rows
}

#[track_caller]
fn same(a: &[([i64; 5], f32)], b: &[([i64; 5], f32)]) {
    assert_eq!(a.len(), b.len());
    for ((a_indices, a), (b_indices, b)) in a.iter().zip(b) {
        assert_eq!(a_indices, b_indices);
        assert!((a - b).abs() < 1e-4, "{a_indices:?}: {a} and {b}");
    }
}

fn encode(workspace: &Workspace, target: &str, more: &[&str]) -> Outcome {
    workspace.run(&[&["encode", target][..], more].concat())
}

#[test]
fn a_jobs_saes_encode_texts_as_the_library_does() {
    let (workspace, job) = trained();
    let texts = ["--text", TEXTS[0], "--text", TEXTS[1]];
    let out = ["--out", "latents.safetensors", "--json"];
    let told = encode(&workspace, &job, &[&texts[..], &out].concat())
        .succeeds()
        .json();
    let latents = Latents::read(&workspace.path("latents.safetensors"));
    let names: Vec<String> = latents
        .saes
        .as_array()
        .unwrap()
        .iter()
        .map(|sae| {
            assert_eq!(sae["name"], sae["hookpoint"]);
            sae["name"].as_str().unwrap().to_owned()
        })
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let dir = workspace.sql_value(&format!("SELECT dir FROM job WHERE job_id = '{job}'"));
    let dir = workspace.path("runs").join(dir.as_str().unwrap());
    let expected = by_hand(&dir, &names, &TEXTS);
    same(&latents.rows(), &expected);
    assert_eq!(told["n_sequences"], 2);
    let n_rows = told["saes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sae| sae["n_rows"].as_u64().unwrap());
    assert_eq!(n_rows.sum::<u64>(), expected.len() as u64);
}

#[test]
fn a_folder_knows_its_model_and_patterns_choose() {
    let workspace = folder_of_saes();
    workspace.write("texts.txt", TEXTS.join("\n"));
    let one = [
        "--text-file",
        "texts.txt",
        "--hookpoint",
        "*.mlp",
        "--out",
        "one.safetensors",
    ];
    let outcome = encode(&workspace, "saes", &one).succeeds();
    assert!(
        outcome.stdout.contains("layers.1.mlp") && outcome.stdout.contains("2 sequences"),
        "{outcome}"
    );
    let latents = Latents::read(&workspace.path("one.safetensors"));
    assert_eq!(
        latents.saes,
        json!([{"name": "layers.1.mlp", "hookpoint": "layers.1.mlp"}])
    );
    same(
        &latents.rows(),
        &by_hand(&workspace.path("saes"), &["layers.1.mlp"], &TEXTS),
    );

    let strongest = [&one[..5], &["strongest.safetensors", "--top", "1"]].concat();
    encode(&workspace, "saes", &strongest).succeeds();
    let strongest = Latents::read(&workspace.path("strongest.safetensors")).rows();
    let first = |rows: &[([i64; 5], f32)]| {
        let mut rows = rows.to_vec();
        rows.dedup_by_key(|(indices, _)| [indices[0], indices[1]]);
        rows
    };
    same(&strongest, &first(&latents.rows()));
}

#[test]
fn a_data_set_is_encoded_sequence_by_sequence() {
    let workspace = folder_of_saes();
    let data = fixture("tiny.jsonl");
    let some = [
        "--dataset",
        text(&data),
        "--ctx-len",
        "64",
        "--max-examples",
        "5",
    ];
    let told = |out: &str, more: &[&str]| {
        let out = ["--out", out, "--json"];
        encode(&workspace, "saes", &[&some[..], &out, more].concat())
            .succeeds()
            .json()
    };
    let table = told("latents.parquet", &[]);
    assert_eq!(
        (&table["n_sequences"], &table["n_tokens"]),
        (&json!(5), &json!(5 * 64))
    );
    assert!(
        fs::read(workspace.path("latents.parquet"))
            .unwrap()
            .ends_with(b"PAR1")
    );
    let tensors = told("latents.safetensors", &["--batch-tokens", "100"]);
    assert_eq!(
        table["saes"], tensors["saes"],
        "whatever the format and the batches"
    );
    let latents = Latents::read(&workspace.path("latents.safetensors"));
    let mut sequences = latents.ints("sequence");
    assert!(sequences.is_sorted());
    sequences.dedup();
    assert_eq!(sequences, [0, 1, 2, 3, 4]);
    assert_eq!(latents.ints("position").into_iter().max(), Some(63));
}

#[test]
fn saes_of_a_hub_are_fetched_as_far_as_they_are_wanted() {
    let workspace = folder_of_saes();
    let server = HubServer::start();
    server.add_model("org/saes", &workspace.path("saes"));
    let args = [
        "encode",
        "org/saes",
        "--hookpoint",
        "layers.2",
        "--text",
        TEXTS[0],
    ];
    let out = ["--out", "latents.safetensors"];
    let url = server.url();
    let run =
        |variables: &[(&str, &str)]| workspace.run_with(variables, &[&args[..], &out].concat());
    run(&[("HF_ENDPOINT", &url)]).succeeds();
    let latents = Latents::read(&workspace.path("latents.safetensors"));
    same(
        &latents.rows(),
        &by_hand(&workspace.path("saes"), &["layers.2"], &TEXTS[..1]),
    );
    let asked = server.requests();
    assert!(
        asked
            .iter()
            .all(|request| !request.target.contains("layers.1.mlp")),
        "{asked:?}"
    );
    drop(server);
    run(&[("HF_HUB_OFFLINE", "1")]).succeeds();
    let unknown = [
        "encode",
        "org/saes",
        "--hookpoint",
        "layers.3",
        "--text",
        "a",
    ];
    let unknown = [&unknown[..], &out].concat();
    workspace
        .run_with(&[("HF_HUB_OFFLINE", "1")], &unknown)
        .refuses(&["`org/saes` has no SAE called `layers.3`"])
        .hints("`layers.2`");
}

#[test]
fn an_sae_of_saelens_by_itself() {
    let workspace = folder_of_saes();
    let sae = sae::Sae::load_from_disk(&workspace.path("saes/layers.2"), Device::Cpu).unwrap();
    let metadata = sae::SaeLensMetadata {
        hook_name: Some("blocks.2.hook_resid_post".into()),
        ..Default::default()
    };
    sae.save_saelens(&workspace.path("alone/saelens"), &metadata)
        .unwrap();
    let args = ["--text", TEXTS[1], "--out", "latents.safetensors"];
    encode(&workspace, "alone/saelens", &args)
        .refuses(&["does not say which model"])
        .hints("`--model`");
    let model = fixture("tiny-llama");
    let args = [&args[..], &["--model", text(&model)]].concat();
    encode(&workspace, "alone/saelens", &args).succeeds();
    let latents = Latents::read(&workspace.path("latents.safetensors"));
    assert_eq!(
        latents.saes,
        json!([{"name": "saelens", "hookpoint": "layers.2"}])
    );
    let rows = latents.rows();
    same(
        &rows,
        &by_hand(&workspace.path("saes"), &["layers.2"], &TEXTS[1..]),
    );
    let elsewhere = [&args[..], &["--hookpoint", "layers.1"]].concat();
    encode(&workspace, "alone/saelens", &elsewhere).succeeds();
    let moved = Latents::read(&workspace.path("latents.safetensors"));
    assert_eq!(moved.saes[0]["hookpoint"], "layers.1");
    assert_ne!(moved.rows(), rows);
}

#[test]
fn what_cannot_be_encoded_is_told() {
    let workspace = folder_of_saes();
    let refuses = |target: &str, more: &[&str], parts: &[&str], hint: &str| {
        let with_text = ["--text", "a", "--out", "out.parquet"];
        let given = more.contains(&"--out") || more.contains(&"--text");
        let args = if given {
            more.to_vec()
        } else {
            [more, &with_text].concat()
        };
        encode(&workspace, target, &args).refuses(parts).hints(hint);
    };
    refuses(
        "saes",
        &["--hookpoint", "layers.2.mpl"],
        &["`saes` has no SAE called"],
        "`layers.2`",
    );
    refuses(
        "saes",
        &["--text", "a", "--out", "out.csv"],
        &["neither .parquet"],
        "format",
    );
    refuses("k=4", &[], &["no database"], "not a folder either");
    let long = "sail ".repeat(200);
    let long = ["--text", "a", "--text", &long, "--out", "out.parquet"];
    refuses("saes", &long, &["text 1 has", "at most 128"], "data set");
    let narrow = sae::Sae::new(sae::SaeConfig::topk(16, 32, 4), 0, Device::Cpu).unwrap();
    narrow
        .save_to_disk(&workspace.path("narrow/layers.2"))
        .unwrap();
    let (model, other) = (fixture("tiny-llama"), "layers.9");
    let model = ["--model", text(&model)];
    refuses(
        "narrow",
        &model,
        &["widths (16, 16)", "`layers.2`"],
        "another model",
    );
    let elsewhere = [&model[..], &["--hookpoint", other]].concat();
    refuses(
        "narrow",
        &elsewhere,
        &["`layers.9` is not a hookpoint"],
        "did you mean `layers.",
    );
    fs::create_dir(workspace.path("empty")).unwrap();
    refuses("empty", &[], &["there is no SAE in"], "cfg.json");
    let neither = encode(&workspace, "saes", &["--out", "out.parquet"]);
    neither.exits(2).remarks(&["--text", "--dataset"]);
    let left = fs::read_dir(workspace.path("")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.contains("out.")));
}
