//! k-sparse autoencoders on libtorch, with sparsify's names and its format on disk.
//!
//! [`Sae`] encodes, decodes, saves and loads. [`Gradients`] are written by hand on the sparse
//! structure of the activations, so no tensor of `n_tokens x k x d_in` ever exists.

mod activation;
mod config;
mod disk;
mod error;
mod files;
#[cfg(test)]
mod golden;
mod gradient;
mod kernels;
mod model;
mod objective;
#[cfg(test)]
mod testing;

pub use config::{Activation, SaeConfig};
pub use disk::{CONFIG_FILE, WEIGHTS_FILE};
pub use error::SaeError;
pub use files::{sync_dir, tensors_by_name, write_file, write_safetensors};
pub use gradient::{Gradients, Pass};
pub use model::{Encoded, Reconstruction, Sae};
pub use objective::{AuxK, Backward, Losses, Objective};
