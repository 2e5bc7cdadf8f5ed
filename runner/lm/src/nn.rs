//! Building blocks that architectures share. Each is a hookpoint.

use crate::int8::Int8Weight;
use crate::modules::ModuleId;
use crate::run::Run;
use crate::tap::Tape;
use facts::ActFn;
use std::f64::consts::FRAC_2_PI;
use tch::{Kind, TchError, Tensor};

/// Token ids, or positions, to rows of a table.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) id: ModuleId,
    /// `[n_rows, d_out]`
    pub(crate) weight: Tensor,
    /// Factor of the rows, in the weight's kind, if there is one.
    pub(crate) scale: Option<Tensor>,
}

impl Embedding {
    /// `ids`: `[batch, ctx_len]`, Int64.
    pub(crate) fn forward(&self, tape: &mut Tape, ids: &Tensor) -> Run<Tensor> {
        tape.module(self.id, ids, |_, ids| {
            let rows = Tensor::f_embedding(&self.weight, ids, -1, false, false)?;
            match &self.scale {
                Some(scale) => Ok(rows.f_mul(scale)?),
                None => Ok(rows),
            }
        })
    }
}

/// `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) id: ModuleId,
    pub(crate) weight: LinearWeight,
    /// `[d_out]`
    pub(crate) bias: Option<Tensor>,
}

/// The matrix of a linear module: `[d_out, d_in]`.
#[derive(Debug)]
pub(crate) enum LinearWeight {
    /// In the model's compute kind.
    Full(Tensor),
    /// In 8 bit.
    Int8(Int8Weight),
}

impl LinearWeight {
    /// Memory, in bytes.
    pub(crate) fn n_bytes(&self) -> u64 {
        match self {
            Self::Full(weight) => (weight.numel() * weight.kind().elt_size_in_bytes()) as u64,
            Self::Int8(weight) => weight.n_bytes(),
        }
    }
}

impl Linear {
    /// `x`: `[.., d_in]`
    pub(crate) fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |tape, x| {
            let bias = self.bias.as_ref();
            Ok(match &self.weight {
                LinearWeight::Full(weight) => x.f_linear(weight, bias)?,
                LinearWeight::Int8(weight) => weight.linear(x, bias, &mut tape.outliers)?,
            })
        })
    }
}

/// `w x / sqrt(mean(x^2) + eps)`, normalised in float32 (Zhang and Sennrich 2019, section 4).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(crate) id: ModuleId,
    /// `[d]`; in float32 if the product is taken in float32, else in the kind of `x`.
    pub(crate) weight: Tensor,
    pub(crate) eps: f64,
}

impl RmsNorm {
    /// `x`: `[.., d]`
    pub(crate) fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |_, x| {
            let wide = x.f_to_kind(Kind::Float)?;
            let mean_square = wide
                .f_square()?
                .f_mean_dim([-1_i64].as_slice(), true, None)?;
            let normalised = wide.f_mul(&mean_square.f_add_scalar(self.eps)?.f_rsqrt()?)?;
            let mut normalised = normalised.f_to_kind(self.weight.kind())?;
            Ok(normalised.f_mul_(&self.weight)?.f_to_kind(x.kind())?)
        })
    }
}

/// `w (x - mean(x)) / sqrt(var(x) + eps) + b` (Ba et al. 2016).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub(crate) id: ModuleId,
    /// `[d]`
    pub(crate) weight: Tensor,
    /// `[d]`
    pub(crate) bias: Tensor,
    pub(crate) eps: f64,
}

impl LayerNorm {
    /// `x`: `[.., d]`
    pub(crate) fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |_, x| {
            let (weight, bias) = (Some(&self.weight), Some(&self.bias));
            Ok(x.f_layer_norm(self.weight.size(), weight, bias, self.eps, true)?)
        })
    }
}

/// A dropout, which does nothing outside training, at its place in the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub(crate) id: ModuleId,
}

impl Dropout {
    pub(crate) fn forward(self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |_, x| Ok(x.shallow_clone()))
    }
}

fn apply(act_fn: ActFn, x: &Tensor) -> Result<Tensor, TchError> {
    match act_fn {
        ActFn::Gelu => x.f_gelu("none"),
        ActFn::GeluNew if is_half(x) => gelu_new(x),
        ActFn::GeluFast if is_half(x) => gelu_fast(x),
        ActFn::GeluTanh | ActFn::GeluNew | ActFn::GeluFast => x.f_gelu("tanh"),
        ActFn::QuickGelu => x.f_mul(&x.f_mul_scalar(1.702)?.f_sigmoid()?),
        ActFn::Relu => x.f_relu(),
        ActFn::Relu2 => x.f_relu()?.f_square(),
        ActFn::Silu => x.f_silu(),
        ActFn::Tanh => x.f_tanh(),
    }
}

