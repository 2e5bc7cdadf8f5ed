//! The whole worker against sparsify 1.3.3 on the same model, tokens and seed; see
//! `tests/fixtures/README.md` for the files and their tolerances.

use crate::events::EventLog;
use crate::sae_trainer::SaeTrainer;
use crate::stop::StopFlag;
use crate::stream_trainer::Outcome;
use crate::worker::{run_worker, train};
use crate::{Order, OrderJob, read_model};
use data::{DataFiles, DigestCache, RowSpec, TokenSpec};
use plan::{
    DatasetRequest, Event, EventKind, FailureKind, Job, JobDraft, JobInputs, StreamKey, TrainConfig,
};
use sae::{Sae, tensors_by_name};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

const HOOKPOINTS: [&str; 2] = ["layers.2", "layers.2.mlp"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .canonicalize()
        .unwrap()
}

fn config() -> TrainConfig {
    TrainConfig {
        model: fixtures().join("tiny-llama").to_str().unwrap().into(),
        dataset: fixtures().join("tiny.jsonl").to_str().unwrap().into(),
        ctx_len: 64,
        max_examples: Some(160),
        expansion_factor: 8,
        k: 8,
        batch_size: 8,
        hookpoints: HOOKPOINTS.map(str::to_owned).to_vec(),
        save_every: 7,
        ..TrainConfig::default()
    }
}

fn job(name: &str, config: TrainConfig) -> Job {
    let digests = DigestCache::new(&std::env::temp_dir().join("sae-run-golden"));
    let model = read_model(Path::new(&config.model), None, &digests).unwrap();
    let spec = TokenSpec {
        files: data_files(&config),
        rows: RowSpec::of(&config, model.facts.vocab_size),
        tokenizer_dir: model.dir.clone(),
        vocab_size: model.facts.vocab_size,
    };
    let inputs = JobInputs {
        facts: model.facts.clone(),
        model_digest: model.digest.clone(),
        token_digest: spec.digest(&digests).unwrap(),
        eval_token_digest: None,
        finetune_digest: None,
    };
    let draft = JobDraft {
        name: Some(name.into()),
        note: None,
        overrides: Default::default(),
    };
    let resolve = |_: &_| Ok::<_, plan::PlanError>(inputs.clone());
    plan::resolve_jobs(&config, &[draft], resolve)
        .unwrap()
        .remove(0)
}

fn data_files(config: &TrainConfig) -> DataFiles {
    DataFiles::find(Path::new(&config.dataset), &DatasetRequest::default()).unwrap()
}

/// A runs folder with an order for the given jobs.
struct Run {
    dir: TempDir,
    order: Order,
}

