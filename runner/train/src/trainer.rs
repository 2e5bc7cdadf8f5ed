//! Training for those who use this crate as a library: one job, without a runner around it.

use crate::TrainError;
use crate::early_end::EarlyEnd;
use crate::events::EventLog;
use crate::ranks::ALONE;
use crate::ranks::owners::Owners;
use crate::stop::StopFlag;
use crate::training::job_trainer::JobTrainer;
use crate::training::open::taps;
use crate::training::{ActivationStream, Ahead, StreamTrainer};
use fault::Fault;
use lm::LanguageModel;
use plan::OrderJob;
use plan::runs_layout::EVENTS;
use plan::{Job, JobDraft, JobInputs, StreamKey, TrainConfig, digest_json, resolve_jobs};
use sae::Sae;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use tch::Device;
use tokens::{BatchSpec, Batches, Shard, Tokens};

/// Trains the SAEs that a [`TrainConfig`] describes.
///
/// ```no_run,standalone_crate
/// # use sae_run_train as train;
/// use std::{ops::ControlFlow, path::Path};
/// use plan::TrainConfig;
/// use train::Trainer;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model_dir = Path::new("models/SmolLM2-135M-Instruct");
/// let config = TrainConfig {
///     model: "SmolLM2-135M-Instruct".into(),
///     dataset: "moby_dick.jsonl".into(),
///     hookpoints: vec!["layers.10".into()],
///     ctx_len: 256,
///     ..TrainConfig::default()
/// };
/// let model = lm::LanguageModel::load(model_dir, &lm::LoadOptions::default())?;
/// let spec = tokens::TokenSpec {
///     files: datasets::find_files(Path::new(&config.dataset), &Default::default())?,
///     rows: plan::RowSpec::of(&config, model.facts().vocab_size),
///     tokenizer_dir: model_dir.into(),
///     vocab_size: model.facts().vocab_size,
/// };
/// let go_on = &mut |_| ControlFlow::Continue(());
/// let tokens = tokens::Tokens::open_or_build(&spec, Path::new("cache"), go_on)?;
/// let saes = Trainer::new(config, tokens, model)?.fit(Path::new("checkpoints/layers"))?;
/// println!("{} is trained", saes[0].0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Trainer {
    job: Job,
    batches: Batches,
    model: LanguageModel,
}

impl Trainer {
    /// A trainer of the SAEs of `config` on `tokens` and `model`, which must have the head if the loss
    /// is on the model's output. Names in `config` other than those of hookpoints are not looked up,
    /// except `finetune`, a path.
    ///
    /// # Errors
    /// Settings that contradict each other or the model, or too few sequences.
    pub fn new(
        config: TrainConfig,
        tokens: Tokens,
        model: LanguageModel,
    ) -> Result<Self, TrainError> {
        let inputs = JobInputs {
            facts: model.facts().clone().into(),
            model_digest: digest_json(model.facts()),
            second: None,
            token_digest: tokens.digest(),
            eval_token_digest: None,
            finetune_digest: config.finetune.clone(),
            n_ranks: 1,
        };
        let draft = JobDraft {
            name: Some("job".into()),
            note: None,
            overrides: Default::default(),
        };
        let job =
            resolve_jobs(&config, &[draft], |_| Ok::<_, TrainError>(inputs.clone()))?.remove(0);
        let spec = BatchSpec::of_stream(&StreamKey::of(&job), Shard::WHOLE);
        Ok(Self {
            job,
            batches: Batches::new(tokens, spec)?,
            model,
        })
    }

