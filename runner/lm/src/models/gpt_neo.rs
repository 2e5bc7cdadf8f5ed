//! GPT-Neo (Black et al. 2021; TinyStories too), as transformers 5 computes it with eager attention:
//! unscaled scores in float32, and local attention in some blocks.

use crate::LmError;
use crate::attention::{Attend, Masks, split_heads};
use crate::config::ConfigFile;
use crate::gpt::{GptAttention, GptConfig, SelfAttention};
use crate::layout::ModuleList;
use crate::load::Loader;
use crate::nn::{ActFn, Dropout, Linear};
use crate::tap::{ModuleId, Run, Tape};
use serde_json::Value;
use tch::{Kind, Tensor};

/// What config.json says of a GPT-Neo; names as there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GptNeoConfig {
    common: GptConfig,
    /// Width of a head.
    head_dim: usize,
    /// For each block how many positions a query sees; `None`: all earlier ones.
    windows: Vec<Option<usize>>,
}

impl GptNeoConfig {
    /// `model_type` = `gpt_neo`.
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, LmError> {
        let hidden_size = file.count("hidden_size")?.unwrap_or(2048);
        let num_heads = file.count("num_heads")?.unwrap_or(16);
        let windows = read_windows(file)?;
        let common = GptConfig {
            model_type: "gpt_neo",
            vocab_size: file.count("vocab_size")?.unwrap_or(50257),
            n_positions: file.count("max_position_embeddings")?.unwrap_or(2048),
            hidden_size,
            n_layers: windows.len(),
            d_mlp: file.count("intermediate_size")?.unwrap_or(4 * hidden_size),
            mlp_is_conv1d: false,
            act_fn: ActFn::read(file, "activation_function", ActFn::GeluNew)?,
            layer_norm_epsilon: file.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
            tie_word_embeddings: file.bool("tie_word_embeddings", true)?,
        };
        Ok(Self {
            common,
            head_dim: file.head_dim_of("hidden_size", hidden_size, "num_heads", num_heads)?,
            windows,
        })
    }
}

/// `attention_layers`, the kind of each block, or `attention_types`, such as
/// `[[["global", "local"], 12]]`: the list of kinds, twelve times over.
fn read_windows(file: &ConfigFile) -> Result<Vec<Option<usize>>, LmError> {
    let n_layers = file.n_layers_or("num_layers", 24)?;
    let window = file.count("window_size")?.unwrap_or(256);
    let listed = file.strings("attention_layers")?;
    let listed: Option<Vec<_>> = listed.map(|kinds| kinds.into_iter().map(str::to_owned).collect());
    let (key, kinds) = match listed {
        Some(kinds) => ("attention_layers", kinds),
        None => ("attention_types", expand_types(file, n_layers)?),
    };
    let is_twofold = key == "attention_layers" && file.value("attention_types").is_some();
    if is_twofold && expand_types(file, n_layers)? != kinds {
        let problem = "contradicts `attention_types`: keep one of the two";
        return Err(file.bad(key, problem.into()));
    }
    if kinds.len() != n_layers {
        let n_kinds = kinds.len();
        let n_layers_key = file.written("num_layers");
        let problem = format!("gives {n_kinds} blocks, but `{n_layers_key}` is {n_layers}");
        return Err(file.bad(key, problem));
    }
    let window_of = |kind: &String| match kind.as_str() {
        "global" => Ok(None),
        "local" => Ok(Some(window)),
        other => Err(file.unsupported(key, other, ["global", "local"])),
    };
    kinds.iter().map(window_of).collect()
}

fn expand_types(file: &ConfigFile, n_layers: usize) -> Result<Vec<String>, LmError> {
    let key = "attention_types";
    let default = || serde_json::json!([[["global", "local"], 12]]);
    let value: Value = file.value(key).cloned().unwrap_or_else(default);
    let types: Vec<(Vec<String>, u64)> = serde_json::from_value(value).map_err(|error| {
        let problem = format!("must be a list of pairs of a list of kinds and a count: {error}");
        file.bad(key, problem)
    })?;
    // One more than there may be is enough to be told so.
    let repeated = |(kinds, count): (Vec<String>, u64)| {
        let count = match kinds.is_empty() {
            true => 0,
            false => count.min(n_layers as u64 + 1),
        };
        (0..count).flat_map(move |_| kinds.clone())
    };
    Ok(types
        .into_iter()
        .flat_map(repeated)
        .take(n_layers + 1)
        .collect())
}

impl GptAttention for GptNeoConfig {
    fn common(&self) -> &GptConfig {
        &self.common
    }

