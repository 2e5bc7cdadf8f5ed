//! Losses on the model's output: one small file each, and one enum of them all.

mod cross_entropy;
mod kl;

use crate::TrainError;
use plan::LossFn;
use tch::Tensor;

/// A batch of token ids.
pub(crate) struct TokenBatch<'a> {
    /// `[batch_size, ctx_len]`, on the model's device.
    pub(crate) input_ids: &'a Tensor,
    /// The same, row after row.
    pub(crate) token_ids: &'a [i64],
    pub(crate) exclude_tokens: &'a [u32],
}

/// A loss on the model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputLoss {
    /// Cross-entropy of the next token.
    CrossEntropy,
    /// Divergence of the predictions from the model's own.
    Kl,
}

impl OutputLoss {
    /// `None`: `loss_fn` is not on the model's output.
    pub(crate) fn of(loss_fn: LossFn) -> Option<Self> {
        match loss_fn {
            LossFn::Fvu | LossFn::Mse => None,
            LossFn::Ce => Some(Self::CrossEntropy),
            LossFn::Kl => Some(Self::Kl),
        }
    }

    /// Whether it compares with what the model says without SAEs.
    pub(crate) fn needs_clean_logits(self) -> bool {
        self == Self::Kl
    }

    /// How many positions of a batch the loss is a mean over.
    pub(crate) fn n_positions(
        self,
        token_ids: &[i64],
        ctx_len: usize,
        exclude_tokens: &[u32],
    ) -> u64 {
        let n_positions = match self {
            // The last token of a sequence has no next one.
            Self::CrossEntropy => token_ids.len() - token_ids.len() / ctx_len,
            Self::Kl => {
                let counts = tokens::included(token_ids, exclude_tokens);
                counts.into_iter().filter(|counts| *counts).count()
            }
        };
        n_positions as u64
    }

    /// The loss of a batch as a sum over positions, in nats: scalar, Float. `logits`:
    /// `[batch_size, ctx_len, vocab_size]`, and so the `clean` ones if it needs them.
    pub(crate) fn sum(
        self,
        logits: &Tensor,
        clean: Option<&Tensor>,
        batch: &TokenBatch<'_>,
    ) -> Result<Tensor, TrainError> {
        match self {
            Self::CrossEntropy => cross_entropy::cross_entropy(logits, batch.input_ids),
            Self::Kl => {
                let clean = clean.expect("it was said that they are needed");
                kl::kl_divergence(clean, logits, batch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_as_each_loss_takes_them() {
        let token_ids: Vec<i64> = (0..32).map(|idx| (idx * 37 + 11) % 90).collect();
        let count = |loss: OutputLoss, excluded| loss.n_positions(&token_ids, 16, excluded);
        assert_eq!(count(OutputLoss::CrossEntropy, &[11, 48]), 30);
        assert_eq!(count(OutputLoss::Kl, &[]), 32);
        assert_eq!(count(OutputLoss::Kl, &[11, 48]), 30);
    }
}
