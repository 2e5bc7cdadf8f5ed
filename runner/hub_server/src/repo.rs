//! Folders as repositories.

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// From this length on, files are large ones whatever they are called, as on the Hub.
const LARGE_BYTES: u64 = 10 << 20;

/// Ends of the names of files that are large ones at any length.
const LARGE: [&str; 9] = [
    ".safetensors",
    ".bin",
    ".gguf",
    ".h5",
    ".msgpack",
    ".pt",
    ".parquet",
    ".gz",
    ".zst",
];

/// Who may see a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// All.
    #[default]
    Open,
    /// For those who have the token; to others it is as if it did not exist.
    Private,
    /// All may see that it is there, who has the token may have its files.
    Gated,
    /// The same, and the token's owner has not accepted the licence.
    GatedToAll,
}

/// A repository.
#[derive(Debug, Default)]
pub(super) struct Repo {
    pub(super) access: Access,
    refs: BTreeMap<String, String>,
    commits: BTreeMap<String, Commit>,
}

/// The content of a large file.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) bytes: Arc<Vec<u8>>,
    /// Its name in the Xet store, if it is there.
    pub(super) xet_hash: Option<String>,
}

impl Repo {
    pub(super) fn add(&mut self, revision: &str, commit: Commit) -> String {
        let hash = commit.hash();
        self.refs.insert(revision.into(), hash.clone());
        self.commits.insert(hash.clone(), commit);
        hash
    }

    /// Puts a commit on a branch, and gives its hash.
    pub(super) fn push(&mut self, branch: &str, mut commit: Commit) -> String {
        commit.parent = self.refs.get(branch).cloned();
        let nth = self.commits.len();
        let seed = format!(
            "{nth} {:?} {} {}",
            commit.parent,
            commit.summary,
            commit.hash()
        );
        let hash = hex(&Sha1::digest(seed));
        self.refs.insert(branch.into(), hash.clone());
        self.commits.insert(hash.clone(), commit);
        hash
    }

    /// Makes a branch that means a commit; gives whether it is new.
    pub(super) fn branch(&mut self, name: &str, commit: &str) -> bool {
        let is_new = !self.refs.contains_key(name);
        if is_new {
            self.refs.insert(name.into(), commit.into());
        }
        is_new
    }

    /// All branches and tags, and what they mean.
    pub(super) fn refs(&self) -> impl Iterator<Item = (&str, &str)> {
        let refs = self.refs.iter();
        refs.map(|(name, hash)| (name.as_str(), hash.as_str()))
    }

    /// A commit and those before it, the newest first.
    pub(super) fn history(&self, revision: &str) -> Vec<(&str, &Commit)> {
        let first = self.commit(revision);
        let before = |(_, commit): &(&str, &Commit)| self.commit(commit.parent.as_deref()?);
        std::iter::successors(first, before).collect()
    }

    /// Calls a file of all commits something else.
    pub(super) fn rename_file(&mut self, old: &str, new: &str) {
        for commit in self.commits.values_mut() {
            if let Some(file) = commit.files.remove(old) {
                commit.files.insert(new.into(), file);
            }
        }
    }

    /// Lists a file of all commits with another length.
    pub(super) fn claim_size(&mut self, path: &str, n_bytes: u64) {
        let commits = self.commits.values_mut();
        for file in commits.filter_map(|commit| commit.files.get_mut(path)) {
            file.claimed_bytes = Some(n_bytes);
        }
    }

    /// The commit that a branch, tag or commit means, with its hash.
    pub(super) fn commit(&self, revision: &str) -> Option<(&str, &Commit)> {
        let hash = self.refs.get(revision).map_or(revision, String::as_str);
        let (hash, commit) = self.commits.get_key_value(hash)?;
        Some((hash, commit))
    }

    /// A large file of any commit.
    pub(super) fn large_file(&self, sha256: &str) -> Option<&RepoFile> {
        let mut files = self
            .commits
            .values()
            .flat_map(|commit| commit.files.values());
        files.find(|file| file.is_large && file.sha256 == sha256)
    }
}

/// The files of a commit by their paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Commit {
    pub(super) files: BTreeMap<String, RepoFile>,
    pub(super) parent: Option<String>,
    pub(super) summary: String,
}

