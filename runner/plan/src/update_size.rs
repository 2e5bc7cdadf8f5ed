//! How many tokens an optimizer update takes, whatever number of processes share it.

use crate::{PlanError, TrainConfig};

impl TrainConfig {
    /// Tokens that one process alone gives to an update.
    pub(crate) fn tokens_of_one_process(&self) -> u64 {
        (self.batch_size * self.grad_acc_steps * self.ctx_len) as u64
    }

    /// The batch of an update, in batches of `batch_size`: as many processes would make it, and any other number shares
    /// it.
    pub fn batches_per_pass(&self) -> usize {
        let tokens = self.tokens_per_update.unwrap_or(0);
        ((tokens / self.tokens_of_one_process()) as usize).max(1)
    }

    /// With the tokens of an update, for `n_ranks` processes if they are not given.
    ///
    /// # Errors
    /// A number that whole batches do not make.
    pub(crate) fn with_tokens_per_update(self, n_ranks: usize) -> Result<Self, PlanError> {
        let of_one = self.tokens_of_one_process();
        let tokens = self.tokens_per_update.unwrap_or(n_ranks as u64 * of_one);
        if tokens == 0 || !tokens.is_multiple_of(of_one) {
            let problem = format!(
                "must be a multiple of the {of_one} tokens of one process (`batch_size` * `grad_acc_steps` * \
                 `ctx_len`) such as {}, got {tokens}",
                (tokens / of_one).saturating_add(1).saturating_mul(of_one)
            );
            return Err(PlanError::setting("tokens_per_update", &problem));
        }
        Ok(Self {
            tokens_per_update: Some(tokens),
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tokens_per_update: Option<u64>) -> TrainConfig {
        TrainConfig {
            batch_size: 4,
            grad_acc_steps: 2,
            ctx_len: 16,
            tokens_per_update,
            ..Default::default()
        }
    }

    #[test]
    fn processes_make_an_update_where_nothing_else_is_asked_for() {
        for (given, n_ranks, tokens, batches) in [
            (None, 1, 128, 1),
            (None, 3, 384, 3),
            (Some(256), 1, 256, 2),
            (Some(256), 3, 256, 2),
        ] {
            let resolved = config(given).with_tokens_per_update(n_ranks).unwrap();
            assert_eq!(resolved.tokens_per_update, Some(tokens));
            assert_eq!(resolved.batches_per_pass(), batches);
        }
        assert_eq!(config(None).batches_per_pass(), 1, "of a version before");
    }

    #[test]
    fn an_update_is_made_of_whole_batches() {
        for tokens in [0, 1, 127, 129, u64::MAX] {
            let error = config(Some(tokens)).with_tokens_per_update(1).unwrap_err();
            assert!(error.to_string().contains("128 tokens"), "{error}");
        }
    }
}