    fn list(&self, modules: &mut ModuleList, name: &str) {
        let d = self.common.hidden_size;
        let inner = format!("{name}.attention");
        modules.plain(name.into(), d);
        modules.plain(inner.clone(), d);
        modules.plain(format!("{inner}.resid_dropout"), d);
        modules.linear(format!("{inner}.k_proj"), d, d, false);
        modules.linear(format!("{inner}.v_proj"), d, d, false);
        modules.linear(format!("{inner}.q_proj"), d, d, false);
        modules.linear(format!("{inner}.out_proj"), d, d, true);
    }

    fn load(
        &self,
        loader: &mut Loader,
        layer_idx: usize,
        name: &str,
    ) -> Result<Box<dyn SelfAttention>, LmError> {
        let inner = format!("{name}.attention");
        Ok(Box::new(Attention {
            id: loader.id(name),
            inner: loader.id(&inner),
            q_proj: loader.linear(&format!("{inner}.q_proj"))?,
            k_proj: loader.linear(&format!("{inner}.k_proj"))?,
            v_proj: loader.linear(&format!("{inner}.v_proj"))?,
            out_proj: loader.linear(&format!("{inner}.out_proj"))?,
            resid_dropout: loader.dropout(&format!("{inner}.resid_dropout")),
            head_dim: self.head_dim as i64,
            attend: Attend {
                scale: 1.0,
                softcap: None,
                window: self.windows[layer_idx].map(|window| window as i64),
            },
        }))
    }
}

/// Causal self-attention, global or local, without a factor on the scores.
#[derive(Debug)]
struct Attention {
    /// `attn`, which does nothing but run `attn.attention`.
    id: ModuleId,
    inner: ModuleId,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    resid_dropout: Dropout,
    head_dim: i64,
    attend: Attend,
}

impl SelfAttention for Attention {
    fn forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            tape.module(self.inner, x, |tape, x| self.inner_forward(tape, x, masks))
        })
    }
}

impl Attention {
    /// `x`: `[batch, ctx_len, hidden_size]`
    fn inner_forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        let heads = |projected: Tensor, kind: Kind| -> Run<Tensor> {
            let split = split_heads(&projected.f_to_kind(kind)?, self.head_dim)?;
            Ok(split.f_transpose(1, 2)?)
        };
        // Scores without a factor are too large for float16.
        let q = heads(self.q_proj.forward(tape, x)?, Kind::Float)?;
        let k = heads(self.k_proj.forward(tape, x)?, Kind::Float)?;
        let v = heads(self.v_proj.forward(tape, x)?, x.kind())?;
        let mixed = self.attend.forward(&q, &k, &v, masks)?;
        let mixed = self.out_proj.forward(tape, &mixed)?;
        self.resid_dropout.forward(tape, &mixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;
    use serde_json::json;

    fn windows(changes: Value) -> Result<Vec<Option<usize>>, LmError> {
        read_windows(&ConfigFile::read(TinyModel::with_config(changes).dir())?)
    }

    #[test]
    fn which_blocks_are_local() {
        let twice = json!({"num_layers": 4, "attention_types": [[["global", "local"], 2]]});
        assert_eq!(windows(twice).unwrap(), [None, Some(256), None, Some(256)]);
        let listed =
            json!({"num_layers": 2, "window_size": 5, "attention_layers": ["local", "global"]});
        assert_eq!(windows(listed).unwrap(), [Some(5), None]);
        assert_eq!(windows(json!({})).unwrap().len(), 24);
    }

    #[test]
    fn the_two_forms_must_agree() {
        let both = |types| {
            windows(
                json!({"num_layers": 2, "attention_layers": ["local", "global"],
                "attention_types": types}),
            )
        };
        assert_eq!(
            both(json!([[["local", "global"], 1]])).unwrap(),
            [Some(256), None]
        );
        let error = both(json!([[["global", "local"], 1]])).unwrap_err();
        assert!(matches!(error, LmError::BadKey { key, .. } if key == "attention_layers"));
    }

    #[test]
    fn types_that_fit_nothing() {
        for types in [
            json!([[["global"], 5]]),
            json!([[["global"], 1_u64 << 60]]),
            json!([["global", 4]]),
            json!("global"),
        ] {
            let error = windows(json!({"num_layers": 4, "attention_types": types})).unwrap_err();
            assert!(matches!(error, LmError::BadKey { key, .. } if key == "attention_types"));
        }
        let odd = windows(json!({"num_layers": 1, "attention_types": [[["strided"], 1]]}));
        assert!(
            matches!(odd.unwrap_err(), LmError::UnsupportedValue { got, .. } if got == "strided")
        );
    }
}
