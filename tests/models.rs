//! Language models of several families: their hookpoints, and sweeps on them.

use crate::common::{Workspace, fixture, replace_line, small_sweep, text};
use serde_json::{Value, json};
use std::fs;

/// A tiny model of a family, with the tiny tokenizer, in `model`.
fn with_family(case: &str) -> Workspace {
    let workspace = Workspace::new();
    let from = |folder: &str, name: &str| fs::read(fixture(folder).join(name)).unwrap();
    let family = format!("families/{case}");
    for name in ["config.json", "model.safetensors"] {
        workspace.write(&format!("model/{name}"), from(&family, name));
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        workspace.write(&format!("model/{name}"), from("tiny-llama", name));
    }
    workspace
}

/// The small sweep on `model`, with other hookpoints and a short context.
fn sweep_on_model(hookpoints: &str) -> String {
    let sweep = replace_line(&small_sweep(), "model", "model = 'model'");
    let sweep = replace_line(&sweep, "ctx_len", "ctx_len = 8");
    replace_line(
        &sweep,
        "hookpoints",
        &format!("hookpoints = [{hookpoints}]"),
    )
}

fn names(saes: &Value) -> Vec<&str> {
    let saes = saes.as_array().unwrap().iter();
    saes.map(|sae| sae["name"].as_str().unwrap()).collect()
}

#[test]
fn hookpoints_of_a_folder() {
    let workspace = Workspace::new();
    let model = fixture("tiny-llama");
    let outcome = workspace.run(&["hookpoints", text(&model), "layers.1*", "norm", "embed*"]);
    insta::assert_snapshot!(outcome.succeeds());
}

