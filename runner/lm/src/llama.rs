//! Llama (Touvron et al. 2023), as transformers 5 computes it with sdpa attention: Llama 2 and 3,
//! SmolLM2 and others of `model_type` = `llama`.

use crate::LmError;
use crate::config::ConfigFile;
use crate::layout::{Layout, ModuleList};
use crate::load::Loader;
use crate::nn::{ActFn, Activation, Embedding, Linear, RmsNorm};
use crate::rope::{RopeConfig, RotaryEmbedding, Rotations};
use crate::tap::{ModuleId, Run, Tape};
use tch::Tensor;

/// What config.json says of a Llama; names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; by default as many as query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; by default `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Activation function of the MLP; by default SiLU.
    pub hidden_act: ActFn,
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root; by default 1e-6.
    pub rms_norm_eps: f64,
    /// The rotary embedding.
    pub rope: RopeConfig,
    /// Whether the four projections of the attention have biases; by default not.
    pub attention_bias: bool,
    /// Whether the three projections of the MLP have biases; by default not.
    pub mlp_bias: bool,
    /// Whether the head's weight is the embedding's; by default not.
    pub tie_word_embeddings: bool,
}

impl LlamaConfig {
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, LmError> {
        let hidden_size = file.required_count("hidden_size")?;
        let num_attention_heads = file.required_count("num_attention_heads")?;
        let max_position_embeddings = file.required_count("max_position_embeddings")?;
        Ok(Self {
            vocab_size: file.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: file.required_count("intermediate_size")?,
            num_hidden_layers: file.n_layers("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: read_kv_heads(file, num_attention_heads)?,
            head_dim: read_head_dim(file, hidden_size, num_attention_heads)?,
            hidden_act: ActFn::read(file, "hidden_act", ActFn::Silu)?,
            max_position_embeddings,
            rms_norm_eps: file.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope: RopeConfig::read(file, max_position_embeddings)?,
            attention_bias: file.bool("attention_bias", false)?,
            mlp_bias: file.bool("mlp_bias", false)?,
            tie_word_embeddings: file.bool("tie_word_embeddings", false)?,
        })
    }

    pub(crate) fn layout(&self) -> Layout {
        let mut modules = ModuleList::default();
        modules.embedding("embed_tokens", self.vocab_size, self.hidden_size);
        for layer_idx in 0..self.num_hidden_layers {
            modules.within(layer_idx + 1);
            self.list_block(&mut modules, &block_name(layer_idx));
        }
        modules.norm("norm".into(), self.hidden_size);
        Layout {
            model_type: "llama",
            n_layers: self.num_hidden_layers,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_ctx_len: self.max_position_embeddings,
            layers_name: "layers",
            embedding_name: "embed_tokens",
            base_prefix: "model.",
            tied_head: self.tie_word_embeddings,
            modules: modules.finish(),
        }
    }

    fn list_block(&self, modules: &mut ModuleList, block: &str) {
        let (d, d_mlp) = (self.hidden_size, self.intermediate_size);
        let d_q = self.num_attention_heads * self.head_dim;
        let d_kv = self.num_key_value_heads * self.head_dim;
        let (attention_bias, mlp_bias) = (self.attention_bias, self.mlp_bias);
        modules.plain(block.into(), d);
        modules.plain(format!("{block}.self_attn"), d);
        modules.linear(format!("{block}.self_attn.q_proj"), d, d_q, attention_bias);
        modules.linear(format!("{block}.self_attn.k_proj"), d, d_kv, attention_bias);
        modules.linear(format!("{block}.self_attn.v_proj"), d, d_kv, attention_bias);
        modules.linear(format!("{block}.self_attn.o_proj"), d_q, d, attention_bias);
        modules.plain(format!("{block}.mlp"), d);
        modules.linear(format!("{block}.mlp.gate_proj"), d, d_mlp, mlp_bias);
        modules.linear(format!("{block}.mlp.up_proj"), d, d_mlp, mlp_bias);
        modules.linear(format!("{block}.mlp.down_proj"), d_mlp, d, mlp_bias);
        modules.plain(format!("{block}.mlp.act_fn"), d_mlp);
        modules.norm(format!("{block}.input_layernorm"), d);
        modules.norm(format!("{block}.post_attention_layernorm"), d);
    }
}

fn block_name(layer_idx: usize) -> String {
    format!("layers.{layer_idx}")
}

fn read_kv_heads(file: &ConfigFile, n_heads: usize) -> Result<usize, LmError> {
    let n_kv_heads = file.count("num_key_value_heads")?.unwrap_or(n_heads);
    if n_heads.is_multiple_of(n_kv_heads) {
        return Ok(n_kv_heads);
    }
    let problem = format!("is {n_kv_heads}, no divisor of `num_attention_heads` = {n_heads}");
    Err(file.bad("num_key_value_heads", problem))
}

fn read_head_dim(file: &ConfigFile, hidden_size: usize, n_heads: usize) -> Result<usize, LmError> {
    let head_dim = match file.count("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => {
            let problem =
                format!("is {hidden_size}, no multiple of `num_attention_heads` = {n_heads}");
            return Err(file.bad("hidden_size", problem));
        }
    };
    if head_dim.is_multiple_of(2) {
        return Ok(head_dim);
    }
    let problem = format!("is {head_dim}, but rotary embeddings need pairs of channels");
    Err(file.bad("head_dim", problem))
}

