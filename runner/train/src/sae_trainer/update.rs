//! One update of one SAE, from its first part to the optimizer.

use super::dead::Dead;
use super::memory::{in_parts_that_fit, is_out_of_memory};
use super::whole::{Decided, Held, HeldPart};
use super::{Progress, SaeTrainer};
use crate::TrainError;
use crate::ranks::{ALONE, Ranks, Summing, UpdateSums};
use plan::K;
use sae::{
    Backward, BatchLatents, LayerPass, Level, Losses, Moments, Objective, Pass, PreActLoss,
    SparseBackward,
};
use std::cell::OnceCell;
use tch::{Kind, Tensor};

/// An update that was started. One that is dropped is as if it had not been.
#[derive(Debug)]
pub(crate) struct Update<'a> {
    pub(crate) trainer: &'a mut SaeTrainer,
    progress: Progress,
    /// Active latents of a token.
    k: K,
    /// Reconstructions from the first latents.
    levels: Vec<Level>,
    /// Tokens of the update, if they are known, or at most.
    n_tokens: Option<u64>,
    /// What waits for the rest of the update.
    held: Held,
    decided: Decided,
    /// The dead latents, if the loss needs them.
    dead: Option<Dead>,
    /// The encoder in bfloat16, if it finds the latents: made when it is first needed, of the weights before the
    /// update.
    rounded_encoder: OnceCell<Option<Tensor>>,
    sums: UpdateSums,
}

/// An update to which this rank adds no more.
pub(crate) struct SummingUpdate<'a, 'r> {
    update: Update<'a>,
    summing: Summing<'r>,
}

impl<'a> Update<'a> {
    pub(super) fn new(trainer: &'a mut SaeTrainer, progress: Progress, dead: Option<Dead>) -> Self {
        // `k` only falls: once the latents are found by it, they are from then on.
        let kept = trainer.rounded_encoder.take();
        let rounded_encoder = kept.map_or_else(OnceCell::new, |kept| Some(kept).into());
        Self {
            progress,
            k: trainer.k_at(progress.step),
            levels: trainer.kind.levels(progress.step),
            n_tokens: trainer.settings.tokens_per_update,
            held: Held::default(),
            decided: Decided::default(),
            trainer,
            dead,
            rounded_encoder,
            sums: UpdateSums::default(),
        }
    }

    /// Forward and backward pass on a part of the update: `x`: `[n_tokens, d_in]`, `target`:
    /// `[n_tokens, d_out]`, Float.
    pub(crate) fn add(&mut self, x: &Tensor, target: &Tensor) -> Result<(), TrainError> {
        if self.trainer.waits_for_all() {
            return self.hold(x, target);
        }
        let n_tokens = x.size()[0];
        let mut n_parts = self.trainer.micro_acc_steps;
        let mut sum = self.sums.backward.take();
        let (sae, objective) = (&self.trainer.sae, self.objective(None)?);
        in_parts_that_fit(n_tokens, &mut n_parts, |first, n| {
            let (x, target) = (x.f_narrow(0, first, n)?, target.f_narrow(0, first, n)?);
            add(&mut sum, sae.backward(&x, &target, &objective)?)
        })?;
        self.trainer.micro_acc_steps = n_parts;
        self.sums.backward = sum;
        Ok(())
    }

    /// What waited for all tokens of the update, of all `ranks`.
    fn add_held(&mut self, ranks: &dyn Ranks) -> Result<(), TrainError> {
        if !self.trainer.waits_for_all() {
            return Ok(());
        }
        let parts = self.decide(ranks)?;
        self.add_parts(parts)
    }

    /// Decides what is decided on all tokens; gives what waited for that.
    pub(crate) fn decide(&mut self, ranks: &dyn Ranks) -> Result<Vec<HeldPart>, TrainError> {
        let ranks = self.trainer.its_ranks(ranks);
        let held = std::mem::take(&mut self.held);
        let (decided, parts) = held.decide(self.trainer, self.k, ranks)?;
        self.decided = decided;
        Ok(parts)
    }