    /// Trains to the end of the data and saves the SAEs to `dir`, from where an earlier call with the
    /// same settings was when its process ended. Gives the SAEs by name. What a resume needs, and
    /// the events of training, are next to `dir`, in a folder of the same name with `.state` at its end.
    ///
    /// # Errors
    /// Files that cannot be written, too little memory, or training that ends in NaN or infinity.
    pub fn fit(self, dir: &Path) -> Result<Vec<(String, Sae)>, TrainError> {
        let device = self.model.device();
        let beside = beside(dir);
        fs::create_dir_all(&beside).map_err(TrainError::io("create", &beside))?;
        let order = OrderJob {
            job: self.job,
            dir: dir.into(),
            state_dir: beside.join("state"),
            best_dir: beside.join("best"),
            finetune_dir: None,
            bases: Vec::new(),
        };
        let order = OrderJob {
            finetune_dir: order.job.config.finetune.clone().map(PathBuf::from),
            ..order
        };
        let mut events = EventLog::open(&beside.join(EVENTS), 1, 0)?;
        let _no_grad = tch::no_grad_guard();
        let mut trainer = StreamTrainer {
            ahead: Ahead::default(),
            stream: ActivationStream {
                key: StreamKey::of(&order.job),
                taps: taps([&order.job], self.model.facts())?,
                model: self.model,
                second: None,
                batches: self.batches,
            },
            jobs: vec![JobTrainer::open(
                &order,
                Path::new(""),
                device,
                Owners::default(),
            )?],
            events: &mut events,
            stop: StopFlag::default(),
            ranks: ALONE,
        };
        trainer.fit()?;
        trained(&trainer.jobs[0], dir, device)
    }
}

/// The SAEs of a job that is done.
fn trained(job: &JobTrainer, dir: &Path, device: Device) -> Result<Vec<(String, Sae)>, TrainError> {
    if let Some(EarlyEnd { reason, hint }) = job.failure() {
        let fault = Fault::internal(format!("training ended early: {reason}"));
        return Err(fault.with_hint(hint).into());
    }
    let of_spec = |name: &String| Ok((name.clone(), Sae::load_from_disk(&dir.join(name), device)?));
    job.saes.iter().map(|sae| of_spec(&sae.spec.name)).collect()
}

fn beside(dir: &Path) -> PathBuf {
    let mut name: OsString = dir.file_name().unwrap_or_default().to_owned();
    name.push(".state");
    dir.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Run, assert_same, config, fixtures};
    use datasets::find_files;
    use lm::LoadOptions;
    use plan::RowSpec;
    use std::ops::ControlFlow;
    use tokens::TokenSpec;

    fn fit(config: TrainConfig, dir: &Path) -> Result<Vec<(String, Sae)>, TrainError> {
        let model_dir = fixtures().join("tiny-llama");
        let model = LanguageModel::load(&model_dir, &LoadOptions::default())?;
        let spec = TokenSpec {
            files: find_files(Path::new(&config.dataset), &Default::default()).unwrap(),
            rows: RowSpec::of(&config, model.facts().vocab_size),
            tokenizer_dir: model_dir,
            vocab_size: model.facts().vocab_size,
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let tokens = Tokens::open_or_build(&spec, &dir.join("cache"), go_on)?;
        Trainer::new(config, tokens, model)?.fit(&dir.join("saes"))
    }

    #[test]
    fn a_library_user_gets_the_same_saes_as_the_worker() {
        let dir = tempfile::tempdir().unwrap();
        let saes = fit(config(), dir.path()).unwrap();
        let run = Run::new(&[("a", config())]);
        assert_eq!(run.run(), 0);
        assert_eq!(saes.len(), 2);
        for (name, sae) in &saes {
            assert_same(sae, &run.sae("a", name));
        }
        let loaded = Sae::load_many(dir.path().join("saes"), Device::Cpu).unwrap();
        assert_eq!(loaded.len(), 2);
    }

    #[test]
    fn settings_that_cannot_be_are_told_and_so_is_divergence() {
        let dir = tempfile::tempdir().unwrap();
        let too_large = TrainConfig {
            k: 9999.into(),
            ..config()
        };
        let error = fit(too_large, dir.path()).unwrap_err();
        assert!(error.to_string().contains("k = 9999"), "{error}");
        let wild = TrainConfig {
            lr: Some(1e38),
            normalize_decoder: false,
            ..config()
        };
        let error = fit(wild, dir.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("training ended early"),
            "{error}"
        );
    }
}
