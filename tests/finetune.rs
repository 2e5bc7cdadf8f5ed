//! Beginning with SAEs that were trained before, and what can be wrong with them.

use crate::common::{Outcome, Workspace, job_dir, with_jobs};
use sae::{Sae, SaeConfig, WEIGHTS_FILE};
use serde_json::json;
use std::fs;
use tch::Device;

/// A sweep of one job, of 64 latents on 32 dimensions, that begins with the SAEs in `earlier`.
fn workspace() -> Workspace {
    let settings = "batch_size = 8\nmax_examples = 64\nexpansion_factor = 2\n\
                    hookpoints = ['layers.1.mlp']\noptimizer = 'adam'";
    with_jobs(settings, &[("a", "finetune='earlier'")])
}

/// The same with an SAE of `num_latents` latents in `earlier`.
fn with_earlier(num_latents: usize) -> (Workspace, Sae) {
    let workspace = workspace();
    let earlier = Sae::new(SaeConfig::topk(32, num_latents, 4), 7, Device::Cpu).unwrap();
    let dir = workspace.path("earlier/layers.1.mlp");
    earlier.save_to_disk(&dir).unwrap();
    (workspace, earlier)
}

/// Plans and runs what must be refused, with nothing trained.
#[track_caller]
fn refused(workspace: &Workspace, parts: &[&str]) -> Outcome {
    workspace.run(&["plan", "tiny.toml"]).refuses(parts);
    let outcome = workspace.run(&["tiny.toml"]).refuses(parts);
    assert!(workspace.trained().is_empty(), "{outcome}");
    outcome
}

#[test]
fn training_begins_with_the_weights_of_an_earlier_sae() {
    let (workspace, earlier) = with_earlier(64);
    let still = ["tiny.toml", "--set", "train.lr=0.0"];
    workspace.run(&still).succeeds();
    let dir = job_dir(&workspace, "a").join("layers.1.mlp");
    let ours = Sae::load_from_disk(&dir, Device::Cpu).unwrap();
    for ((name, ours), (_, earlier)) in ours
        .named_weights()
        .into_iter()
        .zip(earlier.named_weights())
    {
        assert!(ours.allclose(earlier, 0.0, 1e-6, false), "{name}");
    }
    // Other weights in the folder make another job.
    let other = Sae::new(SaeConfig::topk(32, 64, 4), 8, Device::Cpu).unwrap();
    other
        .save_to_disk(&workspace.path("earlier/layers.1.mlp"))
        .unwrap();
    workspace.run(&still).succeeds();
    let n_jobs = "SELECT count(*) AS n FROM job";
    assert_eq!(workspace.sql_value(n_jobs), json!(2));
}

#[test]
fn an_sae_of_other_shapes_is_refused_with_both() {
    let (workspace, _) = with_earlier(96);
    let parts = [
        "earlier/layers.1.mlp`",
        "encoder.weight [96, 32]",
        "encoder.weight [64, 32]",
    ];
    refused(&workspace, &parts).hints("`num_latents`");
}

#[test]
fn a_folder_without_weights_is_refused() {
    let (workspace, _) = with_earlier(64);
    let weights = workspace.path("earlier/layers.1.mlp").join(WEIGHTS_FILE);
    fs::remove_file(weights).unwrap();
    refused(&workspace, &["earlier/layers.1.mlp/sae.safetensors`"]).hints("`sae.safetensors`");
}

#[test]
fn a_truncated_file_of_weights_is_refused() {
    let (workspace, _) = with_earlier(64);
    let weights = workspace.path("earlier/layers.1.mlp").join(WEIGHTS_FILE);
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    refused(&workspace, &["earlier/layers.1.mlp/sae.safetensors`"]).hints("`sae.safetensors`");
}

#[test]
fn a_folder_without_the_hookpoints_sae_is_refused() {
    let (workspace, earlier) = with_earlier(64);
    fs::remove_dir_all(workspace.path("earlier/layers.1.mlp")).unwrap();
    earlier
        .save_to_disk(&workspace.path("earlier/layers.2"))
        .unwrap();
    // The plan finds it.
    let refused = |parts| workspace.run(&["plan", "tiny.toml"]).refuses(parts);
    refused(&[
        "`finetune` has no SAE for `layers.1.mlp`",
        "earlier/layers.1.mlp",
    ])
    .hints("it has `layers.2`");
    fs::remove_dir_all(workspace.path("earlier")).unwrap();
    refused(&["finetune", "earlier"]);
}