    fn add_parts(&mut self, parts: Vec<HeldPart>) -> Result<(), TrainError> {
        let mut sum = self.sums.backward.take();
        for HeldPart { x, target, latents } in parts {
            let objective = self.objective(latents.as_ref())?;
            add(
                &mut sum,
                self.trainer.sae.backward(&x, &target, &objective)?,
            )?;
        }
        self.sums.backward = sum;
        Ok(())
    }

    /// Takes tokens that wait for the rest of the update.
    pub(crate) fn hold(&mut self, x: &Tensor, target: &Tensor) -> Result<(), TrainError> {
        let k = (self.k.mean(), self.n_tokens);
        self.held.add(self.trainer, (x, target), k)
    }

    /// A forward pass as a layer of a cross-layer transcoder; its backward pass is [`Update::take_layer`].
    pub(crate) fn layer_pass(
        &self,
        x: &Tensor,
        chosen: Option<&BatchLatents>,
    ) -> Result<LayerPass, TrainError> {
        let objective = self.objective(chosen)?;
        Ok(self.trainer.sae.layer_pass(x, &objective)?)
    }

    /// `error`: of what all layers wrote, where this one writes: `[n_tokens, d_out]`.
    pub(crate) fn take_layer(
        &mut self,
        pass: LayerPass,
        error: &Tensor,
        chosen: Option<&BatchLatents>,
    ) -> Result<(), TrainError> {
        let objective = self.objective(chosen)?;
        let part = self.trainer.sae.layer_backward(pass, error, &objective)?;
        add(&mut self.sums.backward, part)
    }

    /// A forward pass that replaces the module's; its backward pass is [`Update::take_back`].
    pub(crate) fn pass(&self, x: &Tensor) -> Result<Pass, TrainError> {
        let rounded = self.rounded_encoder()?;
        Ok(self.trainer.sae.pass(x, self.k.count(), rounded)?)
    }

    /// The backward pass of a loss on the output, with its gradient there: `[n_tokens, d_out]`.
    /// Gives that at the input; `target` is for the statistics alone.
    pub(crate) fn take_back(
        &mut self,
        pass: &Pass,
        target: &Tensor,
        grad_out: &Tensor,
    ) -> Result<Tensor, TrainError> {
        let sae = &self.trainer.sae;
        let (gradients, grad_x) = sae.backward_of_output(pass, grad_out)?;
        let error = pass.sae_out.f_sub(target)?;
        let part = Backward {
            gradients,
            losses: Losses::squared_error(error.f_square()?.f_sum(Kind::Double)?),
            fire_counts: sae.fire_counts(&pass.encoded)?,
        };
        add(&mut self.sums.backward, part)?;
        Ok(grad_x)
    }

    /// Adds a loss on the model's output: its sum over `n_output` positions.
    pub(crate) fn add_output_loss(&mut self, sum: &Tensor, n_output: u64) {
        let loss = (sum.shallow_clone(), n_output);
        self.sums.output_losses.push(loss);
    }

