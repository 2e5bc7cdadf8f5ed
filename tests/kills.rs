//! Workers, and every other time `sae-run` too, that are killed at 50 random moments, with every setting that gives an update something to
//! remember: what they leave is to the bit what undisturbed ones leave.

use crate::common::{Workspace, signal, text, until, with_jobs};
use crate::second_model::make_model;
use serde_json::Value;
use std::collections::BTreeMap;

/// Optimizer updates of each job.
const N_STEPS: u64 = 240;

/// A sweep of `jobs` on one stream with the settings `stream`.
fn workspace(stream: &str, jobs: &[(&str, &str)]) -> Workspace {
    let settings = format!(
        "max_examples = {}\n\
         save_every = 7\n\
         expansion_factor = 4\n\
         lr_warmup_steps = 50\n\
         dead_feature_threshold = 500\n\
         hookpoints = ['layers.1.mlp', 'layers.2']\n\
         {stream}",
        4 * N_STEPS
    );
    with_jobs(&settings, jobs)
}

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        let (factor, term) = (6364136223846793005, 1442695040888963407);
        self.0 = self.0.wrapping_mul(factor).wrapping_add(term);
        (self.0 >> 33) % end
    }
}

/// When to kill, in updates: one moment in each of `n` equal spans, none near the end, because the worker
/// might be faster.
fn moments(n: u64, seed: u64) -> Vec<u64> {
    let (span, mut random) = (N_STEPS * 4 / 5 / n, Random(seed));
    (0..n)
        .map(|index| index * span + random.below(span))
        .collect()
}

/// The process of worker number `attempt` once it is at `moment` or after it.
fn worker_at(workspace: &Workspace, attempt: u64, moment: u64) -> Option<u32> {
    let events = workspace.events();
    let mut of_attempt = events.iter().filter(|event| event["attempt"] == attempt);
    let pid = of_attempt.find(|event| event["event"] == "started")?["pid"].as_u64()?;
    let mut steps = of_attempt.filter(|event| event["event"] == "progress");
    let is_there = steps.any(|event| event["step"].as_u64() >= Some(moment));
    is_there.then(|| u32::try_from(pid).unwrap())
}

/// Starts the sweep and kills its worker at `moment`, and with it `sae-run` every other time.
fn kill(workspace: &Workspace, attempt: u64, moment: u64) {
    let running = workspace.start(&["tiny.toml"]);
    let worker = until(&format!("update {moment} of attempt {attempt}"), || {
        worker_at(workspace, attempt, moment)
    });
    if attempt.is_multiple_of(2) {
        signal(running.pid(), "STOP");
        signal(worker, "KILL");
        running.kill();
    } else {
        signal(worker, "KILL");
        running.wait().exits(1).remarks(&["SIGKILL"]);
    }
}

/// What a run left: the files of the jobs' folders and of the best checkpoints, every row of `curve`, and thresholds that
/// were found on held-out tokens.
#[derive(PartialEq)]
struct Left {
    files: BTreeMap<String, Vec<u8>>,
    best: BTreeMap<String, Vec<u8>>,
    curve: Vec<Value>,
    calibrations: Vec<Value>,
}

fn left(workspace: &Workspace) -> Left {
    let best = workspace.files("runs/tiny/.best").into_iter();
    Left {
        files: workspace.trained(),
        best: best.map(|(path, (_, bytes))| (path, bytes)).collect(),
        curve: workspace.sql(
            "SELECT job, sae, step, n_tokens, fvu, l0, dead_pct, auxk, multi_topk_fvu, output_loss, sparsity
             FROM curve ORDER BY job, sae, step",
        ),
        calibrations: workspace.sql(
            "SELECT job_id, name, step, n_tokens, calibration.k, threshold_ema, l0_ema, threshold, l0
             FROM calibration JOIN sae USING (sae_id) ORDER BY sae_id",
        ),
    }
}

fn assert_same_files(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    assert!(ours.keys().eq(theirs.keys()), "{:?}", ours.keys());
    for (path, bytes) in ours {
        assert!(*bytes == theirs[path], "{path} differs");
    }
}

/// Kills the sweep's workers `n_kills` times, and compares what is left at the end; gives it.
fn survives(n_kills: u64, seed: u64, stream: &str, jobs: &[(&str, &str)]) -> Left {
    let undisturbed = workspace(stream, jobs);
    undisturbed.run(&["tiny.toml"]).succeeds();
    let undisturbed = left(&undisturbed);
    let killed = workspace(stream, jobs);
    for (moment, attempt) in moments(n_kills, seed).into_iter().zip(1..) {
        kill(&killed, attempt, moment);
    }
    killed.run(&["tiny.toml"]).succeeds();
    let n_crashed = "SELECT count(*) AS n FROM attempt WHERE status = 'crashed'";
    assert_eq!(killed.sql_value(n_crashed), n_kills);
    nothing_is_missing_or_doubled(&killed);
    let killed = left(&killed);
    assert_same_files(&killed.files, &undisturbed.files);
    assert_same_files(&killed.best, &undisturbed.best);
    assert_eq!(killed.curve.len(), undisturbed.curve.len());
    for (ours, theirs) in killed.curve.iter().zip(&undisturbed.curve) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(killed.calibrations, undisturbed.calibrations);
    killed
}

