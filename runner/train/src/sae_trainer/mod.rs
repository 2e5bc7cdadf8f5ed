//! One SAE in training: its weights, its optimizer, what fired, and its running statistics.

pub(crate) mod finetune;
pub(crate) mod memory;

use crate::TrainError;
use crate::events::interval::{Interval, Report};
use crate::optimizer::Optimizer;
use crate::ranks::Ranks;
use crate::ranks::reduction::Reduction;
use crate::sae_trainer::memory::{in_parts_that_fit, is_out_of_memory};
use crate::training::centre::RowSum;
use plan::{Job, SaeSpec, TrainConfig, k_at};
use sae::{AuxK, Gradients, Losses, Objective, Pass, Sae, SaeConfig, SparseBackward};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// One SAE in training. Everything stays on its device.
#[derive(Debug)]
pub(crate) struct SaeTrainer {
    pub(crate) spec: SaeSpec,
    /// The weights in the optimizer's training form.
    pub(crate) sae: Sae,
    pub(crate) optimizer: Optimizer,
    /// Tokens since each latent last fired: `[num_latents]`, Int64.
    pub(crate) tokens_since_fired: Tensor,
    /// Parts into which a batch is cut; grows when memory runs out.
    micro_acc_steps: usize,
    known_micro_acc_steps: usize,
    /// Since the last report.
    pub(crate) interval: Interval,
    settings: Settings,
    /// Whether its weights are the seed's, and not those of an SAE that was trained before.
    is_fresh: bool,
    /// Updates of its weights: fewer than those of the job where all tokens of one were excluded.
    n_updates: u64,
    /// Whether the decoder was brought to unit norm since the last of them. Twice would change bits.
    is_projected: bool,
    update: Option<Update>,
}

/// The settings that a step reads.
#[derive(Clone, Copy, Debug)]
struct Settings {
    dead_feature_threshold: i64,
    auxk_alpha: f64,
    k_decay_steps: u64,
}

/// What a resume needs of an SAE beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SaeCounts {
    /// Updates of its weights.
    pub(crate) n_updates: u64,
    /// Whether the decoder was brought to unit norm since the last of them.
    is_projected: bool,
    /// Active latents of a token in the next update; `cfg.json` has those at the end.
    k: usize,
}

impl SaeCounts {
    /// As ranks send them.
    pub(crate) fn to_numbers(self) -> [i64; 3] {
        let n_updates = self.n_updates.cast_signed();
        [n_updates, self.is_projected.into(), self.k as i64]
    }

    pub(crate) fn of_numbers([n_updates, is_projected, k]: [i64; 3]) -> Self {
        Self {
            n_updates: n_updates.cast_unsigned(),
            is_projected: is_projected != 0,
            k: k as usize,
        }
    }
}

/// What the parts of one update add up to.
#[derive(Debug)]
struct Update {
    /// Active latents of a token.
    k: usize,
    /// Indices of the dead latents, where the loss needs them.
    dead: Option<Tensor>,
    sums: Option<Sums>,
    /// Sums of a loss on the model's output, with the number of positions.
    output_losses: Vec<(Tensor, u64)>,
}

/// Gradients, terms of the loss, and how many tokens each latent fired on.
pub(crate) type Sums = (Gradients, Losses, Tensor);

/// How far training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Optimizer updates done.
    pub(crate) step: u64,
    /// Optimizer updates in all.
    pub(crate) n_steps: u64,
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
        multi_topk: config.multi_topk,
        skip_connection: config.skip_connection,
        transcode: config.transcode,
        d_out: spec.d_out,
        ..SaeConfig::topk(spec.d_in, spec.num_latents, spec.k)
    }
}

