//! The trainer: one stream of activations, all jobs of the stream beside each other on it.
//!
//! Plain blocking code. It is given an [`plan::Order`] and reports through `events.jsonl`; it draws
//! nothing, and knows neither database nor network.

mod error;
mod events;
mod inputs;
mod job_trainer;
mod libtorch;
mod sae_trainer;
mod signum;
mod state;
mod stop;
mod stream_trainer;
mod variance;
mod worker;

#[cfg(test)]
mod golden;

pub use data::DigestCache;
pub use error::{TrainError, message_chain};
pub use inputs::{ModelInputs, check_model, read_model, token_digest};
pub use libtorch::Libtorch;
pub use lm::{CudaStatus, LmError, init_backends, read_facts};
pub use worker::{default_threads, lock_stream, run_worker};
