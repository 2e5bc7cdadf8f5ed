//! Process groups for training with several processes: torch's own c10d, on Gloo for the CPU and on NCCL
//! for GPUs, without Python.
//!
//! c10d is reached through two plug-ins, small shared libraries with a C ABI (`shim/plugin.h`), which
//! are loaded when a [`World`] is joined: so one program serves machines with and without a GPU. The
//! NCCL plug-in has been compiled and linked, and its calls are those of its twin on Gloo; no GPU has run
//! it yet.
//!
//! Plain blocking code. All processes make the same calls in the same order; each call bears a name,
//! which errors repeat.
//!
//! - `world.rs`, `group.rs`: joining, and collectives
//! - `diagnosis.rs`: who is at fault
//! - `store.rs`, `hello.rs`, `member.rs`: finding each other; `waiting.rs`: what is shown to users meanwhile
//! - `plugin.rs`, `shim/`: the C ABI; one plug-in each for Gloo and NCCL

mod diagnosis;
mod error;
mod error_file;
mod group;
mod hello;
mod member;
mod plugin;
mod store;
mod volume;
mod waiting;
mod world;

#[cfg(test)]
mod tests;

pub use error::DistError;
pub use error_file::write_error_file;
pub use group::{Group, Pending};
pub use hello::Hello;
pub use store::Store;
pub use volume::{Kind, Volume};
pub use waiting::{tell_waits, waiting_for};
pub use world::{Role, Timeouts, World};
