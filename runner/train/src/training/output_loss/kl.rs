//! Divergence of the predictions with SAEs from the model's own.

use super::TokenBatch;
use crate::TrainError;
use crate::activations::views::included;
use lm::rows;
use tch::{Kind, Tensor};

/// `sum p (log p - log q)` over the tokens that count, with `p` of `clean` and `q` of `spliced`
/// logits: scalar, Float. 0 if both are the same.
pub(super) fn kl_divergence(
    clean: &Tensor,
    spliced: &Tensor,
    batch: &TokenBatch<'_>,
) -> Result<Tensor, TrainError> {
    let included = included(batch.token_ids, batch.exclude_tokens, clean.device())?;
    let log_probs = |logits: &Tensor| {
        let logits = rows(logits)?;
        let logits = match &included {
            Some(included) => logits.f_index_select(0, included)?,
            None => logits,
        };
        Ok::<_, TrainError>(logits.f_log_softmax(-1, Kind::Float)?)
    };
    let (clean, spliced) = (log_probs(clean)?.f_detach()?, log_probs(spliced)?);
    let divergence = clean.f_exp()?.f_mul(&clean.f_sub(&spliced)?)?;
    Ok(divergence.f_sum(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn it_is_zero_for_equal_predictions_and_blind_to_tokens_that_do_not_count() {
        let token_ids = [3i64, 7, 3, 5];
        let clean = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 2, 6]);
        let changed = clean.copy();
        for sequence_idx in 0..2 {
            let _ = changed.get(sequence_idx).get(0).get(2).fill_(40.0);
        }
        let divergence = |spliced: &Tensor, exclude_tokens: &[u32]| {
            let batch = TokenBatch {
                input_ids: &clean,
                token_ids: &token_ids,
                exclude_tokens,
            };
            let sum = kl_divergence(&clean, spliced, &batch);
            sum.unwrap().double_value(&[])
        };
        assert!(divergence(&clean, &[]).abs() < 1e-6);
        assert!(divergence(&changed, &[]) > 0.1);
        assert!(divergence(&changed, &[3]).abs() < 1e-6);
    }
}
