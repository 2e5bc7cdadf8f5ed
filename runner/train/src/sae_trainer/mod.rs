//! One SAE in training: its weights, its optimizer, what fired, and its running statistics.

mod anneal;
mod dead;
pub(crate) mod finetune;
mod first_biases;
mod first_weights;
mod kind;
pub(crate) mod memory;
pub(crate) mod scaling;
mod state;
mod threshold;
mod update;
mod whole;

use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::activations::views::View;
use crate::events::interval::{Interval, Record, Report};
use crate::optimizer::Optimizer;
use crate::ranks::exchange::Inputs;
use crate::ranks::{ALONE, Ranks};
use crate::sae_trainer::first_biases::{bias_for, geometric_median};
use dead::Candidates;
use kind::Kind as SaeKind;
use plan::{Job, K, NormalizeActivations, SaeSpec, TrainConfig, k_at};
use sae::Moments;
use sae::{Affine, Losses, Sae, SaeConfig, SaeLensMetadata};
use scaling::Scaling;
pub(crate) use state::SaeCounts;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use threshold::ThresholdEstimate;
pub(crate) use update::{SummingUpdate, Update};
use whole::Decided;
pub(crate) use whole::HeldPart;

/// One SAE in training. Everything stays on its device.
#[derive(Debug)]
pub(crate) struct SaeTrainer {
    pub(crate) spec: SaeSpec,
    /// The weights in the optimizer's training form.
    pub(crate) sae: Sae,
    pub(crate) optimizer: Optimizer,
    /// The encoder in bfloat16, if the last update kept it up to date.
    rounded_encoder: Option<Tensor>,
    /// Tokens since each latent last fired: `[num_latents]`, Int64.
    pub(crate) tokens_since_fired: Tensor,
    /// The latents that may be dead.
    candidates: Candidates,
    /// Parts into which a batch is cut; grows when memory runs out.
    micro_acc_steps: usize,
    known_micro_acc_steps: usize,
    /// Since the last report.
    pub(crate) interval: Interval,
    settings: Settings,
    kind: SaeKind,
    /// The threshold of latents that are chosen among those of all tokens of an update.
    pub(crate) threshold: Option<ThresholdEstimate>,
    /// The least score of the last update that is known on the host, of each set of latents that are chosen together, or
    /// 0. From it on, the next update looks for
    /// scores by products in 16 bit first, which may change the last bit of those that it finds.
    last_least: Vec<f32>,
    /// For how many latents of a token, on average, a list of those near thresholds has room on a GPU.
    room: Option<usize>,
    /// Whether its weights are the seed's, and not those of an SAE that was trained before.
    is_fresh: bool,
    /// Updates of its weights: fewer than those of the job if all tokens of an update were excluded.
    n_updates: u64,
    /// Whether the decoder was brought to unit norm since the last of them. Twice would change bits.
    is_projected: bool,
    /// The activations that it takes, and those that it should give.
    input: View,
    pub(crate) target: View,
    /// Whether it is on one rank, and the activations come there from all.
    pub(crate) is_spread: bool,
    /// What ranks call it.
    pub(crate) label: String,
    /// SAELens's name of how it is trained.
    training_architecture: Option<String>,
    /// What is done to activations before.
    pub(crate) scaling: Option<Scaling>,
}

