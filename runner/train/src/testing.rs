//! A worker on the tiny model, for tests.

use crate::events::EventLog;
use crate::sae_trainer::Progress;
use crate::stop::StopFlag;
use crate::training::Outcome;
use crate::worker::{AskedBy, run_worker, train};
use datasets::find_files;
use facts::read_model;
use files::DigestCache;
use plan::{DataFiles, RowSpec};
use plan::{DatasetRequest, Event, EventKind, Job, JobDraft, JobInputs, StreamKey, TrainConfig};
use plan::{ModelFolder, Order, OrderJob, SecondModel, runs_layout};
use sae::Sae;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tokens::TokenSpec;

pub(crate) const HOOKPOINTS: [&str; 2] = ["layers.2", "layers.2.mlp"];

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .canonicalize()
        .unwrap()
}

pub(crate) fn config() -> TrainConfig {
    TrainConfig {
        model: fixtures().join("tiny-llama").to_str().unwrap().into(),
        dataset: fixtures().join("tiny.jsonl").to_str().unwrap().into(),
        ctx_len: 64,
        max_examples: Some(160),
        expansion_factor: 8,
        k: 8.into(),
        batch_size: 8,
        hookpoints: HOOKPOINTS.map(str::to_owned).to_vec(),
        save_every: 7,
        ..TrainConfig::default()
    }
}

/// Makes a model in `dir` that has the tiny one's tokenizer and other weights.
pub(crate) fn make_other_model(dir: &Path) {
    let tiny = fixtures().join("tiny-llama");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny.join(name), dir.join(name)).unwrap();
    }
    let weights = Tensor::read_safetensors(tiny.join("model.safetensors")).unwrap();
    let others = weights
        .into_iter()
        .map(|(name, tensor)| (name, tensor.flip([0i64]) * 0.9));
    Tensor::write_safetensors(&others.collect::<Vec<_>>(), dir.join("model.safetensors")).unwrap();
}

/// Before update number `step`, of many.
pub(crate) fn at(step: u64) -> Progress {
    Progress {
        step,
        n_steps: 1000,
    }
}

pub(crate) fn job(name: &str, config: TrainConfig) -> Job {
    job_of_ranks(1, name, config)
}

fn second_of(config: &TrainConfig, digests: &DigestCache) -> Option<SecondModel> {
    let dir = config.crosscoder_model.as_ref()?;
    let model = read_model(Path::new(dir), None, digests).unwrap();
    Some(SecondModel {
        facts: model.facts,
        digest: model.digest,
    })
}

