//! Making token files, and finding them again.

use crate::TokenSpec;
use crate::build_progress::{Progress, go_on};
use crate::chunk::{Cutting, Totals};
use crate::memory_limit::MemoryLimit;
use crate::rows::visit_token_ids;
use crate::writer::TokenWriter;
use crate::{BuildProgress, Tokenizer, Tokens, TokensError};
use datasets::{DatasetError, Documents};
use fault::Fault;
use files::DigestCache;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks whether another process is done.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Tokens {
    /// The token data of `spec`: opened if `cache_dir` has it, else made and kept there.
    ///
    /// A damaged token file is replaced, and a half-written one is completed. Several processes may
    /// ask for the same data at once; one makes it and the others wait. `progress` may stop the work
    /// by breaking; the next call resumes from there.
    ///
    /// # Errors
    /// Data set or tokenizer cannot be used, a token id is not below `vocab_size`, the data set
    /// changes meanwhile, `cache_dir` cannot be written, or `progress` stopped it.
    pub fn open_or_build(
        spec: &TokenSpec,
        cache_dir: &Path,
        progress: Progress<'_>,
    ) -> Result<Self, TokensError> {
        let files = DigestCache::new(cache_dir);
        let token_file = TokenFile::new(cache_dir, &spec.digest(&files)?);
        let (tokens, first) = match Self::open(&token_file.path, &token_file.digest) {
            Ok(Some(tokens)) => (tokens, None),
            _ => {
                let first = token_file.wait_or_build(spec, &files, progress)?;
                (Self::find(cache_dir, &token_file.name)?, first)
            }
        };
        let n_rows = tokens.counts().n_skipped;
        if n_rows > 0 {
            go_on(progress(BuildProgress::Skipped { n_rows, first }))?;
        }
        Ok(tokens)
    }

    /// The token data of the spec with this digest, which has been made before.
    ///
    /// # Errors
    /// It is not in `cache_dir`, or damaged.
    pub fn find(cache_dir: &Path, digest: &str) -> Result<Self, TokensError> {
        let token_file = TokenFile::new(cache_dir, digest);
        let problem = match Self::open(&token_file.path, &token_file.digest) {
            Ok(Some(tokens)) => return Ok(tokens),
            Ok(None) => "it is not there".to_owned(),
            Err(defect) => defect.to_string(),
        };
        let path = token_file.path.display();
        let message = format!("the token data `{path}` cannot be used: {problem}");
        let hint = "run the sweep again to rebuild it";
        Err(Fault::input(message).with_hint(hint).into())
    }
}

/// Where the token data of one digest is stored.
struct TokenFile {
    folder: PathBuf,
    path: PathBuf,
    name: String,
    digest: [u8; 32],
}

impl TokenFile {
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

    /// Makes the token file if no other process has done so meanwhile. Gives what is wrong with the
    /// first row that was left out.
    fn wait_or_build(
        &self,
        spec: &TokenSpec,
        files: &DigestCache,
        progress: Progress<'_>,
    ) -> Result<Option<String>, TokensError> {
        std::fs::create_dir_all(&self.folder)
            .map_err(TokensError::unwritable("create", &self.folder))?;
        let lock = self.lock(progress)?;
        match Tokens::open(&self.path, &self.digest) {
            Ok(Some(_)) => return Ok(None),
            Ok(None) => {}
            Err(defect) => {
                let path = self.path.clone();
                let problem = defect.to_string();
                go_on(progress(BuildProgress::Discarded { path, problem }))?;
            }
        }
        self.build(spec, files, lock.is_some(), progress)
    }

