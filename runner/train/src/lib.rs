//! The trainer: one stream of activations, all jobs of the stream side by side on it.
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
//! - `training/ahead.rs`: the next forward pass, on a second stream of a GPU
//! - `training/update_end_to_end.rs`: an update with SAEs in the model; `end_to_end.rs`: its gradients;
//!   `beginning.rs`: where fresh SAEs begin
//! - `sae_trainer/mod.rs`: one SAE's part; `update.rs`: one update of it, a value that can be dropped; `dead.rs`: which
//!   latents are dead
//! - `optimizer/`, `training/output_loss/`: one small file for each kind
//! - `activations/`: what SAEs take of a forward pass
//! - `checkpoint/`: what a resume needs, and the best SAEs so far
//! - `events/`: events.jsonl, statistics between two reports, and when training goes wrong
//! - `early_end.rs`: why a job is trained no further; `machine.rs`: what libtorch finds
//!
//! Ranks, the processes that train a stream together, in `ranks/`:
//!
//! - `mod.rs`: what the loop asks of them; `alone.rs`: of one process; `world.rs`: of several
//! - `rendezvous.rs`: meeting; `reduction.rs`: sums of an update
//! - `owners.rs`, `exchange.rs`: each SAE on one rank, activations sent to it (`plan/src/owners.rs`: which one)
//!
//! `gpu/`: which kernels are used on a GPU, and what `doctor --gpu` measures there.
//!
//! After training, `worker/evaluation.rs` has the crate `eval` evaluate the result.
//!
//! Absent on purpose: autograd, since the gradient's sparse structure is known, and libtorch's optimizers, which
//! cannot be resumed to the bit.
//!
//! `stepper.rs` and `examples/bench_step/` measure an update alone, in encoder products.

mod activations;
mod allocator;
mod checkpoint;
mod early_end;
mod error;
mod events;
mod gpu;
mod machine;
mod optimizer;
mod process;
mod ranks;
mod sae_trainer;
mod stepper;
mod stop;
mod trainer;
mod training;
mod worker;

#[cfg(test)]
mod cross_tests;
#[cfg(test)]
mod extension_tests;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_training;
#[cfg(test)]
mod kinds_golden;
#[cfg(test)]
mod kinds_ranks_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod kinds_verdicts_tests;
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
pub use error::TrainError;
pub use gpu::{gpu_report, use_faster_kernels};
pub use machine::machine;
pub use ranks::rendezvous::meet;
pub use stepper::Stepper;
pub use tokens;
pub use trainer::Trainer;
pub use worker::{AskedBy, PoolClaim, requeued, run_pool_worker, run_worker};
