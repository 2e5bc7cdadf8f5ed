//! Training by the real binary: every kind of SAE on one stream, numbers that are not finite, full disks.

use crate::common::{Outcome, Running, Workspace, fixture, job_dir, until, with_jobs};
use sae::Sae;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use tch::Device;

/// Eight updates.
const SHORT: &str = "batch_size = 8\nmax_examples = 64\nexpansion_factor = 2\n\
                     hookpoints = ['layers.1.mlp']\nlr_warmup_steps = 4";

/// The SAE of the only hookpoint of a job, whose weights are all finite.
fn load(workspace: &Workspace, job: &str) -> Sae {
    let dir = job_dir(workspace, job).join("layers.1.mlp");
    let sae = Sae::load_from_disk(&dir, Device::Cpu).unwrap();
    for (name, weight) in sae.named_weights() {
        let is_finite = bool::try_from(weight.isfinite().all()).unwrap();
        assert!(is_finite, "{name} of {job}");
    }
    sae
}

fn keys(cfg: &[u8]) -> BTreeSet<String> {
    let cfg: Value = serde_json::from_slice(cfg).unwrap();
    cfg.as_object().unwrap().keys().cloned().collect()
}

/// Settings of jobs that differ in all that jobs of one stream may differ in.
fn all_kinds() -> Vec<String> {
    let mut kinds = Vec::new();
    for activation in ["topk", "groupmax"] {
        for optimizer in ["signum", "adam", "muon"] {
            for (k, seed) in [(4, 0), (4, 1), (8, 0), (8, 1)] {
                kinds.push(format!(
                    "activation='{activation}', optimizer='{optimizer}', k={k}, init_seeds=[{seed}]"
                ));
            }
        }
    }
    for form in ["transcode=True", "skip_connection=True"] {
        kinds.push(format!("{form}, multi_topk=True, auxk_alpha=0.03125"));
    }
    kinds.push("transcode=True, skip_connection=True, num_latents=40".into());
    kinds.push("normalize_decoder=False, k_decay_steps=4, micro_acc_steps=2".into());
    kinds
}

#[test]
fn every_kind_of_sae_trains_on_one_stream_and_is_saved_as_sparsify_saves_it() {
    let kinds = all_kinds();
    let names: Vec<_> = (0..kinds.len())
        .map(|index| format!("kind-{index}"))
        .collect();
    let jobs = names.iter().zip(&kinds);
    let jobs: Vec<(&str, &str)> = jobs
        .map(|(name, kind)| (name.as_str(), kind.as_str()))
        .collect();
    let workspace = with_jobs(SHORT, &jobs);
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    outcome.remarks(&["28 jobs on one forward pass", "all 28 jobs are done"]);

    let golden = fs::read(fixture("golden/checkpoint/layers.2/cfg.json")).unwrap();
    for (name, kind) in jobs {
        let sae = load(&workspace, name);
        assert_eq!(sae.cfg.transcode, kind.contains("transcode=True"), "{kind}");
        assert_eq!(sae.w_skip.is_some(), kind.contains("skip_connection=True"));
        let cfg = job_dir(&workspace, name).join("layers.1.mlp/cfg.json");
        assert_eq!(keys(&fs::read(cfg).unwrap()), keys(&golden), "{kind}");
    }
    let bad = "SELECT * FROM result WHERE fvu IS NULL OR NOT fvu BETWEEN 0.01 AND 1.1";
    assert_eq!(json!(workspace.sql(bad)), json!([]));
}

// Numbers that are not finite

/// With weights of 1e36, whose squares are too large, after the second update; with no finite weight.
const DIVERGING: [(&str, &str); 3] = [
    ("good", "lr=0.001"),
    ("large", "lr=1e37, normalize_decoder=False"),
    ("infinite", "lr=1e40, normalize_decoder=False"),
];

#[test]
fn jobs_that_diverge_keep_their_last_good_checkpoint_and_the_others_go_on() {
    let settings = format!("{SHORT}\nsave_every = 1\noptimizer = 'adam'");
    let workspace = with_jobs(&settings, &DIVERGING);
    let outcome = workspace.run(&["tiny.toml"]).exits(1);
    outcome.remarks(&[
        "`large` (",
        "failed: `layers.1.mlp` at step 3: the loss is NaN or infinite",
        "lower `lr`",
    ]);
    // Adam's first update has a learning rate of 0.
    let statement =
        "SELECT job, status, max(checkpoint.step) AS saved, verdict.step AS seen, is_fatal
        FROM result JOIN checkpoint USING (job_id) LEFT JOIN verdict USING (sae_id)
        GROUP BY job ORDER BY job";
    let expected = json!([
        {"job": "good", "status": "done", "saved": 8, "seen": null, "is_fatal": null},
        {"job": "infinite", "status": "failed", "saved": 1, "seen": 2, "is_fatal": 1},
        {"job": "large", "status": "failed", "saved": 2, "seen": 3, "is_fatal": 1},
    ]);
    assert_eq!(json!(workspace.sql(statement)), expected);
    let reason = "SELECT reason FROM verdict WHERE step = 2";
    let reason = workspace.sql_value(reason);
    assert!(
        reason.as_str().unwrap().contains("`encoder.weight` is NaN"),
        "{reason}"
    );
    for (name, _) in DIVERGING {
        load(&workspace, name);
    }
}

