//! The decoder that Llama made common: rotary attention with grouped heads, a gated MLP, RMS norms
//! and a residual stream. Llama, Mistral, Qwen and Gemma differ in details, all of which are in
//! [`DecoderConfig`].

use crate::act_fn::ActFn;
use crate::layout::{LM_HEAD, Layout, ModuleList, Within};
use crate::rope::RopeConfig;

/// A decoder; names as in config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Hugging Face's name of the family.
    pub model_type: &'static str,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Activation function of the MLP.
    pub hidden_act: ActFn,
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Whether the head's weight is the embedding's.
    pub tie_word_embeddings: bool,
    /// Whether the projections of queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the attention's last projection has a bias.
    pub o_bias: bool,
    /// Whether the three projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normed, head by head.
    pub qk_norm: Option<QkNorm>,
    /// How the norms multiply.
    pub norm_style: NormStyle,
    /// Where the norms of a block are.
    pub block_norms: BlockNorms,
    /// Factor of the attention scores.
    pub score_scale: f64,
    /// What attention scores are capped at.
    pub score_softcap: Option<f64>,
    /// What logits are capped at.
    pub logit_softcap: Option<f64>,
    /// Factor of the embedding.
    pub embed_scale: Option<f64>,
    /// The rotary embeddings that the blocks choose from.
    pub ropes: Vec<RopeConfig>,
    /// One for each block.
    pub layers: Vec<LayerConfig>,
    /// The larger model whose text part it is.
    pub within: Option<&'static Within>,
}

/// What differs between the blocks of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// How many positions a query sees, itself among them; `None`: all earlier ones.
    pub window: Option<usize>,
    /// Index of its rotary embedding.
    pub rope: usize,
}

/// Where queries and keys are normed: the shape that the hookpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// As `[batch, ctx_len, heads, head_dim]`.
    BeforeTranspose,
    /// As `[batch, heads, ctx_len, head_dim]`.
    AfterTranspose,
}

/// How the weight of an RMS norm is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormStyle {
    /// `w x`, in the model's kind.
    Plain,
    /// `(1 + w) x`, in float32.
    OnePlus,
}

/// Which norms a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockNorms {
    /// One before the attention, one before the MLP.
    Before,
    /// One before and one after each of them.
    Sandwich,
}

impl DecoderConfig {
    /// Its submodules.
    pub(crate) fn layout(&self) -> Layout {
        let mut modules = ModuleList::default();
        modules.embedding("embed_tokens", self.vocab_size, self.hidden_size);
        for layer_idx in 0..self.layers.len() {
            modules.within(layer_idx + 1);
            self.list_block(&mut modules, &block_name(layer_idx));
        }
        modules.rms_norm("norm".into(), self.hidden_size);
        Layout {
            model_type: self.model_type,
            n_layers: self.layers.len(),
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_ctx_len: self.max_ctx_len(),
            layers_name: "layers",
            embedding_name: "embed_tokens",
            norm_name: "norm",
            base_prefix: "model.",
            within: self.within,
            head_name: LM_HEAD,
            tied_head: self.tie_word_embeddings,
            logit_softcap: self.logit_softcap,
            modules: modules.finish(),
        }
    }

    fn max_ctx_len(&self) -> usize {
        let positions = self.max_position_embeddings;
        let ropes = self.ropes.iter().map(|rope| rope.max_ctx_len(positions));
        ropes.max().unwrap_or(positions)
    }

    fn list_block(&self, modules: &mut ModuleList, block: &str) {
        let (d, d_mlp, mlp_bias) = (self.hidden_size, self.intermediate_size, self.mlp_bias);
        modules.plain(block.into(), d);
        self.list_attention(modules, &format!("{block}.self_attn"));
        modules.plain(format!("{block}.mlp"), d);
        modules.linear(format!("{block}.mlp.gate_proj"), d, d_mlp, mlp_bias);
        modules.linear(format!("{block}.mlp.up_proj"), d, d_mlp, mlp_bias);
        modules.linear(format!("{block}.mlp.down_proj"), d_mlp, d, mlp_bias);
        modules.plain(format!("{block}.mlp.act_fn"), d_mlp);
        modules.rms_norm(format!("{block}.input_layernorm"), d);
        modules.rms_norm(format!("{block}.post_attention_layernorm"), d);
        if self.block_norms == BlockNorms::Sandwich {
            modules.rms_norm(format!("{block}.pre_feedforward_layernorm"), d);
            modules.rms_norm(format!("{block}.post_feedforward_layernorm"), d);
        }
    }

    fn list_attention(&self, modules: &mut ModuleList, name: &str) {
        let d = self.hidden_size;
        let d_q = self.num_attention_heads * self.head_dim;
        let d_kv = self.num_key_value_heads * self.head_dim;
        modules.plain(name.into(), d);
        modules.linear(format!("{name}.q_proj"), d, d_q, self.qkv_bias);
        modules.linear(format!("{name}.k_proj"), d, d_kv, self.qkv_bias);
        modules.linear(format!("{name}.v_proj"), d, d_kv, self.qkv_bias);
        modules.linear(format!("{name}.o_proj"), d_q, d, self.o_bias);
        if self.qk_norm.is_some() {
            let (n_q, n_kv, d) = (
                self.num_attention_heads,
                self.num_key_value_heads,
                self.head_dim,
            );
            modules.rms_norm_of_heads(format!("{name}.q_norm"), n_q, d);
            modules.rms_norm_of_heads(format!("{name}.k_norm"), n_kv, d);
        }
    }
}

fn block_name(layer_idx: usize) -> String {
    format!("layers.{layer_idx}")
}
