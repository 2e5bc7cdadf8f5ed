//! Rotary position embeddings (Su et al. 2021), in the half-split form of Hugging Face.

use crate::LmError;
use crate::config::ConfigFile;
use tch::{Device, Kind, TchError, Tensor};

/// Settings of a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    /// Base of the frequencies.
    pub(crate) rope_theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub(crate) scaling: RopeScaling,
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
const ROPE_TYPES: [&str; 3] = ["default", "linear", "llama3"];

impl RopeConfig {
    /// Reads `rope_parameters`, where transformers 5 keeps everything, or the older `rope_scaling` and
    /// `theta_key`. `max_ctx_len`: the default of `original_max_position_embeddings`.
    ///
    /// # Errors
    /// A rope type that is not supported, a missing key, or two places that contradict each other.
    pub(crate) fn read(
        file: &ConfigFile,
        theta_key: &str,
        max_ctx_len: usize,
    ) -> Result<Self, LmError> {
        let parameters = file.object("rope_parameters")?;
        let older = file.object("rope_scaling")?;
        if let (Some(newer), Some(older)) = (&parameters, &older)
            && RopeScaling::read(newer, max_ctx_len)? != RopeScaling::read(older, max_ctx_len)?
        {
            return Err(file.bad("rope_scaling", "contradicts `rope_parameters`".into()));
        }
        let outer_theta = file.positive(theta_key)?;
        let rope = Self::of_parameters(
            parameters.or(older).as_ref(),
            outer_theta.unwrap_or(DEFAULT_THETA),
            max_ctx_len,
        )?;
        match outer_theta {
            Some(outer) if outer != rope.rope_theta => {
                let inner = rope.rope_theta;
                let problem = format!("is {outer}, but `rope_parameters` has {inner}");
                Err(file.bad(theta_key, problem))
            }
            _ => Ok(rope),
        }
    }

    /// Reads one object of rope parameters; without it there is no scaling. `theta`: the base where
    /// the object has none.
    ///
    /// # Errors
    /// A rope type that is not supported, or a missing key.
    pub(crate) fn of_parameters(
        parameters: Option<&ConfigFile>,
        theta: f64,
        max_ctx_len: usize,
    ) -> Result<Self, LmError> {
        let Some(parameters) = parameters else {
            return Ok(Self {
                rope_theta: theta,
                scaling: RopeScaling::Default,
            });
        };
        Ok(Self {
            rope_theta: parameters.positive("rope_theta")?.unwrap_or(theta),
            scaling: RopeScaling::read(parameters, max_ctx_len)?,
        })
    }

    /// The angle per position of each pair of channels: `[rotary_dim / 2]`, Float.
    ///
    /// libtorch's float32 arithmetic in the order of transformers: a frequency off by one unit in
    /// the last place would be off by thousands of them in the angle of a late position.
    fn inv_freq(&self, rotary_dim: i64) -> Result<Tensor, TchError> {
        let channels = Tensor::f_arange_start_step(0, rotary_dim, 2, (Kind::Float, Device::Cpu))?;
        let exponents = channels.f_div_scalar(rotary_dim)?;
        let inv_freq = Tensor::f_pow_scalar(self.rope_theta, &exponents)?.f_reciprocal()?;
        match &self.scaling {
            RopeScaling::Default => Ok(inv_freq),
            RopeScaling::Linear { factor } => inv_freq.f_div_scalar(*factor),
            RopeScaling::Llama3 { .. } => self.scaling.llama3(&inv_freq),
        }
    }
}

/// `rope_type`, or `type` as older files call it.
fn rope_type(parameters: &ConfigFile) -> Result<&str, LmError> {
    let newer = parameters.string("rope_type")?;
    Ok(newer.or(parameters.string("type")?).unwrap_or("default"))
}

impl RopeScaling {
    fn read(parameters: &ConfigFile, max_ctx_len: usize) -> Result<Self, LmError> {
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
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    let problem = format!("is {high}, not above `low_freq_factor` = {low}");
                    return Err(parameters.bad("high_freq_factor", problem));
                }
                let original = parameters.positive("original_max_position_embeddings")?;
                Ok(Self::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original.unwrap_or(max_ctx_len as f64),
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
    /// `[rotary_dim / 2]`, Float, on the model's device.
    inv_freq: Tensor,
}

impl RotaryEmbedding {
    /// For the first `rotary_dim` channels of each head.
    pub(crate) fn new(
        config: &RopeConfig,
        rotary_dim: usize,
        device: Device,
    ) -> Result<Self, LmError> {
        let inv_freq = config
            .inv_freq(rotary_dim as i64)
            .and_then(|x| x.f_to_device(device));
        let inv_freq = inv_freq
            .map_err(|source| LmError::torch("computing the rotary frequencies", source))?;
        Ok(Self { inv_freq })
    }

