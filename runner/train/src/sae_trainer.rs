//! One SAE in training: its weights, its optimizer, what fired, and its running statistics.

use crate::TrainError;
use crate::signum::Signum;
use plan::{Job, SaeSpec, SaeStats, TrainConfig};
use sae::{Gradients, Sae, SaeConfig};
use tch::{Device, Kind, Tensor};

/// One SAE in training. Everything stays on its device; nothing is waited for.
#[derive(Debug)]
pub(crate) struct SaeTrainer {
    pub(crate) spec: SaeSpec,
    /// The weights in the optimizer's training form `y`.
    pub(crate) sae: Sae,
    pub(crate) optimizer: Signum,
    /// Tokens since each latent last fired: `[num_latents]`, Int64.
    pub(crate) tokens_since_fired: Tensor,
    dead_feature_threshold: i64,
    micro_acc_steps: i64,
    update: Option<Update>,
    interval: Interval,
}

/// What the parts of one update add up to.
#[derive(Debug)]
struct Update {
    gradients: Gradients,
    squared_error: Tensor,
    fire_counts: Tensor,
}

/// Sums since the last report; scalars, Double, on the device.
#[derive(Debug)]
struct Interval {
    n_tokens: u64,
    squared_error: Tensor,
    total_variance: Tensor,
    l0: Tensor,
}

impl Interval {
    fn new(device: Device) -> Result<Self, TrainError> {
        let zero = || Tensor::f_zeros([0i64; 0], (Kind::Double, device));
        Ok(Self {
            n_tokens: 0,
            squared_error: zero()?,
            total_variance: zero()?,
            l0: zero()?,
        })
    }
}

/// The settings that go into an SAE's `cfg.json`.
fn sae_config(spec: &SaeSpec, config: &TrainConfig) -> SaeConfig {
    let activation = match config.activation {
        plan::Activation::TopK => sae::Activation::TopK,
        plan::Activation::GroupMax => sae::Activation::GroupMax,
    };
    SaeConfig {
        activation,
        expansion_factor: config.expansion_factor,
        normalize_decoder: config.normalize_decoder,
        num_latents: config.num_latents,
        ..SaeConfig::topk(spec.d_in, spec.num_latents, spec.k)
    }
}

impl SaeTrainer {
    pub(crate) fn new(job: &Job, spec: &SaeSpec, device: Device) -> Result<Self, TrainError> {
        let sae = Sae::new(sae_config(spec, &job.config), spec.seed, device)?;
        let options = (Kind::Int64, device);
        Ok(Self {
            optimizer: Signum::new(spec.lr),
            tokens_since_fired: Tensor::f_zeros([spec.num_latents as i64], options)?,
            dead_feature_threshold: job.config.dead_feature_threshold as i64,
            micro_acc_steps: job.config.micro_acc_steps as i64,
            update: None,
            interval: Interval::new(device)?,
            spec: spec.clone(),
            sae,
        })
    }

    /// Sets the decoder's bias to the mean of the first batch, so that pre-activations start out
    /// centred.
    pub(crate) fn centre_on(&mut self, x: &Tensor) -> Result<(), TrainError> {
        self.sae.b_dec = x.f_mean_dim(0, false, Kind::Float)?;
        Ok(())
    }

    /// Forward and backward pass on a part of the update: `x`: `[n_tokens, d_in]`, Float.
    pub(crate) fn accumulate(&mut self, x: &Tensor) -> Result<(), TrainError> {
        if self.update.is_none() && self.sae.cfg.normalize_decoder {
            self.sae.normalize_decoder()?;
        }
        for part in x.f_chunk(self.micro_acc_steps, 0)? {
            let part = self.sae.backward(&part)?;
            match &mut self.update {
                None => {
                    self.update = Some(Update {
                        gradients: part.gradients,
                        squared_error: part.squared_error,
                        fire_counts: part.fire_counts,
                    });
                }
                Some(update) => {
                    update.gradients.add(&part.gradients)?;
                    let _ = update.squared_error.f_add_(&part.squared_error)?;
                    let _ = update.fire_counts.f_add_(&part.fire_counts)?;
                }
            }
        }
        Ok(())
    }

    /// The optimizer update. `total_variance`: that of all `n_tokens` tokens accumulated since the
    /// last update; scalar, Double.
    pub(crate) fn update(
        &mut self,
        total_variance: &Tensor,
        n_tokens: u64,
    ) -> Result<(), TrainError> {
        let mut update = self
            .update
            .take()
            .expect("an update follows at least one part");
        update.gradients.scale(total_variance)?;
        if self.sae.cfg.normalize_decoder {
            update.gradients.remove_parallel_to_decoder(&self.sae)?;
        }
        self.optimizer
            .step(self.sae.weights_mut(), update.gradients.as_array())?;
        let _ = self.tokens_since_fired.f_add_scalar_(n_tokens as i64)?;
        let fired = update.fire_counts.f_gt(0.0)?;
        let _ = self.tokens_since_fired.f_masked_fill_(&fired, 0)?;
        self.interval.n_tokens += n_tokens;
        let _ = self.interval.squared_error.f_add_(&update.squared_error)?;
        let _ = self.interval.total_variance.f_add_(total_variance)?;
        let _ = self
            .interval
            .l0
            .f_add_(&update.fire_counts.f_sum(Kind::Double)?)?;
        Ok(())
    }

    /// Sums since the last call, still on the device: `[4]`, Double; see [`stats_from`]. `None`
    /// where nothing was trained since.
    pub(crate) fn take_interval(&mut self) -> Result<Option<(u64, Tensor)>, TrainError> {
        if self.interval.n_tokens == 0 {
            return Ok(None);
        }
        let device = self.tokens_since_fired.device();
        let interval = std::mem::replace(&mut self.interval, Interval::new(device)?);
        let dead = self.tokens_since_fired.f_gt(self.dead_feature_threshold)?;
        let n_dead = dead.f_sum(Kind::Double)?;
        let Interval {
            n_tokens,
            squared_error,
            total_variance,
            l0,
        } = interval;
        let sums = Tensor::f_stack(&[squared_error, total_variance, l0, n_dead], 0)?;
        Ok(Some((n_tokens, sums)))
    }

    /// The SAE as it is published: the optimizer's averaged weights.
    pub(crate) fn averaged(&self) -> Result<Sae, TrainError> {
        let weights = self.sae.named_weights().map(|(_, weight)| weight);
        let averaged = self.optimizer.averaged(weights)?;
        let [encoder_weight, encoder_bias, w_dec, b_dec]: [Tensor; 4] =
            averaged.try_into().expect("an SAE has four weights");
        Ok(Sae {
            cfg: self.sae.cfg.clone(),
            encoder_weight,
            encoder_bias,
            w_dec,
            b_dec,
        })
    }
}

/// The statistics behind the numbers of [`SaeTrainer::take_interval`], once they are on the host.
pub(crate) fn stats_from(n_tokens: u64, sums: &[f64]) -> SaeStats {
    SaeStats {
        n_tokens,
        squared_error: sums[0],
        total_variance: sums[1],
        l0: sums[2],
        n_dead: sums[3] as u64,
    }
}