#[derive(Clone, Debug)]
pub(super) struct RepoFile {
    pub(super) content: Arc<Vec<u8>>,
    /// Its name in the Xet store, if it is there.
    pub(super) xet_hash: Option<String>,
    /// Whether it is in the store of large files, and a pointer to it in the repository.
    pub(super) is_large: bool,
    pub(super) sha256: String,
    /// Git's name of the file, or of the pointer.
    pub(super) oid: String,
    /// The length that is listed, if it is not the real one.
    claimed_bytes: Option<u64>,
}

impl Commit {
    pub(super) fn read(folder: &Path) -> Self {
        let mut commit = Self::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            let entries = fs::read_dir(&next).expect("the repository's folder can be read");
            for entry in entries {
                let path = entry.expect("the repository's folder can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).expect("it is in the folder");
                    let name = name.to_str().expect("names in tests are UTF-8");
                    let content = fs::read(&path).expect("the repository's files can be read");
                    let file = RepoFile::new(name, content);
                    commit.files.insert(name.into(), file);
                }
            }
        }
        commit
    }

    /// Not git's, but as good: other files give another hash.
    fn hash(&self) -> String {
        let lines = self.files.iter();
        let lines = lines.map(|(path, file)| format!("{path} {}\n", file.oid));
        hex(&Sha1::digest(lines.collect::<String>()))
    }

    /// The tree as the Hub lists it: what is in `folder`, or below it too.
    pub(super) fn tree(&self, folder: &str, is_recursive: bool) -> Vec<Value> {
        let mut entries = BTreeMap::new();
        for (path, file) in &self.files {
            let Some(rest) = path.strip_prefix(folder) else {
                continue;
            };
            for (slash, _) in rest.match_indices('/') {
                let path = &path[..folder.len() + slash];
                let entry = json!({"type": "directory", "oid": "0".repeat(40), "size": 0,
                                   "path": path});
                entries.insert(path, entry);
            }
            entries.insert(path, file.entry(path));
        }
        let is_wanted = |path: &str| is_recursive || !path[folder.len()..].contains('/');
        let entries = entries.into_iter().filter(|(path, _)| is_wanted(path));
        entries.map(|(_, entry)| entry).collect()
    }
}

/// Whether the Hub takes a file for a large one.
pub(super) fn is_large(path: &str, n_bytes: u64) -> bool {
    n_bytes >= LARGE_BYTES || LARGE.iter().any(|end| path.ends_with(end))
}

impl RepoFile {
    fn new(path: &str, content: Vec<u8>) -> Self {
        if is_large(path, content.len() as u64) {
            Self::large(Content {
                bytes: Arc::new(content),
                xet_hash: None,
            })
        } else {
            Self::small(content)
        }
    }

    /// A file in the repository itself.
    pub(super) fn small(content: Vec<u8>) -> Self {
        Self {
            is_large: false,
            sha256: sha256(&content),
            oid: git_oid(&content),
            content: Arc::new(content),
            xet_hash: None,
            claimed_bytes: None,
        }
    }

    /// A file in a store.
    pub(super) fn large(content: Content) -> Self {
        let sha256 = sha256(&content.bytes);
        Self {
            is_large: true,
            oid: git_oid(pointer(&sha256, content.bytes.len()).as_bytes()),
            sha256,
            content: content.bytes,
            xet_hash: content.xet_hash,
            claimed_bytes: None,
        }
    }

    fn entry(&self, path: &str) -> Value {
        let n_bytes = self.content.len();
        let listed = self.claimed_bytes.unwrap_or(n_bytes as u64);
        let mut entry = json!({"type": "file", "oid": self.oid, "size": listed, "path": path});
        if self.is_large {
            let pointer_bytes = pointer(&self.sha256, n_bytes).len();
            entry["lfs"] = json!({"oid": self.sha256, "size": n_bytes,
                                  "pointerSize": pointer_bytes});
        }
        if let Some(hash) = &self.xet_hash {
            entry["xetHash"] = json!(hash);
        }
        entry
    }
}

/// What git has instead of a large file.
fn pointer(sha256: &str, n_bytes: usize) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {n_bytes}\n")
}

pub(super) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn git_oid(content: &[u8]) -> String {
    let header = format!("blob {}\0", content.len());
    hex(&Sha1::new_with_prefix(header)
        .chain_update(content)
        .finalize())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