/// Causal self-attention with grouped key and value heads.
#[derive(Debug)]
struct Attention {
    id: ModuleId,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    head_dim: i64,
    /// Whether several query heads share a key head.
    is_grouped: bool,
}

impl Attention {
    fn load(config: &LlamaConfig, loader: &mut Loader, name: &str) -> Result<Self, LmError> {
        Ok(Self {
            id: loader.id(name),
            q_proj: loader.linear(&format!("{name}.q_proj"))?,
            k_proj: loader.linear(&format!("{name}.k_proj"))?,
            v_proj: loader.linear(&format!("{name}.v_proj"))?,
            o_proj: loader.linear(&format!("{name}.o_proj"))?,
            head_dim: config.head_dim as i64,
            is_grouped: config.num_key_value_heads < config.num_attention_heads,
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, rotations: &Rotations) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let (batch, ctx_len, _) = x.size3()?;
            let heads = |projected: Tensor| {
                projected
                    .f_view([batch, ctx_len, -1, self.head_dim])?
                    .f_transpose(1, 2)
            };
            let q = rotations.apply(&heads(self.q_proj.forward(tape, x)?)?)?;
            let k = rotations.apply(&heads(self.k_proj.forward(tape, x)?)?)?;
            let v = heads(self.v_proj.forward(tape, x)?)?;
            let mixed = self.attend(&q, &k, &v)?;
            let mixed = mixed.f_transpose(1, 2)?.f_reshape([batch, ctx_len, -1])?;
            self.o_proj.forward(tape, &mixed)
        })
    }

    /// `softmax(q k^T / sqrt(head_dim)) v` over earlier positions; `[batch, heads, ctx_len, head_dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Run<Tensor> {
        let (mask, dropout, is_causal, scale) = (None::<&Tensor>, 0.0, true, None);
        Ok(Tensor::f_scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            dropout,
            is_causal,
            scale,
            self.is_grouped,
        )?)
    }
}

/// `down(act(gate(x)) * up(x))`
#[derive(Debug)]
struct Mlp {
    id: ModuleId,
    gate_proj: Linear,
    act_fn: Activation,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(config: &LlamaConfig, loader: &mut Loader, name: &str) -> Result<Self, LmError> {
        Ok(Self {
            id: loader.id(name),
            gate_proj: loader.linear(&format!("{name}.gate_proj"))?,
            act_fn: loader.activation(&format!("{name}.act_fn"), config.hidden_act),
            up_proj: loader.linear(&format!("{name}.up_proj"))?,
            down_proj: loader.linear(&format!("{name}.down_proj"))?,
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let gate = self.gate_proj.forward(tape, x)?;
            let gate = self.act_fn.forward(tape, &gate)?;
            let hidden = gate.f_mul(&self.up_proj.forward(tape, x)?)?;
            self.down_proj.forward(tape, &hidden)
        })
    }
}

/// Attention and MLP, each behind a norm and added to the residual stream.
#[derive(Debug)]
struct Block {
    id: ModuleId,
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Block {
    fn load(config: &LlamaConfig, loader: &mut Loader, name: &str) -> Result<Self, LmError> {
        let mut norm = |norm: &str| loader.rms_norm(&format!("{name}.{norm}"), config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            self_attn: Attention::load(config, loader, &format!("{name}.self_attn"))?,
            mlp: Mlp::load(config, loader, &format!("{name}.mlp"))?,
            id: loader.id(name),
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, rotations: &Rotations) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let normed = self.input_layernorm.forward(tape, x)?;
            let x = x.f_add(&self.self_attn.forward(tape, &normed, rotations)?)?;
            let normed = self.post_attention_layernorm.forward(tape, &x)?;
            Ok(x.f_add(&self.mlp.forward(tape, &normed)?)?)
        })
    }
}

/// A Llama, or its first blocks.
#[derive(Debug)]
pub(crate) struct Llama {
    embed_tokens: Embedding,
    rotary_emb: RotaryEmbedding,
    layers: Vec<Block>,
    /// `None` where the last blocks are not loaded.
    norm: Option<RmsNorm>,
    /// `[vocab_size, hidden_size]`
    lm_head: Option<Tensor>,
}

impl Llama {
    pub(crate) fn load(config: &LlamaConfig, loader: &mut Loader) -> Result<Self, LmError> {
        let embed_tokens = loader.embedding("embed_tokens")?;
        let rotary_emb = RotaryEmbedding::new(&config.rope, config.head_dim, loader.device())?;
        let layers = (0..loader.n_layers())
            .map(|layer_idx| Block::load(config, loader, &block_name(layer_idx)))
            .collect::<Result<_, _>>()?;
        let norm = loader
            .is_whole()
            .then(|| loader.rms_norm("norm", config.rms_norm_eps));
        Ok(Self {
            rotary_emb,
            layers,
            norm: norm.transpose()?,
            lm_head: loader.head(&embed_tokens)?,
            embed_tokens,
        })
    }

