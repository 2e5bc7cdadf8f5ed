//! What token data is made from, and its digest, which is known before anything is tokenised.

use crate::tokenizer_config::TokenizerConfig;
use crate::{DataError, Documents};
use files::bound;
use plan::{DataFiles, Format, RowSpec, TokenizerClass};
use std::fs::{Metadata, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Part of every digest; raised when the same inputs would give other tokens.
const ALGORITHM: &str = "sae-run tokens 3";

/// A file younger than this may change without a visible change of its time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Everything that token data depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The files of the data set.
    pub files: DataFiles,
    /// How their rows are read, and the length of a sequence.
    pub rows: RowSpec,
    /// Folder with tokenizer.json and tokenizer_config.json; a data set of token ids needs none.
    pub tokenizer_dir: PathBuf,
    /// Number of rows of the model's embedding; a larger token id is an error.
    pub vocab_size: usize,
}

impl TokenSpec {
    /// The digest of the token data, in hexadecimal digits: BLAKE3 over the contents of the data
    /// files in their order, the tokenizer and the settings. Names and places of files do not
    /// count, so that the same data on another machine has the same digest.
    ///
    /// # Errors
    /// The data set or the tokenizer is missing or cannot be read, or `ctx_len` is above the
    /// tokenizer's limit.
    pub fn digest(&self, files: &DigestCache) -> Result<String, DataError> {
        let RowSpec {
            text_column,
            tokenizer_class: _,
            on_bad_row,
            ctx_len,
            bin_id_bytes,
        } = &self.rows;
        let mut parts = vec![
            ALGORITHM.to_string(),
            text_column.clone(),
            format!("{on_bad_row:?}"),
            ctx_len.to_string(),
            self.vocab_size.to_string(),
        ];
        parts.extend(self.tokenizer_parts(files)?);
        for file in &self.files.files {
            parts.push(format!("{:?}", file.format));
            parts.extend(
                self.files
                    .parts
                    .get(file.part)
                    .map(|rows| format!("{} {rows:?}", file.part)),
            );
            if file.format == Format::Bin {
                parts.push(bin_id_bytes.to_string());
            }
            parts.push(match &file.content_hash {
                Some(hash) => hash.clone(),
                None => files.file(&file.path)?,
            });
        }
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // With its length in front, no part can be taken for another.
            hasher
                .update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn tokenizer_parts(&self, files: &DigestCache) -> Result<Vec<String>, DataError> {
        let path = self.tokenizer_dir.join("tokenizer.json");
        if self.is_bin() || !path.exists() && self.are_tokenised() {
            return Ok(vec!["none".to_owned()]);
        }
        files::open_within(&path, bound::TOKENIZER).map_err(DataError::io("find", &path))?;
        let class = self.rows.tokenizer_class;
        let config = TokenizerConfig::read(&self.tokenizer_dir, class)?;
        config.check_ctx_len(self.rows.ctx_len)?;
        let mut parts = vec![
            config.separator().to_string(),
            format!("{:?}", config.eos_token_id()),
            format!("{:?}", config.cut_from_end()),
            files.file(&path)?,
        ];
        parts.extend(config.special().parts());
        // What tokenizer.json makes as it is keeps the digest that it had before there was a choice.
        if class != TokenizerClass::File {
            parts.push(format!("{class:?} {:?}", config.rebuild()));
        }
        Ok(parts)
    }

    fn is_bin(&self) -> bool {
        self.files.files[0].format == Format::Bin
    }

    /// Whether the data set, as far as it is on this machine, holds token ids.
    fn are_tokenised(&self) -> bool {
        let documents = Documents::open(self.files.clone(), self.rows.clone());
        documents.is_ok_and(|documents| documents.are_tokenised())
    }
}

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
    /// The file cannot be read. A folder that cannot be written is no error; nothing is remembered
    /// then.
    pub fn file(&self, path: &Path) -> Result<String, DataError> {
        let given = path;
        let path = path.canonicalize().map_err(DataError::io("find", path))?;
        let metadata = path.metadata().map_err(DataError::io("read", &path))?;
        let entry_name = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        let state = file_state(&metadata);
        let entry = self.recall(&entry_name);
        if let Some(digest) = entry.and_then(|entry| digest_in(&entry, &state)) {
            return Ok(digest);
        }
        let mut hasher = blake3::Hasher::new();
        let file = files::open(given).map_err(DataError::io("open", given))?;
        hasher
            .update_reader(file)
            .map_err(DataError::io("read", &path))?;
        let digest = hasher.finalize().to_hex().to_string();
        if is_settled(&metadata) {
            self.remember(&entry_name, &format!("{digest} {state}"));
        }
        Ok(digest)
    }

    /// The entry that was remembered under a name.
    pub(crate) fn recall(&self, entry_name: &str) -> Option<String> {
        files::read_text(&self.folder.join(entry_name), bound::SETTINGS).ok()
    }

