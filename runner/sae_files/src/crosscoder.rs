//! Crosscoders on disk: `cfg.json`, and `model.safetensors` with `config.json`, which crosscoder_learning reads, too
//! (Minder et al. 2025, arXiv:2504.02922).

use crate::cfg_file::{CONFIG_FILE, WEIGHTS_FILE, read_config};
use crate::{Activation, Header, SaeConfig};
use fault::Fault;
use plan::{CrosscoderNorm, SaeLensMetadata};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the weights' file.
pub const CROSSCODER_WEIGHTS_FILE: &str = "model.safetensors";
/// What the constructors of crosscoder_learning are given, of a crosscoder that one of its classes computes.
pub const CROSSCODER_MODEL_FILE: &str = "config.json";

/// The activation of a crosscoder, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    TopK,
    Relu,
    JumpRelu,
}

/// What `cfg.json` of a crosscoder holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CrosscoderConfig {
    activation: Kind,
    num_latents: usize,
    /// Latents a token may use; all of them if the activation sets no limit.
    k: usize,
    /// The sum of the widths of its hookpoints, which are the same.
    d_in: usize,
    hookpoints: Vec<String>,
    #[serde(default)]
    code_normalization: CrosscoderNorm,
    /// The threshold that training estimated, or the mean of those of its hookpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_ema: Option<f64>,
    /// Those of its hookpoints, if each has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub threshold_ema_by_hookpoint: Vec<f64>,
}

impl CrosscoderConfig {
    /// That of a crosscoder; `None`: it is not one, or its activation has no name.
    pub fn new(cfg: &SaeConfig, metadata: &SaeLensMetadata) -> Option<Self> {
        let activation = match cfg.activation {
            Activation::TopK => Kind::TopK,
            Activation::Relu => Kind::Relu,
            Activation::JumpRelu => Kind::JumpRelu,
            Activation::GroupMax | Activation::Gated => return None,
        };
        cfg.is_crosscoder().then(|| Self {
            activation,
            num_latents: cfg.resolved_num_latents(),
            k: cfg.k,
            d_in: cfg.d_in,
            hookpoints: cfg.hookpoints.clone(),
            code_normalization: cfg.code_normalization,
            threshold_ema: metadata.threshold_ema,
            threshold_ema_by_hookpoint: metadata.threshold_ema_by_hookpoint.clone(),
        })
    }

    /// Reads that of a folder.
    ///
    /// # Errors
    /// A missing or damaged file, or sizes that no crosscoder has.
    pub fn of_folder(dir: &Path) -> Result<Self, Fault> {
        let config: Self = read_config(&dir.join(CONFIG_FILE))?;
        config.to_sae()?;
        Ok(config)
    }

    /// As the settings of an SAE.
    ///
    /// # Errors
    /// Sizes that no crosscoder has.
    pub fn to_sae(&self) -> Result<SaeConfig, Fault> {
        let n_hookpoints = self.hookpoints.len();
        if n_hookpoints == 0 {
            return Err(Fault::input(
                "a crosscoder's cfg.json lists no `hookpoints`",
            ));
        }
        let d_in = self.d_in;
        if !d_in.is_multiple_of(n_hookpoints) {
            let message =
                format!("{n_hookpoints} hookpoints of a crosscoder cannot share {d_in} inputs");
            return Err(Fault::input(message).with_hint("`d_in` is the sum of their widths"));
        }
        let cfg = SaeConfig {
            activation: match self.activation {
                Kind::TopK => Activation::TopK,
                Kind::Relu => Activation::Relu,
                Kind::JumpRelu => Activation::JumpRelu,
            },
            normalize_decoder: false,
            hookpoints: self.hookpoints.clone(),
            code_normalization: self.code_normalization,
            apply_b_dec_to_input: false,
            ..SaeConfig::topk(d_in, self.num_latents, self.k)
        };
        if cfg.is_decoupled() && self.activation != Kind::JumpRelu {
            let message = "a crosscoder with the `code_normalization` decoupled has thresholds";
            return Err(Fault::input(message).with_hint("its `activation` can only be jumprelu"));
        }
        cfg.check_sizes()?;
        Ok(cfg)
    }

    /// Names and shapes of its weights, without the threshold.
    pub fn shapes(&self) -> [(&'static str, Vec<i64>); 4] {
        let n_hookpoints = self.hookpoints.len();
        let d = self.d_in / n_hookpoints;
        let [n, d, latents] = [n_hookpoints, d, self.num_latents].map(|n| n as i64);
        [
            ("encoder.weight", vec![n, d, latents]),
            ("encoder.bias", vec![latents]),
            ("decoder.weight", vec![n, latents, d]),
            ("decoder.bias", vec![n, d]),
        ]
    }

    /// The shape of the threshold in a file with this header; `None`: it has none by its activation.
    pub fn threshold_shape(&self, header: &Header) -> Option<Vec<i64>> {
        let own = || match header.shape("threshold") {
            _ if self.code_normalization == CrosscoderNorm::Decoupled => {
                vec![self.hookpoints.len() as i64]
            }
            Some(shape) if shape.is_empty() => shape,
            _ => vec![self.num_latents as i64],
        };
        (self.activation == Kind::JumpRelu).then(own)
    }

    /// Its hookpoints, as one name.
    fn hookpoint(&self) -> String {
        self.hookpoints.join("+")
    }
}

#[derive(Deserialize)]
struct ModelConfig {
    dict_class: String,
}

/// The class of crosscoder_learning that the crosscoder in `dir` is of; `None`: it has no such class.
pub fn crosscoder_class(dir: &Path) -> Option<String> {
    let config: ModelConfig = read_config(&dir.join(CROSSCODER_MODEL_FILE)).ok()?;
    Some(config.dict_class)
}

/// Whether `dir` has a crosscoder.
pub fn is_crosscoder_folder(dir: &Path) -> bool {
    dir.join(CROSSCODER_WEIGHTS_FILE).is_file()
        && dir.join(CONFIG_FILE).is_file()
        && !dir.join(WEIGHTS_FILE).is_file()
}

/// Its hookpoints, if `dir` has one.
pub(crate) fn hook_name(dir: &Path) -> Option<String> {
    let config = is_crosscoder_folder(dir).then(|| CrosscoderConfig::of_folder(dir).ok())?;
    Some(config?.hookpoint())
}

/// Checks the header of its weights with their shapes. No weight is read.
pub(crate) fn check(dir: &Path) -> Result<(), Fault> {
    let config = CrosscoderConfig::of_folder(dir)?;
    let header = Header::open(&dir.join(CROSSCODER_WEIGHTS_FILE))?;
    for (tensor, shape) in config.shapes() {
        header.weights(tensor, &shape)?;
    }
    if let Some(shape) = config.threshold_shape(&header) {
        header.weights("threshold", &shape)?;
    }
    Ok(())
}
