//! Slurm: streams as jobs of a cluster. Its programs are called, and no library of it: these are on any machine that
//! can submit.
//!
//! - `programs.rs`: calling sbatch, squeue, scancel, sinfo; what they say when something is wrong
//! - `state.rs`: what Slurm says of a job, and what that means
//! - `board.rs`: all jobs at once, asked for now and then
//! - `partition.rs`: what its machines have
//! - `script.rs`: what is submitted; `submit.rs`: submitting it once
//! - `sign_of_life.rs`: what a job says first: whether it sees the runs folder

mod board;
mod partition;
mod programs;
mod script;
mod sign_of_life;
mod state;
mod submit;

pub(crate) use board::{Board, Known, Looks, look, look_at_all, unanswered};
pub(crate) use partition::Partition;
pub(crate) use programs::cancel;
pub(crate) use script::{SCRIPT, Script};
pub(crate) use sign_of_life::SignOfLife;
pub(crate) use state::{SlurmJob, State};
pub(crate) use submit::{Submission, submit};
