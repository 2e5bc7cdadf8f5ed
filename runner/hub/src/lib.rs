//! Models and data sets of the Hugging Face Hub: into the cache that Python's tools share, and from
//! this machine to the Hub.
//!
//! [`Hub::model_files`] finds out which commit a branch or tag means and brings what planning needs;
//! [`Hub::download_weights`] brings the rest. [`Hub::model_listing`] tells which files any repository of
//! models has, and [`Hub::download_listed`] brings those that are chosen. [`Hub::dataset_listing`] tells which files a data set
//! has, and [`Hub::download_dataset_files`] brings those that are chosen. All are blocking, and ask
//! the Hub only for what the cache does not have. Every file is checked against the Hub's hash
//! before it gets its name in the cache.
//!
//! What a Hub sends may be anything: [`HubLimits`] bounds how much is read, how slowly and for how
//! long; lengths that cannot be are refused, and a disk has to have room for what is downloaded.
//!
//! [`Hub::upload`] makes one commit of files of this machine, as far as a model of the Hub lacks
//! them, and [`Hub::plan_upload`] says what that would be.
//!
//! ```no_run
//! use sae_run_hub::{Upload, UploadFile, UploadSource};
//!
//! let hub = sae_run_hub::Hub::from_env()?;
//! let snapshot = hub.model_files("EleutherAI/pythia-70m", Some("step3000"))?;
//! hub.download_weights(&snapshot, &mut |_| {})?;
//! assert!(snapshot.dir.join("model.safetensors").exists());
//!
//! let listing = hub.dataset_listing("NeelNanda/pile-10k", None)?;
//! let names: Vec<_> = listing.files.iter().map(|file| file.name.clone()).collect();
//! let parquet: Vec<_> = names.into_iter().filter(|name| name.ends_with(".parquet")).collect();
//! let paths = hub.download_dataset_files(&listing, &parquet, &mut |_| {})?;
//!
//! let upload = Upload {
//!     repo: "org/saes".into(),
//!     title: "Add the SAE of layer 6".into(),
//!     files: vec![UploadFile {
//!         path: "layers.6/sae.safetensors".into(),
//!         source: UploadSource::File("runs/x/layers.6/sae.safetensors".into()),
//!     }],
//!     ..Upload::default()
//! };
//! let uploaded = hub.upload(&upload, &mut |now| println!("{} bytes", now.done_bytes))?;
//! println!("{} {}", uploaded.page, uploaded.commit);
//! # Ok::<(), sae_run_hub::HubError>(())
//! ```
//!
//! # Files
//!
//! - `models.rs`, `datasets.rs`: begin here; `hub.rs`, `listed.rs`, `files.rs`: what they share
//! - `context.rs`: what all requests share; `exchange.rs`, `retry.rs`: requests and answers, `refusal.rs`: what
//!   these mean; `tree.rs`, `content.rs`: what is asked
//! - `download.rs`, `cache.rs`: a file on its way, and where it is kept
//! - `upload/`: one commit of what the Hub lacks. `publish.rs` (in order), `local.rs` (hashes, streams), `publisher.rs`
//!   (what its requests share), `target.rs` (repository and branch), `lfs.rs`, `put.rs`, `xet.rs` (large files),
//!   `commit.rs` (made once, looked for when its answer is lost)
//! - `tests/`: everything against `hub_server`, a Hub on this machine. `tests/peer/` compares that with Python's client,
//!   which `SAE_RUN_PEER_PYTHON` names or pip installs into the cache folder; without it, it says that it is skipped

mod cache;
mod content;
mod context;
mod datasets;
mod digest;
mod download;
mod endpoint;
mod error;
mod exchange;
mod files;
mod hub;
mod limits;
mod listed;
mod listing;
mod models;
mod name;
mod notice;
mod pace;
mod progress;
mod refusal;
mod retry;
mod settings;
mod task;
#[cfg(test)]
mod tests;
mod tree;
mod upload;
mod waits;
mod words;

pub use datasets::DatasetListing;
pub use error::HubError;
pub use hub::Hub;
pub use limits::HubLimits;
pub use listing::ListedFile;
pub use models::{ModelListing, Snapshot};
pub use name::{RepoKind, is_repo_id};
pub use notice::Notice;
pub use progress::Progress;
pub use settings::{HubSettings, Token, hf_home};
pub use upload::{
    FileUpload, Upload, UploadFile, UploadPlan, UploadProgress, UploadSource, UploadStep, Uploaded,
};
