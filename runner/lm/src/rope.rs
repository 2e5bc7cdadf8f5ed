//! Rotary position embeddings (Su et al. 2021), in the half-split form of Hugging Face.

use crate::LmError;
use crate::yarn;
use facts::{RopeConfig, RopeScaling};
use tch::{Device, Kind, TchError, Tensor};

/// The angle per position of each pair of channels, for sequences of `ctx_len` tokens:
/// `[rotary_dim / 2]`, Float.
///
/// libtorch's float32 arithmetic in the order of transformers: a frequency off by one unit in
/// the last digit would be off by thousands of them in the angle of a late position.
fn inv_freq(config: &RopeConfig, rotary_dim: i64, ctx_len: i64) -> Result<Tensor, TchError> {
    let channels = Tensor::f_arange_start_step(0, rotary_dim, 2, (Kind::Float, Device::Cpu))?;
    let exponents = channels.f_div_scalar(rotary_dim)?;
    let pos_freqs = Tensor::f_pow_scalar(config.rope_theta, &exponents)?;
    match &config.scaling {
        RopeScaling::Default => pos_freqs.f_reciprocal(),
        RopeScaling::Linear { factor } => pos_freqs.f_reciprocal()?.f_div_scalar(*factor),
        RopeScaling::Dynamic { .. } => {
            let base = dynamic_base(config, rotary_dim, ctx_len)?;
            base.f_pow(&exponents)?.f_reciprocal()
        }
        RopeScaling::Yarn(yarn) => yarn::inv_freq(yarn, &pos_freqs, config.rope_theta),
        RopeScaling::Llama3 { .. } => llama3(&config.scaling, &pos_freqs.f_reciprocal()?),
    }
}

/// `theta (factor ctx_len / positions - (factor - 1))^(dim / (dim - 2))`, which is theta up to the
/// model's positions: transformers 5's `_compute_dynamic_ntk_parameters`, for the first sequences
/// that a model sees. (Later ones, if shorter, get there what the longest got.)
fn dynamic_base(config: &RopeConfig, rotary_dim: i64, ctx_len: i64) -> Result<Tensor, TchError> {
    let theta = Tensor::from(config.rope_theta as f32);
    let RopeScaling::Dynamic {
        factor,
        max_position_embeddings: positions,
    } = config.scaling
    else {
        return Ok(theta);
    };
    if ctx_len as f64 <= positions {
        return Ok(theta);
    }
    let dim = rotary_dim as f64;
    let stretch = Tensor::from(ctx_len as f32)
        .f_mul_scalar(factor)?
        .f_div_scalar(positions)?
        .f_sub_scalar(factor - 1.0)?
        .f_pow_tensor_scalar(dim / (dim - 2.0))?;
    theta.f_mul(&stretch)
}

/// Factor of cosines and sines.
fn attention_factor(config: &RopeConfig) -> f64 {
    match &config.scaling {
        RopeScaling::Yarn(yarn) => yarn.attention_factor,
        _ => 1.0,
    }
}

/// Stretches frequencies as transformers 5's `_compute_llama3_parameters`.
fn llama3(scaling: &RopeScaling, inv_freq: &Tensor) -> Result<Tensor, TchError> {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original,
    } = *scaling
    else {
        return Ok(inv_freq.shallow_clone());
    };
    let wavelen = inv_freq
        .f_reciprocal()?
        .f_mul_scalar(2.0 * std::f64::consts::PI)?;
    let stretched = inv_freq.f_div_scalar(factor)?;
    let is_low = wavelen.f_gt(original / low)?;
    let is_high = wavelen.f_lt(original / high)?;
    // 1 at the border to the high frequencies, 0 at the border to the low ones.
    let smooth = wavelen
        .f_reciprocal()?
        .f_mul_scalar(original)?
        .f_sub_scalar(low)?
        .f_div_scalar(high - low)?;
    let rest = smooth.f_neg()?.f_add_scalar(1.0)?;
    let between = rest
        .f_mul(inv_freq)?
        .f_div_scalar(factor)?
        .f_add(&smooth.f_mul(inv_freq)?)?;
    stretched.f_where_self(&is_low, &inv_freq.f_where_self(&is_high, &between)?)
}

