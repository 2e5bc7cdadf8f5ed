//! The decoder that Llama made common: rotary attention with grouped heads, a gated MLP, RMS norms
//! and a residual stream. Llama, Mistral, Qwen and Gemma differ in details, all of which are in
//! [`DecoderConfig`].

use crate::LmError;
use crate::attention::{Attend, Masks, split_heads};
use crate::body::Body;
use crate::load::Loader;
use crate::modules::ModuleId;
use crate::nn::{Activation, Embedding, Linear, RmsNorm};
use crate::rope::{RotaryEmbedding, Rotations};
use crate::run::Run;
use crate::tap::Tape;
use facts::{BlockNorms, DecoderConfig, LayerConfig, NormStyle, QkNorm};
use tch::{TchError, Tensor};

fn load_norm(config: &DecoderConfig, loader: &mut Loader, name: &str) -> Result<RmsNorm, LmError> {
    let mut norm = loader.rms_norm(name, config.rms_norm_eps)?;
    if config.norm_style == NormStyle::OnePlus {
        let one_plus = |weight: &Tensor| weight.f_to_kind(tch::Kind::Float)?.f_add_scalar(1.0);
        norm.weight = one_plus(&norm.weight)
            .map_err(|source| LmError::torch(format!("loading the norm `{name}`"), source))?;
    }
    Ok(norm)
}

/// What all blocks of one forward pass share.
struct Shared {
    /// By index of the rotary embedding.
    rotations: Vec<Rotations>,
    masks: Masks,
}

/// Causal self-attention with grouped key and value heads.
#[derive(Debug)]
struct Attention {
    id: ModuleId,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    /// Norms of queries and keys.
    qk_norms: Option<(QkNorm, RmsNorm, RmsNorm)>,
    head_dim: i64,
    rope: usize,
    attend: Attend,
}

