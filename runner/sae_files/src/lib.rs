//! SAEs on disk and on the Hub: which there are, what their settings say, and whether their files are whole.
//! No weight is read, and no libtorch. The Hub takes the feature `hub`.
//!
//! # Files
//!
//! - `folders.rs`: SAEs in a folder; `from_hub.rs`: SAEs of a repository
//! - `config.rs`: the settings of an SAE; `cfg_file.rs`: sparsify's layout; `saelens.rs`: SAELens's;
//!   `crosscoder.rs`: crosscoders; `cross_layer.rs`: the layers of a transcoder that writes to several;
//!   `form.rs`: the files of each layout
//! - `header.rs`: the header of a safetensors file
//! - `density.rs`: how often latents fire, as an evaluation writes it
//! - `hook_names.rs`: hookpoints as others name them

mod cfg_file;
mod check;
mod config;
mod cross_layer;
mod crosscoder;
mod density;
mod error;
mod folders;
mod form;
#[cfg(feature = "hub")]
mod from_hub;
mod header;
mod hook_names;
mod saelens;

pub use cfg_file::{CONFIG_FILE, WEIGHTS_FILE, read_config};
pub use check::{check_sae, weights_file};
pub use config::{Activation, SaeConfig};
pub use cross_layer::{layers_of, outputs_of};
pub use crosscoder::{
    CROSSCODER_MODEL_FILE, CROSSCODER_WEIGHTS_FILE, CrosscoderConfig, crosscoder_class,
    is_crosscoder_folder,
};
pub use density::{FIRING_DENSITY, read_density};
pub use error::{io_fault, no_such_sae, unsupported};
pub use folders::{TrainedOn, digest_saes, find_saes, select, trained_on};
pub use form::{CIRCUIT_TRACER_CONFIG, circuit_tracer_file, cross_layer_files, files_of};
#[cfg(feature = "hub")]
pub use from_hub::HubSaes;
pub use header::{Header, StoredWeight, Width};
pub use hook_names::{resolve_hookpoint, transformer_lens_name};
pub use saelens::{SAELENS_WEIGHTS_FILE, is_saelens_folder, threshold_ema};
