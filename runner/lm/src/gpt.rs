//! What GPT-2 and GPT-Neo share: learnt positions, layer norms before attention and MLP, and a
//! residual stream. Their attention is their own.

use crate::LmError;
use crate::attention::Masks;
use crate::body::Body;
use crate::load::Loader;
use crate::modules::ModuleId;
use crate::nn::{Activation, Dropout, Embedding, LayerNorm, Linear};
use crate::run::Run;
use crate::tap::Tape;
use facts::{ActFn, GptConfig};
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// The attention of a GPT.
pub(crate) trait GptAttention {
    /// The common part of the configuration.
    fn common(&self) -> &GptConfig;

    /// Loads the attention called `name` of block `layer_idx`.
    fn load(
        &self,
        loader: &mut Loader,
        layer_idx: usize,
        name: &str,
    ) -> Result<Box<dyn SelfAttention>, LmError>;
}

/// A loaded attention.
pub(crate) trait SelfAttention: Debug + Send {
    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor>;
}

/// Loads a GPT, or its first blocks.
pub(crate) fn load(
    config: &impl GptAttention,
    loader: &mut Loader,
) -> Result<Box<dyn Body>, LmError> {
    let eps = config.common().layer_norm_epsilon;
    let h = (0..loader.n_layers()).map(|layer_idx| Block::load(config, loader, layer_idx));
    let h = h.collect::<Result<_, _>>()?;
    let ln_f = loader.is_whole().then(|| loader.layer_norm("ln_f", eps));
    Ok(Box::new(Gpt {
        wte: loader.embedding("wte", None)?,
        wpe: loader.embedding("wpe", None)?,
        drop: loader.dropout("drop"),
        h,
        ln_f: ln_f.transpose()?,
    }))
}

/// `c_proj(act(c_fc(x)))`
#[derive(Debug)]
struct Mlp {
    id: ModuleId,
    c_fc: Linear,
    act: Activation,
    c_proj: Linear,
    dropout: Dropout,
}

impl Mlp {
    fn load(loader: &mut Loader, name: &str, act_fn: ActFn) -> Result<Self, LmError> {
        Ok(Self {
            id: loader.id(name),
            c_fc: loader.linear(&format!("{name}.c_fc"))?,
            act: loader.activation(&format!("{name}.act"), act_fn),
            c_proj: loader.linear(&format!("{name}.c_proj"))?,
            dropout: loader.dropout(&format!("{name}.dropout")),
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let hidden = self.c_fc.forward(tape, x)?;
            let hidden = self.act.forward(tape, &hidden)?;
            let output = self.c_proj.forward(tape, &hidden)?;
            self.dropout.forward(tape, &output)
        })
    }
}

/// Attention and MLP, each after a norm and added to the residual stream.
#[derive(Debug)]
struct Block {
    id: ModuleId,
    ln_1: LayerNorm,
    attn: Box<dyn SelfAttention>,
    ln_2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn load(
        config: &impl GptAttention,
        loader: &mut Loader,
        layer_idx: usize,
    ) -> Result<Self, LmError> {
        let name = loader.block_name(layer_idx);
        let eps = config.common().layer_norm_epsilon;
        Ok(Self {
            id: loader.id(&name),
            ln_1: loader.layer_norm(&format!("{name}.ln_1"), eps)?,
            attn: config.load(loader, layer_idx, &format!("{name}.attn"))?,
            ln_2: loader.layer_norm(&format!("{name}.ln_2"), eps)?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), config.common().act_fn)?,
        })
    }

    /// `x`: `[batch, ctx_len, hidden_size]`
    fn forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let normed = self.ln_1.forward(tape, x)?;
            let x = x.f_add(&self.attn.forward(tape, &normed, masks)?)?;
            let normed = self.ln_2.forward(tape, &x)?;
            Ok(x.f_add(&self.mlp.forward(tape, &normed)?)?)
        })
    }
}

/// A GPT, or its first blocks.
#[derive(Debug)]
struct Gpt {
    wte: Embedding,
    wpe: Embedding,
    drop: Dropout,
    h: Vec<Block>,
    /// `None` if the last blocks are not loaded.
    ln_f: Option<LayerNorm>,
}

impl Body for Gpt {
    fn embed(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        let (_, ctx_len) = input_ids.size2()?;
        let positions = Tensor::f_arange(ctx_len, (Kind::Int64, input_ids.device()))?;
        let tokens = self.wte.forward(tape, input_ids)?;
        let position_embeds = self.wpe.forward(tape, &positions.f_unsqueeze(0)?)?;
        self.drop.forward(tape, &tokens.f_add(&position_embeds)?)
    }

    fn blocks_from(&self, tape: &mut Tape, first: usize, mut x: Tensor) -> Run<Tensor> {
        let (_, ctx_len, _) = x.size3()?;
        let masks = Masks::new(ctx_len, x.device());
        for block in &self.h[first..] {
            x = block.forward(tape, &x, &masks)?;
        }
        match &self.ln_f {
            Some(ln_f) => ln_f.forward(tape, &x),
            None => Ok(x),
        }
    }
}