    /// The output of the final norm, or of the last loaded block: `[batch, ctx_len, hidden_size]`.
    /// `input_ids`: `[batch, ctx_len]`.
    pub(crate) fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        let mut x = self.embed_tokens.forward(tape, input_ids)?;
        let (_, ctx_len) = input_ids.size2()?;
        let rotations = self.rotary_emb.rotations(ctx_len, x.kind())?;
        for layer in &self.layers {
            x = layer.forward(tape, &x, &rotations)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(tape, &x),
            None => Ok(x),
        }
    }

    /// `hidden`: `[batch, ctx_len, hidden_size]`, the output of the final norm.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Option<Run<Tensor>> {
        let weight = self.lm_head.as_ref()?;
        Some(hidden.f_linear(weight, None::<&Tensor>).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::{Stop, Taps};
    use crate::testing::{TinyModel, tiny_llama};
    use crate::{ModelConfig, read_config};
    use serde_json::{Value, json};

    fn read(changes: Value) -> Result<LlamaConfig, LmError> {
        let ModelConfig::Llama(config) = read_config(TinyModel::with_config(changes).dir())?;
        Ok(config)
    }

    #[test]
    fn defaults_of_absent_and_null_keys() {
        let config = read(json!({
            "num_key_value_heads": null, "head_dim": null, "hidden_act": null,
            "rms_norm_eps": null, "tie_word_embeddings": null, "attention_bias": null,
        }))
        .unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (4, 8));
        assert_eq!(
            (config.hidden_act, config.rms_norm_eps),
            (ActFn::Silu, 1e-6)
        );
        assert!(!config.tie_word_embeddings && !config.attention_bias);
    }

    #[test]
    fn every_required_key_is_named_when_missing() {
        for key in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ] {
            let error = read(json!({ key: null })).unwrap_err();
            assert!(
                matches!(&error, LmError::MissingKey { key: k, .. } if k == key),
                "{error:?}"
            );
        }
    }

    #[test]
    fn wrong_and_contradictory_values_name_their_key() {
        for (changes, wrong_key) in [
            (json!({"hidden_size": "32"}), "hidden_size"),
            (json!({"hidden_size": -1}), "hidden_size"),
            (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
            (json!({"vocab_size": 1e30}), "vocab_size"),
            (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
            (json!({"mlp_bias": 1}), "mlp_bias"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (
                json!({"head_dim": null, "num_attention_heads": 6}),
                "hidden_size",
            ),
            (json!({"head_dim": 7}), "head_dim"),
            (json!({"rope_parameters": 3}), "rope_parameters"),
        ] {
            let error = read(changes).unwrap_err();
            let named = matches!(&error, LmError::BadKey { key, .. } if key == wrong_key);
            assert!(named, "{wrong_key}: {error:?}");
        }
    }

    #[test]
    fn heads_need_not_fill_the_hidden_size() {
        let layout = read(json!({"head_dim": 6, "attention_bias": true}))
            .unwrap()
            .layout();
        let tensors = layout.tensors(1);
        let shape = |name: &str| {
            let spec = tensors.iter().find(|spec| spec.name == name);
            spec.map(|spec| spec.shape.clone())
        };
        assert_eq!(
            shape("layers.0.self_attn.q_proj.weight"),
            Some(vec![24, 32])
        );
        assert_eq!(shape("layers.0.self_attn.k_proj.bias"), Some(vec![12]));
        assert_eq!(
            shape("layers.0.self_attn.o_proj.weight"),
            Some(vec![32, 24])
        );
        assert_eq!(shape("layers.0.mlp.up_proj.bias"), None);
        assert_eq!(shape("layers.1.mlp.up_proj.weight"), None);
    }

    /// What comes after the last tap does not run: here it cannot.
    #[test]
    fn a_pass_stops_within_a_block() {
        let config = read(json!({})).unwrap();
        let layout = config.layout();
        let options = crate::LoadOptions::default();
        let mut loader = Loader::open(&tiny_llama(), &layout, &options).unwrap();
        let mut model = Llama::load(&config, &mut loader).unwrap();
        model.layers[1].mlp.up_proj.weight = Tensor::from_slice(&[1.0_f32; 7]);
        let input_ids = Tensor::from_slice(&[1_i64, 2]).view([1, 2]);
        let run = |hookpoint: &str| {
            let taps = Taps::new(&layout.facts(), &[hookpoint]).unwrap();
            model.forward(&mut Tape::new(&taps), &input_ids)
        };
        assert!(matches!(run("layers.1.mlp.act_fn"), Err(Stop::Served)));
        assert!(matches!(run("layers.1.mlp.gate_proj"), Err(Stop::Served)));
        assert!(matches!(run("layers.1.mlp.up_proj"), Err(Stop::Torch(_))));
    }
}
