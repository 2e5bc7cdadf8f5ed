//! Digests of files, remembered.

use crate::{READ_HINT, bound, unreadable};
use fault::Fault;
use std::fs::{Metadata, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file younger than this may change without a visible change of its time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Digests of files, and what else takes long to find out, remembered in a folder, so that it is done once
/// and not on every run. A remembered digest counts as long as the file keeps size and times.
#[derive(Clone, Debug)]
pub struct DigestCache {
    folder: PathBuf,
}

impl DigestCache {
    /// Remembers digests in the folder `digests` of `cache_dir`; neither need exist.
    pub fn new(cache_dir: &Path) -> Self {
        Self {
            folder: cache_dir.join("digests"),
        }
    }

    /// The digest of a file's content: BLAKE3 in hexadecimal digits.
    ///
    /// # Errors
    /// The file cannot be read. A folder that cannot be written is not an error; nothing is remembered
    /// then.
    pub fn file(&self, path: &Path) -> Result<String, Fault> {
        let given = path;
        let path = path
            .canonicalize()
            .map_err(unreadable("find", path, READ_HINT))?;
        let metadata = path
            .metadata()
            .map_err(unreadable("read", &path, READ_HINT))?;
        let entry_name = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        let state = file_state(&metadata);
        let entry = self.recall(&entry_name);
        if let Some(digest) = entry.and_then(|entry| digest_in(&entry, &state)) {
            return Ok(digest);
        }
        let mut hasher = blake3::Hasher::new();
        let file = crate::open(given).map_err(unreadable("open", given, READ_HINT))?;
        hasher
            .update_reader(file)
            .map_err(unreadable("read", &path, READ_HINT))?;
        let digest = hasher.finalize().to_hex().to_string();
        if is_settled(&metadata) {
            self.remember(&entry_name, &format!("{digest} {state}"));
        }
        Ok(digest)
    }

    /// The entry that was remembered under a name.
    pub fn recall(&self, entry_name: &str) -> Option<String> {
        crate::read_text(&self.folder.join(entry_name), bound::SETTINGS).ok()
    }

    /// Without the entry the next run finds out again; nothing else is lost.
    pub fn remember(&self, entry_name: &str, entry: &str) {
        let _ = self.write(entry_name, entry);
    }

    fn write(&self, entry_name: &str, entry: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        // As the umask has it: a cache may be shared, and tempfile's own modes are for the owner alone.
        let mode = Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new()
            .permissions(mode)
            .tempfile_in(&self.folder)?;
        std::io::Write::write_all(&mut file, entry.as_bytes())?;
        file.persist(self.folder.join(entry_name))?;
        Ok(())
    }
}

/// The digest in an entry, if the file still has that state.
fn digest_in(entry: &str, state: &str) -> Option<String> {
    let (digest, entry_state) = entry.split_once(' ')?;
    let is_digest = blake3::Hash::from_hex(digest).is_ok();
    (is_digest && entry_state == state).then(|| digest.to_string())
}

/// Size and times of a file; different after any ordinary change of it.
fn file_state(metadata: &Metadata) -> String {
    let since_epoch = |time: std::io::Result<SystemTime>| {
        time.ok()
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
    };
    let modified_ns = since_epoch(metadata.modified())
        .unwrap_or_default()
        .as_nanos();
    format!(
        "{} {modified_ns} {}",
        metadata.len(),
        change_state(metadata)
    )
}

/// The inode and its time of change, which a copy that keeps the time of modification alters too.
#[cfg(unix)]
fn change_state(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!(
        "{} {}.{}",
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

#[cfg(not(unix))]
fn change_state(_: &Metadata) -> String {
    "-".into()
}

fn is_settled(metadata: &Metadata) -> bool {
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > SETTLED_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    /// The file of a remembered digest.
    fn first_entry(cache: &TempDir) -> PathBuf {
        let mut entries = cache.path().join("digests").read_dir().unwrap();
        entries.next().unwrap().unwrap().path()
    }

    fn age(path: &Path) {
        let then = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(then)
            .unwrap();
    }

    #[test]
    fn a_remembered_digest_lasts_until_the_file_changes() {
        let folder = folder_with(&[("weights", b"abc")]);
        let path = folder.path().join("weights");
        age(&path);
        let files = DigestCache::new(folder.path());
        let expected = blake3::hash(b"abc").to_hex().to_string();
        assert_eq!(files.file(&path).unwrap(), expected);

        // Reading the entry and not the file: the entry's digest is what comes back.
        let entry = first_entry(&folder);
        let forged = blake3::hash(b"forged").to_hex().to_string();
        let content = std::fs::read_to_string(&entry)
            .unwrap()
            .replace(&expected, &forged);
        std::fs::write(&entry, content).unwrap();
        assert_eq!(files.file(&path).unwrap(), forged);

        std::fs::write(&path, b"abd").unwrap();
        assert_eq!(
            files.file(&path).unwrap(),
            blake3::hash(b"abd").to_hex().to_string()
        );
    }

    #[test]
    fn broken_entries_and_unwritable_folders_do_no_harm() {
        let folder = folder_with(&[("weights", b"abc"), ("digests", b"a file, not a folder")]);
        let path = folder.path().join("weights");
        age(&path);
        let expected = blake3::hash(b"abc").to_hex().to_string();
        assert_eq!(
            DigestCache::new(folder.path()).file(&path).unwrap(),
            expected
        );

        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        files.file(&path).unwrap();
        let entry = first_entry(&cache);
        std::fs::write(&entry, "rubbish").unwrap();
        assert_eq!(files.file(&path).unwrap(), expected);
    }

    #[test]
    fn a_young_file_is_not_remembered() {
        let folder = folder_with(&[("weights", b"abc")]);
        let files = DigestCache::new(folder.path());
        files.file(&folder.path().join("weights")).unwrap();
        assert!(!folder.path().join("digests").exists());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DigestCache::new(Path::new("cache"))
            .file(Path::new("no/such/file"))
            .unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
    }
}