    /// Without the entry the next run finds out again; nothing else is lost.
    pub(crate) fn remember(&self, entry_name: &str, entry: &str) {
        let _ = self.write(entry_name, entry);
    }

    fn write(&self, entry_name: &str, entry: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        // As the umask has it, where tempfile's own are for their owner alone: a cache may be shared.
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
    use crate::fixtures::{data_files, fixture, folder_with, text_rows, tiny_spec};
    use plan::OnBadRow;

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
    fn the_digest_depends_on_inputs_and_not_on_places() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let digest = tiny_spec().digest(&files).unwrap();
        assert_eq!(digest, tiny_spec().digest(&files).unwrap());
        assert_eq!(digest.len(), 64);

        let text = std::fs::read(fixture("tiny.jsonl")).unwrap();
        let elsewhere = folder_with(&[("other.jsonl", &text)]);
        let moved = TokenSpec {
            files: data_files(elsewhere.path()),
            ..tiny_spec()
        };
        assert_eq!(moved.digest(&files).unwrap(), digest);

        let more = folder_with(&[("other.jsonl", &text), ("more.jsonl", b"{\"text\": \"\"}")]);
        let rows = tiny_spec().rows;
        let with_rows = |rows| TokenSpec {
            rows,
            ..tiny_spec()
        };
        let others = [
            with_rows(text_rows(65)),
            with_rows(RowSpec {
                text_column: "body".into(),
                ..rows.clone()
            }),
            with_rows(RowSpec {
                on_bad_row: OnBadRow::Skip,
                ..rows.clone()
            }),
            with_rows(RowSpec {
                tokenizer_class: TokenizerClass::Transformers,
                ..rows.clone()
            }),
            TokenSpec {
                vocab_size: 301,
                ..tiny_spec()
            },
            TokenSpec {
                files: data_files(more.path()),
                ..tiny_spec()
            },
        ];
        for other in others {
            assert_ne!(other.digest(&files).unwrap(), digest, "{other:?}");
        }
        let wider = RowSpec {
            bin_id_bytes: 4,
            ..rows
        };
        let same = with_rows(wider).digest(&files).unwrap();
        assert_eq!(same, digest, "only `.bin` files have such ids");
    }

    #[test]
    fn a_known_hash_stands_for_the_content() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let digest_of = |hash: &str| {
            let mut spec = tiny_spec();
            spec.files.files[0].content_hash = Some(hash.into());
            spec.files.files[0].path = "not/there.jsonl".into();
            spec.digest(&files).unwrap()
        };
        assert_eq!(digest_of("sha256:a"), digest_of("sha256:a"));
        assert_ne!(digest_of("sha256:a"), digest_of("sha256:b"));
    }

    #[test]
    fn the_digest_depends_on_the_tokenizer() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let config = std::fs::read(fixture("tiny-llama/tokenizer_config.json")).unwrap();
        let digest_with = |tokenizer: &[u8], config: &[u8]| {
            let folder = folder_with(&[
                ("tokenizer.json", tokenizer),
                ("tokenizer_config.json", config),
            ]);
            let spec = TokenSpec {
                tokenizer_dir: folder.path().into(),
                ..tiny_spec()
            };
            spec.digest(&files).unwrap()
        };
        let digest = tiny_spec().digest(&files).unwrap();
        assert_eq!(digest_with(&tokenizer, &config), digest);
        // A key without influence on the tokens.
        assert_eq!(
            digest_with(&tokenizer, br#"{"eos_token": "<|endoftext|>"}"#),
            digest
        );
        assert_ne!(digest_with(&tokenizer, br#"{"eos_token": "a"}"#), digest);
        assert_ne!(
            digest_with(&[&tokenizer[..], b"\n"].concat(), &config),
            digest
        );
    }

    #[test]
    fn a_context_past_the_limit_has_no_digest() {
        let folder = folder_with(&[
            ("tokenizer.json", b"{}"),
            ("tokenizer_config.json", br#"{"model_max_length": 32}"#),
        ]);
        let spec = TokenSpec {
            tokenizer_dir: folder.path().into(),
            ..tiny_spec()
        };
        let error = spec.digest(&DigestCache::new(folder.path())).unwrap_err();
        assert!(
            matches!(error, DataError::ContextTooLong { .. }),
            "{error:?}"
        );
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
        let entry = folder
            .path()
            .join("digests")
            .read_dir()
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let forged = blake3::hash(b"forged").to_hex().to_string();
        let content = std::fs::read_to_string(entry.path())
            .unwrap()
            .replace(&expected, &forged);
        std::fs::write(entry.path(), content).unwrap();
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
        let entry = cache
            .path()
            .join("digests")
            .read_dir()
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        std::fs::write(entry.path(), "rubbish").unwrap();
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
