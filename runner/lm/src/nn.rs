//! Building blocks that architectures share. Each is a hookpoint.

use crate::LmError;
use crate::config::ConfigFile;
use crate::tap::{ModuleId, Run, Tape};
use tch::{Kind, Tensor};

/// Token ids to rows of a table.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) id: ModuleId,
    /// `[vocab_size, d_out]`
    pub(crate) weight: Tensor,
}

impl Embedding {
    /// `input_ids`: `[batch, ctx_len]`, Int64.
    pub(crate) fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        tape.module(self.id, input_ids, |_, input_ids| {
            Ok(Tensor::f_embedding(
                &self.weight,
                input_ids,
                -1,
                false,
                false,
            )?)
        })
    }
}

/// `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) id: ModuleId,
    /// `[d_out, d_in]`
    pub(crate) weight: Tensor,
    /// `[d_out]`
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    /// `x`: `[.., d_in]`
    pub(crate) fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |_, x| {
            Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
        })
    }
}

/// `w x / sqrt(mean(x^2) + eps)`, computed in float32 up to the product with `w`, as Hugging Face's
/// Llama does (Zhang and Sennrich 2019, section 4).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(crate) id: ModuleId,
    /// `[d]`
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
            Ok(self.weight.f_mul(&normalised.f_to_kind(x.kind())?)?)
        })
    }
}

/// Activation function of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActFn {
    /// `x Φ(x)`, with the exact normal distribution.
    Gelu,
    /// GELU by its tanh approximation: `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x sigmoid(x)`
    Silu,
}

impl ActFn {
    const NAMES: &[&str] = &[
        "gelu",
        "gelu_new",
        "gelu_pytorch_tanh",
        "relu",
        "silu",
        "swish",
    ];

    /// The function that config.json names under `key`.
    pub(crate) fn read(file: &ConfigFile, key: &str, default: Self) -> Result<Self, LmError> {
        match file.string(key)? {
            None => Ok(default),
            Some("gelu") => Ok(Self::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Self::GeluTanh),
            Some("relu") => Ok(Self::Relu),
            Some("silu" | "swish") => Ok(Self::Silu),
            Some(other) => Err(file.unsupported(key, other, Self::NAMES)),
        }
    }
}

/// An activation function at its place in the model.
#[derive(Debug)]
pub(crate) struct Activation {
    pub(crate) id: ModuleId,
    pub(crate) act_fn: ActFn,
}

impl Activation {
    pub(crate) fn forward(&self, tape: &mut Tape, x: &Tensor) -> Run<Tensor> {
        tape.module(self.id, x, |_, x| {
            Ok(match self.act_fn {
                ActFn::Gelu => x.f_gelu("none")?,
                ActFn::GeluTanh => x.f_gelu("tanh")?,
                ActFn::Relu => x.f_relu()?,
                ActFn::Silu => x.f_silu()?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::Taps;
    use crate::testing::{TinyModel, assert_close};
    use serde_json::json;

    fn run(forward: impl FnOnce(&mut Tape) -> Run<Tensor>) -> Tensor {
        forward(&mut Tape::new(&Taps::none())).ok().unwrap()
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
    fn linear_adds_its_bias() {
        let linear = Linear {
            id: ModuleId(0),
            weight: Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([2, 2]),
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
            (ActFn::Relu, 1.0),
            (ActFn::Silu, 0.731_059),
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
        let error = crate::read_config(model.dir()).unwrap_err();
        assert!(matches!(&error, LmError::UnsupportedValue { key, .. } if key == "hidden_act"));
        assert!(error.hint().unwrap().contains("silu"));
    }
}