impl SaeTrainer {
    /// A fresh SAE of `job`, or that of the folder `finetune`.
    pub(crate) fn new(
        job: &Job,
        spec: &SaeSpec,
        finetune: Option<&Path>,
        device: Device,
    ) -> Result<Self, TrainError> {
        let config = &job.config;
        let sae = Sae::new(sae_config(spec, config), spec.seed, device)?;
        let sae = match finetune {
            Some(dir) => finetune::load(sae, &dir.join(&spec.name), device)?,
            None => sae,
        };
        let options = (Kind::Int64, device);
        Ok(Self {
            optimizer: Optimizer::new(config.optimizer, spec.lr, config.lr_warmup_steps),
            tokens_since_fired: Tensor::f_zeros([spec.num_latents as i64], options)?,
            micro_acc_steps: config.micro_acc_steps,
            known_micro_acc_steps: config.micro_acc_steps,
            interval: Interval::new(device)?,
            settings: Settings {
                dead_feature_threshold: config.dead_feature_threshold as i64,
                auxk_alpha: config.auxk_alpha,
                k_decay_steps: config.k_decay_steps,
            },
            is_fresh: finetune.is_none(),
            n_updates: 0,
            is_projected: false,
            update: None,
            spec: spec.clone(),
            sae,
        })
    }

    /// Sets the biases from the first batch, so that pre-activations start out centred and the
    /// output at the mean. `x`: `[n_tokens, d_in]`, `target`: `[n_tokens, d_out]`.
    pub(crate) fn centre_on(
        &mut self,
        x: &Tensor,
        target: &Tensor,
        ranks: Ranks<'_>,
    ) -> Result<(), TrainError> {
        self.centre(|| ranks.mean(x), || ranks.mean(target))
    }

    /// The same on what the passes over the first batch added up to.
    pub(crate) fn centre_on_sums(
        &mut self,
        x: &RowSum,
        target: &RowSum,
        ranks: Ranks<'_>,
    ) -> Result<(), TrainError> {
        self.centre(|| ranks.mean_of_sums(x), || ranks.mean_of_sums(target))
    }

    fn centre(
        &mut self,
        mean: impl FnOnce() -> Result<Option<Tensor>, TrainError>,
        mean_of_target: impl FnOnce() -> Result<Option<Tensor>, TrainError>,
    ) -> Result<(), TrainError> {
        if !self.is_fresh {
            return Ok(());
        }
        let Some(mean) = mean()? else {
            return Ok(());
        };
        if self.sae.cfg.transcode {
            let image = mean
                .f_unsqueeze(0)?
                .f_matmul(&self.sae.encoder_weight.f_tr()?)?;
            self.sae.encoder_bias = image.f_squeeze_dim(0)?.f_neg()?;
            self.sae.b_dec = mean_of_target()?.unwrap_or(self.sae.b_dec.shallow_clone());
        } else {
            self.sae.b_dec = mean;
        }
        Ok(())
    }

    /// Begins the update behind `step` of them.
    pub(crate) fn begin_update(&mut self, step: u64) -> Result<(), TrainError> {
        if self.sae.has_unit_decoder() && !self.is_projected {
            self.sae.normalize_decoder()?;
            self.is_projected = true;
        }
        let dead = match self.settings.auxk_alpha > 0.0 {
            // Sync: how many latents are dead decides on shapes; once an update.
            true => Some(self.dead()?.f_nonzero()?.f_squeeze_dim(1)?),
            false => None,
        };
        self.update = Some(Update {
            k: self.k_at(step),
            dead,
            sums: None,
            output_losses: Vec::new(),
        });
        Ok(())
    }

    /// Whether an update was begun and not ended.
    pub(crate) fn is_updating(&self) -> bool {
        self.update.is_some()
    }

    /// Forgets the update that was begun, as if it had not been.
    pub(crate) fn abandon_update(&mut self) {
        self.update = None;
    }

