//! Rotary position embeddings (Su et al. 2021), in the half-split form of Hugging Face.

use crate::LmError;
use crate::config::{ConfigFile, MAX_COUNT};
use crate::yarn::Yarn;
use tch::{Device, Kind, TchError, Tensor};

/// Settings of a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    /// Base of the frequencies.
    pub(crate) rope_theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub(crate) scaling: RopeScaling,
    /// `partial_rotary_factor`, where it is given with the others.
    pub(crate) partial_factor: Option<f64>,
}

/// How the frequencies of a rotary embedding are stretched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// A greater base for sequences longer than the model's positions.
    Dynamic {
        /// How many times as long a sequence may be.
        factor: f64,
        /// The model's positions, in tokens.
        max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023).
    Yarn(Yarn),
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above the original context divided by this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below the original context divided by this are high frequencies.
        high_freq_factor: f64,
        /// The context of the first training, in tokens.
        original_max_position_embeddings: f64,
    },
}

const DEFAULT_THETA: f64 = 10_000.0;
const ROPE_TYPES: [&str; 5] = ["default", "dynamic", "linear", "llama3", "yarn"];

/// The kinds of block of which some families keep an object each.
pub(crate) const BLOCK_KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The keys under which such objects stand.
pub(crate) const ROPE_OBJECTS: &[&str] = &["rope_parameters", "rope_scaling"];

/// The keys of an object of rope parameters that are read for one rope type or another.
pub(crate) const ROPE_KEYS: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
];

/// What an object of rope parameters does not say itself.
#[derive(Clone, Copy)]
pub(crate) struct RopeDefaults<'a> {
    /// The base.
    pub(crate) theta: f64,
    /// The model's positions, in tokens.
    pub(crate) max_ctx_len: usize,
    /// The whole file, in which `original_max_position_embeddings` may stand.
    pub(crate) file: &'a ConfigFile,
}

impl RopeConfig {
    /// Reads `rope_parameters`, where transformers 5 keeps everything, or the older `rope_scaling`.
    /// `theta_keys` are keys beside them for the base, of which the first counts; the others must agree
    /// with it. `max_ctx_len`: the model's positions, in tokens.
    ///
    /// Of `rope_parameters` and `rope_scaling` transformers takes the latter alone, with its base too;
    /// here the two must come to the same.
    ///
    /// # Errors
    /// A rope type that is not supported, a missing key, or two places that contradict each other.
    pub(crate) fn read(
        file: &ConfigFile,
        theta_keys: &[&str],
        max_ctx_len: usize,
    ) -> Result<Self, LmError> {
        let outer_theta = file.positive(theta_keys[0])?;
        let defaults = RopeDefaults {
            theta: outer_theta.unwrap_or(DEFAULT_THETA),
            max_ctx_len,
            file,
        };
        let (newer, older) = (ROPE_OBJECTS[0], ROPE_OBJECTS[1]);
        let of = |key: &str| {
            let parameters = file.object(key)?.filter(|object| object.keys().count() > 0);
            let read = |parameters| Self::of_parameters(Some(&parameters), defaults);
            parameters.map(read).transpose()
        };
        let (rope, key) = match (of(newer)?, of(older)?) {
            (Some(of_newer), Some(of_older)) if of_newer != of_older => {
                let problem = format!("contradicts `{newer}`: keep one of the two");
                return Err(file.bad(older, problem));
            }
            (None, Some(of_older)) => (of_older, older),
            (Some(of_newer), _) => (of_newer, newer),
            (None, None) => (Self::of_parameters(None, defaults)?, newer),
        };
        for theta_key in theta_keys {
            let outer = file.positive(theta_key)?;
            if let Some(outer) = outer.filter(|outer| *outer != rope.rope_theta) {
                let inner = rope.rope_theta;
                let problem = format!("is {outer}, but `{key}` has the base {inner}");
                return Err(file.bad(theta_key, problem));
            }
        }
        Ok(rope)
    }

    /// Reads one object of rope parameters; without it there is no scaling.
    ///
    /// # Errors
    /// A rope type that is not supported, or a missing key.
    pub(crate) fn of_parameters(
        parameters: Option<&ConfigFile>,
        defaults: RopeDefaults,
    ) -> Result<Self, LmError> {
        let Some(parameters) = parameters else {
            return Ok(Self {
                rope_theta: defaults.theta,
                scaling: RopeScaling::Default,
                partial_factor: None,
            });
        };
        for kind in BLOCK_KINDS {
            if parameters.value(kind).is_some() {
                let problem = "is there, but this family has one rotary embedding for all blocks";
                return Err(parameters.bad(kind, problem.into()));
            }
        }
        let theta = parameters.positive("rope_theta")?;
        Ok(Self {
            rope_theta: theta.unwrap_or(defaults.theta),
            scaling: RopeScaling::read(parameters, defaults)?,
            partial_factor: parameters.positive("partial_rotary_factor")?,
        })
    }

    /// Refuses stretched frequencies for a part of each head: transformers fails on them in families
    /// that rotate whole heads, and where nothing is stretched it rotates whole heads all the same.
    ///
    /// # Errors
    /// Such a part.
    pub(crate) fn refuse_partial(&self, file: &ConfigFile) -> Result<(), LmError> {
        let key = "partial_rotary_factor";
        let factor = self.partial_factor.or(file.positive(key)?);
        match factor.filter(|factor| *factor != 1.0) {
            Some(factor) if self.scaling != RopeScaling::Default => {
                let problem = format!("is {factor}, but this family rotates whole heads");
                Err(file.bad(key, problem))
            }
            _ => Ok(()),
        }
    }

