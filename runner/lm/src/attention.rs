//! Causal self-attention over heads, as all architectures share it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// Which positions a query may look at, for one forward pass; each mask is built once.
pub(crate) struct Masks {
    ctx_len: i64,
    device: Device,
    /// By width of the window.
    allowed: RefCell<BTreeMap<i64, Tensor>>,
}

impl Masks {
    /// For sequences of `ctx_len` tokens.
    pub(crate) fn new(ctx_len: i64, device: Device) -> Self {
        Self {
            ctx_len,
            device,
            allowed: RefCell::default(),
        }
    }

    /// Whether a query that sees the last `window` positions, itself among them, sees all earlier
    /// ones too.
    fn sees_all(&self, window: Option<i64>) -> bool {
        window.is_none_or(|window| window >= self.ctx_len)
    }

    /// True where query (row) may look at key (column): `[ctx_len, ctx_len]`, Bool.
    fn allowed(&self, window: Option<i64>) -> Result<Tensor, TchError> {
        let window = window.unwrap_or(self.ctx_len).min(self.ctx_len);
        let mut built = self.allowed.borrow_mut();
        if let Some(mask) = built.get(&window) {
            return Ok(mask.shallow_clone());
        }
        let square = [self.ctx_len, self.ctx_len];
        let mask = Tensor::f_ones(square, (Kind::Bool, self.device))?
            .f_tril(0)?
            .f_triu(1 - window)?;
        built.insert(window, mask.shallow_clone());
        Ok(mask)
    }
}

/// `softmax(scale q k^T + mask) v`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attend {
    /// Factor of the scores.
    pub(crate) scale: f64,
    /// What scores are capped at: `cap tanh(score / cap)`.
    pub(crate) softcap: Option<f64>,
    /// How many positions a query sees, itself among them; `None`: all earlier ones.
    pub(crate) window: Option<i64>,
}

impl Attend {
    /// `q`: `[batch, heads, ctx_len, head_dim]`; `k` and `v` may have fewer heads, each for a group
    /// of query heads, and `v` may be of a narrower kind. The output is `[batch, ctx_len, heads * head_dim]`.
    pub(crate) fn forward(
        self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        masks: &Masks,
    ) -> Result<Tensor, TchError> {
        let (batch, n_heads, ctx_len, _) = q.size4()?;
        let mixed = if self.softcap.is_some() || q.kind() != v.kind() {
            let (k, v) = (repeated(k, n_heads)?, repeated(v, n_heads)?);
            self.spelt_out(q, &k, &v, masks)?
        } else if masks.sees_all(self.window) {
            let is_grouped = k.size()[1] < n_heads;
            self.fused(q, k, v, None, is_grouped)?
        } else {
            // libtorch's fast kernels take either a mask or groups.
            let (k, v) = (repeated(k, n_heads)?, repeated(v, n_heads)?);
            self.fused(q, &k, &v, Some(&masks.allowed(self.window)?), false)?
        };
        mixed.f_transpose(1, 2)?.f_reshape([batch, ctx_len, -1])
    }

    fn fused(
        self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Tensor>,
        is_grouped: bool,
    ) -> Result<Tensor, TchError> {
        let (dropout, is_causal) = (0.0, mask.is_none());
        Tensor::f_scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            dropout,
            is_causal,
            Some(self.scale),
            is_grouped,
        )
    }

    /// For what libtorch has no kernel: capped scores, and scores of another kind than the values. The
    /// softmax is computed in float32.
    fn spelt_out(
        self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        masks: &Masks,
    ) -> Result<Tensor, TchError> {
        let hidden = masks.allowed(self.window)?.f_logical_not()?;
        // Assigned step by step, so that no more than two tensors of this size exist at once.
        let mut scores = q.f_matmul(&k.f_transpose(2, 3)?)?;
        if self.scale != 1.0 {
            scores = scores.f_mul_scalar(self.scale)?;
        }
        if let Some(cap) = self.softcap {
            scores = scores.f_div_scalar(cap)?;
            scores = scores.f_tanh()?;
            scores = scores.f_mul_scalar(cap)?;
        }
        scores = scores.f_masked_fill(&hidden, f64::NEG_INFINITY)?;
        scores = scores.f_softmax(-1, Kind::Float)?;
        scores = scores.f_to_kind(v.kind())?;
        scores.f_matmul(v)
    }
}

/// Each key or value head once for every query head of its group:
/// `[batch, n_heads, ctx_len, head_dim]`.
fn repeated(x: &Tensor, n_heads: i64) -> Result<Tensor, TchError> {
    let n_kv_heads = x.size()[1];
    if n_kv_heads == n_heads {
        return Ok(x.shallow_clone());
    }
    x.f_repeat_interleave_self_int(n_heads / n_kv_heads, 1, None)
}

/// Splits `x`, `[batch, ctx_len, heads * head_dim]`, into `[batch, ctx_len, heads, head_dim]`.
pub(crate) fn split_heads(x: &Tensor, head_dim: i64) -> Result<Tensor, TchError> {
    let (batch, ctx_len, _) = x.size3()?;
    x.f_view([batch, ctx_len, -1, head_dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_close;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn heads(n_heads: i64) -> Tensor {
        Tensor::randn([2, n_heads, 7, 4], CPU)
    }

    /// Attention by its definition, one query at a time.
    fn by_hand(attend: Attend, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let of_query = |position: i64| {
            let first = attend
                .window
                .map_or(0, |window| (position + 1 - window).max(0));
            let seen = |x: &Tensor| x.narrow(2, first, position + 1 - first);
            let scores = q.narrow(2, position, 1).matmul(&seen(k).transpose(2, 3)) * attend.scale;
            let scores = match attend.softcap {
                Some(cap) => (scores / cap).tanh() * cap,
                None => scores,
            };
            scores.softmax(-1, Kind::Float).matmul(&seen(v))
        };
        let rows: Vec<Tensor> = (0..7).map(of_query).collect();
        Tensor::cat(&rows, 2).transpose(1, 2).reshape([2, 7, -1])
    }

    #[test]
    fn every_form_is_the_definition() {
        let masks = Masks::new(7, Device::Cpu);
        for softcap in [None, Some(0.5)] {
            for window in [None, Some(1), Some(3), Some(7), Some(100)] {
                for n_kv_heads in [1, 2, 6] {
                    let attend = Attend {
                        scale: 0.7,
                        softcap,
                        window,
                    };
                    let (q, k, v) = (heads(6), heads(n_kv_heads), heads(n_kv_heads));
                    let [all_k, all_v] =
                        [&k, &v].map(|x| x.repeat_interleave_self_int(6 / n_kv_heads, 1, None));
                    let expected = by_hand(attend, &q, &all_k, &all_v);
                    let got = attend.forward(&q, &k, &v, &masks).unwrap();
                    assert_close(&format!("{attend:?}, {n_kv_heads} heads"), &got, &expected);
                }
            }
        }
    }
}
