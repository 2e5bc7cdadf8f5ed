//! The one door for files that others made, and for files that a user names for output.
//!
//! Reading: only plain files are opened. A pipe would wait for a writer, and a device such as `/dev/zero`
//! never ends. What is read into memory has a bound: see [`bound`].
//!
//! Writing: a plain file is replaced as a whole, by renaming. Links, devices and pipes are written through.
//!
//! - `read.rs`, `bound.rs`: reading within bounds; `output.rs`: writing; `remove.rs`: removing folders
//! - `lock.rs`: locks that say who holds them; `lease.rs`: what holds where locks do not; `digest_cache.rs`: digests of files, remembered
//! - `tensor_header.rs`: the header of a safetensors file
//! - `lfs.rs`: pointers of Git LFS instead of files; `path.rs`: paths from names; `user.rs`: whose a file is
//! - `space.rs`: what a disk has left
//! - `trust.rs`: machine code that only this user can have written

pub mod bound;
mod digest_cache;
mod json;
mod lease;
mod lfs;
mod lock;
mod output;
mod path;
mod read;
mod remove;
mod space;
mod tensor_header;
#[cfg(feature = "testing")]
pub mod testing;
mod trust;
mod user;

pub use digest_cache::DigestCache;
pub use json::{from_json, with_stand_ins, without_mark};
pub use lease::{check_lease, keep_lease};
pub use lfs::{LFS_HINT, READ_HINT, is_lfs_pointer, unreadable};
pub use lock::{Claim, LockHolder, host_name, lock};
pub use output::OutputFile;
pub use path::{beside, dir_of, stays_below};
pub use read::{open, open_within, read, read_text};
pub use remove::remove_dir;
pub use space::free_bytes;
pub use tensor_header::TensorHeader;
pub use trust::{code_folders, open_code, own_code_folder, write_code};
pub use user::user_id;
