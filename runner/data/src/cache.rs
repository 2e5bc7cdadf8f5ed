//! Making token files, and finding them again.

use crate::chunk::{Totals, visit_batches};
use crate::digest::{DigestCache, TokenSpec};
use crate::documents::data_files;
use crate::writer::TokenWriter;
use crate::{DataError, Documents, Tokenizer, Tokens};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// What happens while token data is made. Nothing is reported when it is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildProgress {
    /// Another process makes the same token data; its result will be used.
    Waiting,
    /// A token file that cannot be used is replaced.
    Discarded {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Documents have been tokenised.
    Tokenised {
        /// Documents so far.
        n_documents: u64,
        /// Tokens so far, separators and dropped pieces included.
        n_tokens: u64,
        /// Sequences so far.
        n_sequences: u64,
        /// Bytes of the data files read so far.
        n_bytes_read: u64,
        /// Bytes of all data files.
        n_bytes_total: u64,
    },
}

/// Told of the progress; breaks to stop.
type Progress<'a> = &'a mut dyn FnMut(BuildProgress) -> ControlFlow<()>;

impl Tokens {
    /// The token data of `spec`: opened where `cache_dir` has it, else made and kept there.
    ///
    /// A token file that is damaged or half-written is replaced. Several processes may ask for the
    /// same data at once; one makes it and the others wait. `progress` may stop the work by breaking;
    /// nothing is kept then.
    ///
    /// # Errors
    /// Data set or tokenizer cannot be used, a token id is not below `vocab_size`, the data set
    /// changes meanwhile, `cache_dir` cannot be written, or `progress` stopped it.
    pub fn open_or_build(
        spec: &TokenSpec,
        cache_dir: &Path,
        progress: Progress<'_>,
    ) -> Result<Self, DataError> {
        let files = DigestCache::new(cache_dir);
        let place = Place::new(cache_dir, &spec.digest(&files)?);
        if let Ok(Some(tokens)) = Self::open(&place.path, &place.digest) {
            return Ok(tokens);
        }
        std::fs::create_dir_all(&place.folder).map_err(DataError::io("create", &place.folder))?;
        let lock = place.lock(progress)?;
        match Self::open(&place.path, &place.digest) {
            Ok(Some(tokens)) => return Ok(tokens),
            Ok(None) => {}
            Err(defect) => {
                let path = place.path.clone();
                let problem = defect.to_string();
                go_on(progress(BuildProgress::Discarded { path, problem }))?;
            }
        }
        if lock.is_some() {
            place.remove_partials();
        }
        let partial = place.write_partial(spec, progress)?;
        if spec.digest(&files)? != place.name {
            return Err(DataError::DatasetChanged {
                path: spec.dataset.clone(),
            });
        }
        place.publish(partial)
    }
}

/// Where the token data of one digest lies.
struct Place {
    folder: PathBuf,
    path: PathBuf,
    name: String,
    digest: [u8; 32],
}

impl Place {
    fn new(cache_dir: &Path, digest: &str) -> Self {
        let folder = cache_dir.join("tokens");
        let hash = blake3::Hash::from_hex(digest).expect("a digest is 64 hexadecimal digits");
        Self {
            path: folder.join(format!("{digest}.tokens")),
            folder,
            name: digest.to_string(),
            digest: *hash.as_bytes(),
        }
    }

    /// Waits until no other process makes this data. `None` on file systems without locks: work
    /// may be done twice there, but the files stay right.
    fn lock(&self, progress: Progress<'_>) -> Result<Option<File>, DataError> {
        let path = self.folder.join(format!("{}.lock", self.name));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(DataError::io("create", &path))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                go_on(progress(BuildProgress::Waiting))?;
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match locked {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(DataError::io("lock", path)(error)),
        }
    }

