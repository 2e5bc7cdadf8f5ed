//! k-sparse autoencoders on libtorch, with sparsify's names and its format on disk.
//!
//! The examples of sparsify's README, with activations that come from wherever the reader has them (in
//! this project, from the crate `lm`):
//!
//! ```no_run
//! use sae::{Encoded, LoadOptions, Sae};
//! use tch::{Device, Kind, Tensor};
//!
//! // One SAE of a repository on the Hub; nothing else is downloaded.
//! let sae = Sae::load_from_hub("EleutherAI/sae-llama-3-8b-32x", Some("layers.10"), Device::Cpu)?;
//!
//! // All of them, in natural order: encoders only, in 32 bit.
//! let options = LoadOptions { decoder: false, kind: Some(Kind::Float), ..LoadOptions::default() };
//! let saes = Sae::load_many("EleutherAI/sae-llama-3-8b-32x", options)?;
//!
//! // The hidden states of a text, layer by layer: `[1, n_tokens, d_in]`.
//! # let hidden_states: Vec<Tensor> = Vec::new();
//! let mut latent_acts = Vec::new();
//! for ((_hookpoint, sae), hidden_state) in saes.iter().zip(&hidden_states) {
//!     let Encoded { latent_acts: acts, latent_indices } = sae.encode(&hidden_state.flatten(0, 1))?;
//!     latent_acts.push((acts, latent_indices));
//! }
//!
//! // And back.
//! # let hidden_state = Tensor::zeros([1, 3, 4096], (Kind::Float, Device::Cpu));
//! let sae_out = sae.forward(&hidden_state.flatten(0, 1))?.sae_out;
//! # let _ = sae_out;
//! # Ok::<(), sae::SaeError>(())
//! ```
//!
//! [`Sae`] encodes, decodes, saves and loads. [`Gradients`] are written by hand on the sparse
//! structure of the activations, so no tensor of `n_tokens x k x d_in` ever exists.
//!
//! # Files
//!
//! - `model.rs`: the SAE; `encoded.rs`: what it makes of activations; `activation.rs`, `objective/`: one small file or arm for each kind
//! - `pre_acts.rs`: pre-activations, and latents found by them in bfloat16
//! - `support.rs`: sums and products at all latents, or at a list of them
//! - `gradient.rs`: the gradient; `sparse.rs`: into the optimizer, never in memory
//! - `decoupled.rs`: crosscoders whose hookpoints choose their latents apart
//! - `norms.rs`: how large latents count; `folding.rs`, `affine.rs`: the same SAE with other weights
//! - `variance.rs`: the total variance of activations; `not_finite.rs`: weights and results that are not finite
//! - `kernels/`: each step in Rust and in CUDA C++ (the crate `kernels`), and in libtorch's operations
//! - `from_hub.rs`: SAEs of the Hub (feature `hub`); `many.rs`: several at once; `disk.rs`, `saelens.rs`, `circuit_tracer.rs`, `crosscoder.rs`: layouts; `mapped.rs`, `placing.rs`: weights in their file, and where they
//!   are wanted
//!
//! What needs no weights is in the crate `sae_files`: settings, folders, repositories, names of hookpoints.

mod activation;
mod affine;
#[cfg(test)]
mod any_bytes;
mod atomic_file;
mod circuit_tracer;
mod crosscoder;
mod decoupled;
mod disk;
mod encoded;
mod error;
mod folding;
#[cfg(feature = "hub")]
mod from_hub;
mod generator;
#[cfg(test)]
mod golden;
mod gradient;
mod kernels;
mod many;
mod mapped;
mod model;
mod norms;
mod not_finite;
mod objective;
mod options;
mod placing;
mod pre_acts;
mod saelens;
mod safetensors_file;
#[cfg(test)]
mod saved_tests;
mod sparse;
mod support;
#[cfg(test)]
mod testing;
mod variance;

#[cfg(feature = "hub")]
pub use hub;

pub use ::kernels::cuda::{Card, Folders, Unusable};
pub use affine::Affine;
pub use atomic_file::{
    check_safetensors, sync_dir, tensors_by_name, write_file, write_safetensors,
};
pub use encoded::Encoded;
pub use error::SaeError;
pub use generator::with_seed;
pub use gradient::{Gradients, Pass};
pub use kernels::{
    Adam, CheckedKernel, GpuKernels, Kernel, Rejection, Rule, Signum, fastest, moments,
};
pub use model::{Gate, Reconstruction, Sae};
pub use objective::{
    AuxK, Backward, BatchLatents, BatchSearch, Jump, LayerPass, Level, Losses, Objective, Penalty,
    PreActLoss, room_for,
};
pub use options::LoadOptions;
#[cfg(feature = "hub")]
pub use sae_files::HubSaes;

pub use plan::{FoundSae, SaeLensMetadata, UpdateShape};
pub use sae_files::{
    Activation, CONFIG_FILE, SAELENS_WEIGHTS_FILE, SaeConfig, TrainedOn, WEIGHTS_FILE,
    circuit_tracer_file, find_saes, resolve_hookpoint, trained_on, transformer_lens_name,
};
pub use safetensors_file::SafetensorsHeader;
pub use sparse::{SparseBackward, SparseGradients, VectorGradients};
pub use variance::{Moments, TotalVariance};