    /// Forward and backward pass on a part of the update: `x`: `[n_tokens, d_in]`, `target`:
    /// `[n_tokens, d_out]`, Float.
    pub(crate) fn accumulate(&mut self, x: &Tensor, target: &Tensor) -> Result<(), TrainError> {
        let n_tokens = x.size()[0];
        let mut n_parts = self.micro_acc_steps;
        let mut sums = self.update.as_mut().and_then(|update| update.sums.take());
        let (sae, objective) = (&self.sae, self.objective());
        in_parts_that_fit(n_tokens, &mut n_parts, |first, n| {
            let (x, target) = (x.f_narrow(0, first, n)?, target.f_narrow(0, first, n)?);
            let part = sae.backward(&x, &target, &objective)?;
            add(&mut sums, part.gradients, part.losses, part.fire_counts)
        })?;
        self.micro_acc_steps = n_parts;
        let update = self.update.as_mut().expect("an update was begun");
        update.sums = sums;
        Ok(())
    }

    /// A forward pass in the place of the module; its backward pass is [`SaeTrainer::take_back`].
    pub(crate) fn pass(&self, x: &Tensor) -> Result<Pass, TrainError> {
        let k = self.update.as_ref().map_or(self.spec.k, |update| update.k);
        Ok(self.sae.pass(x, k)?)
    }

    /// The backward pass of a loss behind the output, with its gradient there: `[n_tokens, d_out]`.
    /// Gives that at the input; `target` is for the statistics alone.
    pub(crate) fn take_back(
        &mut self,
        pass: &Pass,
        target: &Tensor,
        grad_out: &Tensor,
    ) -> Result<Tensor, TrainError> {
        let (gradients, grad_x) = self.sae.backward_of_output(pass, grad_out)?;
        let error = pass.sae_out.f_sub(target)?;
        let losses = Losses {
            squared_error: error.f_square()?.f_sum(Kind::Double)?,
            auxk: None,
            multi_topk: None,
        };
        let fire_counts = self.sae.fire_counts(&pass.encoded)?;
        let update = self.update.as_mut().expect("an update was begun");
        add(&mut update.sums, gradients, losses, fire_counts)?;
        Ok(grad_x)
    }

    /// Adds a loss on the model's output: its sum over `n_output` positions.
    pub(crate) fn add_output_loss(&mut self, sum: &Tensor, n_output: u64) {
        let update = self.update.as_mut().expect("an update was begun");
        update.output_losses.push((sum.shallow_clone(), n_output));
    }

