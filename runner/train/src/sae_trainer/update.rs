//! One update of one SAE, from its first part to the optimizer.

use super::dead::Dead;
use super::memory::{in_parts_that_fit, is_out_of_memory};
use super::{Progress, SaeTrainer};
use crate::TrainError;
use crate::ranks::{Ranks, Summing, UpdateSums};
use sae::Moments;
use sae::{Backward, Losses, Objective, Pass, SparseBackward};
use std::cell::OnceCell;
use tch::{Kind, Tensor};

/// An update that was started. One that is dropped is as if it had not been.
#[derive(Debug)]
pub(crate) struct Update<'a> {
    pub(crate) trainer: &'a mut SaeTrainer,
    /// Active latents of a token.
    k: usize,
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
    pub(super) fn new(trainer: &'a mut SaeTrainer, k: usize, dead: Option<Dead>) -> Self {
        // `k` only falls: once the latents are found by it, they are from then on.
        let kept = trainer.rounded_encoder.take();
        let rounded_encoder = kept.map_or_else(OnceCell::new, |kept| Some(kept).into());
        Self {
            trainer,
            k,
            dead,
            rounded_encoder,
            sums: UpdateSums::default(),
        }
    }

    /// Forward and backward pass on a part of the update: `x`: `[n_tokens, d_in]`, `target`:
    /// `[n_tokens, d_out]`, Float.
    pub(crate) fn add(&mut self, x: &Tensor, target: &Tensor) -> Result<(), TrainError> {
        let n_tokens = x.size()[0];
        let mut n_parts = self.trainer.micro_acc_steps;
        let mut sum = self.sums.backward.take();
        let (sae, objective) = (&self.trainer.sae, self.objective()?);
        in_parts_that_fit(n_tokens, &mut n_parts, |first, n| {
            let (x, target) = (x.f_narrow(0, first, n)?, target.f_narrow(0, first, n)?);
            add(&mut sum, sae.backward(&x, &target, &objective)?)
        })?;
        self.trainer.micro_acc_steps = n_parts;
        self.sums.backward = sum;
        Ok(())
    }

    /// A forward pass that replaces the module's; its backward pass is [`Update::take_back`].
    pub(crate) fn pass(&self, x: &Tensor) -> Result<Pass, TrainError> {
        let rounded = self.rounded_encoder()?;
        Ok(self.trainer.sae.pass(x, self.k, rounded)?)
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
        let losses = Losses {
            squared_error: error.f_square()?.f_sum(Kind::Double)?,
            auxk: None,
            multi_topk: None,
        };
        let part = Backward {
            gradients,
            losses,
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
        let (ranks, ours) = (
            self.trainer.its_ranks(ranks),
            std::mem::take(&mut self.sums),
        );
        let summing = ranks.sum(&self.trainer.label, ours, &self.trainer.sae)?;
        Ok(SummingUpdate {
            update: self,
            summing,
        })
    }

    /// The optimizer's step. `moments`: of all targets of the update, on all ranks. An update without a token
    /// changes no weight.
    pub(crate) fn finish(self, moments: &Moments, progress: Progress) -> Result<(), TrainError> {
        let Self { trainer, sums, .. } = self;
        for (sum, n_output) in &sums.output_losses {
            trainer.interval.add_output_loss(sum, *n_output)?;
        }
        let Some(mut backward) = sums.backward.filter(|_| moments.n_tokens > 0) else {
            return Ok(());
        };
        let gradients = &mut backward.gradients;
        if !trainer.settings.is_end_to_end {
            gradients.scale(&moments.squared_deviations)?;
        }
        if trainer.sae.has_unit_decoder() {
            gradients.remove_parallel_to_decoder(&trainer.sae)?;
        }
        let Progress { step, n_steps } = progress;
        let mut weights = trainer.sae.weights_mut();
        let optimizer = &mut trainer.optimizer;
        optimizer.step(&mut weights, &gradients.tensors(), step, n_steps)?;
        let vectors = [&gradients.encoder_bias, &gradients.b_dec];
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
        let backward = self.sparse_backward(x, target)?;
        let backward = backward.filter(|_| moments.n_tokens > 0);
        let rounded = self.rounded_encoder.take().flatten();
        let trainer = &mut *self.trainer;
        let Some(backward) = backward else {
            self.add(x, target)?;
            return self.finish(moments, progress);
        };
        let SparseBackward {
            gradients,
            losses,
            fire_counts,
        } = backward;
        let divisor = moments.squared_deviations.f_to_kind(Kind::Float)?;
        let weights = (&mut trainer.sae, rounded);
        let gradients = (gradients, &divisor);
        let Progress { step, n_steps } = progress;
        let optimizer = &mut trainer.optimizer;
        let (vectors, rounded) = optimizer.step_rows(weights, gradients, step, n_steps)?;
        trainer.rounded_encoder = rounded;
        let vectors = [&vectors.encoder_bias, &vectors.b_dec];
        trainer.note_update(moments, vectors, (&losses, &fire_counts))
    }

    /// `None`: the loss, the optimizer or the device is another, or memory ran out.
    fn sparse_backward(
        &self,
        x: &Tensor,
        target: &Tensor,
    ) -> Result<Option<SparseBackward>, TrainError> {
        let trainer = &self.trainer;
        let takes_rows = trainer.sae.is_updated_by_rows(trainer.optimizer.kind());
        if !takes_rows || trainer.micro_acc_steps > 1 {
            return Ok(None);
        }
        let backward = trainer.sae.sparse_backward(x, target, &self.objective()?);
        match backward.map_err(TrainError::from) {
            Err(error) if is_out_of_memory(&error) => Ok(None),
            backward => backward,
        }
    }

    /// What it minimises.
    fn objective(&self) -> Result<Objective<'_>, TrainError> {
        let alpha = self.trainer.settings.auxk_alpha;
        Ok(Objective {
            k: self.k,
            auxk: self.dead.as_ref().map(|dead| dead.auxk(alpha)),
            multi_topk: self.trainer.sae.cfg.multi_topk,
            rounded_encoder: self.rounded_encoder()?,
        })
    }

    fn rounded_encoder(&self) -> Result<Option<&Tensor>, TrainError> {
        if !self.trainer.settings.rounds_encoder {
            return Ok(None);
        }
        let rounded = match self.rounded_encoder.get() {
            Some(rounded) => rounded,
            None => {
                let rounded = self.trainer.sae.rounded_encoder(self.k)?;
                self.rounded_encoder.get_or_init(|| rounded)
            }
        };
        Ok(rounded.as_ref())
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
