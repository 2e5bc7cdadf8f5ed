//! k-sparse autoencoders on libtorch, with sparsify's names and its format on disk.
//!
//! [`Sae`] encodes, decodes, saves and loads. [`Gradients`] are written by hand on the sparse
//! structure of the activations, so no tensor of `n_tokens x k x d_in` ever exists.

mod activation;
mod config;
mod disk;
mod error;
mod files;
mod folders;
mod from_hub;
#[cfg(test)]
mod golden;
mod gradient;
mod hook_names;
mod kernels;
mod mapped;
mod model;
mod objective;
mod options;
mod saelens;
#[cfg(test)]
mod testing;

pub use hub;

pub use config::{Activation, SaeConfig};
pub use disk::{CONFIG_FILE, WEIGHTS_FILE};
pub use error::SaeError;
pub use files::{sync_dir, tensors_by_name, write_file, write_safetensors};
pub use folders::{FoundSae, TrainedOn, find_saes};
pub use from_hub::HubSaes;
pub use gradient::{Gradients, Pass};
pub use hook_names::{resolve_hookpoint, transformer_lens_name};
pub use model::{Encoded, Reconstruction, Sae};
pub use objective::{AuxK, Backward, Losses, Objective};
pub use options::LoadOptions;
pub use saelens::{SaeLensMetadata, WEIGHTS_FILE as SAELENS_WEIGHTS_FILE};
