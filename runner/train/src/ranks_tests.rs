//! Training with several real processes: this test binary starts itself, once for each rank.

use crate::testing::{HOOKPOINTS, Run, assert_same, config, relative};
use crate::worker::{AskedBy, run_worker};
use fault::FailureKind;
use plan::{EventKind, LossFn, Optimizer, TrainConfig};
use sae::Sae;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};
use tch::Tensor;

/// Less than a timeout, and enough on a machine that does much else.
const SOON: Duration = Duration::from_secs(240);

const ORDER: &str = "SAE_RUN_TEST_ORDER";

/// No test, but what the ranks of the others run.
#[test]
fn a_rank() {
    if let Ok(order) = env::var(ORDER) {
        let code = run_worker(&PathBuf::from(order), AskedBy::Signals).unwrap();
        std::process::exit(code.into());
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a worker on the order of `run` with `n_ranks` ranks.
pub(crate) fn start(run: &Run, n_ranks: usize) -> Vec<Child> {
    let path = run.dir.path().join("order.json");
    fs::write(&path, serde_json::to_vec(&run.order).unwrap()).unwrap();
    let port = free_port().to_string();
    let start = |rank: usize| {
        let log = run.dir.path().join(format!("log.{rank}"));
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "ranks_tests::a_rank", "--nocapture"])
            .env(ORDER, &path)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", n_ranks.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port)
            .stdout(Stdio::null())
            .stderr(fs::File::create(log).unwrap())
            .spawn()
            .unwrap()
    };
    (0..n_ranks).map(start).collect()
}

pub(crate) fn codes(ranks: Vec<Child>) -> Vec<Option<i32>> {
    let code = |mut rank: Child| rank.wait().unwrap().code();
    ranks.into_iter().map(code).collect()
}

pub(crate) fn run_ranks(run: &Run, n_ranks: usize) {
    let codes = codes(start(run, n_ranks));
    assert_eq!(codes, vec![Some(0); n_ranks], "{:?}", run.events().last());
}

/// A run by `n_ranks` ranks whose batches have `batch_size` sequences together.
pub(crate) fn trained(config: &TrainConfig, n_ranks: usize, batch_size: usize) -> Run {
    let config = TrainConfig {
        batch_size: batch_size / n_ranks,
        ..config.clone()
    };
    let run = Run::of_ranks(n_ranks, &[("a", config)]);
    match n_ranks {
        1 => assert_eq!(run.run(), 0),
        _ => run_ranks(&run, n_ranks),
    }
    run
}

/// The largest relative difference between the weights of two runs' SAEs, of which both have the same.
pub(crate) fn difference(a: &Run, b: &Run) -> f64 {
    let (a, b) = (a.saes(), b.saes());
    assert!(
        a.keys().eq(b.keys()) && !a.is_empty(),
        "{:?} {:?}",
        a.keys(),
        b.keys()
    );
    let of_sae = |(a, b): (&Sae, &Sae)| {
        let weights = a.named_weights().into_iter().zip(b.named_weights());
        let differences: Vec<f64> = weights.map(|((_, a), (_, b))| relative(a, b)).collect();
        differences.into_iter().fold(0.0, f64::max)
    };
    a.values().zip(b.values()).map(of_sae).fold(0.0, f64::max)
}

pub(crate) fn adam() -> TrainConfig {
    TrainConfig {
        optimizer: Optimizer::Adam,
        lr_warmup_steps: 5,
        ..config()
    }
}

/// With the terms of the loss that look at all pre-activations.
pub(crate) fn with_dead_latents(config: TrainConfig) -> TrainConfig {
    TrainConfig {
        auxk_alpha: 0.03,
        multi_topk: true,
        dead_feature_threshold: 1000,
        ..config
    }
}

/// Updates of several passes, of which some tokens are left out.
pub(crate) fn in_many_parts(config: TrainConfig) -> TrainConfig {
    TrainConfig {
        exclude_tokens: vec![0, 64],
        grad_acc_steps: 2,
        micro_acc_steps: 3,
        max_examples: Some(320),
        ..config
    }
}

/// After 20 updates.
pub(crate) const TOLERANCE: f64 = 1e-5;

