//! Folders in SAELens's layout, `cfg.json` and `sae_weights.safetensors`, as version 6 and those before
//! it write them: read here as far as [`Sae`] computes the same.

mod save;
#[cfg(test)]
mod tests;

use crate::folding::{MIN_NORM, bias_after_b_dec};
use crate::mapped::MappedFile;
use crate::placing::{no_decoder, placed};
use crate::{Gate, LoadOptions, Sae, SaeError};
use sae_files::{Activation, CONFIG_FILE, SAELENS_WEIGHTS_FILE, SaeConfig, read_config};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;
use tch::{Kind, Tensor};

/// The weights of every SAE.
const WEIGHTS: [&str; 3] = ["W_enc", "W_dec", "b_dec"];

/// What the magnitudes of a gated SAE are made with.
const GATE: [&str; 2] = ["b_mag", "r_mag"];

/// In the metadata, of a cross-layer transcoder: what it writes to. Ours.
const HOOKPOINTS: &str = "hookpoints";

/// Factors of latents in old folders.
const SCALING: &str = "scaling_factor";

/// A kind of SAE and its name in `cfg.json`.
struct Architecture {
    name: &'static str,
    activation: Activation,
    is_transcoder: bool,
    has_skip: bool,
    /// Whether SAELens has it too.
    is_of_saelens: bool,
}

impl Architecture {
    const fn new(
        name: &'static str,
        activation: Activation,
        (is_transcoder, has_skip): (bool, bool),
    ) -> Self {
        Self {
            name,
            activation,
            is_transcoder,
            has_skip,
            is_of_saelens: true,
        }
    }

    /// Of those that are read here alone.
    const fn own(self) -> Self {
        Self {
            is_of_saelens: false,
            ..self
        }
    }
}

const PLAIN: (bool, bool) = (false, false);
const TRANSCODER: (bool, bool) = (true, false);
const SKIP_TRANSCODER: (bool, bool) = (true, true);

/// What is written. SAELens refuses a name that it does not know.
const ARCHITECTURES: [Architecture; 10] = [
    Architecture::new("topk", Activation::TopK, PLAIN),
    Architecture::new("standard", Activation::Relu, PLAIN),
    Architecture::new("transcoder", Activation::Relu, TRANSCODER),
    Architecture::new("skip_transcoder", Activation::Relu, SKIP_TRANSCODER),
    Architecture::new("jumprelu", Activation::JumpRelu, PLAIN),
    Architecture::new("jumprelu_transcoder", Activation::JumpRelu, TRANSCODER),
    Architecture::new(
        "jumprelu_skip_transcoder",
        Activation::JumpRelu,
        SKIP_TRANSCODER,
    ),
    Architecture::new("gated", Activation::Gated, PLAIN),
    Architecture::new("gated_transcoder", Activation::Gated, TRANSCODER).own(),
    Architecture::new("gated_skip_transcoder", Activation::Gated, SKIP_TRANSCODER).own(),
];

/// What is read of `cfg.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    architecture: Option<String>,
    activation_fn: Option<Value>,
    activation_fn_str: Option<Value>,
    activation_fn_kwargs: Map<String, Value>,
    d_in: usize,
    d_sae: usize,
    d_out: Option<usize>,
    dtype: Option<String>,
    k: Option<f64>,
    apply_b_dec_to_input: Option<bool>,
    normalize_activations: Option<Value>,
    rescale_acts_by_decoder_norm: Option<bool>,
    metadata: Map<String, Value>,
}

/// What an architecture consists of.
#[derive(Clone, Copy)]
struct Kinds {
    activation: Activation,
    is_transcoder: bool,
    has_skip: bool,
    /// Whether one threshold is for all latents, as BatchTopK's training leaves it.
    has_one_threshold: bool,
}

