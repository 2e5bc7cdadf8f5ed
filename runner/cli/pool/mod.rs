//! The pool: streams that any machine may take which sees the runs folder. No locks, no daemon, no clocks that agree:
//! renaming a file decides who has a stream, and renewing a lease who keeps it (`files/src/lease.rs`).
//!
//! - `folder.rs`: the entries, and where they are; `lapses.rs`: leases that were not renewed
//! - `board.rs`: all entries at once, for who offers them
//! - `member.rs`: `sae-run worker-pool`

mod board;
mod folder;
mod lapses;
mod member;

pub(crate) use board::PoolBoard;
pub(crate) use folder::{KILLED, Place, PoolFolder, WITHDRAWN, new_entry};
pub(crate) use lapses::Lapses;
pub(crate) use member::worker_pool;
