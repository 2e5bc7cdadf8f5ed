//! Language models with hookpoints, on libtorch.
//!
//! A model is an ordinary Hugging Face folder, of which the crate `facts` reads all but the tensors.
//! [`LanguageModel::load`] reads the weights up to the last block that is needed, and
//! [`LanguageModel::forward`] returns the outputs of the submodules named by [`Taps`], and stops as soon
//! as it has them all.
//!
//! ```no_run,standalone_crate
//! # use sae_run_lm as lm;
//! # fn main() -> Result<(), lm::LmError> {
//! use std::path::Path;
//! let model = lm::LanguageModel::load(Path::new("models/tiny"), &lm::LoadOptions::default())?;
//! let taps = lm::Taps::new(model.facts(), &["layers.3", "layers.5.mlp"])?;
//! let input_ids = tch::Tensor::from_slice(&[1_i64, 2, 3]).view([1, 3]);
//! let activations = model.forward(&input_ids, &taps)?;
//! assert_eq!(activations.get("layers.3").map(|x| x.size()[..2].to_vec()), Some(vec![1, 3]));
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! - `model.rs`: load, forward, hidden states, logits with outputs replaced
//! - `tap.rs`: every module passes through one function: taps, early exit; `replace.rs`: other outputs
//! - `rows.rs`: what taps give as vectors, one a row, of one hookpoint or several
//! - `transfer.rs`: token ids to the device, without a wait; `device_shim.rs`: a GPU's memory, and a second stream
//! - `libtorch.rs`: which libtorch is loaded; `cuda.rs`: its CUDA half, at run time
//! - `../shim/`: C++ that setup compiles into libtch
//! - `not_finite.rs`: whose fault it is when numbers are not finite
//! - `decoder.rs`: what Llama, Mistral, Qwen and Gemma share; `gpt.rs`: GPT-2 and GPT-Neo; `models/`: each family
//! - `load.rs`, `int8.rs`: weights, also in 8 bit; `int8/product.rs`: int8 by int8; `int8/outliers.rs`: the columns that stay in
//!   16 bit; `architecture.rs`: which file runs which architecture

mod architecture;
mod attention;
mod body;
mod cuda;
mod decoder;
mod device;
mod device_shim;
mod error;
mod gpt;
mod int8;
mod libtorch;
mod load;
mod model;
mod models;
mod modules;
mod nn;
mod not_finite;
mod options;
mod precision;
mod replace;
mod rope;
mod rows;
mod run;
mod tap;
mod transfer;
mod weights;
mod yarn;

pub use cuda::init_backends;
pub use device::parse_device;
pub use device_shim::{DeviceMemory, SideStream, device_memory, forget_peak, used_here};
pub use error::LmError;
pub use libtorch::Libtorch;
pub use model::LanguageModel;
pub use not_finite::{activations_of, at_fault};
pub use options::LoadOptions;
pub use replace::{ModulePass, Replacements};
pub use rows::{rows, side_by_side};
pub use tap::{Activations, Taps};
pub use transfer::send;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod missing_tests;
#[cfg(test)]
mod testing;
