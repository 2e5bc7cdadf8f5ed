//! Models of the Hugging Face Hub, in the cache that Python's tools share.
//!
//! [`Hub::model_files`] finds out which commit a branch or tag means and brings what planning needs;
//! [`Hub::download_weights`] brings the rest. Both are blocking, and ask the Hub only for what the
//! cache does not have. Every file is checked against the Hub's hash of it before it gets its name
//! in the cache.
//!
//! ```no_run
//! let hub = sae_run_hub::Hub::from_env()?;
//! let snapshot = hub.model_files("EleutherAI/pythia-70m", Some("step3000"))?;
//! hub.download_weights(&snapshot, &mut |_| {})?;
//! assert!(snapshot.dir.join("model.safetensors").exists());
//! # Ok::<(), sae_run_hub::HubError>(())
//! ```

mod cache;
mod digest;
mod download;
mod error;
mod files;
mod hub;
mod listing;
mod name;
mod remote;
mod settings;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use error::{Damage, HubError};
pub use hub::{Hub, Notice, Progress, Snapshot};
pub use name::is_repo_id;
pub use settings::{HubSettings, Token};