pub(crate) fn assert_is_one_process(what: &str, config: &TrainConfig) {
    let alone = trained(config, 1, 8);
    for n_ranks in [2, 4] {
        let ranks = trained(config, n_ranks, 8);
        let difference = difference(&ranks, &alone);
        println!("{what}, {n_ranks} ranks: {difference:.1e}");
        assert!(
            difference < TOLERANCE,
            "{what}, {n_ranks} ranks: {difference}"
        );
        let mut counts = [&ranks, &alone].map(|run| run.n_tokens(0)).into_iter();
        assert_eq!(counts.next(), counts.next(), "{what}");
    }
}

#[test]
fn the_weights_of_adam_are_those_of_one_process() {
    assert_is_one_process("adam", &adam());
}

#[test]
fn so_are_those_of_every_kind_of_job() {
    let transcoder = TrainConfig {
        transcode: true,
        skip_connection: true,
        hookpoints: vec!["layers.1.mlp".into(), "layers.2.mlp".into()],
        ..adam()
    };
    let end_to_end = |loss_fn| TrainConfig {
        loss_fn,
        exclude_tokens: vec![0, 64],
        hookpoints: vec!["layers.1.mlp".into(), "layers.2".into()],
        ..adam()
    };
    assert_is_one_process("auxk, multi_topk", &with_dead_latents(adam()));
    assert_is_one_process(
        "excluded tokens, gradient accumulation",
        &in_many_parts(adam()),
    );
    assert_is_one_process("transcoder", &transcoder);
    assert_is_one_process("ce", &end_to_end(LossFn::Ce));
    assert_is_one_process("kl", &end_to_end(LossFn::Kl));
}

/// The signs of a run's first update.
fn first_signs(n_ranks: usize, hookpoint: &str, distribute_modules: bool) -> Vec<Tensor> {
    let config = TrainConfig {
        max_examples: Some(8),
        distribute_modules,
        ..config()
    };
    let run = trained(&config, n_ranks, 8);
    let fresh = Run::new(&[("a", config)]);
    let job = &fresh.order.jobs[0].job;
    let spec = job.saes.iter().find(|spec| spec.name == hookpoint).unwrap();
    let device = tch::Device::Cpu;
    let before = crate::sae_trainer::SaeTrainer::new(job, spec, None, device).unwrap();
    let after = run.sae("a", hookpoint);
    let [before, after] = [&before.sae, &after].map(|sae| sae.encoder_weight.copy());
    vec![(after - before).sign()]
}

#[test]
fn the_signs_of_signums_first_update_are_those_of_one_process() {
    for hookpoint in HOOKPOINTS {
        let alone = first_signs(1, hookpoint, false);
        for (n_ranks, is_spread) in [(2, false), (4, false), (2, true)] {
            let ours = first_signs(n_ranks, hookpoint, is_spread);
            for (ours, alone) in ours.iter().zip(&alone) {
                let n_other = ours.ne_tensor(alone).sum(tch::Kind::Int64).int64_value(&[]);
                assert_eq!(n_other, 0, "of {} signs with {n_ranks} ranks", ours.numel());
                assert!(ours.abs().sum(tch::Kind::Int64).int64_value(&[]) > 0);
            }
        }
    }
}

/// Long enough to be disturbed.
pub(crate) fn long() -> TrainConfig {
    TrainConfig {
        max_examples: Some(640),
        save_every: 10,
        ..adam()
    }
}

pub(crate) fn wait_for_reports(run: &Run, n_reports: usize) {
    let begun = Instant::now();
    let reported = || {
        if run.order.events.is_file() {
            run.curve(0).values().map(Vec::len).min().unwrap_or(0)
        } else {
            0
        }
    };
    while reported() < n_reports {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it does not train"
        );
        sleep(Duration::from_millis(2));
    }
}