impl Kinds {
    /// The name of the thresholds in the file.
    fn threshold(self) -> Option<&'static str> {
        match (self.activation, self.has_one_threshold) {
            (Activation::JumpRelu, false) => Some("threshold"),
            (Activation::JumpRelu, true) => Some("topk_threshold"),
            _ => None,
        }
    }

    /// The name of what is added before it is decided which latents are active.
    fn bias(self) -> &'static str {
        match self.activation {
            Activation::Gated => "b_gate",
            _ => "b_enc",
        }
    }

    /// The tensors that a file may have.
    fn tensors(self) -> Vec<&'static str> {
        let skip = self.has_skip.then_some("W_skip");
        let gate = match self.activation {
            Activation::Gated => &GATE[..],
            _ => &[],
        };
        let more = skip
            .into_iter()
            .chain(self.threshold())
            .chain(gate.iter().copied());
        WEIGHTS
            .into_iter()
            .chain([self.bias(), SCALING])
            .chain(more)
            .collect()
    }
}

/// Reads a folder in SAELens's layout.
pub(crate) fn load(dir: &Path, options: &LoadOptions) -> Result<Sae, SaeError> {
    let path = dir.join(CONFIG_FILE);
    let config: Config = read_config(&path)?;
    let kinds = config.kinds(&path)?;
    config.check(&path, kinds)?;
    let cfg = config.sae_config(&path, kinds)?;
    cfg.check_sizes()?;
    let file = MappedFile::open(&dir.join(SAELENS_WEIGHTS_FILE))?;
    file.refuse_others(&kinds.tensors())?;
    check_scaling(&path, &file, cfg.num_latents)?;
    let weights = Weights::read(
        &file,
        &cfg,
        kinds,
        options.decoder || config.rescales(kinds),
    )?;
    let weights = weights.folded(&config, kinds)?;
    let kind = match options.kind {
        Some(kind) => kind,
        None => config.kind(&path)?,
    };
    weights.into_sae(cfg, kind, options)
}

impl Config {
    fn activation_fn(&self) -> &Value {
        let named = self.activation_fn.as_ref();
        let named = named.or(self.activation_fn_str.as_ref());
        named.unwrap_or(&Value::Null)
    }

    fn kinds(&self, path: &Path) -> Result<Kinds, SaeError> {
        let activation_fn = self.activation_fn();
        // Before version 6, TopK was a "standard" SAE of another activation function.
        let is_old_topk = activation_fn == "topk";
        if !activation_fn.is_null() && activation_fn != "relu" && !is_old_topk {
            return Err(unsupported(
                path,
                "activation_fn",
                activation_fn,
                "only `relu` and `topk` are known here",
            ));
        }
        let architecture = self.architecture.as_deref().unwrap_or("standard");
        let has_one_threshold = matches!(architecture, "batchtopk" | "matryoshka_batchtopk");
        let name = match architecture {
            "standard" if is_old_topk => "topk",
            _ if has_one_threshold => "jumprelu",
            name => name,
        };
        let Some(known) = ARCHITECTURES.iter().find(|known| known.name == name) else {
            let why = "SAEs of this kind compute something else than those here";
            return Err(unsupported(path, "architecture", &name.into(), why));
        };
        Ok(Kinds {
            activation: known.activation,
            is_transcoder: known.is_transcoder,
            has_skip: known.has_skip,
            has_one_threshold,
        })
    }

    /// Refuses what would be computed otherwise than here.
    fn check(&self, path: &Path, kinds: Kinds) -> Result<(), SaeError> {
        let normalize = self.normalize_activations.as_ref().unwrap_or(&Value::Null);
        let is_none = normalize.is_null() || normalize == "none" || normalize == false;
        if !is_none {
            let why = match normalize.as_str() {
                Some("layer_norm" | "constant_norm_rescale") => {
                    "activations would have to be normalised one by one before they are encoded"
                }
                _ => {
                    "the statistics to normalise with are not in the folder; SAELens folds them into \
                      the weights when training ends"
                }
            };
            return Err(unsupported(path, "normalize_activations", normalize, why));
        }
        if kinds.is_transcoder && self.apply_b_dec_to_input == Some(true) {
            let why = "a transcoder's input has no `b_dec`";
            return Err(unsupported(path, "apply_b_dec_to_input", &true.into(), why));
        }
        Ok(())
    }

