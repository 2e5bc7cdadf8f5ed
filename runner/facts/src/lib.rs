//! What the files of a language model say before any tensor is loaded.
//!
//! A model is an ordinary Hugging Face folder. [`read_config`] reads config.json; from it alone come the
//! names and widths of all submodules ([`read_facts`]) and the tensors that there must be, which
//! [`check_model`] looks for in the headers of the safetensors files. No libtorch.
//!
//! ```no_run,standalone_crate
//! # use sae_run_facts as facts;
//! # fn main() -> Result<(), facts::FactsError> {
//! use std::path::Path;
//! let facts = facts::read_facts(Path::new("models/tiny"))?;
//! println!("{} blocks, {} hookpoints", facts.n_layers, facts.hookpoints.len());
//! # Ok(())
//! # }
//! ```
//!
//! A further architecture is one file in `models` here, one in `models` of the crate `lm`, and its line in
//! `architecture.rs`.
//!
//! # Files
//!
//! - `architecture.rs`: which file reads which `model_type`; `models/`: each family
//! - `decoder.rs`: what Llama, Mistral, Qwen and Gemma share; `gpt.rs`: GPT-2 and GPT-Neo; `rope.rs`, `yarn.rs`
//! - `config.rs`: config.json key by key; `keys.rs`: every key that a family may have
//! - `layout.rs`: a model as a list of modules: hookpoints, tensor checks, parameter counts
//! - `inputs.rs`: what planning asks of a model, and its digest
//! - `published.rs`: shapes of known models by their names, for planning without any file
//! - `weights.rs`, `header.rs`: safetensors files; `check.rs`: whether all tensors are there; `missing.rs`: why not

mod act_fn;
mod architecture;
mod check;
mod config;
mod decoder;
mod error;
mod gpt;
mod inputs;
mod json;
mod keys;
mod layout;
mod missing;
mod mmap;
mod models;
mod published;
mod rope;
mod weights;
mod yarn;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use act_fn::ActFn;
pub use architecture::{Architecture, ModelConfig, architectures, read_config, read_facts};
pub use check::{base_prefix, embedding_dtype, head_names, head_spec};
pub use check::{prefixed, weight_files};
pub use decoder::{BlockNorms, DecoderConfig, LayerConfig, NormStyle, QkNorm};
pub use error::FactsError;
pub use gpt::GptConfig;
pub use inputs::{
    ModelInputs, check_head, check_model, check_whole_model, digest_model, read_model,
};
pub use layout::{BIAS, Layout, Module, ModuleKind, TensorSpec, WEIGHT, Within};
pub use models::gpt_neo::GptNeoConfig;
pub use models::gpt_neox::GptNeoxConfig;
pub use models::gpt2::Gpt2Config;
pub use published::{published_config, published_models};
pub use rope::{RopeConfig, RopeScaling};
pub use weights::{StoredTensor, Weights};
pub use yarn::Yarn;
