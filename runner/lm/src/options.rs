//! What of a model to load.

use crate::LmError;
use fault::Fault;
use plan::Dtype;
use tch::Device;

/// What of a model to load, how, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Device of the weights and of the forward pass.
    pub device: Device,
    /// Precision of the weights and of the forward pass; converted from the files' own. `Auto`: that
    /// of the checkpoint on a GPU (float16 with `load_in_8bit`); float32 on a CPU, unless the
    /// checkpoint is in bfloat16 and the CPU multiplies that fast. [`LanguageModel::kind`](crate::LanguageModel::kind) says what
    /// it came to.
    pub dtype: Dtype,
    /// Whether to hold the weights of all linear modules but the head in 8 bit (LLM.int8()).
    pub load_in_8bit: bool,
    /// How many blocks to load; `None`: all, and with them the final norm.
    pub n_layers: Option<usize>,
    /// Whether to load the head too, which needs all blocks, whatever `n_layers` says.
    pub with_head: bool,
}

impl Default for LoadOptions {
    /// The whole model without its head, on the CPU, in the precision that `Auto` gives there.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: Dtype::Auto,
            load_in_8bit: false,
            n_layers: None,
            with_head: false,
        }
    }
}

impl LoadOptions {
    /// How many blocks to load of a model that has `n_layers`.
    pub(crate) fn n_layers_of(&self, n_layers: usize) -> Result<usize, LmError> {
        match self.n_layers {
            Some(asked) if asked > n_layers => Err(Fault::input(format!(
                "cannot load {asked} layers of a model that has {n_layers}"
            ))
            .into()),
            Some(asked) if !self.with_head => Ok(asked),
            _ => Ok(n_layers),
        }
    }
}