    /// The rotations of positions 0 to `ctx_len`, in `kind`.
    pub(crate) fn rotations(&self, ctx_len: i64, kind: Kind) -> Result<Rotations, TchError> {
        let positions = Tensor::f_arange(ctx_len, (Kind::Float, self.inv_freq.device()))?;
        Rotations::by(&positions.f_outer(&self.inv_freq)?, kind)
    }
}

/// Cosine and sine for each position and channel: `[ctx_len, rotary_dim]` each.
pub(crate) struct Rotations {
    cos: Tensor,
    /// Negated in the first half of the channels.
    sin: Tensor,
}

impl Rotations {
    /// Rotations by `angles`, `[ctx_len, rotary_dim / 2]`, in `kind`.
    fn by(angles: &Tensor, kind: Kind) -> Result<Self, TchError> {
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
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
mod tests {
    use super::*;
    use crate::decoder::DecoderConfig;
    use crate::testing::{TinyModel, assert_close};
    use serde_json::{Value, json};

    fn read_rope(changes: Value) -> Result<RopeConfig, LmError> {
        let model = TinyModel::with_config(changes);
        let config = DecoderConfig::llama(&ConfigFile::read(model.dir())?)?;
        Ok(config.ropes[0].clone())
    }

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64.0,
    };

    #[test]
    fn old_and_new_keys_mean_the_same() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
            "high_freq_factor": 4, "original_max_position_embeddings": 64});
        let mut with_theta = llama3.clone();
        with_theta["rope_theta"] = json!(5e5);
        let newer = json!({"rope_parameters": with_theta});
        let older = json!({"rope_parameters": null, "rope_theta": 5e5, "rope_scaling": llama3});
        for changes in [newer, older] {
            let rope = read_rope(changes).unwrap();
            assert_eq!((rope.rope_theta, rope.scaling), (5e5, LLAMA3));
        }
        let linear =
            json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 2}});
        assert_eq!(
            read_rope(linear).unwrap().scaling,
            RopeScaling::Linear { factor: 2.0 }
        );
    }

    #[test]
    fn neither_old_nor_new_keys() {
        let rope = read_rope(json!({"rope_parameters": null})).unwrap();
        assert_eq!(
            (rope.rope_theta, rope.scaling),
            (10_000.0, RopeScaling::Default)
        );
    }

    #[test]
    fn unsupported_missing_and_contradictory_keys() {
        let yarn = json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}});
        let error = read_rope(yarn).unwrap_err();
        assert!(matches!(&error, LmError::UnsupportedValue { got, .. } if got == "yarn"));
        assert_eq!(
            error.hint().unwrap(),
            "supported are: default, linear, llama3"
        );

        let error = read_rope(json!({"rope_parameters": {"rope_type": "linear"}})).unwrap_err();
        assert!(matches!(error, LmError::MissingKey { key, .. } if key == "factor"));

        let error = read_rope(json!({"rope_theta": 5.0})).unwrap_err();
        assert!(matches!(error, LmError::BadKey { key, .. } if key == "rope_theta"));

        let linear = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}});
        let error = read_rope(linear).unwrap_err();
        assert!(matches!(error, LmError::BadKey { key, .. } if key == "rope_scaling"));
    }

    /// Expected values: `ROPE_INIT_FUNCTIONS["llama3"]` of transformers 5.23.0.
    #[test]
    fn llama3_frequencies_agree_with_transformers() {
        let config = RopeConfig {
            rope_theta: 5e5,
            scaling: LLAMA3,
        };
        let expected = [
            1.0_f32,
            0.079_403_01,
            0.004_700_754,
            0.000_911_583_1,
            0.000_176_776_68,
            3.428_102_4e-5,
            6.647_869_7e-6,
            1.289_173_2e-6,
        ];
        let inv_freq = Vec::<f32>::try_from(config.inv_freq(16).unwrap()).unwrap();
        for (got, expected) in inv_freq.iter().zip(expected) {
            assert!(
                (got / expected - 1.0).abs() < 1e-6,
                "{got} is not {expected}"
            );
        }
        assert_eq!(inv_freq.len(), expected.len());
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let config = RopeConfig {
            rope_theta: 100.0,
            scaling: RopeScaling::Linear { factor: 4.0 },
        };
        let expected = Tensor::from_slice(&[0.25_f32, 0.025]);
        assert_close("frequencies", &config.inv_freq(4).unwrap(), &expected);
    }

    /// Of one position, for twice as many channels.
    fn quarter_turn(n_angles: i64) -> Rotations {
        let right = std::f64::consts::FRAC_PI_2;
        let angles = Tensor::full([1, n_angles], right, (Kind::Float, Device::Cpu));
        Rotations::by(&angles, Kind::Float).unwrap()
    }

    #[test]
    fn a_quarter_turn_moves_the_halves() {
        let rotations = quarter_turn(2);
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([1, 4]);
        let expected = Tensor::from_slice(&[-3.0_f32, -4.0, 1.0, 2.0]).view([1, 4]);
        assert_close("quarter turn", &rotations.apply(&x).unwrap(), &expected);
    }

    #[test]
    fn channels_behind_the_rotated_ones_stay() {
        let rotations = quarter_turn(1);
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([1, 4]);
        let expected = Tensor::from_slice(&[-2.0_f32, 1.0, 3.0, 4.0]).view([1, 4]);
        assert_close("a half", &rotations.apply(&x).unwrap(), &expected);
    }
}