    /// The longest context, in tokens, of a model with `max_ctx_len` positions.
    pub(crate) fn max_ctx_len(&self, max_ctx_len: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { factor, .. } if factor > 1.0 => {
                let stretched = (max_ctx_len as f64 * factor) as u64;
                stretched.min(MAX_COUNT) as usize
            }
            _ => max_ctx_len,
        }
    }

    /// The angle per position of each pair of channels, for sequences of `ctx_len` tokens:
    /// `[rotary_dim / 2]`, Float.
    ///
    /// libtorch's float32 arithmetic in the order of transformers: a frequency off by one unit in
    /// the last place would be off by thousands of them in the angle of a late position.
    fn inv_freq(&self, rotary_dim: i64, ctx_len: i64) -> Result<Tensor, TchError> {
        let channels = Tensor::f_arange_start_step(0, rotary_dim, 2, (Kind::Float, Device::Cpu))?;
        let exponents = channels.f_div_scalar(rotary_dim)?;
        let pos_freqs = Tensor::f_pow_scalar(self.rope_theta, &exponents)?;
        match &self.scaling {
            RopeScaling::Default => pos_freqs.f_reciprocal(),
            RopeScaling::Linear { factor } => pos_freqs.f_reciprocal()?.f_div_scalar(*factor),
            RopeScaling::Dynamic { .. } => {
                let base = self.dynamic_base(rotary_dim, ctx_len)?;
                base.f_pow(&exponents)?.f_reciprocal()
            }
            RopeScaling::Yarn(yarn) => yarn.inv_freq(&pos_freqs, self.rope_theta),
            RopeScaling::Llama3 { .. } => self.scaling.llama3(&pos_freqs.f_reciprocal()?),
        }
    }

    /// `theta (factor ctx_len / positions - (factor - 1))^(dim / (dim - 2))`, which is theta up to the
    /// model's positions: transformers 5's `_compute_dynamic_ntk_parameters`, for the first sequences
    /// that a model sees. (Later ones, if shorter, get there what the longest got.)
    fn dynamic_base(&self, rotary_dim: i64, ctx_len: i64) -> Result<Tensor, TchError> {
        let theta = Tensor::from(self.rope_theta as f32);
        let RopeScaling::Dynamic {
            factor,
            max_position_embeddings: positions,
        } = self.scaling
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
    fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            _ => 1.0,
        }
    }
}

/// `rope_type`, or `type` as older files call it.
fn rope_type(parameters: &ConfigFile) -> Result<&str, LmError> {
    match (parameters.string("rope_type")?, parameters.string("type")?) {
        (Some(newer), Some(older)) if newer != older => {
            let problem = format!("is `{older}`, but `rope_type` is `{newer}`");
            Err(parameters.bad("type", problem))
        }
        (newer, older) => Ok(newer.or(older).unwrap_or("default")),
    }
}

/// The context of the first training: beside the rope parameters, where transformers prefers it, or
/// among them; by default the model's positions.
fn original_ctx_len(parameters: &ConfigFile, defaults: RopeDefaults) -> Result<f64, LmError> {
    let key = "original_max_position_embeddings";
    match (defaults.file.positive(key)?, parameters.positive(key)?) {
        (Some(outer), Some(inner)) if outer != inner => {
            let problem = format!("is {outer}, but among the rope parameters it is {inner}");
            Err(defaults.file.bad(key, problem))
        }
        (outer, inner) => Ok(outer.or(inner).unwrap_or(defaults.max_ctx_len as f64)),
    }
}

impl RopeScaling {
    fn read(parameters: &ConfigFile, defaults: RopeDefaults) -> Result<Self, LmError> {
        let number = |key: &str| {
            parameters
                .positive(key)?
                .ok_or_else(|| parameters.missing(key))
        };
        match rope_type(parameters)? {
            "default" => Ok(Self::Default),
            "linear" => Ok(Self::Linear {
                factor: number("factor")?,
            }),
            "dynamic" => Ok(Self::Dynamic {
                factor: number("factor")?,
                max_position_embeddings: defaults.max_ctx_len as f64,
            }),
            "yarn" => Ok(Self::Yarn(Yarn::read(
                parameters,
                original_ctx_len(parameters, defaults)?,
                defaults.max_ctx_len,
            )?)),
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    let problem = format!("is {high}, not above `low_freq_factor` = {low}");
                    return Err(parameters.bad("high_freq_factor", problem));
                }
                Ok(Self::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original_ctx_len(parameters, defaults)?,
                })
            }
            other => Err(parameters.unsupported("rope_type", other, ROPE_TYPES)),
        }
    }

    /// Stretches frequencies as transformers 5's `_compute_llama3_parameters`.
    fn llama3(&self, inv_freq: &Tensor) -> Result<Tensor, TchError> {
        let Self::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } = *self
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
        let inv_freq = config
            .inv_freq(rotary_dim, 0)
            .and_then(|x| x.f_to_device(device));
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
                let inv_freq = self.config.inv_freq(self.rotary_dim, ctx_len)?;
                positions.f_outer(&inv_freq.f_to_device(device)?)?
            }
            _ => positions.f_outer(&self.inv_freq)?,
        };
        Rotations::by(&angles, self.config.attention_factor(), kind)
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
