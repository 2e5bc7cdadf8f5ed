//! GPT-2 (Radford et al. 2019), as transformers 5 computes it with sdpa attention.

use crate::LmError;
use crate::attention::{Attend, Masks, split_heads};
use crate::gpt::{GptAttention, SelfAttention};
use crate::load::Loader;
use crate::modules::ModuleId;
use crate::nn::{Dropout, Linear};
use crate::run::Run;
use crate::tap::Tape;
use facts::{Gpt2Config, GptConfig};
use tch::Tensor;

impl GptAttention for Gpt2Config {
    fn common(&self) -> &GptConfig {
        &self.common
    }

    fn load(
        &self,
        loader: &mut Loader,
        layer_idx: usize,
        name: &str,
    ) -> Result<Box<dyn SelfAttention>, LmError> {
        Ok(Box::new(Attention {
            id: loader.id(name),
            c_attn: loader.linear(&format!("{name}.c_attn"))?,
            c_proj: loader.linear(&format!("{name}.c_proj"))?,
            resid_dropout: loader.dropout(&format!("{name}.resid_dropout")),
            head_dim: self.head_dim as i64,
            attend: Attend {
                scale: self.score_scale(layer_idx),
                softcap: None,
                window: None,
            },
        }))
    }
}

/// Causal self-attention with one projection for queries, keys and values.
#[derive(Debug)]
struct Attention {
    id: ModuleId,
    c_attn: Linear,
    c_proj: Linear,
    resid_dropout: Dropout,
    head_dim: i64,
    attend: Attend,
}

impl SelfAttention for Attention {
    fn forward(&self, tape: &mut Tape, x: &Tensor, masks: &Masks) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let thirds = self.c_attn.forward(tape, x)?.f_chunk(3, -1)?;
            let heads = |third: &Tensor| -> Run<Tensor> {
                Ok(split_heads(third, self.head_dim)?.f_transpose(1, 2)?)
            };
            let (q, k, v) = (heads(&thirds[0])?, heads(&thirds[1])?, heads(&thirds[2])?);
            let mixed = self.attend.forward(&q, &k, &v, masks)?;
            let mixed = self.c_proj.forward(tape, &mixed)?;
            self.resid_dropout.forward(tape, &mixed)
        })
    }
}
