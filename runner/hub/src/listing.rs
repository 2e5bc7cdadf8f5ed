//! What Python's huggingface_hub (2.4.0) remembers of a commit: the names and lengths of all its
//! files, `trees/COMMIT.json` in a repository's part of the cache.

use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// The version that is read; others may mean something else.
const FORMAT_VERSION: u32 = 1;

/// The files of a commit.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    format_version: u32,
    files: HashMap<String, ListedFile>,
}

#[derive(Debug, Deserialize)]
struct ListedFile {
    size: u64,
}

impl Listing {
    /// `None` where there is none, or none that can be read: then the Hub is asked.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read(path).ok()?;
        let listing: Self = serde_json::from_slice(&text).ok()?;
        (listing.format_version == FORMAT_VERSION).then_some(listing)
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// The length of a file, in bytes.
    pub(crate) fn n_bytes(&self, file: &str) -> Option<u64> {
        self.files.get(file).map(|file| file.size)
    }
}
