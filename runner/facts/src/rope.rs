//! What config.json says of rotary position embeddings.

use crate::FactsError;
use crate::config::{ConfigFile, MAX_COUNT};
use crate::yarn::Yarn;

/// Settings of a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub rope_theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
    /// `partial_rotary_factor`, if it is given with the others.
    pub partial_factor: Option<f64>,
}

/// How the frequencies of a rotary embedding are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
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

/// The keys that hold such objects.
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
    /// The whole file, which may have `original_max_position_embeddings`.
    pub(crate) file: &'a ConfigFile,
}

impl RopeConfig {
    /// Reads `rope_parameters`, where transformers 5 keeps everything, or the older `rope_scaling`.
    /// `theta_keys` are keys next to them for the base, of which the first counts; the others must agree
    /// with it. `max_ctx_len`: the model's positions, in tokens.
    ///
    /// Of `rope_parameters` and `rope_scaling` transformers takes the latter alone, with its base too;
    /// here the two must agree.
    ///
    /// # Errors
    /// A rope type that is not supported, a missing key, or two keys that contradict each other.
    pub(crate) fn read(
        file: &ConfigFile,
        theta_keys: &[&str],
        max_ctx_len: usize,
    ) -> Result<Self, FactsError> {
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
    ) -> Result<Self, FactsError> {
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
    /// that rotate whole heads; if nothing is stretched, it still rotates whole heads.
    ///
    /// # Errors
    /// Such a part.
    pub(crate) fn refuse_partial(&self, file: &ConfigFile) -> Result<(), FactsError> {
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
}

/// `rope_type`, or `type` as older files call it.
fn rope_type(parameters: &ConfigFile) -> Result<&str, FactsError> {
    match (parameters.string("rope_type")?, parameters.string("type")?) {
        (Some(newer), Some(older)) if newer != older => {
            let problem = format!("is `{older}`, but `rope_type` is `{newer}`");
            Err(parameters.bad("type", problem))
        }
        (newer, older) => Ok(newer.or(older).unwrap_or("default")),
    }
}

/// The context of the first training: next to the rope parameters, where transformers prefers it, or
/// among them; by default the model's positions.
fn original_ctx_len(parameters: &ConfigFile, defaults: RopeDefaults) -> Result<f64, FactsError> {
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
    fn read(parameters: &ConfigFile, defaults: RopeDefaults) -> Result<Self, FactsError> {
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
}
