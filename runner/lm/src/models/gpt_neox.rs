//! GPT-NeoX (Black et al. 2022; Pythia too), as transformers 5 computes it with sdpa attention: rotary
//! positions on a part of each head, attention and MLP side by side or one after the other.

use crate::LmError;
use crate::architecture::{Architecture, Body};
use crate::attention::{Attend, Masks, split_heads};
use crate::config::ConfigFile;
use crate::layout::{Layout, ModuleList};
use crate::load::Loader;
use crate::nn::{ActFn, Activation, Dropout, Embedding, LayerNorm, Linear};
use crate::rope::{RopeConfig, RotaryEmbedding, Rotations};
use crate::tap::{ModuleId, Run, Tape};
use tch::Tensor;

/// What config.json says of a GPT-NeoX; names as there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GptNeoxConfig {
    /// Rows of the embedding.
    vocab_size: usize,
    /// Width of the residual stream.
    hidden_size: usize,
    /// Width of the MLP.
    intermediate_size: usize,
    /// Number of blocks.
    num_hidden_layers: usize,
    /// Width of a head.
    head_dim: usize,
    /// Channels of a head that are rotated.
    rotary_dim: usize,
    /// The rotary embedding.
    rope: RopeConfig,
    /// Activation function of the MLP; by default GELU.
    hidden_act: ActFn,
    /// Longest context, in tokens.
    max_position_embeddings: usize,
    /// Added to the variance before the root; by default 1e-5.
    layer_norm_eps: f64,
    /// Whether attention and MLP both read the block's input; by default they do.
    use_parallel_residual: bool,
    /// Whether the projections of the attention have biases; by default they have.
    attention_bias: bool,
    /// Whether the head's weight is the embedding's; by default not.
    tie_word_embeddings: bool,
}

impl GptNeoxConfig {
    /// `model_type` = `gpt_neox`.
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, LmError> {
        let hidden_size = file.required_count("hidden_size")?;
        let n_heads = file.required_count("num_attention_heads")?;
        let head_dim =
            file.head_dim_of("hidden_size", hidden_size, "num_attention_heads", n_heads)?;
        if let Some(given) = file.count("head_dim")?.filter(|given| *given != head_dim) {
            let problem = format!("is {given}, but `hidden_size` and the heads give {head_dim}");
            return Err(file.bad("head_dim", problem));
        }
        let max_position_embeddings = file.required_count("max_position_embeddings")?;
        // `rope_theta` has no effect in transformers.
        let theta_keys = ["rotary_emb_base", "rope_theta"];
        let rope = RopeConfig::read(file, &theta_keys, max_position_embeddings)?;
        Ok(Self {
            vocab_size: file.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: file.required_count("intermediate_size")?,
            num_hidden_layers: file.n_layers("num_hidden_layers")?,
            head_dim,
            rotary_dim: read_rotary_dim(file, &rope, head_dim)?,
            rope,
            hidden_act: ActFn::read(file, "hidden_act", ActFn::Gelu)?,
            max_position_embeddings,
            layer_norm_eps: file.positive("layer_norm_eps")?.unwrap_or(1e-5),
            use_parallel_residual: file.bool("use_parallel_residual", true)?,
            attention_bias: file.bool("attention_bias", true)?,
            tie_word_embeddings: file.bool("tie_word_embeddings", false)?,
        })
    }

    fn list_block(&self, modules: &mut ModuleList, block: &str) {
        let (d, d_mlp) = (self.hidden_size, self.intermediate_size);
        let bias = self.attention_bias;
        modules.plain(block.into(), d);
        modules.layer_norm(format!("{block}.input_layernorm"), d);
        modules.layer_norm(format!("{block}.post_attention_layernorm"), d);
        modules.plain(format!("{block}.post_attention_dropout"), d);
        modules.plain(format!("{block}.post_mlp_dropout"), d);
        modules.plain(format!("{block}.attention"), d);
        modules.linear(format!("{block}.attention.query_key_value"), d, 3 * d, bias);
        modules.linear(format!("{block}.attention.dense"), d, d, bias);
        modules.plain(format!("{block}.mlp"), d);
        modules.linear(format!("{block}.mlp.dense_h_to_4h"), d, d_mlp, true);
        modules.linear(format!("{block}.mlp.dense_4h_to_h"), d_mlp, d, true);
        modules.plain(format!("{block}.mlp.act"), d_mlp);
    }
}

