//! Numbers that are not finite, and their cause: the model, an SAE, or that nothing was trained.

use crate::bad_model::edit_weights;
use crate::common::{Workspace, fixture, replace_line, text, with_jobs};
use serde_json::json;
use std::fs;
use tch::{Device, Tensor};

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
const SHORT: &str = "batch_size = 8\nmax_examples = 64\nexpansion_factor = 2";

/// A folder with `jobs` on a copy of the tiny model whose tensors are edited.
fn with_edited_model(
    settings: &str,
    jobs: &[(&str, &str)],
    edit: impl Fn(&str, Tensor) -> Tensor,
) -> Workspace {
    let workspace = with_jobs(settings, jobs);
    for entry in fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        workspace.write(&format!("model/{name}"), fs::read(&path).unwrap());
    }
    edit_weights(&workspace, |name, tensor| Some(edit(name, tensor)));
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    workspace.write(
        "tiny.toml",
        replace_line(&sweep, "model", "model = 'model'"),
    );
    workspace
}

fn with_nan(name: &str, tensor: Tensor) -> Tensor {
    if name == DOWN {
        let _ = tensor.get(3).fill_(f64::NAN);
    }
    tensor
}

/// Saves an SAE for the tiny model in `saes/HOOKPOINT`.
fn save_sae(workspace: &Workspace, hookpoint: &str, edit: impl Fn(&mut sae::Sae)) {
    let cfg = sae::SaeConfig::topk(32, 64, 4);
    let mut sae = sae::Sae::new(cfg, 0, Device::Cpu).unwrap();
    edit(&mut sae);
    sae.save_to_disk(&workspace.path("saes").join(hookpoint))
        .unwrap();
}

/// `encode` and `eval` of the SAEs in `saes` on `model`: refused with `parts` and `hint`, and no file.
#[track_caller]
fn not_encoded_and_not_evaluated(
    workspace: &Workspace,
    (model, more): (&str, &[&str]),
    (parts, hint): (&[&str], &str),
) {
    let dataset = fixture("tiny.jsonl");
    let data = ["--dataset", text(&dataset), "--model", model];
    let data = [&data[..], &["--ctx-len", "64", "--max-examples", "8"], more].concat();
    let encode = ["encode", "saes", "--out", "latents.parquet"];
    workspace
        .run(&[&encode[..], &data].concat())
        .refuses(parts)
        .hints(hint);
    assert!(!workspace.path("latents.parquet").exists());
    let eval = workspace.run(&[&["eval", "saes", "--json"][..], &data].concat());
    assert_eq!(eval.refuses(parts).hints(hint).stdout, "");
}

#[test]
fn nan_in_a_weight_of_the_model_is_named() {
    let jobs = [
        ("before", "hookpoints=['layers.0']"),
        ("behind", "hookpoints=['layers.1', 'layers.2']"),
        ("end to end", "hookpoints=['layers.0'], loss_fn='ce'"),
    ];
    let workspace = with_edited_model(SHORT, &jobs, with_nan);
    let outcome = workspace.run(&["tiny.toml"]).exits(1);
    let weight = format!("NaN or infinite in float32: `{DOWN}` of the model has such numbers");
    let behind = format!("the activations of `layers.1` are {weight}");
    let end_to_end = format!("the logits of the language model are {weight}");
    let outcome = outcome.remarks(&[&behind, &end_to_end, "download it again"]);
    assert!(!outcome.stderr.contains("lower `lr`"), "{outcome}");
    let statement = "SELECT DISTINCT job, status FROM result ORDER BY job";
    let expected = json!([
        {"job": "before", "status": "done"},
        {"job": "behind", "status": "failed"},
        {"job": "end to end", "status": "failed"},
    ]);
    assert_eq!(json!(workspace.sql(statement)), expected);

    save_sae(&workspace, "layers.2", |_| {});
    let parts = ["the activations of `layers.2` are", &weight];
    not_encoded_and_not_evaluated(&workspace, ("model", &[]), (&parts, "download it again"));
}

#[test]
fn what_overflows_in_float16_is_told_so() {
    let settings = format!("{SHORT}\ndtype = 'float16'");
    let too_large = |name: &str, tensor: Tensor| if name == DOWN { tensor * 3e4 } else { tensor };
    let jobs = [("a", "hookpoints=['layers.1']")];
    let workspace = with_edited_model(&settings, &jobs, too_large);
    let outcome = workspace.run(&["tiny.toml"]).exits(1);
    let told = "the activations of `layers.1` are NaN or infinite in float16";
    let outcome = outcome.remarks(&[told, "set `dtype` to `bfloat16` or `float32`"]);
    assert!(!outcome.stderr.contains("lower `lr`"), "{outcome}");
    workspace
        .run(&["tiny.toml", "--set", "train.dtype=float32"])
        .succeeds();

    save_sae(&workspace, "layers.1", |_| {});
    let in_float16 = ("model", &["--dtype", "float16"][..]);
    not_encoded_and_not_evaluated(&workspace, in_float16, (&[told], "float16 ends at 65504"));
}

#[test]
fn an_sae_with_nan_is_named_with_its_tensor() {
    let workspace = with_jobs(SHORT, &[("a", "hookpoints=['layers.1'], finetune='saes'")]);
    save_sae(&workspace, "layers.1", |sae| {
        let _ = sae.encoder_bias.fill_(f64::NAN);
    });
    let model = fixture("tiny-llama");
    let parts = [
        "`encoder.bias` of the SAE in `",
        "values that are not finite",
    ];
    not_encoded_and_not_evaluated(&workspace, (text(&model), &[]), (&parts, "lower `lr`"));
    workspace.run(&["tiny.toml"]).exits(1).remarks(&parts);

    save_sae(&workspace, "layers.1", |sae| {
        let _ = sae.encoder_weight.fill_(1e38);
        let _ = sae.w_dec.fill_(1e38);
    });
    let parts = ["of the SAE in `", "are NaN or infinite"];
    not_encoded_and_not_evaluated(&workspace, (text(&model), &[]), (&parts, "far too large"));
}

#[test]
fn a_job_whose_tokens_are_all_excluded_has_failed() {
    let jobs = [
        (
            "all",
            "hookpoints=['layers.1'], exclude_tokens=list(range(300))",
        ),
        ("some", "hookpoints=['layers.1'], exclude_tokens=[5, 6, 7]"),
    ];
    let workspace = with_jobs(SHORT, &jobs);
    let outcome = workspace.run(&["tiny.toml"]).exits(1);
    let told = "all tokens of the data are in `exclude_tokens`: nothing was trained";
    outcome.remarks(&[told, "remove some of them"]);
    let statement = "SELECT name, status FROM sweep_listing JOIN job USING (job_id) ORDER BY 1";
    let statement = statement.replace("name", "job AS name");
    let expected = json!([{"name": "all", "status": "failed"}, {"name": "some", "status": "done"}]);
    assert_eq!(json!(workspace.sql(&statement)), expected);
    assert!(!workspace.path("runs/tiny/all/layers.1").exists());

    let job = "SELECT job_id FROM job WHERE status = 'done'";
    let job = workspace.sql_value(job);
    let all: Vec<String> = (0..300).map(|id| id.to_string()).collect();
    let dataset = fixture("tiny.jsonl");
    let eval = ["eval", job.as_str().unwrap(), "--dataset", text(&dataset)];
    let excluded = ["--max-examples", "4", "--exclude-tokens", &all.join(",")];
    workspace
        .run(&[&eval[..], &excluded].concat())
        .refuses(&["no token of the sequences counts"])
        .hints("`exclude_tokens`");
}
