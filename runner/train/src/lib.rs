//! The trainer: one stream of activations, all jobs of the stream beside each other on it.
//!
//! Plain blocking code. It is given a [`plan::Order`] and reports through `events.jsonl`; it draws
//! nothing, and knows neither database nor network.
//!
//! The loop:
//!
//! - `worker/mod.rs`: reads order.json, loads, trains, reports; `prepare.rs`: tokens that the cache lacks, reported
//!   as events
//! - `training/mod.rs`: the loop on one page. `activation_stream.rs`: tokens and forward passes; `job_trainer.rs`:
//!   one job's part; `sums.rs`: what an update adds up to; `report.rs`, `save.rs`: what follows an update
//! - `training/update_end_to_end.rs`: an update with SAEs in the model; `end_to_end.rs`: its gradients;
//!   `centre.rs`: where fresh SAEs begin
//! - `sae_trainer/mod.rs`: one SAE's part; `update.rs`: one update of it, a value that can be dropped
//! - `optimizer/`, `training/output_loss/`: one small file for each kind
//! - `activations/`: what SAEs take of a forward pass, and its total variance
//! - `checkpoint/`: what a resume needs, and the best SAEs so far
//! - `events/`: events.jsonl, statistics between two reports, and when training goes wrong
//! - `not_finite.rs`: whose fault numbers are that are not finite
//!
//! Ranks, the processes that train a stream together, in `ranks/`:
//!
//! - `mod.rs`: what the loop asks of them; `alone.rs`: of one process; `world.rs`: of several
//! - `rendezvous.rs`: meeting; `reduction.rs`: sums of an update
//! - `owners.rs`, `exchange.rs`: each SAE on one rank, activations sent to it (`plan/src/owners.rs`: which one)
//!
//! After training:
//!
//! - `evaluate.rs`: held-out evaluation of SAEs on disk. `evaluator.rs` (the passes), `replacement.rs` (what is put
//!   in the hookpoint's place), `predictions.rs` (cross-entropy, KL), `jobs.rs`: the worker's last act
//! - `encode.rs`: texts or sequences become active latents in a file: `encode/batches.rs`, `rows.rs`, `file.rs` and
//!   its formats
//! - `proof.rs`: a layout is read back and held to what it computes
//!
//! Absent on purpose: autograd, since the gradient's sparse structure is known, and libtorch's optimizers, which
//! cannot be resumed to the bit.
//!
//! `stepper.rs` and `examples/bench_step/` measure an update alone, in encoder products.

mod activations;
mod allocator;
mod checkpoint;
mod encode;
mod error;
mod evaluate;
mod events;
mod libtorch;
mod not_finite;
mod optimizer;
mod places;
mod process;
mod proof;
mod ranks;
mod sae_trainer;
mod stepper;
mod stop;
mod trainer;
mod training;
mod worker;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_training;
#[cfg(test)]
mod ranks_tests;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod spread_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod update_tests;

pub use allocator::keep_freed_memory;
pub use encode::{EncodedRows, encode};
pub use error::TrainError;
pub use evaluate::{EvalRequest, evaluate};
pub use libtorch::machine;
pub use proof::write_proven;
pub use stepper::Stepper;
pub use tokens;
pub use trainer::Trainer;
pub use worker::run_worker;