impl Run {
    fn new(configs: &[(&str, TrainConfig)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let jobs: Vec<_> = configs
            .iter()
            .map(|(name, config)| OrderJob {
                job: job(name, config.clone()),
                dir: name.into(),
                state_dir: Path::new(".state").join(name),
            })
            .collect();
        let config = &configs[0].1;
        let order = Order {
            stream_id: "golden".into(),
            attempt: 1,
            key: StreamKey::of(&jobs[0].job),
            model_dir: config.model.clone().into(),
            model_commit: None,
            dataset: data_files(config),
            eval_dataset: None,
            rows: RowSpec::of(config, 300),
            cache_dir: dir.path().join("cache"),
            runs_dir: dir.path().into(),
            events: dir.path().join("events.jsonl"),
            last_event_seq: 0,
            device: "cpu".into(),
            threads: 1,
            jobs,
        };
        Self { dir, order }
    }

    fn run(&self) -> u8 {
        let path = self.dir.path().join("order.json");
        fs::write(&path, serde_json::to_vec(&self.order).unwrap()).unwrap();
        run_worker(&path, false).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(&self.order.events).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// FVU of every step by SAE.
    fn curve(&self, job: usize) -> BTreeMap<String, Vec<f64>> {
        let mut curve: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let wanted = &self.order.jobs[job].job.job_id;
        for event in self.events() {
            match event.kind {
                EventKind::Metric {
                    job_id, sae, stats, ..
                } if job_id == *wanted => {
                    curve.entry(sae).or_default().push(stats.fvu());
                }
                _ => {}
            }
        }
        curve
    }

    /// Tokens that the statistics of a job's SAEs run over.
    fn n_tokens(&self, job: usize) -> u64 {
        let wanted = &self.order.jobs[job].job.job_id;
        let of_event = |event: Event| match event.kind {
            EventKind::Metric { job_id, stats, .. } if job_id == *wanted => stats.n_tokens,
            _ => 0,
        };
        self.events().into_iter().map(of_event).sum()
    }

    fn sae(&self, job: &str, hookpoint: &str) -> Sae {
        Sae::load_from_disk(&self.dir.path().join(job).join(hookpoint), Device::Cpu).unwrap()
    }
}

fn relative(ours: &Tensor, golden: &Tensor) -> f64 {
    let norm = |x: Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(ours - golden) / norm(golden.shallow_clone())
}

fn assert_close(ours: &BTreeMap<String, Vec<f64>>, golden: &BTreeMap<String, Vec<f64>>, rel: f64) {
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        golden.keys().collect::<Vec<_>>()
    );
    for (sae, golden) in golden {
        assert_eq!(ours[sae].len(), golden.len(), "{sae}");
        for (step, (ours, golden)) in ours[sae].iter().zip(golden).enumerate() {
            assert!(
                (ours / golden - 1.0).abs() < rel,
                "{sae} step {step}: {ours}, not {golden}"
            );
        }
    }
}

#[test]
fn the_curve_and_the_checkpoint_are_sparsifys() {
    let run = Run::new(&[("a", config())]);
    assert_eq!(run.run(), 0);
    let golden = fs::read_to_string(fixtures().join("golden/curve.json")).unwrap();
    assert_close(&run.curve(0), &serde_json::from_str(&golden).unwrap(), 0.01);
    let golden = fixtures().join("golden/checkpoint/layers.2");
    let golden = Sae::load_from_disk(&golden, Device::Cpu).unwrap();
    let ours = run.sae("a", "layers.2");
    for ((name, ours), (_, golden)) in ours.named_weights().into_iter().zip(golden.named_weights())
    {
        let difference = relative(ours, golden);
        assert!(difference < 1e-3, "{name}: {difference}");
    }
}

#[test]
fn the_first_batchs_weights_and_gradients_are_sparsifys() {
    let golden = tensors_by_name(&fixtures().join("golden/step1.safetensors")).unwrap();
    let job = job("a", config());
    for spec in &job.saes {
        let golden = |name: &str| &golden[&format!("{}/{name}", spec.hookpoint)];
        let mut trainer = SaeTrainer::new(&job, spec, Device::Cpu).unwrap();
        let x = golden("x");
        trainer.centre_on(x).unwrap();
        for (name, weight) in trainer.sae.named_weights() {
            assert!(weight.allclose(golden(name), 1e-6, 1e-6, false), "{name}");
        }
        let mut gradients = trainer.sae.backward(x).unwrap().gradients;
        let mean = x.mean_dim(0, true, Kind::Float);
        gradients
            .scale(&(x - mean).square().sum(Kind::Double))
            .unwrap();
        let names = trainer.sae.named_weights().map(|(name, _)| name);
        for (name, gradient) in names.into_iter().zip(gradients.as_array()) {
            let difference = relative(gradient, golden(&format!("grad.{name}")));
            assert!(difference < 1e-4, "{name}: {difference}");
        }
        gradients.remove_parallel_to_decoder(&trainer.sae).unwrap();
        let difference = relative(gradients.as_array()[2], golden("grad_projected.W_dec"));
        assert!(difference < 1e-4, "projected: {difference}");
    }
}

#[test]
fn micro_batches_and_company_change_nothing() {
    let micro = TrainConfig {
        micro_acc_steps: 3,
        ..config()
    };
    let alone = Run::new(&[("a", config())]);
    let together = Run::new(&[("b", other()), ("a", config())]);
    let in_parts = Run::new(&[("a", micro)]);
    assert_eq!((alone.run(), together.run(), in_parts.run()), (0, 0, 0));
    assert_close(&together.curve(1), &alone.curve(0), 1e-12);
    assert_close(&in_parts.curve(0), &alone.curve(0), 1e-2);
    assert_same(&together.sae("a", "layers.2"), &alone.sae("a", "layers.2"));
}

#[test]
fn a_batch_in_two_forward_passes_is_the_same_update() {
    let whole = Run::new(&[("a", config())]);
    let halves = Run::new(&[(
        "a",
        TrainConfig {
            batch_size: 4,
            grad_acc_steps: 2,
            ..config()
        },
    )]);
    assert_eq!((whole.run(), halves.run()), (0, 0));
    // Only the first decoder bias differs: it is the mean of the first forward pass.
    let curves = (whole.curve(0), halves.curve(0));
    assert_eq!(curves.1["layers.2"].len(), 20);
    assert_close(&curves.1, &curves.0, 0.05);
}

/// A job beside the first, with weights of another shape.
fn other() -> TrainConfig {
    TrainConfig {
        k: 4,
        expansion_factor: 4,
        ..config()
    }
}

fn assert_same(a: &Sae, b: &Sae) {
    for ((name, a), (_, b)) in a.named_weights().into_iter().zip(b.named_weights()) {
        assert!(a.equal(b), "{name} to the bit");
    }
}

/// Runs until the first SAE was reported `n_reports` times, then stops.
fn interrupt_after(run: &Run, n_reports: usize) {
    let stop = StopFlag::default();
    let mut events = EventLog::open(&run.order.events, 1, 0).unwrap();
    let outcome = std::thread::scope(|scope| {
        let worker = scope.spawn(|| train(&run.order, stop.clone(), &mut events).unwrap());
        let reported = || run.curve(0).get("layers.2").map_or(0, Vec::len);
        while reported() < n_reports {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        stop.set();
        worker.join().unwrap()
    });
    assert_eq!(outcome, Outcome::Interrupted);
}

#[test]
fn an_interrupted_job_ends_as_if_undisturbed() {
    // Reports and checkpoints at steps of their own: the sums between must not be lost.
    let sparse = TrainConfig {
        log_every: 3,
        ..config()
    };
    let undisturbed = Run::new(&[("a", sparse.clone())]);
    assert_eq!(undisturbed.run(), 0);
    let mut run = Run::new(&[("a", sparse)]);
    interrupt_after(&run, 1);
    assert!(run.dir.path().join(".state/a").is_dir());
    run.order.attempt = 2;
    assert_eq!(run.run(), 0);
    assert_eq!(run.n_tokens(0), undisturbed.n_tokens(0));
    assert_same(&run.sae("a", "layers.2"), &undisturbed.sae("a", "layers.2"));
    let state = run.dir.path().join(".state/a");
    assert!(!state.exists(), "a job that is done needs no state");
}

#[test]
fn a_job_that_is_ahead_waits_for_the_others() {
    let undisturbed = Run::new(&[("a", config()), ("b", other())]);
    assert_eq!(undisturbed.run(), 0);
    let mut run = Run::new(&[("a", config())]);
    interrupt_after(&run, 3);
    run.order.jobs = undisturbed.order.jobs.clone();
    run.order.attempt = 2;
    assert_eq!(run.run(), 0);
    for (job_idx, name) in ["a", "b"].into_iter().enumerate() {
        assert_eq!(run.n_tokens(job_idx), undisturbed.n_tokens(job_idx));
        assert_close(&run.curve(job_idx), &undisturbed.curve(job_idx), 1e-12);
        for hookpoint in HOOKPOINTS {
            assert_same(&run.sae(name, hookpoint), &undisturbed.sae(name, hookpoint));
        }
    }
}

#[test]
fn a_changed_input_is_not_trained_on() {
    let mut run = Run::new(&[("a", config())]);
    run.order.key.token_digest = "of other text".into();
    assert_eq!(run.run(), 2);
    let last = run.events().pop().map(|event| event.kind);
    assert!(matches!(last, Some(EventKind::Failed { message, .. }) if message.contains("changed")));
}

#[test]
fn too_little_data_is_the_users_to_mend() {
    let too_much = TrainConfig {
        grad_acc_steps: 1000,
        ..config()
    };
    let run = Run::new(&[("a", too_much)]);
    assert_eq!(run.run(), 2);
    let Some(EventKind::Failed {
        kind,
        message,
        hint,
    }) = run.events().pop().map(|e| e.kind)
    else {
        panic!("the last event is the failure");
    };
    assert_eq!(kind, FailureKind::Input);
    assert!(message.contains("1000 batches") && hint.unwrap().contains("`batch_size`"));
}
