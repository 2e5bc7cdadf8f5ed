//! YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>), as transformers 5's
//! `_compute_yarn_parameters` has it: high frequencies kept, low ones divided, a ramp between them.

use crate::LmError;
use crate::config::ConfigFile;
use std::f64::consts::TAU;
use tch::{Device, Kind, TchError, Tensor};

/// What a YaRN is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Yarn {
    /// The divisor of the low frequencies.
    factor: f64,
    /// Rotations within the original context above which a frequency is kept.
    beta_fast: f64,
    /// Rotations below which it is divided.
    beta_slow: f64,
    /// The context of the first training, in tokens.
    original_ctx_len: f64,
    /// Whether the ends of the ramp are rounded to whole channels.
    truncate: bool,
    /// Factor of cosines and sines.
    pub(crate) attention_factor: f64,
}

impl Yarn {
    /// `max_ctx_len`: the model's positions, in tokens. A `factor` of null is by how much they are more
    /// than the original context.
    pub(crate) fn read(
        parameters: &ConfigFile,
        original_ctx_len: f64,
        max_ctx_len: usize,
    ) -> Result<Self, LmError> {
        if !parameters.has("factor") {
            return Err(parameters.missing("factor"));
        }
        let factor = parameters.positive("factor")?;
        let factor = factor.unwrap_or(max_ctx_len as f64 / original_ctx_len);
        // As in Python, 0 counts as absent.
        let number = |key: &str| -> Result<Option<f64>, LmError> {
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

    /// The angle per position of each pair of channels. `pos_freqs`: `theta^(2 i / dim)` for each.
    pub(crate) fn inv_freq(&self, pos_freqs: &Tensor, theta: f64) -> Result<Tensor, TchError> {
        let n_pairs = pos_freqs.size1()?;
        let (low, mut high) = self.ramp(2.0 * n_pairs as f64, theta);
        if low == high {
            high += 0.001;
        }
        let pairs = Tensor::f_arange(n_pairs, (Kind::Float, Device::Cpu))?;
        let ramp = pairs.f_sub_scalar(low)?.f_div_scalar(high - low)?;
        let kept = one_less(&ramp.f_clamp(0.0, 1.0)?)?;
        let divided = pos_freqs.f_mul_scalar(self.factor)?.f_reciprocal()?;
        let divided = divided.f_mul(&one_less(&kept)?)?;
        divided.f_add(&pos_freqs.f_reciprocal()?.f_mul(&kept)?)
    }

    /// Between which pairs of channels, of `dim` channels, the frequencies change.
    fn ramp(&self, dim: f64, theta: f64) -> (f64, f64) {
        let pair_of = |n_rotations: f64| {
            dim * (self.original_ctx_len / (n_rotations * TAU)).ln() / (2.0 * theta.ln())
        };
        let (low, high) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        let (low, high) = match self.truncate {
            true => (low.floor(), high.ceil()),
            false => (low, high),
        };
        (low.max(0.0), high.min(dim - 1.0))
    }
}

/// The factor of cosines and sines that the paper advises for frequencies divided by `factor`.
fn magnitude(factor: f64, weight: f64) -> f64 {
    match factor <= 1.0 {
        true => 1.0,
        false => 0.1 * weight * factor.ln() + 1.0,
    }
}

/// `1 - x`
fn one_less(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_neg()?.f_add_scalar(1.0)
}
