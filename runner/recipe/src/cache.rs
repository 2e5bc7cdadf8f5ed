//! Compiled components on disk: compiling the Python engine takes 10 to 25 s, loading it 20 ms.
//!
//! An entry's name is the hash of what it was made from: the component, wasmtime's version and the engine's settings.
//! The artifact's BLAKE3 is next to it, so a truncated or altered entry is noticed and made again. The artifact is
//! mapped, not read: of 39 MB of machine code a recipe runs little. Digests of files are remembered in the same folder,
//! so that neither the component nor the artifact is read on every run. A cache that cannot be written only costs time,
//! and so does one that others can write to: an entry that may be theirs is passed over.

use fault::Fault;
use files::{DigestCache, code_folders, open_code, own_code_folder, write_code};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What an entry consists of; part of its name, so that no version takes another's for damaged.
const LAYOUT: &[u8] = b"artifact, BLAKE3 beside it";
/// The folder in the cache.
const FOLDER: &str = "wasm";

fn own_folder(cache_dir: &Path) -> Option<PathBuf> {
    own_code_folder(cache_dir, FOLDER)
}

/// Loads the compiled form of the component with this digest from a folder in `cache_dir`, or compiles its `bytes`
/// and keeps the result.
///
/// # Errors
/// `bytes` are not a component that this engine can compile.
pub(crate) fn compile(
    engine: &Engine,
    cache_dir: Option<&Path>,
    (digest, bytes): (&str, &[u8]),
) -> wasmtime::Result<Component> {
    let own = cache_dir.and_then(own_folder);
    let own = own.map(|folder| folder.join(entry_name(engine, digest)));
    // Programs that start together wait for the one that compiles.
    let _lock = own.as_deref().and_then(lock);
    if let Some(component) = load(engine, cache_dir, digest) {
        return Ok(component);
    }
    let component = Component::from_binary(engine, bytes)?;
    if let Some(path) = own {
        store(&path, &component.serialize()?);
    }
    Ok(component)
}

/// The digest of the component in a file. It is remembered if only this user can have written it.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn digest_of_file(cache_dir: Option<&Path>, path: &Path) -> Result<String, Fault> {
    match cache_dir.and_then(own_folder) {
        Some(folder) => DigestCache::new(&folder).file(path),
        None => {
            let bytes = files::read(path, files::bound::ENGINE);
            Ok(digest_of(&bytes.map_err(Fault::io("read", path))?))
        }
    }
}

/// The digest of a component.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// True when `compile` would find an entry.
pub(crate) fn is_compiled(engine: &Engine, cache_dir: Option<&Path>, digest: &str) -> bool {
    let mut paths = entry_paths(engine, cache_dir, digest);
    paths.any(|path| open_code(&path).is_some())
}

/// The compiled form of the component with this digest, where `compile` would find it.
pub(crate) fn load(engine: &Engine, cache_dir: Option<&Path>, digest: &str) -> Option<Component> {
    let digests = cache_dir
        .and_then(own_folder)
        .map(|own| DigestCache::new(&own));
    let mut paths = entry_paths(engine, cache_dir, digest);
    paths.find_map(|path| {
        let entry = open_code(&path)?;
        is_whole(&path, digests.as_ref()).then(|| read(engine, entry))?
    })
}

/// The compiled component that is installed with this program, and as trusted as the program.
///
/// # Errors
/// It is not there, or was compiled by another version.
pub(crate) fn load_installed(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    trusted::map(engine, &File::open(path)?)
}

/// An entry that is passed over because others can write to it, or to its folder.
pub(crate) fn distrusted(
    engine: &Engine,
    cache_dir: Option<&Path>,
    digest: &str,
) -> Option<PathBuf> {
    let mut paths = entry_paths(engine, cache_dir, digest);
    paths.find(|path| path.exists() && open_code(path).is_none())
}

/// Where an entry may be.
fn entry_paths(
    engine: &Engine,
    cache_dir: Option<&Path>,
    digest: &str,
) -> impl Iterator<Item = PathBuf> {
    let name = entry_name(engine, digest);
    let folders = cache_dir
        .map(|dir| code_folders(dir, FOLDER))
        .into_iter()
        .flatten();
    folders.map(move |folder| folder.join(&name))
}

fn entry_name(engine: &Engine, digest: &str) -> String {
    let mut hasher = HashTo(blake3::Hasher::new());
    hasher.write(LAYOUT);
    // Covers wasmtime's version, the target and every setting that changes the machine code.
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.write(digest.as_bytes());
    format!("{}.cwasm", hasher.0.finalize().to_hex())
}

/// A lock that ends with the file handle; `None` if the file system has no locks.
fn lock(entry: &Path) -> Option<File> {
    let file = File::create(entry.with_extension("lock")).ok()?;
    file.lock().ok()?;
    Some(file)
}

fn read(engine: &Engine, mut entry: File) -> Option<Component> {
    // A file system may forbid running the files on it.
    let mapped = trusted::map(engine, &entry);
    let mut copied = || {
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        trusted::deserialize(engine, &bytes)
    };
    mapped.or_else(|_| copied()).ok()
}

/// Whether an entry has the BLAKE3 that is next to it.
fn is_whole(path: &Path, digests: Option<&DigestCache>) -> bool {
    let expected = open_code(&digest_path(path)).and_then(|file| io::read_to_string(file).ok());
    let found = digests.and_then(|digests| digests.file(path).ok());
    found.is_some() && found == expected
}