    /// Begins to add what other ranks have of the update: other SAEs compute meanwhile.
    pub(crate) fn sum<'r>(
        mut self,
        ranks: &'r dyn Ranks,
    ) -> Result<SummingUpdate<'a, 'r>, TrainError> {
        self.add_held(ranks)?;
        self.sum_added(ranks)
    }

    /// The same with what was added so far.
    pub(crate) fn sum_added<'r>(
        mut self,
        ranks: &'r dyn Ranks,
    ) -> Result<SummingUpdate<'a, 'r>, TrainError> {
        let ranks = self.trainer.its_ranks(ranks);
        let ours = std::mem::take(&mut self.sums);
        let summing = ranks.sum(&self.trainer.label, ours, &self.trainer.sae)?;
        Ok(SummingUpdate {
            update: self,
            summing,
        })
    }

    /// The optimizer's step. `moments`: of all targets of the update, on all ranks. An update without a token
    /// changes no weight.
    pub(crate) fn finish(self, moments: &Moments, progress: Progress) -> Result<(), TrainError> {
        self.finish_layer((moments, moments), progress)
    }

    /// The same of a layer of a cross-layer transcoder, with the moments of its hookpoint's target and those of all.
    pub(crate) fn finish_layer(
        self,
        (moments, of_all): (&Moments, &Moments),
        progress: Progress,
    ) -> Result<(), TrainError> {
        let Self {
            trainer,
            sums,
            decided,
            ..
        } = self;
        for (sum, n_output) in &sums.output_losses {
            trainer.interval.add_output_loss(sum, *n_output)?;
        }
        let Some(mut backward) = sums.backward.filter(|_| moments.n_tokens > 0) else {
            return Ok(());
        };
        let gradients = &mut backward.gradients;
        if !trainer.settings.is_end_to_end {
            gradients.scale(&trainer.denominator(of_all)?)?;
        }
        if trainer.sae.has_unit_decoder() {
            let has_unit_norm = trainer.projects_onto_unit_rows();
            gradients.remove_parallel_to_decoder(&trainer.sae, has_unit_norm)?;
        }
        if let Some(most) = trainer.settings.max_grad_norm {
            gradients.limit_norm(most)?;
        }
        let Progress { step, n_steps } = progress;
        let mut weights = trainer.sae.weights_mut();
        let optimizer = &mut trainer.optimizer;
        optimizer.step(&mut weights, &gradients.tensors(), step, n_steps)?;
        let vectors = [&gradients.encoder_bias, &gradients.b_dec];
        trainer.note_kind(&backward.losses, decided, moments.n_tokens, progress)?;
        trainer.note_update(moments, vectors, (&backward.losses, &backward.fire_counts))
    }

    /// Adds all tokens of the update and finishes it, with losses at the hookpoint. If that is possible, no
    /// gradient of a matrix is ever in memory.
    pub(crate) fn finish_on(
        mut self,
        (x, target): (&Tensor, &Tensor),
        moments: &Moments,
        progress: Progress,
    ) -> Result<(), TrainError> {
        self.n_tokens = Some(x.size()[0].cast_unsigned());
        let mut parts = Vec::new();
        if self.trainer.waits_for_all() {
            self.add(x, target)?;
            parts = self.decide(ALONE)?;
        }
        let backward = match &parts[..] {
            [] => self.sparse_backward(x, target, None)?,
            [part] => self.sparse_backward(&part.x, &part.target, part.latents.as_ref())?,
            _ => None,
        };
        let backward = backward.filter(|_| moments.n_tokens > 0);
        let rounded = self.rounded_encoder.take().flatten();
        let Some(backward) = backward else {
            if self.trainer.waits_for_all() {
                self.add_parts(parts)?;
            } else {
                self.add(x, target)?;
            }
            return self.finish(moments, progress);
        };
        let decided = std::mem::take(&mut self.decided);
        let trainer = &mut *self.trainer;
        let SparseBackward {
            gradients,
            losses,
            fire_counts,
        } = backward;
        let divisor = trainer.denominator(moments)?.f_to_kind(Kind::Float)?;
        let weights = (&mut trainer.sae, rounded);
        let gradients = (gradients, &divisor);
        let Progress { step, n_steps } = progress;
        let optimizer = &mut trainer.optimizer;
        let (vectors, rounded) = optimizer.step_rows(weights, gradients, step, n_steps)?;
        trainer.rounded_encoder = rounded;
        let vectors = [&vectors.encoder_bias, &vectors.b_dec];
        trainer.note_kind(&losses, decided, moments.n_tokens, progress)?;
        trainer.note_update(moments, vectors, (&losses, &fire_counts))
    }

    /// `None`: the loss, the optimizer or the device is another, or memory ran out.
    fn sparse_backward(
        &self,
        x: &Tensor,
        target: &Tensor,
        chosen: Option<&BatchLatents>,
    ) -> Result<Option<SparseBackward>, TrainError> {
        let trainer = &self.trainer;
        let takes_rows = trainer.sae.is_updated_by_rows(trainer.optimizer.kind());
        let is_limited = trainer.settings.max_grad_norm.is_some();
        let is_cut = trainer.micro_acc_steps > 1;
        if !takes_rows || is_limited || is_cut || !trainer.projects_onto_unit_rows() {
            return Ok(None);
        }
        let objective = self.objective(chosen)?;
        let backward = trainer.sae.sparse_backward(x, target, &objective);
        match backward.map_err(TrainError::from) {
            Err(error) if is_out_of_memory(&error) => Ok(None),
            backward => backward,
        }
    }

    /// What it minimises. `chosen`: the latents, if they are chosen among those of all tokens.
    fn objective<'o>(
        &'o self,
        chosen: Option<&'o BatchLatents>,
    ) -> Result<Objective<'o>, TrainError> {
        let SaeTrainer { settings, kind, .. } = &*self.trainer;
        let auxk = (settings.auxk_alpha, settings.auxk_is_of_residual);
        let (dead, decided) = (self.dead.as_ref(), &self.decided);
        let [fire_counts, scale] = [&decided.fire_counts, &decided.residual_scale];
        Ok(Objective {
            k: self.k.count(),
            auxk: dead
                .filter(|_| auxk.0 > 0.0)
                .map(|dead| dead.auxk(auxk, fire_counts.as_ref(), scale.as_ref())),
            multi_topk: self.trainer.sae.cfg.multi_topk,
            rounded_encoder: self.rounded_encoder()?,
            nesting: &self.levels,
            is_hierarchical: kind.is_hierarchical,
            chosen,
            rescales: kind.rescales,
            penalty: kind.penalty(self.progress, decided.mean_l0.as_ref()),
            jump: kind.jump,
            room: self.trainer.room,
            pre_act_loss: match (kind.pre_act, dead) {
                (None, _) => None,
                (Some((coefficient, false)), Some(dead)) => Some(dead.pre_act_loss(coefficient)),
                (Some((coefficient, _)), _) => Some(PreActLoss {
                    coefficient,
                    latents: None,
                    counts: None,
                }),
            },
            gate_is_detached: kind.gate_is_detached,
        })
    }

    fn rounded_encoder(&self) -> Result<Option<&Tensor>, TrainError> {
        if !self.trainer.settings.rounds_encoder || !self.trainer.sae.cfg.activation.has_k() {
            return Ok(None);
        }
        let rounded = match self.rounded_encoder.get() {
            Some(rounded) => rounded,
            None => {
                let rounded = self.trainer.sae.rounded_encoder(self.k.count())?;
                self.rounded_encoder.get_or_init(|| rounded)
            }
        };
        Ok(rounded.as_ref())
    }

    /// Gradients, terms and fire counts of all that was added, with what waited for that.
    #[cfg(test)]
    pub(crate) fn decided(
        &mut self,
        ranks: &dyn Ranks,
    ) -> Result<(Vec<Tensor>, &Losses, &Tensor), TrainError> {
        self.add_held(ranks)?;
        let gradients = self.gradients();
        let sum = self.sums.backward.as_ref().expect("a part was added");
        Ok((gradients, &sum.losses, &sum.fire_counts))
    }

    /// The gradients so far.
    #[cfg(test)]
    pub(crate) fn gradients(&self) -> Vec<Tensor> {
        let sum = self.sums.backward.as_ref().expect("a part was added");
        let gradients = sum.gradients.tensors().into_iter();
        gradients.map(Tensor::copy).collect()
    }
}

impl<'a> SummingUpdate<'a, '_> {
    /// Returns when all ranks have added what they have; the loss on the model's output ran over `n_output`
    /// positions of all of them.
    pub(crate) fn wait(self, n_output: u64) -> Result<Update<'a>, TrainError> {
        let Self {
            mut update,
            summing,
        } = self;
        update.sums = summing.wait(n_output)?;
        Ok(update)
    }
}

/// Adds a part to the sum of an update.
fn add(sum: &mut Option<Backward>, part: Backward) -> Result<(), TrainError> {
    match sum {
        None => *sum = Some(part),
        Some(sum) => sum.add(&part)?,
    }
    Ok(())
}
