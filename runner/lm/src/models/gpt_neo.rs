//! GPT-Neo (Black et al. 2021; TinyStories too), as transformers 5 computes it with eager attention:
//! unscaled scores in float32, and local attention in some blocks.

use crate::LmError;
use crate::attention::{Attend, Masks, split_heads};
use crate::gpt::{GptAttention, SelfAttention};
use crate::load::Loader;
use crate::modules::ModuleId;
use crate::nn::{Dropout, Linear};
use crate::run::Run;
use crate::tap::Tape;
use facts::{GptConfig, GptNeoConfig};
use tch::{Kind, Tensor};

impl GptAttention for GptNeoConfig {
    fn common(&self) -> &GptConfig {
        &self.common
    }

    fn load(
        &self,
        loader: &mut Loader,
        layer_idx: usize,
        name: &str,
    ) -> Result<Box<dyn SelfAttention>, LmError> {
        let inner = format!("{name}.attention");
        Ok(Box::new(Attention {
            id: loader.id(name),
            inner: loader.id(&inner),
            q_proj: loader.linear(&format!("{inner}.q_proj"))?,
            k_proj: loader.linear(&format!("{inner}.k_proj"))?,
            v_proj: loader.linear(&format!("{inner}.v_proj"))?,
            out_proj: loader.linear(&format!("{inner}.out_proj"))?,
            resid_dropout: loader.dropout(&format!("{inner}.resid_dropout")),
            head_dim: self.head_dim as i64,
            attend: Attend {
                scale: 1.0,
                softcap: None,
                window: self.windows[layer_idx].map(|window| window as i64),
            },
        }))
    }
}

/// Causal self-attention, global or local, without a factor on the scores.
#[derive(Debug)]
struct Attention {
    /// `attn`, which does nothing but run `attn.attention`.
    id: ModuleId,
    inner: ModuleId,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    resid_dropout: Dropout,
    head_dim: i64,
    attend: Attend,
}

impl SelfAttention for Attention {
    fn forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            tape.module(self.inner, x, |tape, x| self.inner_forward(tape, x, masks))
        })
    }
}

impl Attention {
    /// `x`: `[batch, ctx_len, hidden_size]`
    fn inner_forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        let heads = |projected: Tensor, kind: Kind| -> Run<Tensor> {
            let split = split_heads(&projected.f_to_kind(kind)?, self.head_dim)?;
            Ok(split.f_transpose(1, 2)?)
        };
        // Scores without a factor are too large for float16.
        let q = heads(self.q_proj.forward(tape, x)?, Kind::Float)?;
        let k = heads(self.k_proj.forward(tape, x)?, Kind::Float)?;
        let v = heads(self.v_proj.forward(tape, x)?, x.kind())?;
        let mixed = self.attend.forward(&q, &k, &v, masks)?;
        let mixed = self.out_proj.forward(tape, &mixed)?;
        self.resid_dropout.forward(tape, &mixed)
    }
}
