//! YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>), as transformers 5's
//! `_compute_yarn_parameters` has it: high frequencies kept, low ones divided, a ramp between them.

use crate::FactsError;
use crate::config::ConfigFile;

/// What a YaRN is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// The divisor of the low frequencies.
    pub factor: f64,
    /// Rotations within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which it is divided.
    pub beta_slow: f64,
    /// The context of the first training, in tokens.
    pub original_ctx_len: f64,
    /// Whether the ends of the ramp are rounded to whole channels.
    pub truncate: bool,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
}

impl Yarn {
    /// `max_ctx_len`: the model's positions, in tokens. A `factor` of null is by how much they are more
    /// than the original context.
    pub(crate) fn read(
        parameters: &ConfigFile,
        original_ctx_len: f64,
        max_ctx_len: usize,
    ) -> Result<Self, FactsError> {
        if !parameters.has("factor") {
            return Err(parameters.missing("factor"));
        }
        let factor = parameters.positive("factor")?;
        let factor = factor.unwrap_or(max_ctx_len as f64 / original_ctx_len);
        // As in Python, 0 counts as absent.
        let number = |key: &str| -> Result<Option<f64>, FactsError> {
            Ok(parameters.number(key)?.filter(|number| *number != 0.0))
        };
        let attention_factor = match parameters.number("attention_factor")? {
            Some(given) => given,
            None => match (number("mscale")?, number("mscale_all_dim")?) {
                (Some(above), Some(below)) => magnitude(factor, above) / magnitude(factor, below),
                _ => magnitude(factor, 1.0),
            },
        };
        Ok(Self {
            factor,
            beta_fast: number("beta_fast")?.unwrap_or(32.0),
            beta_slow: number("beta_slow")?.unwrap_or(1.0),
            original_ctx_len,
            truncate: parameters.bool("truncate", true)?,
            attention_factor,
        })
    }
}

/// The factor of cosines and sines that the paper advises for frequencies divided by `factor`.
fn magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * weight * factor.ln() + 1.0
    }
}
