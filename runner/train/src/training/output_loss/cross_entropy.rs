//! Cross-entropy of the next token.

use crate::TrainError;
use lm::send;
use tch::{Kind, Tensor};

/// Sum of the next tokens' cross-entropies: scalar, Float. `input_ids`: on the CPU.
pub(super) fn cross_entropy(logits: &Tensor, input_ids: &Tensor) -> Result<Tensor, TrainError> {
    let ctx_len = input_ids.size()[1];
    let vocab_size = logits.size()[2];
    let predicted = logits.f_narrow(1, 0, ctx_len - 1)?;
    let predicted = predicted.f_reshape([-1, vocab_size])?;
    let next = input_ids.f_narrow(1, 1, ctx_len - 1)?.f_reshape([-1])?;
    let next = send(&next, logits.device())?;
    let log_probs = predicted.f_log_softmax(-1, Kind::Float)?;
    let of_next = log_probs.f_gather(1, &next.f_unsqueeze(1)?, false)?;
    Ok(of_next.f_sum(Kind::Float)?.f_neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary_at_every_next_token() {
        let logits = Tensor::ones([2, 5, 8], (Kind::Float, tch::Device::Cpu));
        let input_ids = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7, 0, 1]).view([2, 5]);
        let sum = cross_entropy(&logits, &input_ids)
            .unwrap()
            .double_value(&[]);
        assert!((sum - 8.0 * 8f64.ln()).abs() < 1e-5, "{sum}");
    }
}
