//! Optimizer updates of one SAE on activations that the caller has: the trainer's own step, without
//! a language model, data or files.

use crate::TrainError;
use crate::ranks::ALONE;
use crate::sae_trainer::{Progress, SaeTrainer};
use plan::TrainConfig;
use plan::{Job, SaeSpec, SaeStats};
use sae::Sae;
use sae::TotalVariance;
use tch::{Device, Tensor};

/// One SAE, trained on one batch of activations at a time.
///
/// ```
/// # use sae_run_train as train;
/// # fn main() -> Result<(), train::TrainError> {
/// use plan::TrainConfig;
/// use tch::{Device, Kind, Tensor};
/// use train::Stepper;
///
/// let config = TrainConfig { expansion_factor: 4, k: 8.into(), ..TrainConfig::default() };
/// let mut stepper = Stepper::new(&config, 16, Device::Cpu)?;
/// let x = Tensor::randn([256, 16], (Kind::Float, Device::Cpu));
/// stepper.step(&x)?;
/// assert!(stepper.take_stats()?.is_some_and(|stats| stats.fvu() < 2.0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stepper {
    pub(crate) trainer: SaeTrainer,
    n_done: u64,
    /// Updates in all, for schedules.
    n_steps: u64,
}

impl Stepper {
    /// A fresh SAE of `config` for activations of width `d_in`, with the first of its `init_seeds`. A crosscoder's are
    /// those of its `hookpoints` side by side. Settings of the model, data and files are ignored, and schedules have no end.
    ///
    /// # Errors
    /// Impossible sizes, or too little memory.
    pub fn new(config: &TrainConfig, d_in: usize, device: Device) -> Result<Self, TrainError> {
        let num_latents = match config.num_latents {
            0 => d_in * config.expansion_factor,
            num_latents => num_latents,
        };
        let spec = SaeSpec {
            name: "activations".into(),
            hookpoint: "activations".into(),
            hookpoints: if config.crosscoder {
                config.hookpoints.clone()
            } else {
                Vec::new()
            },
            seed: config.init_seeds.first().copied().unwrap_or_default(),
            d_in,
            d_out: None,
            num_latents,
            k: config.k,
            lr: config.lr_for(num_latents),
        };
        let job = Job {
            job_id: String::new(),
            course_id: String::new(),
            name: spec.name.clone(),
            note: None,
            overrides: Default::default(),
            config: config.clone(),
            saes: vec![spec.clone()],
            model_digest: String::new(),
            second_model_digest: None,
            token_digest: String::new(),
            eval_token_digest: None,
            finetune_digest: None,
        };
        Ok(Self {
            trainer: SaeTrainer::new(&job, &spec, None, device)?,
            n_done: 0,
            n_steps: u64::MAX,
        })
    }

    /// The same with schedules that end after `n_steps` updates, and with the weights of `sae` to begin with.
    #[cfg(test)]
    pub(crate) fn beginning_with(mut self, sae: Vec<Tensor>, n_steps: u64) -> Self {
        self.trainer.sae = self.trainer.sae.with_weights(sae);
        self.n_steps = n_steps;
        self
    }

    /// One optimizer update on `x`: `[n_tokens, d_in]`, Float. The first sets `b_dec` to the mean of
    /// `x` before.
    ///
    /// # Errors
    /// Another shape, or too little memory.
    pub fn step(&mut self, x: &Tensor) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let mut variance = TotalVariance::default();
        variance.add(x)?;
        let progress = Progress {
            step: self.n_done,
            n_steps: self.n_steps,
        };
        let update = self.trainer.start(progress)?;
        if self.n_done == 0 {
            update.trainer.centre_on(x, x, ALONE)?;
        }
        update.finish_on((x, x), variance.moments(), progress)?;
        self.n_done += 1;
        Ok(())
    }

    /// The SAE in the form that the next update starts from.
    pub fn sae(&self) -> &Sae {
        &self.trainer.sae
    }

    /// Statistics of the updates since the last call; `None` if there was no update.
    ///
    /// # Errors
    /// Too little memory.
    pub fn take_stats(&mut self) -> Result<Option<SaeStats>, TrainError> {
        let Some(report) = self.trainer.take_report()? else {
            return Ok(None);
        };
        // Sync: once per call.
        let sums: Vec<f64> = (&report.sums).try_into()?;
        let record = report.record(&sums);
        self.trainer.note_record(&record);
        Ok(Some(record.stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn updates_count_and_lower_the_fvu() {
        let config = TrainConfig {
            expansion_factor: 8,
            k: 4.into(),
            lr: Some(1e-3),
            ..TrainConfig::default()
        };
        let mut stepper = Stepper::new(&config, 8, Device::Cpu).unwrap();
        let angles = Tensor::arange(64 * 8, (Kind::Float, Device::Cpu)) * 1.7;
        let x = angles.sin().view([64, 8]);
        assert!(stepper.take_stats().unwrap().is_none());
        let mut fvu = |n_updates| {
            (0..n_updates).for_each(|_| stepper.step(&x).unwrap());
            stepper.take_stats().unwrap().unwrap()
        };
        let first = fvu(1);
        fvu(40);
        let last = fvu(1);
        assert_eq!(first.n_tokens, 64);
        assert!(last.fvu() < 0.8 * first.fvu(), "{first:?} {last:?}");
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let config = TrainConfig {
            num_latents: 4,
            k: 5.into(),
            ..TrainConfig::default()
        };
        let error = Stepper::new(&config, 8, Device::Cpu).unwrap_err();
        assert!(matches!(error, TrainError::Sae(_)), "{error}");
    }
}