/// The database is whole, each job is done once, and events are numbered without a gap.
fn nothing_is_missing_or_doubled(workspace: &Workspace) {
    let integrity = "SELECT integrity_check FROM pragma_integrity_check";
    assert_eq!(workspace.sql_value(integrity), "ok");
    let statuses = "SELECT DISTINCT status FROM job";
    assert_eq!(workspace.sql_value(statuses), "done");
    let final_ones = "SELECT count(*) - count(DISTINCT job_id) AS n FROM checkpoint WHERE is_final";
    assert_eq!(workspace.sql_value(final_ones), 0);
    let events = workspace.events();
    let numbers = events.iter().map(|event| event["seq"].as_u64().unwrap());
    assert!(numbers.eq(1..=events.len() as u64));
    let folded = "SELECT last_event_seq FROM stream";
    assert_eq!(workspace.sql_value(folded), events.len());
}

/// Whether any row of `curve` of a job has a value above 0 in a column.
fn has(left: &Left, job: &str, column: &str) -> bool {
    let mut rows = left.curve.iter().filter(|row| row["job"] == job);
    rows.any(|row| row[column].as_f64().is_some_and(|value| value > 0.0))
}

#[test]
fn killed_jobs_of_one_stream_end_in_the_same_bits() {
    let jobs = [
        (
            "adam",
            "optimizer='adam', auxk_alpha=0.03125, save_best=True",
        ),
        (
            "muon",
            "optimizer='muon', k_decay_steps=150, multi_topk=True",
        ),
        (
            "seeds",
            "init_seeds=[0, 3], activation='groupmax', save_every=11",
        ),
        (
            "skip",
            "transcode=True, skip_connection=True, micro_acc_steps=3",
        ),
    ];
    let left = survives(26, 1, "batch_size = 4", &jobs);
    assert!(has(&left, "adam", "dead_pct") && has(&left, "adam", "auxk"));
    assert!(has(&left, "muon", "multi_topk_fvu"));
    let n_rows = |job: &str| left.curve.iter().filter(|row| row["job"] == job).count() as u64;
    assert_eq!(n_rows("adam"), 2 * N_STEPS);
    assert_eq!(n_rows("seeds"), 4 * N_STEPS);
    let best: Vec<_> = left.best.keys().collect();
    assert!(
        best.iter().all(|path| path.starts_with("adam-")),
        "{best:?}"
    );
    assert_eq!(best.len(), 4, "{best:?}");
}

#[test]
fn killed_jobs_with_gradient_accumulation_end_in_the_same_bits() {
    let jobs = [
        ("signum", "k_decay_steps=100"),
        (
            "excluded",
            "exclude_tokens=[0, 64], optimizer='muon', auxk_alpha=0.03125",
        ),
    ];
    survives(12, 2, "batch_size = 2\ngrad_acc_steps = 2", &jobs);
}

#[test]
fn killed_jobs_with_a_loss_on_the_output_end_in_the_same_bits() {
    let jobs = [
        ("adam", "optimizer='adam', save_best=True"),
        ("seeds", "init_seeds=[0, 3]"),
    ];
    let left = survives(12, 3, "batch_size = 4\nloss_fn = 'ce'", &jobs);
    assert!(has(&left, "adam", "output_loss") && !left.best.is_empty());
}

#[test]
fn killed_jobs_of_every_kind_end_in_the_same_bits() {
    let jobs = [
        (
            "whitened",
            "activation='batchtopk', k=4.5, normalize_activations='covariance_whitening',
             norm_estimate_tokens=2000, auxk_alpha=0.03125, topk_threshold_lr=0.0625",
        ),
        (
            "matryoshka",
            "activation='batchtopk', matryoshka_widths=[0.25, 0.5], normalize_decoder=False,
             rescale_acts_by_decoder_norm=True",
        ),
        ("prefixes", "matryoshka_prefixes=4, save_best=True"),
        (
            "jumprelu",
            "activation='jumprelu', init_l0=8, jumprelu_sparsity_loss_mode='tanh', l0_coefficient=0.01,
             pre_act_loss_coefficient=0.01",
        ),
        (
            "annealed",
            "activation='relu', loss_fn='mse', l1_coefficient=0.02, p_anneal_end=0.5, p_anneal_updates=6",
        ),
        ("gated", "activation='gated', l1_coefficient=0.02, l1_warm_up_steps=0.25"),
        (
            "crosscoder",
            "crosscoder=True, activation='batchtopk', normalize_activations='expected_average_only_in',
             norm_estimate_tokens=2000, auxk_alpha=0.03125, init_seeds=[0, 3]",
        ),
        (
            "cross-layer",
            "transcode=True, cross_layer=True, skip_connection=True, activation='batchtopk', auxk_alpha=0.03125",
        ),
    ];
    let stream = "batch_size = 4\neval_fraction = 0.05\noptimizer = 'adam'\nlr = 0.001\n";
    let left = survives(4, 4, stream, &jobs);
    assert!(has(&left, "annealed", "sparsity") && has(&left, "whitened", "auxk"));
    assert_eq!(left.calibrations.len(), 8);
    for row in &left.calibrations {
        let number = |column: &str| row[column].as_f64().unwrap();
        let off = (number("l0") - number("k")).abs();
        assert!(off <= 1.0 / number("n_tokens"), "{row}");
        assert!(
            number("l0_ema") > 0.0 && number("threshold_ema") > 0.0,
            "{row}"
        );
    }
}

#[test]
fn killed_crosscoders_over_two_models_end_in_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), 0.8);
    let jobs = [
        ("topk", "optimizer='adam', save_best=True"),
        (
            "batchtopk",
            "activation='batchtopk', normalize_decoder=False, rescale_acts_by_decoder_norm=True, auxk_alpha=0.03125",
        ),
    ];
    let stream = format!(
        "batch_size = 4\ncrosscoder = true\ncrosscoder_model = '{}'",
        text(dir.path())
    );
    let left = survives(4, 5, &stream, &jobs);
    assert!(!left.best.is_empty() && has(&left, "batchtopk", "dead_pct"));
}
