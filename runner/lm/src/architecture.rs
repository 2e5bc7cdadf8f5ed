//! Which file runs which architecture.

use crate::body::Body;
use crate::decoder::Decoder;
use crate::load::Loader;
use crate::models::gpt_neox::GptNeox;
use crate::{LmError, gpt};
use facts::Architecture;

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
