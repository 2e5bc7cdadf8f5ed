//! How long a data set is, as far as that is known before it is tokenised.

/// What is known of the length of a data set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) n_sequences: u64,
    /// Whether they were counted.
    pub(crate) is_exact: bool,
    /// Whether the text is still to be tokenised, and how many tokens a core makes of it in a second.
    pub(crate) tokenising: Option<Option<f64>>,
}

impl Length {
    /// Of tokens that are made, or of ids that were counted.
    pub(crate) fn made(n_sequences: u64) -> Self {
        Self {
            n_sequences,
            is_exact: true,
            tokenising: None,
        }
    }

    /// Of a text that is still to be tokenised.
    pub(crate) fn sampled(n_sequences: u64, tokens_per_s: Option<f64>) -> Self {
        Self {
            n_sequences,
            is_exact: false,
            tokenising: Some(tokens_per_s),
        }
    }
}
