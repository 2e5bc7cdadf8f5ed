//! The frequencies of YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>), as transformers 5's
//! `_compute_yarn_parameters` has them: high ones kept, low ones divided, a ramp between them.

use facts::Yarn;
use std::f64::consts::TAU;
use tch::{Device, Kind, TchError, Tensor};

/// The angle per position of each pair of channels. `pos_freqs`: `theta^(2 i / dim)` for each.
pub(crate) fn inv_freq(yarn: &Yarn, pos_freqs: &Tensor, theta: f64) -> Result<Tensor, TchError> {
    let n_pairs = pos_freqs.size1()?;
    let (low, mut high) = ramp(yarn, 2.0 * n_pairs as f64, theta);
    if low == high {
        high += 0.001;
    }
    let pairs = Tensor::f_arange(n_pairs, (Kind::Float, Device::Cpu))?;
    let ramp = pairs.f_sub_scalar(low)?.f_div_scalar(high - low)?;
    let kept = one_less(&ramp.f_clamp(0.0, 1.0)?)?;
    let divided = pos_freqs.f_mul_scalar(yarn.factor)?.f_reciprocal()?;
    let divided = divided.f_mul(&one_less(&kept)?)?;
    divided.f_add(&pos_freqs.f_reciprocal()?.f_mul(&kept)?)
}

/// Between which pairs of channels, of `dim` channels, the frequencies change.
fn ramp(yarn: &Yarn, dim: f64, theta: f64) -> (f64, f64) {
    let pair_of = |n_rotations: f64| {
        dim * (yarn.original_ctx_len / (n_rotations * TAU)).ln() / (2.0 * theta.ln())
    };
    let (low, high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
    let (low, high) = if yarn.truncate {
        (low.floor(), high.ceil())
    } else {
        (low, high)
    };
    (low.max(0.0), high.min(dim - 1.0))
}

/// `1 - x`
fn one_less(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_neg()?.f_add_scalar(1.0)
}
