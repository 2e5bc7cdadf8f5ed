//! What GPT-2 and GPT-Neo share: learnt positions, layer norms before attention and MLP, and a
//! residual stream. Their attention is their own.

use crate::LmError;
use crate::architecture::{Architecture, Body};
use crate::attention::Masks;
use crate::layout::{LM_HEAD, Layout, ModuleList};
use crate::load::Loader;
use crate::nn::{ActFn, Activation, Dropout, Embedding, LayerNorm, Linear};
use crate::tap::{ModuleId, Run, Tape};
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// A GPT but for its attention.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GptConfig {
    /// Hugging Face's name of the family.
    pub(crate) model_type: &'static str,
    /// Rows of the token embedding.
    pub(crate) vocab_size: usize,
    /// Rows of the position embedding: the longest context, in tokens.
    pub(crate) n_positions: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Number of blocks.
    pub(crate) n_layers: usize,
    /// Width of the MLP.
    pub(crate) d_mlp: usize,
    /// Whether the MLP's weights are stored as `[d_in, d_out]`.
    pub(crate) mlp_is_conv1d: bool,
    /// Activation function of the MLP.
    pub(crate) act_fn: ActFn,
    /// Added to the variance before the root.
    pub(crate) layer_norm_epsilon: f64,
    /// Whether the head's weight is the embedding's.
    pub(crate) tie_word_embeddings: bool,
}

/// The attention of a GPT.
pub(crate) trait GptAttention {
    /// The common part of the configuration.
    fn common(&self) -> &GptConfig;

    /// Lists the attention's modules; `name` is that of the attention itself.
    fn list(&self, modules: &mut ModuleList, name: &str);

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

impl<T: GptAttention + Debug> Architecture for T {
    fn layout(&self) -> Layout {
        let config = self.common();
        let d = config.hidden_size;
        let mut modules = ModuleList::default();
        modules.embedding("wte", config.vocab_size, d);
        modules.embedding("wpe", config.n_positions, d);
        modules.plain("drop".into(), d);
        for layer_idx in 0..config.n_layers {
            let block = block_name(layer_idx);
            modules.within(layer_idx + 1);
            modules.plain(block.clone(), d);
            modules.layer_norm(format!("{block}.ln_1"), d);
            self.list(&mut modules, &format!("{block}.attn"));
            modules.layer_norm(format!("{block}.ln_2"), d);
            config.list_mlp(&mut modules, &format!("{block}.mlp"));
        }
        modules.layer_norm("ln_f".into(), d);
        Layout {
            model_type: config.model_type,
            n_layers: config.n_layers,
            hidden_size: d,
            vocab_size: config.vocab_size,
            max_ctx_len: config.n_positions,
            layers_name: "h",
            embedding_name: "wte",
            norm_name: "ln_f",
            base_prefix: "transformer.",
            within: None,
            head_name: LM_HEAD,
            tied_head: config.tie_word_embeddings,
            logit_softcap: None,
            modules: modules.finish(),
        }
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Body>, LmError> {
        let eps = self.common().layer_norm_epsilon;
        let h = (0..loader.n_layers()).map(|layer_idx| Block::load(self, loader, layer_idx));
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
}

impl GptConfig {
    fn list_mlp(&self, modules: &mut ModuleList, mlp: &str) {
        let (d, d_mlp) = (self.hidden_size, self.d_mlp);
        let linear = match self.mlp_is_conv1d {
            true => ModuleList::conv1d,
            false => |modules: &mut ModuleList, name, d_in, d_out| {
                modules.linear(name, d_in, d_out, true);
            },
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

/// Attention and MLP, each behind a norm and added to the residual stream.
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
        let name = block_name(layer_idx);
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
    /// `None` where the last blocks are not loaded.
    ln_f: Option<LayerNorm>,
}

impl Body for Gpt {
    fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        let (_, ctx_len) = input_ids.size2()?;
        let positions = Tensor::f_arange(ctx_len, (Kind::Int64, input_ids.device()))?;
        let tokens = self.wte.forward(tape, input_ids)?;
        let places = self.wpe.forward(tape, &positions.f_unsqueeze(0)?)?;
        let mut x = self.drop.forward(tape, &tokens.f_add(&places)?)?;
        let masks = Masks::new(ctx_len, x.device());
        for block in &self.h {
            x = block.forward(tape, &x, &masks)?;
        }
        match &self.ln_f {
            Some(ln_f) => ln_f.forward(tape, &x),
            None => Ok(x),
        }
    }
}