/// The file with the BLAKE3 of an entry.
fn digest_path(path: &Path) -> PathBuf {
    path.with_extension("blake3")
}

fn store(path: &Path, artifact: &[u8]) {
    let _ = try_store(path, artifact);
}

fn try_store(path: &Path, artifact: &[u8]) -> io::Result<()> {
    write_code(path, artifact)?;
    write_code(&digest_path(path), digest_of(artifact).as_bytes())
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
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use wasmtime::Engine;
    use wasmtime::component::Component;

    /// Makes a component of an entry of this program's cache that is whole, or of the one that is installed with it.
    pub(super) fn map(engine: &Engine, entry: &File) -> wasmtime::Result<Component> {
        // The file that was looked at, not what is at its path by now.
        let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
        // SAFETY: the artifact was written by `Component::serialize` of an engine with the same
        // compatibility hash (in the entry's name; wasmtime checks it again) and is whole (its
        // BLAKE3 was compared). Entries are put in place whole and never written to again. Only this
        // user and root can write to the entry and to its folder (`files::open_code`), and they could as
        // well replace the program. The same holds for those who installed the program and its engine.
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
    use std::fs;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn entry(dir: &Path) -> PathBuf {
        let mut entries = fs::read_dir(dir.join("wasm"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .find(|path| path.extension().is_some_and(|end| end == "cwasm"))
            .unwrap()
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let (engine, dir) = (Engine::default(), tempfile::tempdir().unwrap());
        let bytes = wat::parse_str("(component)").unwrap();
        assert!(!is_compiled(&engine, Some(dir.path()), &digest_of(&bytes)));
        compile(&engine, Some(dir.path()), (&digest_of(&bytes), &bytes)).unwrap();
        assert!(is_compiled(&engine, Some(dir.path()), &digest_of(&bytes)));
        assert!(load(&engine, Some(dir.path()), &digest_of(&bytes)).is_some());

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
            assert!(load(&engine, Some(dir.path()), &digest_of(&bytes)).is_none());
            compile(&engine, Some(dir.path()), (&digest_of(&bytes), &bytes)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn an_entry_that_cannot_be_mapped_is_copied() {
        let (engine, dir) = (Engine::default(), tempfile::tempdir().unwrap());
        let bytes = wat::parse_str("(component)").unwrap();
        compile(&engine, Some(dir.path()), (&digest_of(&bytes), &bytes)).unwrap();
        let path = entry(dir.path());
        let file = File::open(&path).unwrap();
        assert!(trusted::map(&engine, &file).is_ok());
        assert!(trusted::deserialize(&engine, &fs::read(&path).unwrap()).is_ok());
    }

    #[test]
    fn other_settings_or_bytes_are_other_entries() {
        let fuel = Engine::new(wasmtime::Config::new().consume_fuel(true)).unwrap();
        let name = entry_name(&Engine::default(), "a");
        assert_eq!(name, entry_name(&Engine::default(), "a"));
        assert_ne!(name, entry_name(&Engine::default(), "b"));
        assert_ne!(name, entry_name(&fuel, "a"));
    }

    /// The entry of another component represents planted code: anyone who maps it gets that component.
    #[test]
    fn an_entry_that_others_can_write_is_passed_over() {
        let (engine, dir) = (Engine::default(), tempfile::tempdir().unwrap());
        let [ours, planted] = ["(component)", "(component (core module (export \"m\")))"]
            .map(|text| wat::parse_str(text).unwrap());
        let has_export = |component: &Component| component.get_export(None, "m").is_some();
        compile(&engine, Some(dir.path()), (&digest_of(&planted), &planted)).unwrap();
        let path = dir
            .path()
            .join("wasm")
            .join(entry_name(&engine, &digest_of(&ours)));
        let of_planted = entry(dir.path());
        fs::rename(digest_path(&of_planted), digest_path(&path)).unwrap();
        fs::rename(of_planted, &path).unwrap();
        let load = || load(&engine, Some(dir.path()), &digest_of(&ours));
        assert!(has_export(&load().unwrap()), "the attack works");
        for (target, mode) in [(&path, 0o664), (&dir.path().join("wasm"), 0o775)] {
            let closed = fs::metadata(target).unwrap().permissions();
            fs::set_permissions(target, Permissions::from_mode(mode)).unwrap();
            assert!(load().is_none());
            assert!(!is_compiled(&engine, Some(dir.path()), &digest_of(&ours)));
            assert_eq!(
                distrusted(&engine, Some(dir.path()), &digest_of(&ours)),
                Some(path.clone())
            );
            fs::set_permissions(target, closed).unwrap();
        }
        fs::set_permissions(dir.path().join("wasm"), Permissions::from_mode(0o775)).unwrap();
        let component = compile(&engine, Some(dir.path()), (&digest_of(&ours), &ours)).unwrap();
        assert!(!has_export(&component));
        let component = load().expect("it was kept in this user's folder");
        assert!(!has_export(&component));
    }

    #[test]
    fn a_cache_that_cannot_be_written_only_costs_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let bytes = wat::parse_str("(component)").unwrap();
        compile(
            &Engine::default(),
            Some(&file),
            (&digest_of(&bytes), &bytes),
        )
        .unwrap();
    }
}