/// `partial_rotary_factor` of the rope parameters, where transformers 5 keeps it, or the older
/// `rotary_pct`; by default a quarter of the head. `partial_rotary_factor` beside them has no effect in
/// transformers.
fn read_rotary_dim(
    file: &ConfigFile,
    rope: &RopeConfig,
    head_dim: usize,
) -> Result<usize, LmError> {
    let (key, fraction) = match (rope.partial_factor, file.positive("rotary_pct")?) {
        (Some(fraction), _) => ("partial_rotary_factor", fraction),
        (None, older) => ("rotary_pct", older.unwrap_or(0.25)),
    };
    for other in ["rotary_pct", "partial_rotary_factor"] {
        if let Some(outer) = file.positive(other)?.filter(|outer| *outer != fraction) {
            let problem = format!("is {outer}, but `{key}`, which counts, is {fraction}");
            return Err(file.bad(other, problem));
        }
    }
    let rotary_dim = (head_dim as f64 * fraction) as usize;
    if (2..=head_dim).contains(&rotary_dim) && rotary_dim.is_multiple_of(2) {
        return Ok(rotary_dim);
    }
    let problem = format!(
        "is {fraction}, which rotates {rotary_dim} of {head_dim} channels: rotary embeddings need pairs"
    );
    Err(file.bad(key, problem))
}

impl Architecture for GptNeoxConfig {
    fn layout(&self) -> Layout {
        let mut modules = ModuleList::default();
        modules.embedding("embed_in", self.vocab_size, self.hidden_size);
        modules.plain("emb_dropout".into(), self.hidden_size);
        for layer_idx in 0..self.num_hidden_layers {
            modules.within(layer_idx + 1);
            self.list_block(&mut modules, &block_name(layer_idx));
        }
        modules.layer_norm("final_layer_norm".into(), self.hidden_size);
        Layout {
            model_type: "gpt_neox",
            n_layers: self.num_hidden_layers,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_ctx_len: self.rope.max_ctx_len(self.max_position_embeddings),
            layers_name: "layers",
            embedding_name: "embed_in",
            norm_name: "final_layer_norm",
            base_prefix: "gpt_neox.",
            within: None,
            head_name: "embed_out.weight",
            tied_head: self.tie_word_embeddings,
            logit_softcap: None,
            modules: modules.finish(),
        }
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Body>, LmError> {
        Ok(Box::new(GptNeox::load(self, loader)?))
    }
}

fn block_name(layer_idx: usize) -> String {
    format!("layers.{layer_idx}")
}

/// Causal self-attention with one projection, in which queries, keys and values alternate by head.
#[derive(Debug)]
struct Attention {
    id: ModuleId,
    query_key_value: Linear,
    dense: Linear,
    head_dim: i64,
    attend: Attend,
}

impl Attention {
    fn load(config: &GptNeoxConfig, loader: &mut Loader, name: &str) -> Result<Self, LmError> {
        Ok(Self {
            id: loader.id(name),
            query_key_value: loader.linear(&format!("{name}.query_key_value"))?,
            dense: loader.linear(&format!("{name}.dense"))?,
            head_dim: config.head_dim as i64,
            attend: Attend {
                scale: (config.head_dim as f64).powf(-0.5),
                softcap: None,
                window: None,
            },
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, shared: &Shared) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let projected = self.query_key_value.forward(tape, x)?;
            let heads = split_heads(&projected, 3 * self.head_dim)?.f_transpose(1, 2)?;
            let qkv = heads.f_chunk(3, -1)?;
            let q = shared.rotations.apply(&qkv[0])?;
            let k = shared.rotations.apply(&qkv[1])?;
            let mixed = self.attend.forward(&q, &k, &qkv[2], &shared.masks)?;
            self.dense.forward(tape, &mixed)
        })
    }
}

/// `dense_4h_to_h(act(dense_h_to_4h(x)))`
#[derive(Debug)]
struct Mlp {
    id: ModuleId,
    dense_h_to_4h: Linear,
    act: Activation,
    dense_4h_to_h: Linear,
}

impl Mlp {
    fn load(config: &GptNeoxConfig, loader: &mut Loader, name: &str) -> Result<Self, LmError> {
        Ok(Self {
            id: loader.id(name),
            dense_h_to_4h: loader.linear(&format!("{name}.dense_h_to_4h"))?,
            act: loader.activation(&format!("{name}.act"), config.hidden_act),
            dense_4h_to_h: loader.linear(&format!("{name}.dense_4h_to_h"))?,
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let hidden = self.dense_h_to_4h.forward(tape, x)?;
            let hidden = self.act.forward(tape, &hidden)?;
            self.dense_4h_to_h.forward(tape, &hidden)
        })
    }
}

/// Attention and MLP, each behind a norm and added to the residual stream.
#[derive(Debug)]
struct Block {
    id: ModuleId,
    is_parallel: bool,
    input_layernorm: LayerNorm,
    attention: Attention,
    post_attention_dropout: Dropout,
    post_attention_layernorm: LayerNorm,
    mlp: Mlp,
    post_mlp_dropout: Dropout,
}

