//! Whose fault it is when numbers of a model are not finite.

use crate::{LanguageModel, LmError};
use fault::Fault;
use tch::Kind;

/// What a message calls the outputs of a hookpoint.
pub fn activations_of(hookpoint: &str) -> String {
    format!("the activations of `{hookpoint}`")
}

/// Of two models, the second if not all its weights are finite, or else the first.
///
/// # Errors
/// The files of the second can no longer be read.
pub fn at_fault<'a>(
    first: &'a LanguageModel,
    second: Option<&'a LanguageModel>,
) -> Result<&'a LanguageModel, LmError> {
    match second {
        Some(second) if second.first_weight_not_finite()?.is_some() => Ok(second),
        _ => Ok(first),
    }
}

impl LanguageModel {
    /// The error for something that the model computes and that is not finite; names the weight at fault, if
    /// one is.
    ///
    /// # Errors
    /// The model's files can no longer be read.
    pub fn not_finite(&self, what: &str) -> Result<Fault, LmError> {
        let dtype = match self.kind() {
            Kind::Half => "float16",
            Kind::BFloat16 => "bfloat16",
            _ => "float32",
        };
        let weight = self.first_weight_not_finite()?;
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
}
