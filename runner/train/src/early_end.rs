//! Why a job is trained no further: numbers that are not finite, and whose fault they are.

use crate::TrainError;
use fault::Remedy;
use lm::{LanguageModel, activations_of};
use serde::{Deserialize, Serialize};

/// Why a job is trained no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EarlyEnd {
    pub(crate) reason: String,
    pub(crate) hint: String,
}

impl EarlyEnd {
    /// The training itself: `what` is not finite.
    pub(crate) fn of_training(what: &str) -> Self {
        Self {
            reason: format!("{what} is NaN or infinite"),
            hint: "lower `lr`".into(),
        }
    }

    /// The language model: `what` it computes is not finite.
    pub(crate) fn of_model(model: &LanguageModel, what: String) -> Result<Self, TrainError> {
        let error = model.not_finite(&what)?;
        Ok(Self {
            hint: error.hint().unwrap_or_default(),
            reason: error.to_string(),
        })
    }

    /// The activations of a hookpoint, if nothing tells why.
    pub(crate) fn of_activations(hookpoint: &str) -> Self {
        Self {
            reason: format!("{} are NaN or infinite", activations_of(hookpoint)),
            hint: "are the model's files complete, and is `dtype` wide enough for it?".into(),
        }
    }

    /// No update had a token to train on.
    pub(crate) fn nothing_trained(exclude_tokens: &[u32]) -> Self {
        let (reason, hint) = match exclude_tokens {
            [] => ("no step had anything to train on", "add text"),
            _ => (
                "all tokens of the data are in `exclude_tokens`: nothing was trained",
                "remove some of them from `exclude_tokens`",
            ),
        };
        Self {
            reason: reason.into(),
            hint: hint.into(),
        }
    }
}
