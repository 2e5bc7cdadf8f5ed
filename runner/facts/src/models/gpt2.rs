//! What config.json says of a GPT-2 (Radford et al. 2019).

use crate::FactsError;
use crate::act_fn::ActFn;
use crate::config::ConfigFile;
use crate::gpt::GptConfig;
use crate::layout::{Layout, ModuleList};

/// What config.json says of a GPT-2; names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// What it shares with GPT-Neo.
    pub common: GptConfig,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether scores are divided by the root of the head's width; by default they are.
    scale_attn_weights: bool,
    /// Whether the scores of block i are also divided by i + 1.
    scale_attn_by_inverse_layer_idx: bool,
}

impl Gpt2Config {
    /// `model_type` = `gpt2`.
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, FactsError> {
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

    /// Factor of the attention scores of a block.
    pub fn score_scale(&self, layer_idx: usize) -> f64 {
        let by_width = if self.scale_attn_weights {
            (self.head_dim as f64).powf(-0.5)
        } else {
            1.0
        };
        let depth = if self.scale_attn_by_inverse_layer_idx {
            layer_idx + 1
        } else {
            1
        };
        by_width / depth as f64
    }

    pub(crate) fn layout(&self) -> Layout {
        self.common
            .layout(|modules, name| self.list_attention(modules, name))
    }

    fn list_attention(&self, modules: &mut ModuleList, name: &str) {
        let d = self.common.hidden_size;
        modules.plain(name.into(), d);
        modules.conv1d(format!("{name}.c_attn"), d, 3 * d);
        modules.conv1d(format!("{name}.c_proj"), d, d);
        modules.plain(format!("{name}.resid_dropout"), d);
    }
}