/// Four ranks, one of them killed, resume as four, two or three.
#[test]
fn killed_ranks_go_on_in_any_number() {
    let config = TrainConfig {
        batch_size: 2,
        ..long()
    };
    let undisturbed = Run::of_ranks(4, &[("a", config.clone())]);
    run_ranks(&undisturbed, 4);
    for n_ranks in [4, 2, 3] {
        let mut run = Run::of_ranks(4, &[("a", config.clone())]);
        let mut ranks = start(&run, 4);
        wait_for_reports(&run, 25);
        ranks[2].kill().unwrap();
        let ended = codes(ranks);
        assert!(ended.iter().all(|code| *code != Some(0)), "{ended:?}");
        let last = run.events().pop().unwrap().kind;
        let EventKind::Failed { kind, message, .. } = last else {
            panic!("{last:?}");
        };
        assert_eq!(kind, FailureKind::Internal);
        assert!(message.starts_with("lost rank 2 in the all-"), "{message}");
        run.order.attempt += 1;
        run_ranks(&run, n_ranks);
        let ready = run
            .events()
            .into_iter()
            .filter_map(|event| match event.kind {
                EventKind::Ready {
                    first_step,
                    n_steps,
                    ..
                } => Some((first_step, n_steps)),
                _ => None,
            });
        let last = ready.collect::<Vec<_>>().pop().unwrap();
        assert!(last.0 >= 20 && last.1 == 80, "{last:?}");
        let difference = difference(&run, &undisturbed);
        println!("resumed on {n_ranks}: {difference:.1e}");
        if n_ranks == 4 {
            for hookpoint in HOOKPOINTS {
                assert_same(&run.sae("a", hookpoint), &undisturbed.sae("a", hookpoint));
            }
        }
        assert!(difference < TOLERANCE, "on {n_ranks}: {difference}");
    }
}

#[test]
fn a_stop_of_one_rank_saves_on_all() {
    let config = TrainConfig {
        save_every: 1000,
        batch_size: 4,
        ..long()
    };
    let undisturbed = Run::of_ranks(2, &[("a", config.clone())]);
    run_ranks(&undisturbed, 2);
    let mut run = Run::of_ranks(2, &[("a", config)]);
    let ranks = start(&run, 2);
    wait_for_reports(&run, 3);
    signal(&ranks[1], "-TERM");
    assert_eq!(codes(ranks), [Some(130), Some(130)]);
    let last = run.events().pop().unwrap().kind;
    assert!(
        matches!(last, EventKind::Interrupted { step } if step >= 3),
        "{last:?}"
    );
    run.order.attempt = 2;
    run_ranks(&run, 2);
    for hookpoint in HOOKPOINTS {
        assert_same(&run.sae("a", hookpoint), &undisturbed.sae("a", hookpoint));
    }
}