/// The settings that a step reads.
#[derive(Clone, Copy, Debug)]
struct Settings {
    dead_feature_threshold: i64,
    auxk_alpha: f64,
    /// Whether AuxK is relative to the variance of the residual.
    auxk_is_of_residual: bool,
    k_decay_steps: u64,
    k_decay_from: Option<f64>,
    /// Tokens of an update at most, if that is settled.
    tokens_per_update: Option<u64>,
    /// Whether the squared error is by token, and not relative to the variance.
    is_by_token: bool,
    max_grad_norm: Option<f64>,
    ctx_len: usize,
    /// Whether a decoder that is kept at unit norm has it in the first update.
    begins_with_unit_norm: bool,
    b_dec_init: plan::BDecInit,
    init_l0: Option<f64>,
    normalize: (NormalizeActivations, u64),
    /// Whether latents are found by pre-activations in bfloat16.
    rounds_encoder: bool,
    /// Whether the loss is on the model's output: its gradients are those of a mean already.
    is_end_to_end: bool,
}

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
        // It is by a threshold that its latents are active in the end.
        plan::Activation::BatchTopK | plan::Activation::Relu => sae::Activation::Relu,
        plan::Activation::JumpRelu => sae::Activation::JumpRelu,
        plan::Activation::Gated => sae::Activation::Gated,
    };
    // Latents are limited by `k` with some activations only.
    let k = if activation.has_k() {
        spec.k.count()
    } else {
        spec.num_latents
    };
    SaeConfig {
        activation,
        expansion_factor: config.expansion_factor,
        normalize_decoder: config.normalize_decoder,
        // Elsewhere the number follows from the expansion factor and all of the input.
        num_latents: if spec.hookpoints.is_empty() {
            config.num_latents
        } else {
            spec.num_latents
        },
        multi_topk: config.multi_topk,
        skip_connection: config.skip_connection,
        transcode: config.transcode,
        d_out: spec.d_out,
        apply_b_dec_to_input: config.apply_b_dec_to_input,
        hookpoints: spec.hookpoints.clone(),
        code_normalization: config.crosscoder_norm,
        ..SaeConfig::topk(spec.d_in, spec.num_latents, k)
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
        let sae = first_weights::first(sae_config(spec, config), (spec, config), device)?;
        let (sae, threshold) = match finetune {
            Some(dir) => finetune::load(sae, &dir.join(&spec.name), device)?,
            None => (sae, None),
        };
        // It is of activations as they are, and how they will be scaled is not known yet.
        let is_scaled = config.normalize_activations != NormalizeActivations::None;
        let threshold = threshold.filter(|_| !is_scaled);
        let options = (Kind::Int64, device);
        let (input, target) = View::of_sae(config, spec);
        let dead_feature_threshold = config.dead_feature_threshold as i64;
        Ok(Self {
            candidates: Candidates::new(dead_feature_threshold, device),
            optimizer: Optimizer::new(config, spec.lr),
            rounded_encoder: None,
            tokens_since_fired: Tensor::f_zeros([spec.num_latents as i64], options)?,
            micro_acc_steps: config.micro_acc_steps,
            known_micro_acc_steps: config.micro_acc_steps,
            interval: Interval::new(device)?,
            kind: SaeKind::new(config, spec),
            threshold: match config.activation {
                plan::Activation::BatchTopK => {
                    let n_hookpoints = config.is_decoupled().then_some(sae.cfg.n_outputs());
                    let at = (n_hookpoints, device);
                    Some(ThresholdEstimate::new(config, threshold, at)?)
                }
                _ => None,
            },
            last_least: vec![0.0; sae.cfg.n_active_sets()],
            room: None,
            settings: Settings {
                dead_feature_threshold,
                auxk_alpha: config.auxk_alpha,
                auxk_is_of_residual: config.auxk_norm == plan::AuxkNorm::Residual,
                k_decay_steps: config.k_decay_steps,
                k_decay_from: config.k_decay_from,
                tokens_per_update: config.tokens_per_update,
                is_by_token: config.loss_fn == plan::LossFn::Mse,
                max_grad_norm: config.max_grad_norm,
                ctx_len: config.ctx_len,
                begins_with_unit_norm: config.decoder_init_norm.is_none_or(|norm| norm == 1.0),
                b_dec_init: config.b_dec_init_method,
                init_l0: config.init_l0,
                normalize: (config.normalize_activations, config.norm_estimate_tokens),
                rounds_encoder: config.encoder_dtype.rounds(device.is_cuda()),
                is_end_to_end: config.loss_fn.is_end_to_end(),
            },
            is_fresh: finetune.is_none(),
            n_updates: 0,
            // Where the norm is given, training begins with it.
            is_projected: config.decoder_init_norm.is_some() && finetune.is_none(),
            input,
            target,
            is_spread: false,
            label: format!("`{}` of job {}", spec.name, job.job_id),
            training_architecture: config.training_architecture(),
            scaling: None,
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
        ranks: &dyn Ranks,
    ) -> Result<(), TrainError> {
        let ranks = self.its_ranks(ranks);
        let is_median = self.settings.b_dec_init == plan::BDecInit::GeometricMedian;
        let centre = |x: &Tensor| {
            if is_median {
                geometric_median(x, ranks)
            } else {
                ranks.mean(x)
            }
        };
        self.centre(|| centre(x), || centre(target))?;
        if let Some(l0) = self.settings.init_l0.filter(|_| self.is_fresh) {
            self.sae.encoder_bias = bias_for(&self.sae, x, l0, ranks)?;
        }
        Ok(())
    }

    /// Whether it begins by more than the means of the first batch.
    pub(crate) fn begins_by_rows(&self) -> bool {
        let is_median = self.settings.b_dec_init == plan::BDecInit::GeometricMedian;
        is_median || self.settings.init_l0.is_some()
    }

    /// The same on what the passes over the first batch added up to.
    pub(crate) fn centre_on_sums(
        &mut self,
        x: &RowSum,
        target: &RowSum,
        ranks: &dyn Ranks,
    ) -> Result<(), TrainError> {
        let ranks = self.its_ranks(ranks);
        let mean = |ours: &RowSum, scaling: Option<&Affine>| -> Result<_, TrainError> {
            let mean = ranks.sum_of_rows(ours)?.mean()?;
            let scaled = |mean: Tensor| match scaling {
                None => Ok::<_, TrainError>(mean),
                Some(affine) => Ok(affine.of(&mean.f_unsqueeze(0)?)?.f_squeeze_dim(0)?),
            };
            mean.map(scaled).transpose()
        };
        let scaling = self.scaling.take();
        let [of_x, of_target] = [
            scaling.as_ref().map(|scaling| &scaling.input),
            scaling.as_ref().map(|scaling| &scaling.output),
        ];
        let done = self.centre(|| mean(x, of_x), || mean(target, of_target));
        self.scaling = scaling;
        done
    }

    fn centre(
        &mut self,
        mean: impl FnOnce() -> Result<Option<Tensor>, TrainError>,
        mean_of_target: impl FnOnce() -> Result<Option<Tensor>, TrainError>,
    ) -> Result<(), TrainError> {
        if !self.is_fresh || self.settings.b_dec_init == plan::BDecInit::Zeros {
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
            self.sae.limit_bias_to_own_output()?;
        } else {
            self.sae.b_dec = mean;
        }
        Ok(())
    }

    /// Starts the next update.
    pub(crate) fn start(&mut self, progress: Progress) -> Result<Update<'_>, TrainError> {
        if self.sae.has_unit_decoder() && !self.is_projected {
            self.sae.normalize_decoder()?;
            self.is_projected = true;
        }
        if let Some(threshold) = &mut self.sae.threshold {
            let _ = threshold.f_clamp_min_(0.0)?;
        }
        let needs_dead = self.settings.auxk_alpha > 0.0
            || self.kind.pre_act.is_some_and(|(_, is_on_all)| !is_on_all);
        let dead = if needs_dead {
            Some(self.candidates.dead(&self.tokens_since_fired)?)
        } else {
            None
        };
        Ok(Update::new(self, progress, dead))
    }

    /// Whether something is decided on all tokens of an update before it has a gradient.
    pub(crate) fn waits_for_all(&self) -> bool {
        self.kind.is_of_batch() || self.kind.needs_mean_l0() || self.needs_residual()
    }

    /// Whether `k` limits the latents of a token, or of all.
    pub(crate) fn has_k(&self) -> bool {
        self.kind.activation.has_k()
    }

    /// Parts into which a batch is cut.
    pub(crate) fn micro_acc_steps(&self) -> usize {
        self.micro_acc_steps
    }

    /// Whether the decoder's rows have unit norm in this update, if they are kept at it.
    fn projects_onto_unit_rows(&self) -> bool {
        self.n_updates > 0 || self.settings.begins_with_unit_norm
    }

    /// Whether what is left over in the update, and what fires in it, decide on the loss of dead latents.
    fn needs_residual(&self) -> bool {
        self.settings.auxk_alpha > 0.0 && self.settings.auxk_is_of_residual
    }

    /// What the gradients of an update's sums are divided by: scalar, Double.
    fn denominator(&self, moments: &Moments) -> Result<Tensor, TrainError> {
        let variance = &moments.squared_deviations;
        Ok(if self.settings.is_by_token {
            variance.f_full_like(moments.n_tokens as f64)?
        } else {
            variance.shallow_clone()
        })
    }

    /// Takes note of what an update was for its kind.
    fn note_kind(
        &mut self,
        losses: &Losses,
        decided: Decided,
        n_tokens: u64,
        Progress { step, n_steps }: Progress,
    ) -> Result<(), TrainError> {
        if let Some(anneal) = &mut self.kind.anneal {
            anneal.note(losses.powers.as_ref(), n_tokens, (step, n_steps))?;
        }
        if let (Some(threshold), Some(least)) = (&mut self.threshold, decided.least) {
            threshold.note(&least, step)?;
            if least.device() == Device::Cpu {
                let least = Vec::<f32>::try_from(least.f_reshape([-1])?)?;
                let known = least.into_iter();
                let known = known.map(|least| if least.is_finite() { least } else { 0.0 });
                self.last_least = known.collect();
            }
        }
        Ok(())
    }

    /// Makes room for the latents near thresholds, by what was reported of them.
    pub(crate) fn note_record(&mut self, record: &Record) {
        self.room = sae::room_for(record.near(), self.spec.num_latents);
    }

    /// What it takes and what it should give, of a pass: `[n_tokens, d_in]` and `[n_tokens, d_out]`, Float.
    /// `None`: this rank has no part of the pass.
    pub(crate) fn inputs(
        &self,
        inputs: &mut Inputs<'_>,
    ) -> Result<Option<(Tensor, Tensor)>, TrainError> {
        let x = inputs.get(&self.input, self.is_spread)?;
        let both = x.zip(inputs.get(&self.target, self.is_spread)?);
        both.map(|(x, target)| self.scaled(x, target)).transpose()
    }

    /// What it takes and what it should give, as it is trained on them.
    pub(crate) fn scaled(&self, x: Tensor, target: Tensor) -> Result<(Tensor, Tensor), TrainError> {
        let Some(Scaling { input, output }) = &self.scaling else {
            return Ok((x, target));
        };
        let scaled = input.of(&x)?;
        let target = if self.sae.cfg.transcode {
            output.of(&target)?
        } else {
            scaled.shallow_clone()
        };
        Ok((scaled, target))
    }

    /// How its activations are scaled and on how many tokens that is estimated, if it was not yet.
    pub(crate) fn wants_scaling(&self) -> Option<(NormalizeActivations, u64)> {
        let (how, n_tokens) = self.settings.normalize;
        let is_wanted = self.scaling.is_none() && how != NormalizeActivations::None;
        is_wanted.then_some((how, n_tokens))
    }

    pub(crate) fn set_scaling(&mut self, input: Affine, output: Affine) {
        self.scaling = Some(Scaling { input, output });
    }

    /// Widths of what it takes and of what it gives.
    pub(crate) fn widths(&self) -> [i64; 2] {
        [self.spec.d_in, self.spec.d_out()].map(|width| width as i64)
    }

    pub(crate) fn device(&self) -> Device {
        self.sae.b_dec.device()
    }

    /// The activations that it takes, and those that it should give.
    pub(crate) fn views(&self) -> (&View, &View) {
        (&self.input, &self.target)
    }

    /// The ranks that act together for it.
    pub(crate) fn its_ranks<'a>(&self, ranks: &'a dyn Ranks) -> &'a dyn Ranks {
        if self.is_spread { ALONE } else { ranks }
    }

    /// Takes note of an update that was made. `vectors`: the gradients of both biases.
    fn note_update(
        &mut self,
        moments: &Moments,
        vectors: [&Tensor; 2],
        terms: (&Losses, &Tensor),
    ) -> Result<(), TrainError> {
        let (_, fire_counts) = terms;
        let n_tokens = moments.n_tokens;
        self.n_updates += 1;
        self.is_projected = false;
        self.candidates.pass(n_tokens as i64);
        let _ = self.tokens_since_fired.f_add_scalar_(n_tokens as i64)?;
        let fired = fire_counts.f_gt(0.0)?;
        let _ = self.tokens_since_fired.f_masked_fill_(&fired, 0)?;
        let total_variance = &moments.squared_deviations;
        self.interval.add(n_tokens, total_variance, vectors, terms)
    }

    /// The number of parts that batches are cut into, if it has grown since the last call because
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

    /// The statistics since the last call; `None` if nothing was trained.
    pub(crate) fn take_report(&mut self) -> Result<Option<Report>, TrainError> {
        let dead = self.dead()?;
        self.interval.take(&dead)
    }

    /// The SAE as it is published: the optimizer's averaged weights, with a decoder of unit norm
    /// if the optimizer does not average.
    pub(crate) fn published(&self) -> Result<Sae, TrainError> {
        let weights = self.sae.named_weights();
        let weights: Vec<_> = weights.into_iter().map(|(_, weight)| weight).collect();
        let published = self.optimizer.published(&weights)?;
        let mut sae = self.sae.with_weights(published);
        if self.sae.has_unit_decoder() && !matches!(self.optimizer, Optimizer::Signum(_)) {
            sae.normalize_decoder()?;
        }
        if let Some(threshold) = &mut sae.threshold {
            let _ = threshold.f_clamp_min_(0.0)?;
        }
        if let Some(threshold) = &self.threshold {
            let threshold = threshold.value.f_clamp_min(0.0)?.f_to_kind(Kind::Float)?;
            let of_latents = if sae.cfg.is_decoupled() {
                threshold
            } else if self.kind.rescales {
                sae.decoder_norms()?.f_reciprocal()?.f_mul(&threshold)?
            } else {
                sae.encoder_bias.f_ones_like()?.f_mul(&threshold)?
            };
            sae.set_thresholds(of_latents);
        }
        if let Some(Scaling { input, output }) = &self.scaling {
            sae.fold_affine(input, output)?;
        }
        if self.kind.rescales {
            sae.fold_decoder_norms()?;
        }
        Ok(sae)
    }

    /// Writes the SAE as others load it.
    pub(crate) fn save_published(&self, dir: &Path) -> Result<(), TrainError> {
        let sae = self.published()?;
        let of_hookpoints = match (&self.threshold, &sae.threshold) {
            (Some(_), Some(threshold)) if sae.cfg.is_decoupled() => {
                Vec::<f64>::try_from(threshold.f_to_kind(Kind::Double)?)?
            }
            _ => Vec::new(),
        };
        let metadata = SaeLensMetadata {
            hf_hook_name: Some(self.spec.hookpoint.clone()),
            context_size: Some(self.settings.ctx_len),
            training_architecture: self.training_architecture.clone(),
            threshold_ema: match (&self.threshold, &sae.threshold) {
                (Some(_), Some(_)) if !of_hookpoints.is_empty() => {
                    Some(of_hookpoints.iter().sum::<f64>() / of_hookpoints.len() as f64)
                }
                (Some(_), Some(of_latents)) => {
                    Some(of_latents.f_mean(Kind::Double)?.f_double_value(&[])?)
                }
                _ => None,
            },
            threshold_ema_by_hookpoint: of_hookpoints,
            ..SaeLensMetadata::default()
        };
        Ok(sae.save(dir, &metadata)?)
    }

    fn k_at(&self, step: u64) -> K {
        let SaeSpec {
            k,
            d_in,
            num_latents,
            ..
        } = self.spec;
        let Settings {
            k_decay_steps,
            k_decay_from,
            ..
        } = self.settings;
        k_at(step, (k, k_decay_steps), k_decay_from, (d_in, num_latents))
    }
}