#[test]
fn a_reconstruction_worse_than_the_mean_is_told_of_and_goes_on() {
    let settings = "batch_size = 2\nmax_examples = 220\nexpansion_factor = 2\n\
                    hookpoints = ['layers.1.mlp']";
    let workspace = with_jobs(settings, &[("good", "lr=0.001"), ("wild", "lr=10.0")]);
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["worse than the mean"]);
    let statement = "SELECT job, verdict.step, is_fatal, reason LIKE 'FVU is %' AS is_of_fvu
        FROM verdict JOIN result USING (sae_id)";
    // Then that almost no latent is active.
    let expected = json!([
        {"job": "wild", "step": 101, "is_fatal": 0, "is_of_fvu": 1},
        {"job": "wild", "step": 102, "is_fatal": 0, "is_of_fvu": 0},
    ]);
    assert_eq!(json!(workspace.sql(statement)), expected);
    load(&workspace, "wild");
}

// Full disks

/// SAEs whose files are much larger than all others of a run.
fn with_large_saes() -> Workspace {
    let settings = "batch_size = 2\nmax_examples = 600\nexpansion_factor = 64\nsave_every = 3\n\
                    hookpoints = ['layers.1.mlp']";
    with_jobs(settings, &[("a", "optimizer='adam'")])
}

/// Enough for events, too little for an SAE of 2048 latents.
const LIMIT_BYTES: u64 = 1 << 18;

/// Starts the sweep. If a file grows over a limit that is set later, writing fails, as it does on a full
/// disk; no signal ends the process.
fn start(workspace: &Workspace) -> Running {
    let command = workspace.command(&["tiny.toml"]);
    let mut deaf = Command::new("bash");
    deaf.args(["-c", "trap '' XFSZ; exec \"$@\"", "bash"]);
    deaf.arg(command.get_program()).args(command.get_args());
    let variables = command.get_envs();
    deaf.env_clear();
    deaf.envs(variables.filter_map(|(key, value)| Some((key, value?))));
    deaf.current_dir(workspace.path(""));
    Running::start(
        deaf,
        workspace.path("stdout.txt"),
        workspace.path("stderr.txt"),
    )
}

/// The worker's process once it has saved for the first time.
fn saving_worker(workspace: &Workspace) -> u64 {
    until("a checkpoint", || {
        let events = workspace.events();
        let has_saved = events.iter().any(|event| event["event"] == "checkpoint");
        let started = events.iter().find(|event| event["event"] == "started");
        has_saved.then(|| started.unwrap()["pid"].as_u64().unwrap())
    })
}

/// Trains until the disk is full, some time after the first checkpoint.
#[cfg(target_os = "linux")]
fn run_out_of_disk(workspace: &Workspace) -> Outcome {
    let running = start(workspace);
    let worker = saving_worker(workspace);
    let (pid, limit) = (worker.to_string(), format!("--fsize={LIMIT_BYTES}"));
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(limited.unwrap().success());
    running.wait()
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_while_saving_keeps_the_last_checkpoint_and_is_told_of() {
    let whole = with_large_saes();
    whole.run(&["tiny.toml"]).succeeds();
    let workspace = with_large_saes();
    let outcome = run_out_of_disk(&workspace).exits(1);
    outcome.remarks(&["cannot write", "File too large"]);
    load(&workspace, "a");
    let saved = workspace.sql_value("SELECT max(step) AS step FROM checkpoint");
    assert!((3..300).contains(&saved.as_u64().unwrap()), "{saved}");
    let attempt = "SELECT status, failure, reason LIKE '%cannot write%' AS has_reason,
             hint LIKE '%disk%' AS has_hint FROM attempt";
    let expected =
        json!([{"status": "failed", "failure": "internal", "has_reason": 1, "has_hint": 1}]);
    assert_eq!(json!(workspace.sql(attempt)), expected);

    // Once there is room again it continues, to the same bits.
    workspace.run(&["tiny.toml"]).succeeds();
    // Its state may have been written though what is published did not fit.
    let first_step = "SELECT first_step FROM attempt WHERE number = 2";
    let first_step = workspace.sql_value(first_step);
    assert!(
        first_step.as_u64() >= saved.as_u64(),
        "{first_step}, not {saved}"
    );
    assert!(workspace.trained() == whole.trained());
}
