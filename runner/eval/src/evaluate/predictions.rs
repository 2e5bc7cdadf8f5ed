//! What the language model predicts, measured: cross-entropy and divergence. Sequence by sequence,
//! so that besides the logits only one more sequence's worth of them exists at a time.

use super::batch::{Batch, Kept};
use super::replacement::select;
use crate::EvalError;
use tch::{Kind, Tensor};

/// The clean model's log-probabilities of the next token, for a batch.
#[derive(Debug)]
pub(super) struct Predictions {
    /// Of each sequence: `[ctx_len - 1, vocab_size]`, Float.
    log_probs: Vec<Tensor>,
}

impl Predictions {
    /// Those of `logits`: `[n_sequences, ctx_len, vocab_size]`.
    pub(super) fn new(logits: &Tensor) -> Result<Self, EvalError> {
        let n_sequences = logits.size()[0] as usize;
        let log_probs = (0..n_sequences).map(|sequence_idx| log_probs(logits, sequence_idx, None));
        Ok(Self {
            log_probs: log_probs.collect::<Result<_, _>>()?,
        })
    }

    /// Their cross-entropy over the positions that count: scalar, Double.
    pub(super) fn cross_entropy(&self, batch: &Batch, kept: &Kept) -> Result<Tensor, EvalError> {
        let of_sequence = |(sequence_idx, log_probs): (usize, &Tensor)| {
            let positions = kept.predicting[sequence_idx].as_ref();
            let following = select(&batch.following(sequence_idx)?, positions)?;
            cross_entropy(&select(log_probs, positions)?, &following)
        };
        sum(self.log_probs.iter().enumerate().map(of_sequence))
    }

    /// The divergence KL(these || those of `logits`) over the positions that count, and the
    /// cross-entropy of the latter: scalars, Double.
    pub(super) fn divergence(
        &self,
        logits: &Tensor,
        batch: &Batch,
        kept: &Kept,
    ) -> Result<[Tensor; 2], EvalError> {
        let (mut divergences, mut entropies) = (Vec::new(), Vec::new());
        for (sequence_idx, clean) in self.log_probs.iter().enumerate() {
            let positions = kept.predicting[sequence_idx].as_ref();
            let other = log_probs(logits, sequence_idx, positions)?;
            let clean = select(clean, positions)?;
            let terms = clean.f_exp()?.f_mul(&clean.f_sub(&other)?)?;
            divergences.push(terms.f_sum(Kind::Double));
            let following = select(&batch.following(sequence_idx)?, positions)?;
            entropies.push(cross_entropy(&other, &following));
        }
        let divergences = divergences.into_iter().map(|term| Ok(term?));
        Ok([sum(divergences)?, sum(entropies.into_iter())?])
    }
}

/// The cross-entropy of `logits`, `[n_sequences, ctx_len, vocab_size]`, over the positions that count:
/// scalar, Double.
pub(super) fn cross_entropy_of(
    logits: &Tensor,
    batch: &Batch,
    kept: &Kept,
) -> Result<Tensor, EvalError> {
    let of_sequence = |(sequence_idx, positions): (usize, &Option<Tensor>)| {
        let positions = positions.as_ref();
        let following = select(&batch.following(sequence_idx)?, positions)?;
        cross_entropy(&log_probs(logits, sequence_idx, positions)?, &following)
    };
    sum(kept.predicting.iter().enumerate().map(of_sequence))
}

/// Log-probabilities of the next token at `positions` of a sequence: `[n_positions, vocab_size]`,
/// Float.
fn log_probs(
    logits: &Tensor,
    sequence_idx: usize,
    positions: Option<&Tensor>,
) -> Result<Tensor, EvalError> {
    let logits = logits.f_select(0, sequence_idx as i64)?;
    let logits = logits.f_narrow(0, 0, logits.size()[0] - 1)?;
    Ok(select(&logits, positions)?.f_log_softmax(-1, Kind::Float)?)
}

/// `- sum log p(following)`: scalar, Double.
fn cross_entropy(log_probs: &Tensor, following: &Tensor) -> Result<Tensor, EvalError> {
    let picked = log_probs.f_gather(1, &following.f_unsqueeze(1)?, false)?;
    Ok(picked.f_sum(Kind::Double)?.f_neg()?)
}

fn sum(mut terms: impl Iterator<Item = Result<Tensor, EvalError>>) -> Result<Tensor, EvalError> {
    let first = terms.next().expect("a batch has a sequence")?;
    terms.try_fold(first, |sum, term| Ok(sum.f_add(&term?)?))
}