impl Block {
    fn load(
        config: &GptNeoxConfig,
        loader: &mut Loader,
        layer_idx: usize,
    ) -> Result<Self, LmError> {
        let name = block_name(layer_idx);
        let mut norm =
            |norm: &str| loader.layer_norm(&format!("{name}.{norm}"), config.layer_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            id: loader.id(&name),
            is_parallel: config.use_parallel_residual,
            attention: Attention::load(config, loader, &format!("{name}.attention"))?,
            post_attention_dropout: loader.dropout(&format!("{name}.post_attention_dropout")),
            mlp: Mlp::load(config, loader, &format!("{name}.mlp"))?,
            post_mlp_dropout: loader.dropout(&format!("{name}.post_mlp_dropout")),
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, shared: &Shared) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let normed = self.input_layernorm.forward(tape, x)?;
            let attended = self.attention.forward(tape, &normed, shared)?;
            let attended = self.post_attention_dropout.forward(tape, &attended)?;
            if self.is_parallel {
                let hidden = self.mlp_branch(tape, x)?;
                return Ok(hidden.f_add(&attended)?.f_add(x)?);
            }
            let x = attended.f_add(x)?;
            Ok(self.mlp_branch(tape, &x)?.f_add(&x)?)
        })
    }

    fn mlp_branch(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        let normed = self.post_attention_layernorm.forward(tape, x)?;
        let hidden = self.mlp.forward(tape, &normed)?;
        self.post_mlp_dropout.forward(tape, &hidden)
    }
}

/// What all blocks of one forward pass share.
struct Shared {
    rotations: Rotations,
    masks: Masks,
}

/// A GPT-NeoX, or its first blocks.
#[derive(Debug)]
struct GptNeox {
    embed_in: Embedding,
    emb_dropout: Dropout,
    rotary_emb: RotaryEmbedding,
    layers: Vec<Block>,
    /// `None` where the last blocks are not loaded.
    final_layer_norm: Option<LayerNorm>,
}

impl GptNeox {
    fn load(config: &GptNeoxConfig, loader: &mut Loader) -> Result<Self, LmError> {
        let layers = (0..loader.n_layers())
            .map(|layer_idx| Block::load(config, loader, layer_idx))
            .collect::<Result<_, _>>()?;
        let norm = loader.is_whole();
        let norm = norm.then(|| loader.layer_norm("final_layer_norm", config.layer_norm_eps));
        Ok(Self {
            layers,
            final_layer_norm: norm.transpose()?,
            embed_in: loader.embedding("embed_in", None)?,
            emb_dropout: loader.dropout("emb_dropout"),
            rotary_emb: RotaryEmbedding::new(&config.rope, config.rotary_dim, loader.device())?,
        })
    }
}

impl Body for GptNeox {
    fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        let (_, ctx_len) = input_ids.size2()?;
        let x = self.embed_in.forward(tape, input_ids)?;
        let mut x = self.emb_dropout.forward(tape, &x)?;
        let shared = Shared {
            rotations: self.rotary_emb.rotations(ctx_len, x.kind())?,
            masks: Masks::new(ctx_len, x.device()),
        };
        for layer in &self.layers {
            x = layer.forward(tape, &x, &shared)?;
        }
        match &self.final_layer_norm {
            Some(norm) => norm.forward(tape, &x),
            None => Ok(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;
    use serde_json::{Value, json};

    /// Of a tiny Llama's heads of 8 channels.
    fn read(changes: Value) -> Result<GptNeoxConfig, LmError> {
        let model = TinyModel::with_config(changes);
        GptNeoxConfig::read(&ConfigFile::read(model.dir())?)
    }

    #[test]
    fn keys_of_which_one_counts_must_agree() {
        for (changes, named) in [
            (json!({"rope_theta": 5.0}), "rope_theta"),
            (json!({"rotary_emb_base": 5}), "rotary_emb_base"),
            (
                json!({"partial_rotary_factor": 0.5}),
                "partial_rotary_factor",
            ),
            (
                json!({"rotary_pct": 1, "rope_parameters": {"partial_rotary_factor": 0.5}}),
                "rotary_pct",
            ),
            (json!({"head_dim": 6}), "head_dim"),
        ] {
            let error = read(changes).unwrap_err();
            assert!(
                matches!(&error, LmError::BadKey { key, .. } if key == named),
                "{error:?}"
            );
        }
        // As transformers 4 wrote them.
        let older = json!({"rope_parameters": null, "rope_theta": 5, "rotary_emb_base": 5,
            "rotary_pct": 0.5, "partial_rotary_factor": 0.5, "head_dim": 8});
        let config = read(older).unwrap();
        assert_eq!((config.rope.rope_theta, config.rotary_dim), (5.0, 4));
    }
}