    /// Removes what killed processes left behind. Only under the lock.
    fn remove_partials(&self) {
        let Ok(entries) = self.folder.read_dir() else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&self.name) && name.ends_with(".partial") {
                // It is in nobody's way when it stays.
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// Tokenises into a file beside the final one, complete and synced.
    fn write_partial(
        &self,
        spec: &TokenSpec,
        progress: Progress<'_>,
    ) -> Result<NamedTempFile, DataError> {
        let tokenizer = Tokenizer::from_dir(&spec.tokenizer_dir)?;
        let mut documents = Documents::open(&spec.dataset, &spec.text_column)?;
        let n_bytes_total = total_bytes(&spec.dataset)?;
        let partial = self
            .create_partial()
            .map_err(DataError::io("create", &self.path))?;
        let mut writer =
            TokenWriter::new(partial, spec.ctx_len, spec.vocab_size).map_err(self.write_error())?;
        let totals = visit_batches(
            &mut documents,
            &tokenizer,
            spec.ctx_len,
            &mut |batch, totals| {
                check_vocabulary(&batch, &tokenizer, spec.vocab_size)?;
                writer.append(&batch).map_err(self.write_error())?;
                go_on(progress(tokenised(totals, n_bytes_total)))
            },
        )?;
        writer
            .finish(totals.n_sequences, self.digest)
            .map_err(self.write_error())
    }

    fn write_error(&self) -> impl FnOnce(std::io::Error) -> DataError {
        DataError::io("write", &self.path)
    }

    fn create_partial(&self) -> std::io::Result<NamedTempFile> {
        let prefix = format!("{}.", self.name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        #[cfg(unix)]
        {
            // As readable as any other file of the user, for caches that several people share.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        builder.tempfile_in(&self.folder)
    }

    /// Gives a complete file its final name and opens it.
    fn publish(&self, partial: NamedTempFile) -> Result<Tokens, DataError> {
        partial
            .persist(&self.path)
            .map_err(|error| self.write_error()(error.error))?;
        #[cfg(unix)]
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(DataError::io("sync", &self.folder))?;
        let opened = Tokens::open(&self.path, &self.digest).map_err(std::io::Error::other);
        let missing = || std::io::Error::from(ErrorKind::NotFound);
        opened
            .and_then(|tokens| tokens.ok_or_else(missing))
            .map_err(DataError::io("open", &self.path))
    }
}

fn go_on(flow: ControlFlow<()>) -> Result<(), DataError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(DataError::Stopped),
    }
}

fn tokenised(totals: &Totals, n_bytes_total: u64) -> BuildProgress {
    BuildProgress::Tokenised {
        n_documents: totals.n_documents,
        n_tokens: totals.n_tokens,
        n_sequences: totals.n_sequences,
        n_bytes_read: totals.n_bytes_read,
        n_bytes_total,
    }
}

fn total_bytes(dataset: &Path) -> Result<u64, DataError> {
    let mut n_bytes = 0;
    for path in data_files(dataset)? {
        n_bytes += path.metadata().map_err(DataError::io("read", &path))?.len();
    }
    Ok(n_bytes)
}

fn check_vocabulary(
    sequences: &[Vec<u32>],
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<(), DataError> {
    match sequences.iter().flatten().max() {
        Some(token_id) if *token_id as usize >= vocab_size => Err(DataError::VocabularyMismatch {
            token_id: *token_id,
            token: tokenizer.token(*token_id).unwrap_or_default(),
            vocab_size,
            path: tokenizer.path().to_path_buf(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk_and_tokenize;
    use crate::fixtures::{dataset_of, fixture, folder_with, tiny_spec};
    use std::sync::atomic::{AtomicUsize, Ordering};

    type Damage = fn(&mut Vec<u8>);

    /// Opens or builds, and tells what was reported.
    fn build(spec: &TokenSpec, cache_dir: &Path) -> (Tokens, Vec<BuildProgress>) {
        let mut reports = Vec::new();
        let tokens = Tokens::open_or_build(spec, cache_dir, &mut |r| {
            reports.push(r);
            ControlFlow::Continue(())
        })
        .unwrap();
        (tokens, reports)
    }

    fn files_ending(cache_dir: &Path, end: &str) -> Vec<PathBuf> {
        let paths = cache_dir
            .join("tokens")
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.to_string_lossy().ends_with(end))
            .collect()
    }

    fn all_sequences(tokens: &Tokens) -> Vec<Vec<i64>> {
        (0..tokens.n_sequences())
            .map(|i| tokens.sequence(i))
            .collect()
    }

    fn expected_sequences() -> Vec<Vec<i64>> {
        let documents = Documents::open(&fixture("tiny.jsonl"), "text").unwrap();
        let tokenizer = Tokenizer::from_dir(&fixture("tiny-llama")).unwrap();
        let sequences = chunk_and_tokenize(documents, &tokenizer, 64).unwrap();
        sequences
            .iter()
            .map(|ids| ids.iter().map(|id| i64::from(*id)).collect())
            .collect()
    }

    #[test]
    fn tokens_are_made_once() {
        let cache = folder_with(&[]);
        let (tokens, reports) = build(&tiny_spec(), cache.path());
        assert_eq!((tokens.n_sequences(), tokens.ctx_len()), (1025, 64));
        assert_eq!(all_sequences(&tokens), expected_sequences());
        let n_bytes = fixture("tiny.jsonl").metadata().unwrap().len();
        assert!(
            matches!(reports[..], [BuildProgress::Tokenised { n_documents: 584, n_bytes_read, n_bytes_total, .. }]
                if n_bytes_read == n_bytes && n_bytes_total == n_bytes),
            "{reports:?}"
        );

        let (again, reports) = build(&tiny_spec(), cache.path());
        assert_eq!(reports, []);
        assert_eq!(all_sequences(&again), all_sequences(&tokens));
        assert_eq!(
            again.digest(),
            tiny_spec().digest(&DigestCache::new(cache.path())).unwrap()
        );
        assert!(files_ending(cache.path(), ".partial").is_empty());
    }

    #[test]
    fn a_large_vocabulary_takes_four_bytes_an_id() {
        let cache = folder_with(&[]);
        let spec = TokenSpec {
            vocab_size: (1 << 16) + 1,
            ..tiny_spec()
        };
        let (tokens, _) = build(&spec, cache.path());
        assert_eq!(all_sequences(&tokens), expected_sequences());
        let n_bytes = files_ending(cache.path(), ".tokens")[0]
            .metadata()
            .unwrap()
            .len();
        assert_eq!(n_bytes, 96 + 1025 * 64 * 4);
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let damages: [(&str, Damage); 5] = [
            ("no token file", |bytes| bytes.clear()),
            ("should be", |bytes| bytes.truncate(1000)),
            ("should be", |bytes| bytes.push(0)),
            ("header is damaged", |bytes| bytes[17] ^= 1),
            ("no token file", |bytes| bytes[..96].fill(0)),
        ];
        let cache = folder_with(&[]);
        build(&tiny_spec(), cache.path());
        let path = files_ending(cache.path(), ".tokens").remove(0);
        let whole = std::fs::read(&path).unwrap();
        for (expected, damage) in damages {
            let mut bytes = whole.clone();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let (tokens, reports) = build(&tiny_spec(), cache.path());
            let BuildProgress::Discarded {
                problem,
                path: named,
            } = &reports[0]
            else {
                panic!("{reports:?}");
            };
            assert!(problem.contains(expected), "{problem}");
            assert_eq!(*named, path);
            assert_eq!(tokens.n_sequences(), 1025);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed() {
        let cache = folder_with(&[]);
        let digest = tiny_spec().digest(&DigestCache::new(cache.path())).unwrap();
        std::fs::create_dir_all(cache.path().join("tokens")).unwrap();
        std::fs::write(
            cache.path().join(format!("tokens/{digest}.abc.partial")),
            "x",
        )
        .unwrap();
        std::fs::write(cache.path().join("tokens/other.abc.partial"), "x").unwrap();
        build(&tiny_spec(), cache.path());
        let left = files_ending(cache.path(), ".partial");
        assert_eq!(left, [cache.path().join("tokens/other.abc.partial")]);
    }

    #[test]
    fn several_threads_at_once_make_it_once() {
        let cache = folder_with(&[]);
        let n_built = AtomicUsize::new(0);
        let work = || {
            let (tokens, reports) = build(&tiny_spec(), cache.path());
            let built = |report| matches!(report, &BuildProgress::Tokenised { .. });
            n_built.fetch_add(usize::from(reports.iter().any(built)), Ordering::SeqCst);
            assert_eq!(all_sequences(&tokens), expected_sequences());
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(work);
            }
        });
        assert_eq!(n_built.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_waiting_process_says_so_and_takes_the_result() {
        let cache = folder_with(&[]);
        let digest = tiny_spec().digest(&DigestCache::new(cache.path())).unwrap();
        let place = Place::new(cache.path(), &digest);
        std::fs::create_dir_all(&place.folder).unwrap();
        let mut lock = place.lock(&mut |_| panic!("nobody else has it")).unwrap();
        let partial = place
            .write_partial(&tiny_spec(), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let mut partial = Some(partial);
        let mut reports = Vec::new();
        let tokens = Tokens::open_or_build(&tiny_spec(), cache.path(), &mut |report| {
            reports.push(report);
            place.publish(partial.take().unwrap()).unwrap();
            lock.take();
            ControlFlow::Continue(())
        });
        assert_eq!(tokens.unwrap().n_sequences(), 1025);
        assert_eq!(reports, [BuildProgress::Waiting]);
    }

    #[test]
    fn a_token_past_the_vocabulary_is_an_error_and_leaves_no_file() {
        let cache = folder_with(&[]);
        let spec = TokenSpec {
            vocab_size: 260,
            ..tiny_spec()
        };
        let error = Tokens::open_or_build(&spec, cache.path(), &mut |_| ControlFlow::Continue(()))
            .unwrap_err();
        assert!(
            matches!(
                error,
                DataError::VocabularyMismatch {
                    token_id: 299,
                    vocab_size: 260,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(files_ending(cache.path(), ".tokens").is_empty());
        assert!(files_ending(cache.path(), ".partial").is_empty());
    }

    #[test]
    fn data_that_changes_meanwhile_is_an_error() {
        let cache = folder_with(&[]);
        let folder = dataset_of((0..50).map(|i| format!("document {i} of a growing file")));
        let spec = TokenSpec {
            dataset: folder.path().into(),
            ..tiny_spec()
        };
        let error = Tokens::open_or_build(&spec, cache.path(), &mut |_| {
            std::fs::write(folder.path().join("more.jsonl"), "{\"text\": \"more\"}").unwrap();
            ControlFlow::Continue(())
        });
        assert!(
            matches!(error, Err(DataError::DatasetChanged { .. })),
            "{error:?}"
        );
        assert!(files_ending(cache.path(), ".tokens").is_empty());
        assert_eq!(build(&spec, cache.path()).1.len(), 1);
    }

    #[test]
    fn a_cache_folder_that_is_a_file_is_named() {
        let folder = folder_with(&[("cache", b"")]);
        let path = folder.path().join("cache");
        let error = Tokens::open_or_build(&tiny_spec(), &path, &mut |_| ControlFlow::Continue(()))
            .unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Io {
                    action: "create",
                    ..
                }
            ),
            "{error:?}"
        );
    }

    #[test]
    fn a_stop_leaves_nothing_behind() {
        let cache = tempfile::tempdir().unwrap();
        let stop = &mut |_| ControlFlow::Break(());
        let error = Tokens::open_or_build(&tiny_spec(), cache.path(), stop).unwrap_err();
        assert!(matches!(error, DataError::Stopped), "{error}");
        assert!(files_ending(cache.path(), ".tokens").is_empty());
        assert!(files_ending(cache.path(), ".partial").is_empty());
    }
}