pub(crate) fn signal(rank: &Child, name: &str) {
    let pid = rank.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_rank_that_hangs_is_named_with_what_it_did_not_do() {
    let config = TrainConfig {
        batch_size: 4,
        ..long()
    };
    let mut run = Run::of_ranks(2, &[("a", config)]);
    run.order.timeout_minutes = 0.25;
    let mut ranks = start(&run, 2);
    wait_for_reports(&run, 3);
    signal(&ranks[1], "-STOP");
    let begun = Instant::now();
    assert_eq!(ranks.remove(0).wait().unwrap().code(), Some(1));
    assert!(begun.elapsed() < SOON);
    signal(&ranks[0], "-KILL");
    codes(ranks);
    let last = run.events().pop().unwrap().kind;
    let EventKind::Failed { message, .. } = last else {
        panic!("{last:?}");
    };
    assert!(
        message.starts_with("rank 1 did not arrive at the all-"),
        "{message}"
    );
}

/// Rank 0 holds the store, and writes: no one is left to report it, but the others end.
#[test]
fn where_the_store_is_lost_the_others_end() {
    let config = TrainConfig {
        batch_size: 4,
        ..long()
    };
    let run = Run::of_ranks(3, &[("a", config)]);
    let ranks = start(&run, 3);
    wait_for_reports(&run, 3);
    signal(&ranks[0], "-KILL");
    let begun = Instant::now();
    let ended = codes(ranks);
    assert_eq!(ended[1..], [Some(1), Some(1)]);
    assert!(begun.elapsed() < SOON);
    let log = fs::read_to_string(run.dir.path().join("log.1")).unwrap();
    assert!(log.contains("error: "), "{log}");
}

/// Notes of a run.
pub(crate) fn notes(run: &Run) -> Vec<String> {
    let note = |event: plan::Event| match event.kind {
        EventKind::Note { message } => Some(message),
        _ => None,
    };
    run.events().into_iter().filter_map(note).collect()
}

#[test]
fn what_is_sent_is_once_an_update_and_as_much_as_predicted() {
    let n_steps = 20;
    for grad_acc_steps in [1, 4] {
        let config = TrainConfig {
            grad_acc_steps,
            max_examples: Some(n_steps * 8 * grad_acc_steps as u64),
            // The first biases are a mean over all ranks, once.
            finetune: Some(fixture_of_saes()),
            ..config()
        };
        let run = trained(&config, 2, 8);
        let (d_in, num_latents) = (32, 32 * 8);
        // Of each SAE: weights, biases and fire counts in Float, nine terms of the loss in Double.
        let n_floats = 2 * num_latents * d_in + 2 * num_latents + d_in;
        let n_sums = 2 * n_steps * (n_floats * 4 + 9 * 8);
        // Of each hookpoint: mean and variance in Double.
        let moments = 2 * n_steps * (d_in + 1) * 8;
        let note = notes(&run)
            .into_iter()
            .find(|note| note.contains("all-reduces"))
            .unwrap();
        assert_eq!(sent(&note, "all-reduces"), (2 * 2 * n_steps, n_sums));
        let (_, gathered) = sent(&note, "all-gathers");
        // Besides them, what ranks tell each other: a flag and numbers of tokens, shapes once.
        let told = gathered - moments;
        assert!(told < n_steps * 64 + 4000, "{note}");
    }
}

/// The number of collectives of a kind and their bytes, as a rank's note has them.
pub(crate) fn sent(note: &str, kind: &str) -> (u64, u64) {
    let (before, _) = note.split_once(&format!(" {kind}")).unwrap();
    let (before, n_calls) = before.rsplit_once(" in ").unwrap();
    let n_bytes = before.trim_end_matches(')').strip_suffix(" B").unwrap();
    let n_bytes = n_bytes.rsplit([' ', '(']).next().unwrap();
    (n_calls.parse().unwrap(), n_bytes.parse().unwrap())
}

/// A folder with trained SAEs.
fn fixture_of_saes() -> String {
    let run = Run::new(&[("a", config())]);
    assert_eq!(run.run(), 0);
    let dir = run.dir.keep();
    dir.join("a").to_str().unwrap().into()
}

#[test]
fn a_rank_with_another_order_is_an_error_on_all() {
    let run = Run::new(&[("a", config())]);
    let path = run.dir.path().join("other.json");
    let mut other = run.order.clone();
    other.threads += 1;
    fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
    let mut ranks = start(&run, 1);
    let _ = ranks.pop().unwrap().kill();
    let port = free_port().to_string();
    let start = |rank: usize, order: PathBuf| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "ranks_tests::a_rank", "--nocapture"])
            .env(ORDER, order)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let ranks = vec![start(0, run.dir.path().join("order.json")), start(1, path)];
    assert_eq!(codes(ranks), [Some(2), Some(2)]);
    let last = run.events().pop().unwrap().kind;
    let EventKind::Failed { kind, message, .. } = last else {
        panic!("{last:?}");
    };
    assert_eq!(kind, FailureKind::Input);
    assert!(message.starts_with("rank 1 has order `"), "{message}");
}

#[test]
fn more_ranks_than_sequences_are_an_error_on_all() {
    let config = TrainConfig {
        max_examples: Some(3),
        batch_size: 2,
        ..config()
    };
    let run = Run::of_ranks(2, &[("a", config)]);
    assert_eq!(codes(start(&run, 2)), [Some(2), Some(2)]);
    let last = run.events().pop().unwrap().kind;
    let EventKind::Failed { message, hint, .. } = last else {
        panic!("{last:?}");
    };
    assert!(message.contains("too few for one batch of 4"), "{message}");
    assert!(hint.unwrap().contains("fewer ranks"));
}
