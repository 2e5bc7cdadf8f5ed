//! Activation functions by the names of Hugging Face.

use crate::FactsError;
use crate::config::ConfigFile;

/// Activation function of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActFn {
    /// `x Φ(x)`, with the exact normal distribution.
    Gelu,
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016), in one operation.
    GeluTanh,
    /// The same, one operation after the other, which in 16 bit round each for itself.
    GeluNew,
    /// The same in another order.
    GeluFast,
    /// GELU as `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)^2`
    Relu2,
    /// `x sigmoid(x)`
    Silu,
    /// `tanh(x)`
    Tanh,
}

impl ActFn {
    const NAMES: &[(&str, Self)] = &[
        ("gelu", Self::Gelu),
        ("gelu_fast", Self::GeluFast),
        ("gelu_new", Self::GeluNew),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("quick_gelu", Self::QuickGelu),
        ("relu", Self::Relu),
        ("relu2", Self::Relu2),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("tanh", Self::Tanh),
    ];

    /// The function that config.json names under `key`.
    pub(crate) fn read(file: &ConfigFile, key: &str, default: Self) -> Result<Self, FactsError> {
        let Some(name) = file.string(key)? else {
            return Ok(default);
        };
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, act_fn)| *act_fn)
            .ok_or_else(|| file.unsupported(key, name, Self::NAMES.iter().map(|(name, _)| *name)))
    }
}