#[test]
fn hookpoints_as_json() {
    let workspace = Workspace::new();
    let model = fixture("families/gpt2");
    let all = workspace
        .run(&["hookpoints", text(&model), "--json"])
        .succeeds()
        .json()["hookpoints"]
        .clone();
    let golden = fs::read(model.join("modules.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let mut expected: Vec<&str> = names(&golden["hookpoints"]);
    expected.sort_by(|a, b| natord::compare(a, b));
    assert_eq!(names(&all), expected);
    let wpe = all
        .as_array()
        .unwrap()
        .iter()
        .find(|h| h["name"] == "wpe")
        .unwrap();
    assert_eq!(wpe["d_in"], json!(null), "positions are not hidden states");
}

#[test]
fn hookpoints_need_no_weights() {
    let workspace = with_family("gemma2");
    fs::remove_file(workspace.path("model/model.safetensors")).unwrap();
    let outcome = workspace
        .run(&["hookpoints", "model", "layers.0.*norm"])
        .succeeds();
    assert_eq!(outcome.stdout.lines().count(), 2 + 4, "{outcome}");
}

#[test]
fn a_pattern_that_matches_nothing() {
    let workspace = Workspace::new();
    let model = fixture("families/gpt2");
    let outcome = workspace.run(&["hookpoints", text(&model), "h.*.attention"]);
    outcome.refuses(&["`h.*.attention`"]).hints("h.0.attn");
}

#[test]
fn a_model_that_is_nowhere() {
    let workspace = Workspace::new();
    let outcome = workspace.run(&["hookpoints", "./no/such/model"]);
    outcome.refuses(&["model `./no/such/model` does not exist"]);
}

#[test]
fn an_unknown_architecture_lists_the_known() {
    let workspace = with_family("gpt2");
    workspace.write(
        "model/config.json",
        json!({"model_type": "mamba"}).to_string(),
    );
    let outcome = workspace.run(&["hookpoints", "model"]);
    outcome
        .refuses(&["`mamba`"])
        .hints("gpt2, gpt_neo, gpt_neox, llama");
}

/// As sparsify resolves them: `fnmatch` over transformers' names, in natural order.
#[test]
fn gpt2_patterns_resolve() {
    let workspace = with_family("gpt2");
    workspace.write("tiny.toml", sweep_on_model("['h.*.attn', 'h.*.mlp.act']"));
    let plan = workspace
        .run(&["plan", "tiny.toml", "--json"])
        .succeeds()
        .json();
    let saes = &plan["jobs"][0]["saes"];
    let expected = [
        "h.0.attn",
        "h.0.mlp.act",
        "h.1.attn",
        "h.1.mlp.act",
        "h.2.attn",
        "h.2.mlp.act",
    ];
    assert_eq!(names(saes), expected);
    assert_eq!(
        saes[1]["d_in"],
        json!(4 * saes[0]["d_in"].as_u64().unwrap())
    );
}

/// Names that mean another block list, and hookpoints with several vectors for a token, or one for
/// all sequences.
#[test]
fn sweeps_on_other_families() {
    for (case, hookpoints, n_saes) in [
        ("gpt2", "['wpe', 'h.1.mlp.act']", 2),
        ("gpt_neo", "['h.*.attn.attention.out_proj']", 3),
        ("gpt_neox-parallel", "['layers.1.attention']", 1),
        ("qwen3", "['layers.1.self_attn.q_norm']", 1),
        ("gemma3_text", "['layers.0', 'layers.2.mlp']", 2),
    ] {
        let workspace = with_family(case);
        enlarge_vocabulary(&workspace);
        workspace.write("tiny.toml", sweep_on_model(hookpoints));
        workspace.run(&["tiny.toml"]).succeeds();
        let counted = workspace.sql_value("SELECT count(*) FROM result WHERE fvu BETWEEN 0 AND 2");
        assert_eq!(counted, json!(n_saes), "{case}");
        let l0 = workspace.sql_value("SELECT max(l0) FROM result");
        assert!(l0.as_f64().unwrap() <= 4.0, "{case}: {l0}");
    }
}

/// Gives the model rows for all tokens of the tiny tokenizer.
fn enlarge_vocabulary(workspace: &Workspace) {
    const VOCAB_SIZE: i64 = 300;
    let mut vocab_size = 0;
    edit_config(workspace, |config| {
        vocab_size = config["vocab_size"].as_i64().unwrap();
        config["vocab_size"] = json!(VOCAB_SIZE);
    });
    let path = workspace.path("model/model.safetensors");
    let enlarged = |(name, tensor): (String, tch::Tensor)| {
        let size = tensor.size();
        if size[0] != vocab_size {
            return (name, tensor);
        }
        let n_more = VOCAB_SIZE - vocab_size;
        let more = tch::Tensor::randn([n_more, size[1]], (tensor.kind(), tensor.device()));
        (name, tch::Tensor::cat(&[tensor, more], 0))
    };
    let tensors = tch::Tensor::read_safetensors(&path).unwrap();
    let tensors: Vec<_> = tensors.into_iter().map(enlarged).collect();
    tch::Tensor::write_safetensors(&tensors, path).unwrap();
}

#[test]
fn precision_and_8bit_make_other_jobs() {
    let fvu_of = |settings: &str, loaded: &str| {
        let workspace = Workspace::new();
        let sweep = replace_line(
            &small_sweep(),
            "batch_size",
            &format!("batch_size = 8\n{settings}"),
        );
        workspace.write("tiny.toml", sweep);
        workspace.run(&["tiny.toml"]).succeeds();
        let row = workspace.sql("SELECT job_id, fvu FROM result WHERE hookpoint = 'layers.2'");
        let log = fs::read_to_string(workspace.stream_dir().join("worker.log")).unwrap();
        assert!(log.contains(loaded), "{log}");
        (row[0]["job_id"].clone(), row[0]["fvu"].as_f64().unwrap())
    };
    // Three blocks of 9216 weights: 4 bytes each, 2, or 1 and 4 for each of 256 rows.
    let (job, fvu) = fvu_of("", "3 of 4 blocks in Float, linear weights of 110592 bytes");
    for (settings, loaded) in [
        (
            "load_in_8bit = true",
            "blocks in Float, linear weights of 30720 bytes",
        ),
        (
            "dtype = 'bfloat16'",
            "blocks in BFloat16, linear weights of 55296 bytes",
        ),
    ] {
        let (other_job, other_fvu) = fvu_of(settings, loaded);
        assert_ne!(job, other_job, "{settings}");
        assert!(
            other_fvu != fvu && (other_fvu / fvu - 1.0).abs() < 0.1,
            "{settings}: {other_fvu}"
        );
    }
}

#[test]
fn latents_found_by_bfloat16_hardly_change_the_fvu() {
    let fvu_of = |encoder_dtype: &str| {
        let workspace = Workspace::new();
        workspace.write("tiny.toml", small_sweep());
        let set = format!("train.encoder_dtype={encoder_dtype}");
        let args = ["tiny.toml", "--set", &set, "--set", "train.num_latents=512"];
        workspace.run(&args).succeeds();
        let log = fs::read_to_string(workspace.stream_dir().join("worker.log")).unwrap();
        let is_rounded = log.contains("pre-activations in bfloat16 find its latents");
        let row = workspace.sql("SELECT job_id, fvu FROM result WHERE hookpoint = 'layers.2'");
        (
            row[0]["job_id"].clone(),
            row[0]["fvu"].as_f64().unwrap(),
            is_rounded,
        )
    };
    let (job, fvu, is_rounded) = fvu_of("auto");
    assert!(!is_rounded, "on a CPU");
    let (other_job, other_fvu, is_rounded) = fvu_of("bfloat16");
    assert!(is_rounded);
    assert_ne!(job, other_job);
    // Of 512 latents in 32 dimensions many are close, and bfloat16 does not always find the same.
    assert!((other_fvu / fvu - 1.0).abs() < 0.01, "{other_fvu} {fvu}");
}

#[test]
fn tensors_that_the_model_has_no_use_for_are_named() {
    let workspace = with_family("gpt2");
    let path = workspace.path("model/model.safetensors");
    let mut tensors = tch::Tensor::read_safetensors(&path).unwrap();
    tensors.push((
        "transformer.h.0.attn.q_attn.weight".into(),
        tch::Tensor::from(1.0),
    ));
    tch::Tensor::write_safetensors(&tensors, path).unwrap();
    workspace.write("tiny.toml", sweep_on_model("['h.0']"));
    let outcome = workspace.run(&["plan", "tiny.toml"]).succeeds();
    outcome.remarks(&[
        "has 1 tensor that a gpt2 model does not use",
        "transformer.h.0.attn.q_attn.weight",
    ]);
}

/// Keys of which it is not known whether they change the computation: in a plan and in a run, once for all
/// jobs and streams.
#[test]
fn keys_that_are_not_known_are_named() {
    let workspace = with_family("mistral");
    enlarge_vocabulary(&workspace);
    edit_config(&workspace, |config| {
        config["attention_chunks"] = json!(3);
        config["rope_parameters"]["finetuned"] = json!(true);
        config["transformers_version"] = json!("9.0");
    });
    let sweep = sweep_on_model("['layers.1']");
    let sweep = replace_line(&sweep, "[vary]", "[vary]\nbatch_size = [4, 8]");
    workspace.write("tiny.toml", sweep);
    for command in [&["plan", "tiny.toml"][..], &["tiny.toml"]] {
        let outcome = workspace.run(command).succeeds();
        let told = "config.json of `model` has 2 keys that are not known for a mistral model: \
                    `attention_chunks`, `rope_parameters.finetuned`";
        assert_eq!(outcome.stderr.matches(told).count(), 1, "{outcome}");
        assert_eq!(outcome.stderr.matches("not known").count(), 1, "{outcome}");
    }
}

fn edit_config(workspace: &Workspace, edit: impl FnOnce(&mut Value)) {
    let path = workspace.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_precision_that_is_none() {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", small_sweep());
    let outcome = workspace.run(&["plan", "tiny.toml", "--set", "train.dtype=int8"]);
    outcome.refuses(&["dtype", "int8"]);
}
