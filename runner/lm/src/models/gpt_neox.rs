//! GPT-NeoX (Black et al. 2022; Pythia too), as transformers 5 computes it with sdpa attention: rotary
//! positions on a part of each head, attention and MLP side by side or one after the other.

use crate::LmError;
use crate::attention::{Attend, Masks, split_heads};
use crate::body::Body;
use crate::load::Loader;
use crate::modules::ModuleId;
use crate::nn::{Activation, Dropout, Embedding, LayerNorm, Linear};
use crate::rope::{RotaryEmbedding, Rotations};
use crate::run::Run;
use crate::tap::Tape;
use facts::GptNeoxConfig;
use tch::Tensor;

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

/// Attention and MLP, each after a norm and added to the residual stream.
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
        let name = loader.block_name(layer_idx);
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
pub(crate) struct GptNeox {
    embed_in: Embedding,
    emb_dropout: Dropout,
    rotary_emb: RotaryEmbedding,
    layers: Vec<Block>,
    /// `None` if the last blocks are not loaded.
    final_layer_norm: Option<LayerNorm>,
}

impl GptNeox {
    pub(crate) fn load(config: &GptNeoxConfig, loader: &mut Loader) -> Result<Self, LmError> {
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
    fn embed(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        let x = self.embed_in.forward(tape, input_ids)?;
        self.emb_dropout.forward(tape, &x)
    }

    fn blocks_from(&self, tape: &mut Tape, first: usize, mut x: Tensor) -> Run<Tensor> {
        let (_, ctx_len, _) = x.size3()?;
        let shared = Shared {
            rotations: self.rotary_emb.rotations(ctx_len, x.kind())?,
            masks: Masks::new(ctx_len, x.device()),
        };
        for layer in &self.layers[first..] {
            x = layer.forward(tape, &x, &shared)?;
        }
        match &self.final_layer_norm {
            Some(norm) => norm.forward(tape, &x),
            None => Ok(x),
        }
    }
}