/// A job as it is planned for `n_ranks` processes.
fn job_of_ranks(n_ranks: usize, name: &str, config: TrainConfig) -> Job {
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
        second: second_of(&config, &digests),
        token_digest: spec.digest(&digests).unwrap(),
        eval_token_digest: None,
        finetune_digest: None,
        n_ranks,
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

pub(crate) fn data_files(config: &TrainConfig) -> DataFiles {
    find_files(Path::new(&config.dataset), &DatasetRequest::default()).unwrap()
}

/// A runs folder with an order for the given jobs.
pub(crate) struct Run {
    pub(crate) dir: TempDir,
    pub(crate) order: Order,
}

impl Run {
    pub(crate) fn new(configs: &[(&str, TrainConfig)]) -> Self {
        Self::of_ranks(1, configs)
    }

    /// With updates as `n_ranks` processes make them.
    pub(crate) fn of_ranks(n_ranks: usize, configs: &[(&str, TrainConfig)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let jobs: Vec<_> = configs
            .iter()
            .map(|(name, config)| OrderJob {
                job: job_of_ranks(n_ranks, name, config.clone()),
                dir: name.into(),
                state_dir: runs_layout::state_dir(name),
                best_dir: runs_layout::best_dir(name),
                finetune_dir: config.finetune.clone().map(PathBuf::from),
                bases: Vec::new(),
            })
            .collect();
        let config = &configs[0].1;
        let order = Order {
            stream_id: "golden".into(),
            attempt: 1,
            key: StreamKey::of(&jobs[0].job),
            model_dir: config.model.clone().into(),
            model_commit: None,
            second_model: config.crosscoder_model.as_ref().map(|dir| ModelFolder {
                dir: dir.into(),
                commit: None,
            }),
            dataset: data_files(config),
            eval_dataset: None,
            rows: RowSpec::of(config, 300),
            cache_dir: dir.path().join("cache"),
            runs_dir: dir.path().into(),
            events: dir.path().join("events.jsonl"),
            last_event_seq: 0,
            device: "cpu".into(),
            threads: 1,
            timeout_minutes: 2.0,
            overlap_forward: false,
            predicted_bytes: 0,
            jobs,
            evaluate: Vec::new(),
        };
        Self { dir, order }
    }

    pub(crate) fn run(&self) -> u8 {
        let path = self.dir.path().join("order.json");
        fs::write(&path, serde_json::to_vec(&self.order).unwrap()).unwrap();
        run_worker(&path, AskedBy::Signals).unwrap()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(&self.order.events).unwrap();
        // The last line may be half written by now.
        let whole = text.split_inclusive('\n');
        let whole = whole.filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// FVU of every step by SAE.
    pub(crate) fn curve(&self, job: usize) -> BTreeMap<String, Vec<f64>> {
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
    pub(crate) fn n_tokens(&self, job: usize) -> u64 {
        let wanted = &self.order.jobs[job].job.job_id;
        let of_event = |event: Event| match event.kind {
            EventKind::Metric { job_id, stats, .. } if job_id == *wanted => stats.n_tokens,
            _ => 0,
        };
        self.events().into_iter().map(of_event).sum()
    }

    /// All SAEs below the runs folder, by their path in it.
    pub(crate) fn saes(&self) -> BTreeMap<PathBuf, Sae> {
        let mut folders = vec![self.dir.path().to_path_buf()];
        let mut saes = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            if folder.join(sae::CONFIG_FILE).is_file() {
                let sae = Sae::load_from_disk(&folder, Device::Cpu).unwrap();
                let path = folder.strip_prefix(self.dir.path()).unwrap();
                saes.insert(path.to_path_buf(), sae);
            }
            let entries = folder
                .read_dir()
                .unwrap()
                .map(|entry| entry.unwrap().path());
            folders.extend(entries.filter(|path| path.is_dir()));
        }
        saes
    }

    pub(crate) fn sae(&self, job: &str, hookpoint: &str) -> Sae {
        Sae::load_from_disk(&self.dir.path().join(job).join(hookpoint), Device::Cpu).unwrap()
    }
}

pub(crate) fn relative(ours: &Tensor, golden: &Tensor) -> f64 {
    let norm = |x: Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(ours - golden) / norm(golden.shallow_clone())
}

pub(crate) fn assert_close(
    ours: &BTreeMap<String, Vec<f64>>,
    golden: &BTreeMap<String, Vec<f64>>,
    rel: f64,
) {
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

/// A job besides the first, with weights of another shape.
pub(crate) fn other() -> TrainConfig {
    TrainConfig {
        k: 4.into(),
        expansion_factor: 4,
        ..config()
    }
}

pub(crate) fn assert_same(a: &Sae, b: &Sae) {
    for ((name, a), (_, b)) in a.named_weights().into_iter().zip(b.named_weights()) {
        assert!(a.equal(b), "{name} to the bit");
    }
}

/// Asserts that both runs ended in the same SAEs.
pub(crate) fn assert_same_saes(run: &Run, undisturbed: &Run) {
    for (path, sae) in undisturbed.saes() {
        if !path.starts_with(".state") {
            assert_same(&run.saes()[&path], &sae);
        }
    }
}

/// Runs until the first SAE was reported `n_reports` times, then stops.
pub(crate) fn interrupt_after(run: &Run, n_reports: usize) {
    let stop = StopFlag::default();
    let mut events = EventLog::open(&run.order.events, 1, 0).unwrap();
    let outcome = std::thread::scope(|scope| {
        let worker = scope.spawn(|| train(&run.order, stop.clone(), &mut events).unwrap());
        let reported = || run.curve(0).values().map(Vec::len).min().unwrap_or(0);
        while reported() < n_reports {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        stop.set();
        worker.join().unwrap()
    });
    assert_eq!(outcome, Outcome::Interrupted);
}
