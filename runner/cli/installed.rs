//! Where this program is, and what a wheel installs besides the programs: `share/sae-run`, next to the folder `bin` that they are in.
//!
//! - `libtch/2.13/`: what is between the worker and PyTorch 2.13; a folder for each minor version
//! - `engine/`: the Python recipe engine, compiled for any x86-64 processor
//!
//! A program that was built from source has no such folder.

use std::env;
use std::io;
use std::path::PathBuf;

/// The file of this program. A link to it may be anywhere.
///
/// # Errors
/// The operating system does not say.
pub(crate) fn program() -> io::Result<PathBuf> {
    env::current_exe()?.canonicalize()
}

/// A folder in `share/sae-run`, if there is one.
pub(crate) fn folder(name: &str) -> Option<PathBuf> {
    let program = program().ok()?;
    let prefix = program.parent()?.parent()?;
    let folder = prefix.join("share/sae-run").join(name);
    folder.is_dir().then_some(folder)
}
