//! What GPT-2 and GPT-Neo share: learnt positions, layer norms before attention and MLP, and a
//! residual stream. Their attention is their own.

use crate::act_fn::ActFn;
use crate::layout::{LM_HEAD, Layout, ModuleList};

/// A GPT, except its attention.
#[derive(Clone, Debug, PartialEq)]
pub struct GptConfig {
    /// Hugging Face's name of the family.
    pub model_type: &'static str,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Rows of the position embedding: the longest context, in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the MLP.
    pub d_mlp: usize,
    /// Whether the MLP's weights are stored as `[d_in, d_out]`.
    pub mlp_is_conv1d: bool,
    /// Activation function of the MLP.
    pub act_fn: ActFn,
    /// Added to the variance before the root.
    pub layer_norm_epsilon: f64,
    /// Whether the head's weight is the embedding's.
    pub tie_word_embeddings: bool,
}

impl GptConfig {
    /// The submodules; `list_attention` lists those of the attention with the given name.
    pub(crate) fn layout(&self, list_attention: impl Fn(&mut ModuleList, &str)) -> Layout {
        let d = self.hidden_size;
        let mut modules = ModuleList::default();
        modules.embedding("wte", self.vocab_size, d);
        modules.position_embedding("wpe", self.n_positions, d);
        modules.plain("drop".into(), d);
        for layer_idx in 0..self.n_layers {
            let block = block_name(layer_idx);
            modules.within(layer_idx + 1);
            modules.plain(block.clone(), d);
            modules.layer_norm(format!("{block}.ln_1"), d);
            list_attention(&mut modules, &format!("{block}.attn"));
            modules.layer_norm(format!("{block}.ln_2"), d);
            self.list_mlp(&mut modules, &format!("{block}.mlp"));
        }
        modules.layer_norm("ln_f".into(), d);
        Layout {
            model_type: self.model_type,
            n_layers: self.n_layers,
            hidden_size: d,
            vocab_size: self.vocab_size,
            max_ctx_len: self.n_positions,
            layers_name: "h",
            embedding_name: "wte",
            norm_name: "ln_f",
            base_prefix: "transformer.",
            within: None,
            head_name: LM_HEAD,
            tied_head: self.tie_word_embeddings,
            logit_softcap: None,
            modules: modules.finish(),
        }
    }

    fn list_mlp(&self, modules: &mut ModuleList, mlp: &str) {
        let (d, d_mlp) = (self.hidden_size, self.d_mlp);
        let linear = if self.mlp_is_conv1d {
            ModuleList::conv1d
        } else {
            |modules: &mut ModuleList, name, d_in, d_out| modules.linear(name, d_in, d_out, true)
        };
        modules.plain(mlp.into(), d);
        linear(modules, format!("{mlp}.c_fc"), d, d_mlp);
        linear(modules, format!("{mlp}.c_proj"), d_mlp, d);
        modules.plain(format!("{mlp}.act"), d_mlp);
        modules.plain(format!("{mlp}.dropout"), d);
    }
}

fn block_name(layer_idx: usize) -> String {
    format!("h.{layer_idx}")
}