    /// Begins to add what other ranks have of the update to what this one has; where there are others.
    pub(crate) fn begin_sum<'a>(
        &mut self,
        ranks: Ranks<'a>,
        name: &str,
    ) -> Result<Reduction<'a>, TrainError> {
        let update = self.update.as_mut().expect("an update was begun");
        let sums = match update.sums.take() {
            Some(sums) => sums,
            None => no_sums(&self.sae)?,
        };
        let output_losses = std::mem::take(&mut update.output_losses);
        ranks.begin_sum(name, sums, &output_losses)
    }

    /// Takes up what [`SaeTrainer::begin_sum`] began; the loss on the model's output ran over
    /// `n_output` positions of all ranks.
    pub(crate) fn end_sum(
        &mut self,
        reduction: Reduction<'_>,
        n_output: u64,
    ) -> Result<(), TrainError> {
        let (sums, output_loss) = reduction.wait()?;
        let update = self.update.as_mut().expect("an update was begun");
        update.sums = Some(sums);
        if n_output > 0 {
            update.output_losses.push((output_loss, n_output));
        }
        Ok(())
    }

    /// The optimizer update. `total_variance`: that of all `n_tokens` tokens accumulated since the
    /// last update, scalar, Double; `denominator`: what the gradients are divided by, `None` where
    /// they are complete. An update without a token changes no weight.
    pub(crate) fn update(
        &mut self,
        total_variance: &Tensor,
        denominator: Option<&Tensor>,
        n_tokens: u64,
        progress: Progress,
    ) -> Result<(), TrainError> {
        let update = self.update.take().expect("an update was begun");
        for (sum, n_output) in &update.output_losses {
            self.interval.add_output_loss(sum, *n_output)?;
        }
        let Some(mut sums) = update.sums.filter(|_| n_tokens > 0) else {
            return Ok(());
        };
        let (gradients, ..) = &mut sums;
        if let Some(denominator) = denominator {
            gradients.scale(denominator)?;
        }
        if self.sae.has_unit_decoder() {
            gradients.remove_parallel_to_decoder(&self.sae)?;
        }
        let Progress { step, n_steps } = progress;
        let mut weights = self.sae.weights_mut();
        self.optimizer
            .step(&mut weights, &gradients.tensors(), step, n_steps)?;
        let (gradients, losses, fire_counts) = &sums;
        let vectors = [&gradients.encoder_bias, &gradients.b_dec];
        self.note_update(n_tokens, total_variance, vectors, (losses, fire_counts))
    }

    /// The whole of an update on all its tokens, with losses at the hookpoint. Where that is possible, no
    /// gradient of a matrix is ever in memory.
    pub(crate) fn update_at_once(
        &mut self,
        x: &Tensor,
        target: &Tensor,
        (total_variance, n_tokens): (&Tensor, u64),
        progress: Progress,
    ) -> Result<(), TrainError> {
        let backward = self.sparse_backward(x, target)?.filter(|_| n_tokens > 0);
        let (Some(backward), Optimizer::Signum(signum)) = (backward, &mut self.optimizer) else {
            self.accumulate(x, target)?;
            return self.update(total_variance, Some(total_variance), n_tokens, progress);
        };
        self.update = None;
        let SparseBackward {
            gradients,
            losses,
            fire_counts,
        } = backward;
        let divisor = total_variance.f_to_kind(Kind::Float)?;
        let vectors = signum.step_sparse(&mut self.sae, gradients, &divisor)?;
        let vectors = [&vectors.encoder_bias, &vectors.b_dec];
        self.note_update(n_tokens, total_variance, vectors, (&losses, &fire_counts))
    }

    /// `None`: the loss, the optimizer or the device is another, or memory ran out.
    fn sparse_backward(
        &self,
        x: &Tensor,
        target: &Tensor,
    ) -> Result<Option<SparseBackward>, TrainError> {
        if !matches!(self.optimizer, Optimizer::Signum(_)) || self.micro_acc_steps > 1 {
            return Ok(None);
        }
        let backward = self.sae.sparse_backward(x, target, &self.objective());
        match backward.map_err(TrainError::from) {
            Err(error) if is_out_of_memory(&error) => Ok(None),
            backward => backward,
        }
    }

    /// What the update that was begun minimises.
    fn objective(&self) -> Objective<'_> {
        let update = self.update.as_ref().expect("an update was begun");
        Objective {
            k: update.k,
            auxk: update.dead.as_ref().map(|dead| AuxK {
                alpha: self.settings.auxk_alpha,
                dead,
            }),
            multi_topk: self.sae.cfg.multi_topk,
        }
    }

    /// Takes note of an update that was made.
    fn note_update(
        &mut self,
        n_tokens: u64,
        total_variance: &Tensor,
        vectors: [&Tensor; 2],
        (losses, fire_counts): (&Losses, &Tensor),
    ) -> Result<(), TrainError> {
        self.n_updates += 1;
        self.is_projected = false;
        let _ = self.tokens_since_fired.f_add_scalar_(n_tokens as i64)?;
        let fired = fire_counts.f_gt(0.0)?;
        let _ = self.tokens_since_fired.f_masked_fill_(&fired, 0)?;
        let terms = (losses, fire_counts);
        self.interval.add(n_tokens, total_variance, vectors, terms)
    }

    /// The number of parts that batches are cut into, where it has grown since the last call because
    /// memory ran out.
    pub(crate) fn take_smaller_parts(&mut self) -> Option<usize> {
        let has_grown = self.micro_acc_steps > self.known_micro_acc_steps;
        self.known_micro_acc_steps = self.micro_acc_steps;
        has_grown.then_some(self.micro_acc_steps)
    }

    /// Whether its weights were updated at all.
    pub(crate) fn was_trained(&self) -> bool {
        self.n_updates > 0
    }

    /// Which latents are dead: `[num_latents]`, Bool.
    fn dead(&self) -> Result<Tensor, TrainError> {
        let threshold = self.settings.dead_feature_threshold;
        Ok(self.tokens_since_fired.f_gt(threshold)?)
    }

    /// The statistics since the last call; `None` where nothing was trained.
    pub(crate) fn take_report(&mut self) -> Result<Option<Report>, TrainError> {
        let dead = self.dead()?;
        self.interval.take(&dead)
    }

    /// The SAE as it is published: the optimizer's averaged weights, with a decoder of unit norm
    /// where an optimizer does not average.
    pub(crate) fn published(&self) -> Result<Sae, TrainError> {
        let weights = self.sae.named_weights();
        let weights: Vec<_> = weights.into_iter().map(|(_, weight)| weight).collect();
        let published = self.optimizer.published(&weights)?;
        let mut sae = self.sae.with_weights(published);
        if self.sae.has_unit_decoder() && !matches!(self.optimizer, Optimizer::Signum(_)) {
            sae.normalize_decoder()?;
        }
        Ok(sae)
    }

    /// Its counts behind `step` updates of the job.
    pub(crate) fn counts(&self, step: u64) -> SaeCounts {
        SaeCounts {
            n_updates: self.n_updates,
            is_projected: self.is_projected,
            k: self.k_at(step),
        }
    }

    /// Goes on where an earlier worker was.
    pub(crate) fn restore_counts(&mut self, counts: SaeCounts) {
        self.n_updates = counts.n_updates;
        self.is_projected = counts.is_projected;
    }

    /// The gradients of the update that is going on.
    #[cfg(test)]
    pub(crate) fn gradients(&self) -> Vec<Tensor> {
        let sums = self.update.as_ref().and_then(|update| update.sums.as_ref());
        let (gradients, ..) = sums.expect("an update is going on");
        gradients.tensors().into_iter().map(Tensor::copy).collect()
    }

    fn k_at(&self, step: u64) -> usize {
        let SaeSpec {
            k,
            d_in,
            num_latents,
            ..
        } = self.spec;
        k_at(step, k, d_in, num_latents, self.settings.k_decay_steps)
    }
}

