//! GPT-2 (Radford et al. 2019), as transformers 5 computes it with sdpa attention.

use crate::LmError;
use crate::attention::{Attend, Masks, split_heads};
use crate::config::ConfigFile;
use crate::gpt::{GptAttention, GptConfig, SelfAttention};
use crate::layout::ModuleList;
use crate::load::Loader;
use crate::nn::{ActFn, Dropout, Linear};
use crate::tap::{ModuleId, Run, Tape};
use tch::Tensor;

/// What config.json says of a GPT-2; names as there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gpt2Config {
    common: GptConfig,
    /// Width of a head.
    head_dim: usize,
    /// Whether scores are divided by the root of the head's width; by default they are.
    scale_attn_weights: bool,
    /// Whether the scores of block i are also divided by i + 1.
    scale_attn_by_inverse_layer_idx: bool,
}

impl Gpt2Config {
    /// `model_type` = `gpt2`.
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, LmError> {
        if file.bool("add_cross_attention", false)? {
            let problem = "is true, but only decoders without an encoder are supported";
            return Err(file.bad("add_cross_attention", problem.into()));
        }
        let n_embd = file.count("n_embd")?.unwrap_or(768);
        let n_head = file.count("n_head")?.unwrap_or(12);
        let common = GptConfig {
            model_type: "gpt2",
            vocab_size: file.count("vocab_size")?.unwrap_or(50257),
            n_positions: file.count("n_positions")?.unwrap_or(1024),
            hidden_size: n_embd,
            n_layers: file.n_layers_or("n_layer", 12)?,
            d_mlp: file.count("n_inner")?.unwrap_or(4 * n_embd),
            mlp_is_conv1d: true,
            act_fn: ActFn::read(file, "activation_function", ActFn::GeluNew)?,
            layer_norm_epsilon: file.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
            tie_word_embeddings: file.bool("tie_word_embeddings", true)?,
        };
        Ok(Self {
            common,
            head_dim: file.head_dim_of("n_embd", n_embd, "n_head", n_head)?,
            scale_attn_weights: file.bool("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: file.bool("scale_attn_by_inverse_layer_idx", false)?,
        })
    }

    fn score_scale(&self, layer_idx: usize) -> f64 {
        let by_width = match self.scale_attn_weights {
            true => (self.head_dim as f64).powf(-0.5),
            false => 1.0,
        };
        let depth = match self.scale_attn_by_inverse_layer_idx {
            true => layer_idx + 1,
            false => 1,
        };
        by_width / depth as f64
    }
}

impl GptAttention for Gpt2Config {
    fn common(&self) -> &GptConfig {
        &self.common
    }

    fn list(&self, modules: &mut ModuleList, name: &str) {
        let d = self.common.hidden_size;
        modules.plain(name.into(), d);
        modules.conv1d(format!("{name}.c_attn"), d, 3 * d);
        modules.conv1d(format!("{name}.c_proj"), d, d);
        modules.plain(format!("{name}.resid_dropout"), d);
    }

    fn load(
        &self,
        loader: &mut Loader,
        layer_idx: usize,
        name: &str,
    ) -> Result<Box<dyn SelfAttention>, LmError> {
        Ok(Box::new(Attention {
            id: loader.id(name),
            c_attn: loader.linear(&format!("{name}.c_attn"))?,
            c_proj: loader.linear(&format!("{name}.c_proj"))?,
            resid_dropout: loader.dropout(&format!("{name}.resid_dropout")),
            head_dim: self.head_dim as i64,
            attend: Attend {
                scale: self.score_scale(layer_idx),
                softcap: None,
                window: None,
            },
        }))
    }
}

/// Causal self-attention with one projection for queries, keys and values.
#[derive(Debug)]
struct Attention {
    id: ModuleId,
    c_attn: Linear,
    c_proj: Linear,
    resid_dropout: Dropout,
    head_dim: i64,
    attend: Attend,
}

impl SelfAttention for Attention {
    fn forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let thirds = self.c_attn.forward(tape, x)?.f_chunk(3, -1)?;
            let heads = |third: &Tensor| -> Run<Tensor> {
                Ok(split_heads(third, self.head_dim)?.f_transpose(1, 2)?)
            };
            let (q, k, v) = (heads(&thirds[0])?, heads(&thirds[1])?, heads(&thirds[2])?);
            let mixed = self.attend.forward(&q, &k, &v, masks)?;
            let mixed = self.c_proj.forward(tape, &mixed)?;
            self.resid_dropout.forward(tape, &mixed)
        })
    }
}