    fn sae_config(&self, path: &Path, kinds: Kinds) -> Result<SaeConfig, SaeError> {
        let k = match kinds.activation {
            Activation::TopK => self.top_k(path)?,
            _ => self.d_sae,
        };
        let d_out = self.d_out.filter(|_| kinds.is_transcoder);
        Ok(SaeConfig {
            activation: kinds.activation,
            normalize_decoder: false,
            skip_connection: kinds.has_skip,
            transcode: kinds.is_transcoder,
            d_out: d_out.filter(|d_out| *d_out != self.d_in),
            apply_b_dec_to_input: kinds.is_transcoder
                || self.subtracts_b_dec()
                || self.adds_b_dec_back(kinds),
            hookpoints: self.hookpoints(),
            ..SaeConfig::topk(self.d_in, self.d_sae, k)
        })
    }

    /// What a cross-layer transcoder writes to.
    fn hookpoints(&self) -> Vec<String> {
        let names = self.metadata.get(HOOKPOINTS).and_then(Value::as_array);
        let names = names.into_iter().flatten();
        names
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    }

    fn top_k(&self, path: &Path) -> Result<usize, SaeError> {
        let old = self.activation_fn_kwargs.get("k");
        let k = self.k.or_else(|| old?.as_f64()).unwrap_or(0.0);
        if k.fract() == 0.0 && k >= 1.0 {
            Ok(k as usize)
        } else {
            let why = "TopK takes a number of latents";
            Err(unsupported(path, "k", &k.into(), why))
        }
    }

    /// Whether pre-activations are multiplied by the norms of the decoder's rows. SAELens's defaults
    /// are those of training where the thresholds are, and those of inference elsewhere.
    fn rescales(&self, kinds: Kinds) -> bool {
        let is_possible = kinds.activation == Activation::TopK || kinds.has_one_threshold;
        let default = kinds.has_one_threshold;
        is_possible && self.rescale_acts_by_decoder_norm.unwrap_or(default)
    }

    fn subtracts_b_dec(&self) -> bool {
        self.apply_b_dec_to_input != Some(false)
    }

    /// Whether the encoder's bias is to undo that `b_dec` is subtracted: sparsify's layout, which has TopK too, knows
    /// no other encoders.
    fn adds_b_dec_back(&self, kinds: Kinds) -> bool {
        kinds.activation == Activation::TopK && !self.subtracts_b_dec()
    }

    fn kind(&self, path: &Path) -> Result<Kind, SaeError> {
        let dtype = self.dtype.as_deref().unwrap_or("float32");
        match dtype.strip_prefix("torch.").unwrap_or(dtype) {
            "float32" => Ok(Kind::Float),
            "float64" => Ok(Kind::Double),
            "float16" => Ok(Kind::Half),
            "bfloat16" => Ok(Kind::BFloat16),
            _ => {
                let why = "it is `float32`, `float64`, `float16` or `bfloat16`";
                Err(unsupported(path, "dtype", &dtype.into(), why))
            }
        }
    }
}

/// The weights of the file, as [`Sae`] has them.
struct Weights {
    encoder_weight: Tensor,
    encoder_bias: Tensor,
    /// `None`: not asked for.
    w_dec: Option<Tensor>,
    b_dec: Tensor,
    w_skip: Option<Tensor>,
    threshold: Option<Tensor>,
    gate: Option<Gate>,
}