fn is_half(x: &Tensor) -> bool {
    matches!(x.kind(), Kind::Half | Kind::BFloat16)
}

/// `x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x^3)))`
fn gelu_new(x: &Tensor) -> Result<Tensor, TchError> {
    let cubic = x.f_pow_tensor_scalar(3.0)?.f_mul_scalar(0.044_715)?;
    let inner = x.f_add(&cubic)?.f_mul_scalar(FRAC_2_PI.sqrt())?;
    x.f_mul_scalar(0.5)?
        .f_mul(&inner.f_tanh()?.f_add_scalar(1.0)?)
}

/// `x/2 (1 + tanh(0.7978845608 x (1 + 0.044715 x x)))`
fn gelu_fast(x: &Tensor) -> Result<Tensor, TchError> {
    let factor = x.f_mul_scalar(0.044_715)?.f_mul(x)?.f_add_scalar(1.0)?;
    let inner = x.f_mul_scalar(0.797_884_560_8)?.f_mul(&factor)?;
    x.f_mul_scalar(0.5)?
        .f_mul(&inner.f_tanh()?.f_add_scalar(1.0)?)
}

/// An activation function at its place in the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activation {
    pub(crate) id: ModuleId,
    pub(crate) act_fn: ActFn,
}

impl Activation {
    pub(crate) fn forward(self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |_, x| Ok(apply(self.act_fn, x)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::Taps;
    use crate::testing::{TinyModel, assert_close};
    use facts::testing::is_about;
    use fault::Remedy;
    use serde_json::json;

    fn run(forward: impl FnOnce(&mut Tape) -> Run<Tensor>) -> Tensor {
        forward(&mut Tape::until_served(&Taps::none()))
            .ok()
            .unwrap()
    }

    #[test]
    fn rms_norm_of_three_and_four() {
        let norm = RmsNorm {
            id: ModuleId(0),
            weight: Tensor::from_slice(&[1.0_f32, 2.0]),
            eps: 0.0,
        };
        let x = Tensor::from_slice(&[3.0_f32, 4.0]);
        let rms = 12.5_f32.sqrt();
        let expected = Tensor::from_slice(&[3.0 / rms, 8.0 / rms]);
        assert_close("norm", &run(|tape| norm.forward(tape, &x)), &expected);
    }

    #[test]
    fn layer_norm_of_three_and_five() {
        let norm = LayerNorm {
            id: ModuleId(0),
            weight: Tensor::from_slice(&[1.0_f32, 2.0]),
            bias: Tensor::from_slice(&[0.5_f32, 0.25]),
            eps: 0.0,
        };
        let x = Tensor::from_slice(&[3.0_f32, 5.0]);
        let expected = Tensor::from_slice(&[-0.5_f32, 2.25]);
        assert_close("norm", &run(|tape| norm.forward(tape, &x)), &expected);
    }

    #[test]
    fn linear_adds_its_bias() {
        let linear = Linear {
            id: ModuleId(0),
            weight: LinearWeight::Full(Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([2, 2])),
            bias: Some(Tensor::from_slice(&[10.0_f32, 20.0])),
        };
        let x = Tensor::from_slice(&[1.0_f32, 1.0]);
        let expected = Tensor::from_slice(&[13.0_f32, 27.0]);
        assert_close("linear", &run(|tape| linear.forward(tape, &x)), &expected);
    }

    #[test]
    fn activation_functions_at_one() {
        for (act_fn, expected) in [
            (ActFn::Gelu, 0.841_345),
            (ActFn::GeluTanh, 0.841_192),
            (ActFn::GeluNew, 0.841_192),
            (ActFn::GeluFast, 0.841_192),
            (ActFn::QuickGelu, 0.845_795),
            (ActFn::Relu, 1.0),
            (ActFn::Relu2, 1.0),
            (ActFn::Silu, 0.731_059),
            (ActFn::Tanh, 0.761_594),
        ] {
            let activation = Activation {
                id: ModuleId(0),
                act_fn,
            };
            let x = Tensor::from_slice(&[1.0_f32]);
            let expected = Tensor::from_slice(&[expected as f32]);
            assert_close(
                "activation",
                &run(|tape| activation.forward(tape, &x)),
                &expected,
            );
        }
    }

    #[test]
    fn unknown_activation_function_lists_the_known() {
        let model = TinyModel::with_config(json!({"hidden_act": "mish"}));
        let error = facts::read_config(model.dir()).unwrap_err();
        assert!(is_about(&error, "hidden_act"), "{error}");
        assert!(error.hint().unwrap().contains("silu"));
    }
}
