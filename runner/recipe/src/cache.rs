//! Compiled components on disk: compiling the Python engine takes 10 to 25 s, loading it 20 ms.
//!
//! An entry's name is the hash of what it was made from: the component, wasmtime's version and the
//! engine's settings. Its content is the artifact, then its BLAKE3, so a truncated or altered entry is
//! found out and made again. The artifact is mapped, not read: of 39 MB of machine code a recipe runs
//! little. A cache that cannot be written only costs time.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What an entry consists of; part of its name, so that no version takes another's for damaged.
const LAYOUT: &[u8] = b"artifact, BLAKE3";

/// Loads the compiled form of `bytes` from `<cache_dir>/wasm`, or compiles it and keeps the result.
///
/// # Errors
/// `bytes` are no component that this engine can compile.
pub(crate) fn compile(
    engine: &Engine,
    cache_dir: Option<&Path>,
    bytes: &[u8],
) -> wasmtime::Result<Component> {
    let Some(path) = cache_dir.map(|dir| entry_path(engine, dir, bytes)) else {
        return Component::from_binary(engine, bytes);
    };
    // Programs that start together wait for the one that compiles.
    let _lock = lock(&path);
    if let Some(component) = read(engine, &path) {
        return Ok(component);
    }
    let component = Component::from_binary(engine, bytes)?;
    store(&path, &component.serialize()?);
    Ok(component)
}

/// True when `compile` would find an entry.
pub(crate) fn is_compiled(engine: &Engine, cache_dir: Option<&Path>, bytes: &[u8]) -> bool {
    cache_dir.is_some_and(|dir| entry_path(engine, dir, bytes).is_file())
}

/// The compiled form of `bytes`, where `compile` would find it.
pub(crate) fn load(engine: &Engine, cache_dir: Option<&Path>, bytes: &[u8]) -> Option<Component> {
    read(engine, &entry_path(engine, cache_dir?, bytes))
}

fn entry_path(engine: &Engine, cache_dir: &Path, bytes: &[u8]) -> PathBuf {
    let mut hasher = HashTo(blake3::Hasher::new());
    hasher.write(LAYOUT);
    // Covers wasmtime's version, the target and every setting that changes the machine code.
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.write(bytes);
    cache_dir
        .join("wasm")
        .join(format!("{}.cwasm", hasher.0.finalize().to_hex()))
}

/// A lock that ends with the file handle; `None` where the file system has no locks.
fn lock(entry: &Path) -> Option<File> {
    fs::create_dir_all(entry.parent()?).ok()?;
    let file = File::create(entry.with_extension("lock")).ok()?;
    file.lock().ok()?;
    Some(file)
}

fn read(engine: &Engine, path: &Path) -> Option<Component> {
    if !is_whole(path).ok()? {
        return None;
    }
    // A file system may forbid to run what lies on it.
    let mapped = trusted::map(engine, path);
    mapped
        .or_else(|_| trusted::deserialize(engine, &fs::read(path)?))
        .ok()
}

/// Whether an entry ends with the BLAKE3 of what comes before.
fn is_whole(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let n_bytes = file.metadata()?.len();
    let Some(n_bytes) = n_bytes.checked_sub(blake3::OUT_LEN as u64) else {
        return Ok(false);
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(Read::by_ref(&mut file).take(n_bytes))?;
    let mut digest = [0; blake3::OUT_LEN];
    file.read_exact(&mut digest)?;
    Ok(hasher.finalize() == digest)
}

fn store(path: &Path, artifact: &[u8]) {
    let _ = try_store(path, artifact);
}

fn try_store(path: &Path, artifact: &[u8]) -> io::Result<()> {
    let dir = path.parent().expect("an entry lies in a folder");
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(artifact)?;
    file.write_all(blake3::hash(artifact).as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Feeds what is hashed to BLAKE3: std's hasher is too short for a name, and may change.
struct HashTo(blake3::Hasher);

impl Hasher for HashTo {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.finalize();
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("8 bytes"))
    }
}

#[expect(
    unsafe_code,
    reason = "wasmtime cannot check that an artifact is its own"
)]
mod trusted {
    use std::path::Path;
    use wasmtime::Engine;
    use wasmtime::component::Component;

    /// Makes a component of an entry of this program's cache that is whole. What is behind the artifact is
    /// not looked at.
    pub(super) fn map(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
        // SAFETY: the artifact was written by `Component::serialize` of an engine with the same
        // compatibility hash (in the entry's name; wasmtime checks it again) and is whole (its
        // BLAKE3 was compared). Entries are put in place whole and never written to again. Only someone
        // who can write to the user's own cache folder could do otherwise, and they could as well
        // replace the program.
        unsafe { Component::deserialize_file(engine, path) }
    }

    /// The same of a copy of the entry.
    pub(super) fn deserialize(engine: &Engine, entry: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: as above.
        unsafe { Component::deserialize(engine, entry) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dir: &Path) -> PathBuf {
        let mut entries = fs::read_dir(dir.join("wasm"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .find(|path| path.extension().unwrap() == "cwasm")
            .unwrap()
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let (engine, dir) = (Engine::default(), tempfile::tempdir().unwrap());
        let bytes = wat::parse_str("(component)").unwrap();
        assert!(!is_compiled(&engine, Some(dir.path()), &bytes));
        compile(&engine, Some(dir.path()), &bytes).unwrap();
        assert!(is_compiled(&engine, Some(dir.path()), &bytes));
        assert!(load(&engine, Some(dir.path()), &bytes).is_some());

        let path = entry(dir.path());
        let good = fs::read(&path).unwrap();
        let altered = |at: usize| {
            let mut altered = good.clone();
            altered[at] ^= 1;
            altered
        };
        let (first, last) = (altered(0), altered(good.len() - 1));
        for damaged in [&good[..good.len() - 1], &good[..10], &first, &last, b""] {
            fs::write(&path, damaged).unwrap();
            assert!(load(&engine, Some(dir.path()), &bytes).is_none());
            compile(&engine, Some(dir.path()), &bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn an_entry_that_cannot_be_mapped_is_copied() {
        let (engine, dir) = (Engine::default(), tempfile::tempdir().unwrap());
        let bytes = wat::parse_str("(component)").unwrap();
        compile(&engine, Some(dir.path()), &bytes).unwrap();
        let path = entry(dir.path());
        assert!(trusted::map(&engine, &path).is_ok());
        assert!(trusted::deserialize(&engine, &fs::read(&path).unwrap()).is_ok());
    }

    #[test]
    fn other_settings_or_bytes_are_other_entries() {
        let dir = Path::new("cache");
        let fuel = Engine::new(wasmtime::Config::new().consume_fuel(true)).unwrap();
        let path = entry_path(&Engine::default(), dir, b"a");
        assert_eq!(path, entry_path(&Engine::default(), dir, b"a"));
        assert_ne!(path, entry_path(&Engine::default(), dir, b"b"));
        assert_ne!(path, entry_path(&fuel, dir, b"a"));
    }

    #[test]
    fn a_cache_that_cannot_be_written_only_costs_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let bytes = wat::parse_str("(component)").unwrap();
        compile(&Engine::default(), Some(&file), &bytes).unwrap();
    }
}
