//! The trainer: one stream of activations, all jobs of the stream beside each other on it.
//!
//! Plain blocking code. It is given an [`Order`] and reports through `events.jsonl`; it draws
//! nothing, and knows neither database nor network.

mod error;
mod events;
mod inputs;
mod job_trainer;
mod libtorch;
mod order;
mod prepare;
mod sae_trainer;
mod signum;
mod state;
mod stop;
mod stream_trainer;
mod variance;
mod worker;

#[cfg(test)]
mod golden;

pub use error::{TrainError, message_chain};
pub use inputs::{ModelInputs, check_model, digest_saes, read_model};
pub use libtorch::Libtorch;
pub use lm::{CudaStatus, LmError, init_backends, read_facts};
pub use order::{Order, OrderJob};
pub use worker::{default_threads, lock_stream, run_worker};