impl Weights {
    fn read(
        file: &MappedFile,
        cfg: &SaeConfig,
        kinds: Kinds,
        with_decoder: bool,
    ) -> Result<Self, SaeError> {
        let [num_latents, d_in, d_out] = [cfg.num_latents, cfg.d_in, cfg.d_out()].map(|n| n as i64);
        let w_dec = with_decoder.then(|| file.weights("W_dec", &[num_latents, d_out]));
        let w_skip = kinds
            .has_skip
            .then(|| file.weights("W_skip", &[d_out, d_in]));
        // Copied: a product with its transposed view rounds differently.
        let encoder_weight = file
            .weights("W_enc", &[d_in, num_latents])?
            .f_tr()?
            .f_contiguous()?;
        // After a tensor of as many latents: `cfg.json` may claim any number.
        let threshold = match (kinds.threshold(), kinds.has_one_threshold) {
            (Some(name), true) => {
                let of_all = file.weights(name, &[])?;
                Some(of_all.f_expand([num_latents], false)?.f_contiguous()?)
            }
            (Some(name), false) => Some(file.weights(name, &[num_latents])?),
            (None, _) => None,
        };
        let gate = match kinds.activation {
            Activation::Gated => {
                let [b_mag, r_mag] = GATE.map(|name| file.weights(name, &[num_latents]));
                Some(Gate {
                    b_mag: b_mag?,
                    r_mag: r_mag?,
                })
            }
            _ => None,
        };
        Ok(Self {
            gate,
            encoder_weight,
            encoder_bias: file.weights(kinds.bias(), &[num_latents])?,
            w_dec: w_dec.transpose()?,
            b_dec: file.weights("b_dec", &[d_out])?,
            w_skip: w_skip.transpose()?,
            threshold,
        })
    }

    /// The same SAE without what [`Sae`] does not do: the norms of the decoder's rows go into the
    /// encoder, and so does `b_dec` where it is not subtracted and has to be.
    fn folded(mut self, config: &Config, kinds: Kinds) -> Result<Self, SaeError> {
        if config.rescales(kinds) {
            let w_dec = self.w_dec.as_ref().expect("it is read where it is needed");
            let w_dec = w_dec.f_to_kind(Kind::Float)?;
            let norms = w_dec
                .f_norm_scalaropt_dim(2.0, [1i64], true)?
                .f_clamp_min(MIN_NORM)?;
            self.w_dec = Some(w_dec.f_div(&norms)?);
            self.encoder_weight = self.encoder_weight.f_mul(&norms)?;
            self.encoder_bias = self.encoder_bias.f_mul(&norms.f_squeeze_dim(1)?)?;
        }
        if config.adds_b_dec_back(kinds) {
            self.encoder_bias =
                bias_after_b_dec(&self.encoder_weight, &self.encoder_bias, &self.b_dec)?;
        }
        Ok(self)
    }

    fn into_sae(self, cfg: SaeConfig, kind: Kind, options: &LoadOptions) -> Result<Sae, SaeError> {
        let device = options.device;
        let placed = |weights: Tensor| placed(&weights, kind, device);
        Ok(Sae {
            encoder_weight: placed(self.encoder_weight)?,
            encoder_bias: placed(self.encoder_bias)?,
            w_dec: match self.w_dec.filter(|_| options.decoder) {
                Some(w_dec) => placed(w_dec)?,
                None => no_decoder(cfg.d_out() as i64, kind, device)?,
            },
            b_dec: placed(self.b_dec)?,
            w_skip: self.w_skip.map(placed).transpose()?,
            threshold: self.threshold.map(placed).transpose()?,
            gate: match self.gate {
                None => None,
                Some(Gate { b_mag, r_mag }) => Some(Gate {
                    b_mag: placed(b_mag)?,
                    r_mag: placed(r_mag)?,
                }),
            },
            cfg,
        })
    }
}

/// Old folders may have a factor for each latent, mostly 1.
fn check_scaling(path: &Path, file: &MappedFile, num_latents: usize) -> Result<(), SaeError> {
    if !file.has(SCALING) {
        return Ok(());
    }
    let factors = file.weights(SCALING, &[num_latents as i64])?;
    match factors.f_eq(1.0)?.f_all()?.f_int64_value(&[])? {
        1 => Ok(()),
        _ => Err(unsupported(
            path,
            "finetuning_scaling_factor",
            &true.into(),
            "latents are scaled before they are decoded",
        )),
    }
}

fn unsupported(path: &Path, key: &'static str, value: &Value, why: &'static str) -> SaeError {
    sae_files::unsupported(path, key, &value.to_string(), why).into()
}
