//! Whose fault it is when numbers are not finite: the language model's, an SAE's, or that of the training.

use crate::TrainError;
use fault::{Fault, Remedy};
use lm::LanguageModel;
use sae::Sae;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::Kind;

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
            reason: format!("{what} is NaN or infinite; the last checkpoint is kept"),
            hint: "lower `lr`".into(),
        }
    }

    /// The language model: `what` it computes is not finite.
    pub(crate) fn of_model(model: &LanguageModel, what: String) -> Result<Self, TrainError> {
        let error = of_model(model, &what)?;
        Ok(Self {
            hint: error.hint().unwrap_or_default(),
            reason: error.to_string(),
        })
    }

    /// The activations of a hookpoint, where nothing tells why.
    pub(crate) fn of_activations(hookpoint: &str) -> Self {
        Self {
            reason: format!("{} are NaN or infinite", activations_of(hookpoint)),
            hint: "is the model whole, and is `dtype` wide enough for it?".into(),
        }
    }

    /// No update had a token to train on.
    pub(crate) fn nothing_trained(exclude_tokens: &[u32]) -> Self {
        let (reason, hint) = match exclude_tokens {
            [] => ("no update had anything to train on", "add text"),
            _ => (
                "all tokens of the data are in `exclude_tokens`: nothing was trained",
                "take some of them off `exclude_tokens`",
            ),
        };
        Self {
            reason: reason.into(),
            hint: hint.into(),
        }
    }
}

/// What a message calls the outputs of a hookpoint.
pub(crate) fn activations_of(hookpoint: &str) -> String {
    format!("the activations of `{hookpoint}`")
}

/// The error for something that the model computes and that is not finite; names the weight at fault, where
/// one is.
///
/// # Errors
/// The model's files can no longer be read.
pub(crate) fn of_model(model: &LanguageModel, what: &str) -> Result<Fault, TrainError> {
    let dtype = match model.kind() {
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    };
    let weight = model.first_weight_not_finite()?;
    let of_weight = weight.as_deref().map_or(String::new(), |weight| {
        format!(": `{weight}` of the model has such numbers")
    });
    let fault = Fault::input(format!("{what} are NaN or infinite in {dtype}{of_weight}"));
    Ok(fault.with_hint(match (weight.is_some(), dtype) {
        (true, "float16") => {
            "the model's file is damaged, or the weight is too large for float16: download the model again, or set \
             `dtype` to `bfloat16` or `float32`"
        }
        (true, _) => "the model's file is damaged, or was saved so: download it again",
        (false, "float16") => "float16 ends at 65504: set `dtype` to `bfloat16` or `float32`",
        (false, _) => {
            "the model computes such numbers on this text: an earlier hookpoint may have none"
        }
    }))
}

/// The error for `what` an SAE computes of finite numbers and that is not finite.
pub(crate) fn of_sae(sae: &Sae, dir: &Path, what: &str) -> TrainError {
    let of_result = || {
        let message = format!(
            "{what} of the SAE in `{}` are NaN or infinite",
            dir.display()
        );
        let hint = "its weights are finite, but far too large for these activations";
        Fault::input(message).with_hint(hint).into()
    };
    check_weights(sae, dir).err().unwrap_or_else(of_result)
}

/// Checks that all weights of the SAE in `dir` are finite.
///
/// # Errors
/// The first that is not, by its name.
pub(crate) fn check_weights(sae: &Sae, dir: &Path) -> Result<(), TrainError> {
    for (name, weight) in sae.named_weights() {
        let is_finite = bool::try_from(weight.f_isfinite()?.f_all()?)?;
        if !is_finite {
            let dir = dir.display();
            let message = format!("`{name}` of the SAE in `{dir}` has values that are not finite");
            let hint = "training diverged: leave it out, or train it anew with a lower `lr`";
            return Err(Fault::input(message).with_hint(hint).into());
        }
    }
    Ok(())
}