/// What no token adds up to.
fn no_sums(sae: &Sae) -> Result<Sums, TrainError> {
    let zero = || Tensor::f_zeros([0i64; 0], (Kind::Double, sae.b_dec.device()));
    let gradients = Gradients {
        encoder_weight: sae.encoder_weight.f_zeros_like()?,
        encoder_bias: sae.encoder_bias.f_zeros_like()?,
        w_dec: sae.w_dec.f_zeros_like()?,
        b_dec: sae.b_dec.f_zeros_like()?,
        w_skip: sae.w_skip.as_ref().map(Tensor::f_zeros_like).transpose()?,
    };
    let losses = Losses {
        squared_error: zero()?,
        auxk: None,
        multi_topk: None,
    };
    Ok((gradients, losses, sae.encoder_bias.f_zeros_like()?))
}

/// Adds a part to the sums of an update.
fn add(
    sums: &mut Option<Sums>,
    gradients: Gradients,
    losses: Losses,
    fire_counts: Tensor,
) -> Result<(), TrainError> {
    match sums {
        None => *sums = Some((gradients, losses, fire_counts)),
        Some((gradient_sum, loss_sum, fire_count_sum)) => {
            gradient_sum.add(&gradients)?;
            loss_sum.add(&losses)?;
            let _ = fire_count_sum.f_add_(&fire_counts)?;
        }
    }
    Ok(())
}