    /// Waits until no other process makes this data. `None` on file systems without locks: work
    /// may be done twice there, but the files stay right.
    fn lock(&self, progress: Progress<'_>) -> Result<Option<File>, TokensError> {
        let path = self.folder.join(format!("{}.lock", self.name));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(TokensError::unwritable("create", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => go_on(progress(BuildProgress::Waiting))?,
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                    return Ok(None);
                }
                Err(TryLockError::Error(error)) => {
                    return Err(TokensError::unwritable("lock", path)(error));
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The file that is written to. Without a lock another process may write the same data.
    fn partial(&self, is_locked: bool) -> PathBuf {
        let owner = if is_locked { 0 } else { std::process::id() };
        self.folder.join(format!("{}.{owner}.partial", self.name))
    }

    /// Makes the token file, from where an earlier process was stopped. What is written is kept if
    /// resuming from it may help. Gives what is wrong with the first row that was left out.
    fn build(
        &self,
        spec: &TokenSpec,
        files: &DigestCache,
        is_locked: bool,
        progress: Progress<'_>,
    ) -> Result<Option<String>, TokensError> {
        let limit = MemoryLimit::begin(spec);
        let documents = limit.open(spec)?;
        let partial = self.partial(is_locked);
        let (mut writer, start) = TokenWriter::open(&partial, spec.rows.ctx_len, spec.vocab_size)?;
        let mut reached = start.clone();
        let tokenised = tokenise(
            spec,
            documents,
            start,
            progress,
            &mut |token_ids, totals| {
                writer.append(token_ids, totals)?;
                if totals.is_resumable {
                    reached.clone_from(totals);
                }
                Ok(())
            },
        );
        let is_as_before = || spec.digest(files).map(|digest| digest == self.name);
        match tokenised {
            Ok(totals) if is_as_before()? => {
                writer.publish(&totals, self.digest, &self.path)?;
                Ok(totals.first_skipped)
            }
            Ok(_) => {
                writer.discard();
                let name = &spec.files.name;
                let message =
                    format!("data set `{name}` or its tokenizer changed while it was tokenised");
                let hint = "run again when the files are complete";
                Err(Fault::input(message).with_hint(hint).into())
            }
            Err(TokensError::Stopped) => {
                writer.note(&reached)?;
                Err(TokensError::Stopped)
            }
            Err(error @ (TokensError::Io(_) | TokensError::Dataset(DatasetError::Io(_)))) => {
                Err(error)
            }
            Err(error) => {
                writer.discard();
                Err(error)
            }
        }
    }
}

/// Receives the token ids of whole sequences, and the totals with them included.
pub(crate) type Write<'a> = &'a mut dyn FnMut(&[u32], &Totals) -> Result<(), TokensError>;

/// Makes the sequences of `spec` that come after `start`, checked, and tells of the progress.
pub(crate) fn tokenise(
    spec: &TokenSpec,
    documents: Documents,
    start: Totals,
    progress: Progress<'_>,
    write: Write<'_>,
) -> Result<Totals, TokensError> {
    if start.n_documents > 0 {
        let n_documents = start.n_documents;
        go_on(progress(BuildProgress::Resumed { n_documents }))?;
    }
    let are_tokenised = documents.are_tokenised();
    let tokenizer = (!are_tokenised)
        .then(|| Tokenizer::of_class(&spec.tokenizer_dir, spec.rows.tokenizer_class));
    let tokenizer = tokenizer.transpose()?;
    let n_bytes_total = documents.n_bytes_total();
    let visit = &mut |token_ids: &[u32], totals: &Totals| {
        check_vocabulary(token_ids, tokenizer.as_ref(), spec)?;
        write(token_ids, totals)?;
        go_on(progress(BuildProgress::so_far(totals, n_bytes_total)))
    };
    let (ctx_len, on_bad_row) = (spec.rows.ctx_len, spec.rows.on_bad_row);
    let totals = match &tokenizer {
        Some(tokenizer) => Cutting::new(tokenizer, ctx_len).visit(documents, start, visit),
        None => visit_token_ids(documents, ctx_len, on_bad_row, start, visit),
    }?;
    totals.check(&spec.files.name, ctx_len)?;
    Ok(totals)
}

fn check_vocabulary(
    token_ids: &[u32],
    tokenizer: Option<&Tokenizer>,
    spec: &TokenSpec,
) -> Result<(), TokensError> {
    let vocab_size = spec.vocab_size;
    let unknown = token_ids.iter().max();
    let Some(&token_id) = unknown.filter(|id| **id as usize >= vocab_size) else {
        return Ok(());
    };
    let (message, hint) = match tokenizer {
        Some(tokenizer) => {
            let token = tokenizer.token(token_id).unwrap_or_default();
            let path = tokenizer.path().display();
            let message = format!("`{path}` gives token {token_id} (`{token}`)");
            (
                message,
                "tokenizer.json and config.json belong to different models",
            )
        }
        None => {
            let message = format!("data set `{}` has token {token_id}", spec.files.name);
            (message, "was the data set tokenised for another model?")
        }
    };
    let message = format!("{message}, but the model's vocab_size is {vocab_size}");
    Err(Fault::input(message).with_hint(hint).into())
}

#[cfg(test)]
mod tests;
