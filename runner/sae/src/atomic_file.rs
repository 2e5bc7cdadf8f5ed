//! Files that are there whole or not at all: written under a temporary name next to their path, synced, renamed.

use crate::mapped::MappedFile;
use crate::{SaeError, safetensors_file};
use fault::Fault;
use files::beside;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use tch::Tensor;

/// The tensors of a safetensors file, on the CPU.
///
/// # Errors
/// A missing or damaged file.
pub fn tensors_by_name(path: &Path) -> Result<HashMap<String, Tensor>, SaeError> {
    // libtorch's reader gives no path, and a missing file the same error as a damaged one.
    files::open(path).map_err(SaeError::io("read", path))?;
    let tensors = Tensor::read_safetensors(path).map_err(SaeError::unreadable_tensors(path))?;
    Ok(tensors.into_iter().collect())
}

/// Checks that a safetensors file is as long as its header says, without reading its tensors.
///
/// # Errors
/// A missing or damaged file.
pub fn check_safetensors(path: &Path) -> Result<(), SaeError> {
    MappedFile::open(path).map(|_| ())
}

/// Writes a safetensors file.
///
/// # Errors
/// A file that cannot be written.
pub fn write_safetensors(tensors: &[(&str, &Tensor)], path: &Path) -> Result<(), SaeError> {
    let temporary = beside(path);
    let file = File::create(&temporary).map_err(SaeError::io("create", &temporary))?;
    let written = safetensors_file::write(tensors, &mut BufWriter::new(file));
    written.map_err(|source| {
        Fault::internal(format!("cannot write the tensors of `{}`", path.display()))
            .with_hint("can the folder be written, and is there space on the disk?")
            .because(source)
    })?;
    sync_and_rename(&temporary, path)
}

/// Writes a file.
///
/// # Errors
/// A file that cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SaeError> {
    let temporary = beside(path);
    fs::write(&temporary, bytes).map_err(SaeError::io("write", &temporary))?;
    sync_and_rename(&temporary, path)
}

/// Returns when the names in a folder are on the disk; a rename is not before.
///
/// # Errors
/// A folder that cannot be opened.
pub fn sync_dir(dir: &Path) -> Result<(), SaeError> {
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.map_err(SaeError::io("sync", dir))
}

fn sync_and_rename(temporary: &Path, path: &Path) -> Result<(), SaeError> {
    let sync = File::open(temporary).and_then(|file| file.sync_all());
    sync.map_err(SaeError::io("sync", temporary))?;
    files::check_lease();
    fs::rename(temporary, path).map_err(SaeError::io("rename", path))
}
