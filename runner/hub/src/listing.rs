//! What is remembered of the files of a commit, in two forms: this program's, and that of Python's
//! huggingface_hub (2.4.0), `trees/COMMIT.json` in a repository's part of the cache.

use crate::digest::Etag;
use crate::limits::MAX_FILE_BYTES;
use crate::name::is_path_of_file;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// The version of Python's form that is read; others may mean something else.
const FORMAT_VERSION: u32 = 1;

/// The version of this program's form.
const OWN_FORMAT_VERSION: u32 = 1;

/// A file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Its path in the repository, with `/` between the parts.
    pub name: String,
    /// Its length, in bytes.
    pub n_bytes: u64,
    /// `sha256:` and the SHA-256 of a large file, or `git:` and git's name of a small one; in small
    /// hexadecimal digits.
    pub content_hash: String,
}

impl ListedFile {
    /// The name of its content; `None`: it has no hash of a known form.
    pub(crate) fn etag(&self) -> Option<Etag> {
        Etag::of_content_hash(&self.content_hash)
    }

    fn is_sound(&self) -> bool {
        let is_possible = self.n_bytes <= MAX_FILE_BYTES;
        is_path_of_file(&self.name) && is_possible && self.etag().is_some()
    }
}

/// This program's form.
#[derive(Serialize, Deserialize)]
struct OwnListing {
    format_version: u32,
    files: Vec<ListedFile>,
}

/// Reads this program's form. `None` if it is missing or cannot be read: then the Hub is asked.
pub(crate) fn read_files(path: &Path) -> Option<Vec<ListedFile>> {
    parse_files(&std::fs::read(path).ok()?)
}

pub(crate) fn parse_files(text: &[u8]) -> Option<Vec<ListedFile>> {
    let listing: OwnListing = serde_json::from_slice(text).ok()?;
    let is_read = listing.format_version == OWN_FORMAT_VERSION;
    (is_read && listing.files.iter().all(ListedFile::is_sound)).then_some(listing.files)
}

/// This program's form of `files`.
pub(crate) fn written(files: &[ListedFile]) -> Vec<u8> {
    let listing = OwnListing {
        format_version: OWN_FORMAT_VERSION,
        files: files.to_vec(),
    };
    serde_json::to_vec(&listing).expect("names and numbers are JSON")
}

/// The files of a commit, as Python lists them.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    format_version: u32,
    files: HashMap<String, PythonFile>,
}

#[derive(Debug, Deserialize)]
struct PythonFile {
    size: u64,
    /// Git's name of the file, or of a pointer to it.
    blob_id: String,
    lfs_sha256: Option<String>,
    xet_hash: Option<String>,
}

impl Listing {
    /// `None` if it is missing or cannot be read: then the Hub is asked.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Self::parse(&std::fs::read(path).ok()?)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let listing: Self = serde_json::from_slice(text).ok()?;
        (listing.format_version == FORMAT_VERSION).then_some(listing)
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// The length of a file, in bytes.
    pub(crate) fn n_bytes(&self, file: &str) -> Option<u64> {
        self.files.get(file).map(|file| file.size)
    }

    /// All files, in the order of their names; `None` if a file is not as it must be.
    pub(crate) fn files(&self) -> Option<Vec<ListedFile>> {
        let files = self.files.iter();
        let mut files: Vec<_> = files
            .map(|(name, file)| file.listed(name))
            .collect::<Option<_>>()?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        files.iter().all(ListedFile::is_sound).then_some(files)
    }
}

impl PythonFile {
    fn listed(&self, name: &str) -> Option<ListedFile> {
        let etag = match (&self.lfs_sha256, &self.xet_hash) {
            (Some(sha256), _) => sha256,
            (None, Some(_)) => return None,
            (None, None) => &self.blob_id,
        };
        Some(ListedFile {
            name: name.into(),
            n_bytes: self.size,
            content_hash: Etag::parse(etag)?.content_hash()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file(name: &str) -> ListedFile {
        ListedFile {
            name: name.into(),
            n_bytes: 7,
            content_hash: format!("git:{}", "a".repeat(40)),
        }
    }

    fn read(listing: &Value) -> Option<Vec<ListedFile>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listing.json");
        std::fs::write(&path, listing.to_string()).unwrap();
        read_files(&path)
    }

    #[test]
    fn what_is_written_is_read() {
        let files = [file("README.md"), file("data/a.txt")];
        let listing = serde_json::from_slice(&written(&files)).unwrap();
        assert_eq!(read(&listing).unwrap(), files);
    }

    #[test]
    fn what_is_odd_is_not_read() {
        let listing = |version: u32, file: &ListedFile| {
            read(&json!({"format_version": version, "files": [file]}))
        };
        assert!(listing(1, &file("a")).is_some());
        assert!(listing(2, &file("a")).is_none());
        assert!(listing(1, &file("../a")).is_none());
        let mut nameless = file("a");
        nameless.content_hash = "md5:00".into();
        assert!(listing(1, &nameless).is_none());
        let mut endless = file("a");
        endless.n_bytes = MAX_FILE_BYTES + 1;
        assert!(listing(1, &endless).is_none());
    }

    fn of_python(name: &str, file: &Value) -> Option<Vec<ListedFile>> {
        let listing = json!({"format_version": 1, "files": {name: file}});
        serde_json::from_value::<Listing>(listing).unwrap().files()
    }

    #[test]
    fn files_of_python_are_the_same() {
        let (git, sha256) = ("a".repeat(40), "b".repeat(64));
        let small = json!({"size": 7, "blob_id": git});
        assert_eq!(of_python("data/a", &small).unwrap(), [file("data/a")]);
        assert!(of_python("../a", &small).is_none());
        let large = json!({"size": 7, "blob_id": git, "lfs_sha256": sha256, "lfs_size": 7,
                           "xet_hash": "c"});
        let hash = &of_python("a", &large).unwrap()[0].content_hash;
        assert_eq!(*hash, format!("sha256:{sha256}"));
        let pointer = json!({"size": 7, "blob_id": git, "xet_hash": "c"});
        assert!(of_python("a", &pointer).is_none());
    }
}
