//! A loaded model without its head.

use crate::decoder::Decoder;
use crate::load::Loader;
use crate::models::gpt_neox::GptNeox;
use crate::tap::{Run, Tape};
use crate::{LmError, gpt};
use facts::Architecture;
use std::fmt::Debug;
use tch::Tensor;

/// A loaded model without its head, or its first blocks.
pub(crate) trait Body: Debug + Send {
    /// The output of the final norm, or of the last loaded block: `[batch, ctx_len, hidden_size]`.
    /// `input_ids`: `[batch, ctx_len]`.
    fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor>;
}

/// Loads the model, or its first blocks.
pub(crate) fn load(
    architecture: &Architecture,
    loader: &mut Loader,
) -> Result<Box<dyn Body>, LmError> {
    Ok(match architecture {
        Architecture::Decoder(config) => Box::new(Decoder::load(config, loader)?),
        Architecture::Gpt2(config) => gpt::load(config, loader)?,
        Architecture::GptNeo(config) => gpt::load(config, loader)?,
        Architecture::GptNeox(config) => Box::new(GptNeox::load(config, loader)?),
    })
}