/// The rotary embedding of a model.
#[derive(Debug)]
pub(crate) struct RotaryEmbedding {
    config: RopeConfig,
    rotary_dim: i64,
    /// Of sequences no longer than the model's positions: `[rotary_dim / 2]`, Float, on its device.
    inv_freq: Tensor,
}

impl RotaryEmbedding {
    /// For the first `rotary_dim` channels of each head.
    pub(crate) fn new(
        config: &RopeConfig,
        rotary_dim: usize,
        device: Device,
    ) -> Result<Self, LmError> {
        let rotary_dim = rotary_dim as i64;
        let inv_freq = inv_freq(config, rotary_dim, 0).and_then(|x| x.f_to_device(device));
        let inv_freq = inv_freq
            .map_err(|source| LmError::torch("computing the rotary frequencies", source))?;
        Ok(Self {
            config: config.clone(),
            rotary_dim,
            inv_freq,
        })
    }

    /// The rotations of positions 0 to `ctx_len`, in `kind`.
    pub(crate) fn rotations(&self, ctx_len: i64, kind: Kind) -> Result<Rotations, TchError> {
        let device = self.inv_freq.device();
        let positions = Tensor::f_arange(ctx_len, (Kind::Float, device))?;
        let angles = match self.config.scaling {
            RopeScaling::Dynamic { .. } => {
                let inv_freq = inv_freq(&self.config, self.rotary_dim, ctx_len)?;
                positions.f_outer(&inv_freq.f_to_device(device)?)?
            }
            _ => positions.f_outer(&self.inv_freq)?,
        };
        Rotations::by(&angles, attention_factor(&self.config), kind)
    }
}

/// Cosine and sine for each position and channel: `[ctx_len, rotary_dim]` each.
pub(crate) struct Rotations {
    cos: Tensor,
    /// Negated in the first half of the channels.
    sin: Tensor,
}

impl Rotations {
    /// Rotations by `angles`, `[ctx_len, rotary_dim / 2]`, in `kind`, times `factor`.
    fn by(angles: &Tensor, factor: f64, kind: Kind) -> Result<Self, TchError> {
        let (mut cos, mut sin) = (angles.f_cos()?, angles.f_sin()?);
        if factor != 1.0 {
            cos = cos.f_mul_scalar(factor)?;
            sin = sin.f_mul_scalar(factor)?;
        }
        Ok(Self {
            cos: Tensor::f_cat(&[&cos, &cos], -1)?.f_to_kind(kind)?,
            sin: Tensor::f_cat(&[&sin.f_neg()?, &sin], -1)?.f_to_kind(kind)?,
        })
    }

    /// Rotates each pair of channels (i, i + rotary_dim / 2) of `x`: `[.., ctx_len, head_dim]`. Channels
    /// from `rotary_dim` on stay as they are.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (rotary_dim, head_dim) = (last_dim(&self.cos), last_dim(x));
        if rotary_dim == head_dim {
            return self.rotate(x);
        }
        let rotated = self.rotate(&x.f_narrow(-1, 0, rotary_dim)?)?;
        let kept = x.f_narrow(-1, rotary_dim, head_dim - rotary_dim)?;
        Tensor::f_cat(&[rotated, kept], -1)
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let halves = x.f_chunk(2, -1)?;
        let turned = Tensor::f_cat(&[&halves[1], &halves[0]], -1)?.f_mul_(&self.sin)?;
        x.f_mul(&self.cos)?.f_add_(&turned)
    }
}

fn last_dim(x: &Tensor) -> i64 {
    x.size().last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