impl Attention {
    fn load(
        config: &DecoderConfig,
        layer: LayerConfig,
        loader: &mut Loader,
        name: &str,
    ) -> Result<Self, LmError> {
        let mut norm = |norm: &str| load_norm(config, loader, &format!("{name}.{norm}"));
        let qk_norms = match config.qk_norm {
            Some(order) => Some((order, norm("q_norm")?, norm("k_norm")?)),
            None => None,
        };
        Ok(Self {
            id: loader.id(name),
            qk_norms,
            q_proj: loader.linear(&format!("{name}.q_proj"))?,
            k_proj: loader.linear(&format!("{name}.k_proj"))?,
            v_proj: loader.linear(&format!("{name}.v_proj"))?,
            o_proj: loader.linear(&format!("{name}.o_proj"))?,
            head_dim: config.head_dim as i64,
            rope: layer.rope,
            attend: Attend {
                scale: config.score_scale,
                softcap: config.score_softcap,
                window: layer.window.map(|window| window as i64),
            },
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, shared: &Shared) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let heads = |projected: &Tensor| split_heads(projected, self.head_dim);
            let q = heads(&self.q_proj.forward(tape, x)?)?;
            let k = heads(&self.k_proj.forward(tape, x)?)?;
            let v = heads(&self.v_proj.forward(tape, x)?)?.f_transpose(1, 2)?;
            let (q, k) = self.by_head(tape, &q, &k)?;
            let rotations = &shared.rotations[self.rope];
            let (q, k) = (rotations.apply(&q)?, rotations.apply(&k)?);
            let mixed = self.attend.forward(&q, &k, &v, &shared.masks)?;
            self.o_proj.forward(tape, &mixed)
        })
    }

    /// Queries and keys `[batch, ctx_len, heads, head_dim]` as `[batch, heads, ctx_len, head_dim]`,
    /// normed if the model does that.
    fn by_head(&self, tape: &mut Tape, q: &Tensor, k: &Tensor) -> Run<(Tensor, Tensor)> {
        let transposed = |x: &Tensor| -> Result<Tensor, TchError> { x.f_transpose(1, 2) };
        match &self.qk_norms {
            None => Ok((transposed(q)?, transposed(k)?)),
            Some((QkNorm::BeforeTranspose, q_norm, k_norm)) => {
                let (q, k) = (q_norm.forward(tape, q)?, k_norm.forward(tape, k)?);
                Ok((transposed(&q)?, transposed(&k)?))
            }
            Some((QkNorm::AfterTranspose, q_norm, k_norm)) => {
                let (q, k) = (transposed(q)?, transposed(k)?);
                Ok((q_norm.forward(tape, &q)?, k_norm.forward(tape, &k)?))
            }
        }
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
    fn load(config: &DecoderConfig, loader: &mut Loader, name: &str) -> Result<Self, LmError> {
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

/// Attention and MLP, each normed and added to the residual stream.
#[derive(Debug)]
struct Block {
    id: ModuleId,
    before_attention: RmsNorm,
    self_attn: Attention,
    after_attention: Option<RmsNorm>,
    before_mlp: RmsNorm,
    mlp: Mlp,
    after_mlp: Option<RmsNorm>,
}

impl Block {
    fn load(
        config: &DecoderConfig,
        loader: &mut Loader,
        layer_idx: usize,
    ) -> Result<Self, LmError> {
        let name = loader.block_name(layer_idx);
        let mut norm = |norm: &str| load_norm(config, loader, &format!("{name}.{norm}"));
        let before_attention = norm("input_layernorm")?;
        // The same name is another norm in another family.
        let post_attention = norm("post_attention_layernorm")?;
        let (after_attention, before_mlp, after_mlp) = match config.block_norms {
            BlockNorms::Before => (None, post_attention, None),
            BlockNorms::Sandwich => (
                Some(post_attention),
                norm("pre_feedforward_layernorm")?,
                Some(norm("post_feedforward_layernorm")?),
            ),
        };
        let layer = config.layers[layer_idx];
        Ok(Self {
            self_attn: Attention::load(config, layer, loader, &format!("{name}.self_attn"))?,
            mlp: Mlp::load(config, loader, &format!("{name}.mlp"))?,
            id: loader.id(&name),
            before_attention,
            after_attention,
            before_mlp,
            after_mlp,
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, shared: &Shared) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let normed = self.before_attention.forward(tape, x)?;
            let attended = self.self_attn.forward(tape, &normed, shared)?;
            let x = x.f_add(&normed_by(&self.after_attention, tape, attended)?)?;
            let normed = self.before_mlp.forward(tape, &x)?;
            let hidden = self.mlp.forward(tape, &normed)?;
            Ok(x.f_add(&normed_by(&self.after_mlp, tape, hidden)?)?)
        })
    }
}

fn normed_by(norm: &Option<RmsNorm>, tape: &mut Tape, x: Tensor) -> Run<Tensor> {
    match norm {
        Some(norm) => norm.forward(tape, &x),
        None => Ok(x),
    }
}

/// A decoder, or its first blocks.
#[derive(Debug)]
pub(crate) struct Decoder {
    embed_tokens: Embedding,
    rotary_embs: Vec<RotaryEmbedding>,
    layers: Vec<Block>,
    /// `None` if the last blocks are not loaded.
    norm: Option<RmsNorm>,
}

impl Decoder {
    pub(crate) fn load(config: &DecoderConfig, loader: &mut Loader) -> Result<Self, LmError> {
        let rotary = |rope| RotaryEmbedding::new(rope, config.head_dim, loader.device());
        let rotary_embs = config.ropes.iter().map(rotary).collect::<Result<_, _>>()?;
        let embed_tokens = loader.embedding("embed_tokens", config.embed_scale)?;
        let layers = (0..loader.n_layers())
            .map(|layer_idx| Block::load(config, loader, layer_idx))
            .collect::<Result<_, _>>()?;
        let norm = loader.is_whole().then(|| load_norm(config, loader, "norm"));
        Ok(Self {
            embed_tokens,
            rotary_embs,
            layers,
            norm: norm.transpose()?,
        })
    }
}

impl Body for Decoder {
    fn embed(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        self.embed_tokens.forward(tape, input_ids)
    }

    fn blocks_from(&self, tape: &mut Tape, first: usize, mut x: Tensor) -> Run<Tensor> {
        let (_, ctx_len, _) = x.size3()?;
        let rotations = self.rotary_embs.iter();
        let shared = Shared {
            rotations: rotations
                .map(|rotary_emb| rotary_emb.rotations(ctx_len, x.kind()))
                .collect::<Result<_, _>>()?,
            masks: Masks::new(ctx_len, x.device()),
        };
        for layer in &self.layers[first..] {
            x = layer.forward(tape, &x, &shared)?;
        }
        normed_by(&self.norm, tape, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;
    use crate::nn::LinearWeight;
    use crate::run::Stop;
    use crate::tap::Taps;
    use crate::testing::tiny_llama;
    use facts::Architecture;

    /// What comes after the last tap does not run: here it cannot.
    #[test]
    fn a_pass_stops_within_a_block() {
        let config = facts::read_config(&tiny_llama()).unwrap();
        let layout = config.layout();
        let Architecture::Decoder(config) = config.architecture else {
            panic!("a Llama is a decoder");
        };
        let options = LoadOptions::default();
        let mut loader = Loader::open(&tiny_llama(), &layout, &options, tch::Kind::Float).unwrap();
        let mut model = Decoder::load(&config, &mut loader).unwrap();
        let unfitting = Tensor::from_slice(&[1.0_f32; 7]);
        model.layers[1].mlp.up_proj.weight = LinearWeight::Full(unfitting);
        let input_ids = Tensor::from_slice(&[1_i64, 2]).view([1, 2]);
        let facts = layout.facts();
        let run = |taps: &Taps| model.forward(&mut Tape::until_served(taps), &input_ids);
        let output = |hookpoint: &str| run(&Taps::new(&facts, &[hookpoint]).unwrap());
        assert!(matches!(output("layers.1.mlp.act_fn"), Err(Stop::Served)));
        assert!(matches!(
            output("layers.1.mlp.gate_proj"),
            Err(Stop::Served)
        ));
        assert!(matches!(
            output("layers.1.mlp.up_proj"),
            Err(Stop::Torch(_))
        ));
        let input = Taps::none().with_inputs(&facts, &["layers.1.mlp.up_proj"]);
        assert!(matches!(run(&input.unwrap()), Err(Stop::Served)));
    }
}
