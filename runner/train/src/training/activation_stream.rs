//! Where activations come from: batches of tokens that pass through the language model.

use crate::TrainError;
use crate::activations::views::Views;
use fault::Fault;
use lm::{Activations, LanguageModel, Taps};
use plan::{SECOND, StreamKey};
use tch::Tensor;
use tokens::Batches;

/// A language model, or two, and the tokens that pass through.
pub(crate) struct ActivationStream {
    pub(crate) key: StreamKey,
    pub(crate) model: LanguageModel,
    pub(crate) taps: Taps,
    /// The second model of crosscoders; its hookpoints have [`SECOND`] before their names.
    pub(crate) second: Option<(LanguageModel, Taps)>,
    pub(crate) batches: Batches,
}

/// A forward pass: one over a part of a batch, and of this rank's share of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassIdx {
    batch_idx: usize,
    pass_idx: usize,
}

impl PassIdx {
    /// From which fresh SAEs take their biases.
    pub(super) const FIRST: Self = Self {
        batch_idx: 0,
        pass_idx: 0,
    };
}

/// What a forward pass gives.
#[derive(Debug)]
pub(super) struct Forward {
    token_ids: Vec<i64>,
    activations: Activations,
}

impl Forward {
    pub(super) fn views(&self) -> Views<'_> {
        Views::new(&self.activations, &self.token_ids)
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let both = self.activations.iter().chain(self.activations.inputs());
        both.map(|(_, tensor)| tensor)
    }
}

impl ActivationStream {
    /// Optimizer updates in the data; what is left of a last, incomplete one is not trained on.
    ///
    /// # Errors
    /// There is not one.
    pub(super) fn n_steps(&self) -> Result<u64, TrainError> {
        match self.batches.n_batches() / self.key.grad_acc_steps {
            0 => {
                let message = format!(
                    "one step takes {} batches of {} sequences, but the data has {}",
                    self.key.grad_acc_steps,
                    self.batches.batch_size(),
                    self.batches.n_batches()
                );
                let hint = "lower `batch_size`, `grad_acc_steps` or `ctx_len`, raise `max_examples` or \
                            `epochs`, or add text";
                Err(Fault::input(message).with_hint(hint).into())
            }
            n_steps => Ok(n_steps as u64),
        }
    }

    /// Sequences of an update, on all ranks.
    pub(super) fn sequences_per_step(&self) -> usize {
        self.batches.batch_size() * self.key.grad_acc_steps
    }

    pub(super) fn tokens_per_step(&self) -> u64 {
        (self.sequences_per_step() * self.key.ctx_len) as u64
    }

    /// The forward passes of the update after `step` others, as on the rank that makes the most.
    pub(super) fn passes_of(&self, step: u64) -> Vec<PassIdx> {
        self.n_passes_of(step, self.batches.most_passes())
    }

    /// The forward passes that this rank makes.
    pub(super) fn passes_here(&self, step: u64) -> Vec<PassIdx> {
        self.n_passes_of(step, self.batches.n_passes())
    }

    pub(super) fn passes_over_first_batch(&self) -> impl Iterator<Item = PassIdx> {
        let passes = self.passes_of(0).into_iter();
        passes.take(self.batches.most_passes())
    }

    /// With `n_passes` over each batch.
    fn n_passes_of(&self, step: u64, n_passes: usize) -> Vec<PassIdx> {
        let first = step as usize * self.key.grad_acc_steps;
        let batches = first..first + self.key.grad_acc_steps;
        let of_batch = |batch_idx| {
            (0..n_passes).map(move |pass_idx| PassIdx {
                batch_idx,
                pass_idx,
            })
        };
        batches.flat_map(of_batch).collect()
    }

    /// The forward pass after `pass`, if there is one within `n_steps` updates.
    pub(super) fn pass_after(&self, pass: PassIdx, n_steps: u64) -> Option<PassIdx> {
        let within = PassIdx {
            pass_idx: pass.pass_idx + 1,
            ..pass
        };
        if within.pass_idx < self.batches.n_passes() {
            return Some(within);
        }
        let batch_idx = pass.batch_idx + 1;
        let is_there = batch_idx < n_steps as usize * self.key.grad_acc_steps;
        is_there.then_some(PassIdx {
            batch_idx,
            pass_idx: 0,
        })
    }

    /// Whether a rank takes its part of a batch in several passes.
    pub(super) fn has_several_passes(&self) -> bool {
        self.batches.most_passes() > 1
    }

    /// Whether fresh SAEs take their biases from this pass alone.
    pub(super) fn centres_on(&self, pass: PassIdx) -> bool {
        pass == PassIdx::FIRST && !self.has_several_passes()
    }

    /// A forward pass; `None`: this rank's part of the batch is used up.
    pub(super) fn forward(&self, pass: PassIdx) -> Result<Option<Forward>, TrainError> {
        if pass.pass_idx >= self.batches.n_passes() {
            return Ok(None);
        }
        let (token_ids, input_ids) = self.tokens(pass)?;
        let mut activations = self.model.forward(&input_ids, &self.taps)?;
        if let Some((model, taps)) = &self.second {
            activations = activations.joined(model.forward(&input_ids, taps)?, SECOND);
        }
        Ok(Some(Forward {
            token_ids,
            activations,
        }))
    }

    /// The model whose weights are not all finite, if it is the second, or else the first.
    pub(super) fn model_at_fault(&self) -> Result<&LanguageModel, TrainError> {
        let second = self.second.as_ref().map(|(second, _)| second);
        Ok(lm::at_fault(&self.model, second)?)
    }

    /// The token ids of a pass.
    pub(super) fn token_ids(&self, pass: PassIdx) -> Vec<i64> {
        self.batches.pass(pass.batch_idx, pass.pass_idx)
    }

    /// The token ids of a pass, as numbers and as `[n_sequences, ctx_len]` on the CPU.
    pub(super) fn tokens(&self, pass: PassIdx) -> Result<(Vec<i64>, Tensor), TrainError> {
        let token_ids = self.token_ids(pass);
        let input_ids = Tensor::f_from_slice(&token_ids)?.f_view([-1, self.key.ctx_len as i64])?;
        Ok((token_ids, input_ids))
    }

    /// Whether the model without SAEs gives finite logits for tokens of the update after `step` others.
    pub(super) fn model_is_finite_at(&self, step: u64) -> Result<bool, TrainError> {
        let passes = self.passes_here(step);
        let Some(&pass) = passes.first() else {
            return Ok(true);
        };
        let (_, input_ids) = self.tokens(pass)?;
        let logits = self.model.logits(&input_ids)?;
        Ok(bool::try_from(logits.f_isfinite()?.f_all()?)?)
    }
}
