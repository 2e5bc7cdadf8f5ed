//! Writing token files, so that a killed process can be taken up by the next one.

use crate::chunk::Totals;
use crate::header::{HEADER_BYTES, Header};
use crate::{TokenCounts, TokensError};
use files::bound;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two entries of the journal, at least: each of them waits for the disk. The first one
/// is written as soon as there is something to resume from.
const JOURNAL_EVERY: Duration = Duration::from_secs(3);

/// Writes sequences after a header that is filled in at the end. A journal next to the file says how
/// far it is complete and synced. Anything after that is ignored.
#[derive(Debug)]
pub(crate) struct TokenWriter {
    path: PathBuf,
    journal: PathBuf,
    file: BufWriter<File>,
    id_bytes: u32,
    ctx_len: u64,
    last_entry: Option<Instant>,
}

/// An entry of the journal; the whole file is one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    id_bytes: u32,
    n_documents: u64,
    n_tokens: u64,
    n_sequences: u64,
    n_dropped_tokens: u64,
}

impl TokenWriter {
    /// Opens or creates the file at `path`; gives what it holds already.
    pub(crate) fn open(
        path: &Path,
        ctx_len: usize,
        vocab_size: usize,
    ) -> Result<(Self, Totals), TokensError> {
        let id_bytes = if vocab_size <= 1 << 16 { 2 } else { 4 };
        let journal = path.with_added_extension("json");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(path);
        let mut file = file.map_err(TokensError::unwritable("create", path))?;
        let totals = read_journal(&journal, id_bytes).unwrap_or_default();
        let n_bytes =
            HEADER_BYTES as u64 + totals.n_sequences * u64::from(id_bytes) * ctx_len as u64;
        let is_there = file.metadata().is_ok_and(|meta| meta.len() >= n_bytes);
        let totals = if is_there { totals } else { Totals::default() };
        let n_bytes = if is_there {
            n_bytes
        } else {
            HEADER_BYTES as u64
        };
        cut(&mut file, n_bytes).map_err(TokensError::unwritable("write", path))?;
        let writer = Self {
            path: path.into(),
            journal,
            file: BufWriter::with_capacity(1 << 20, file),
            id_bytes,
            ctx_len: ctx_len as u64,
            last_entry: None,
        };
        Ok((writer, totals))
    }

    /// Appends token ids; `totals` are those with them included.
    pub(crate) fn append(&mut self, token_ids: &[u32], totals: &Totals) -> Result<(), TokensError> {
        self.write(token_ids).map_err(self.error())?;
        if totals.is_resumable && self.is_entry_due() {
            self.note(totals)?;
        }
        Ok(())
    }

    fn is_entry_due(&self) -> bool {
        self.last_entry
            .is_none_or(|last| last.elapsed() >= JOURNAL_EVERY)
    }

    fn write(&mut self, token_ids: &[u32]) -> io::Result<()> {
        let id_bytes = self.id_bytes as usize;
        for id in token_ids {
            self.file.write_all(&id.to_le_bytes()[..id_bytes])?;
        }
        Ok(())
    }

    /// Syncs what was written, then says so in the journal.
    pub(crate) fn note(&mut self, totals: &Totals) -> Result<(), TokensError> {
        let synced = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(self.error())?;
        let entry = Entry {
            id_bytes: self.id_bytes,
            n_documents: totals.n_documents,
            n_tokens: totals.n_tokens,
            n_sequences: totals.n_sequences,
            n_dropped_tokens: totals.n_dropped_tokens,
        };
        let text = serde_json::to_vec(&entry).expect("plain fields serialise to JSON");
        let beside = self.journal.with_added_extension("new");
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &self.journal));
        written.map_err(TokensError::unwritable("write", &self.journal))?;
        self.last_entry = Some(Instant::now());
        Ok(())
    }

    /// Completes the file and gives it the name `path`.
    pub(crate) fn publish(
        mut self,
        totals: &Totals,
        digest: [u8; 32],
        path: &Path,
    ) -> Result<(), TokensError> {
        let header = Header {
            id_bytes: self.id_bytes,
            ctx_len: self.ctx_len,
            n_sequences: totals.n_sequences,
            digest,
            counts: TokenCounts {
                n_documents: totals.n_documents,
                n_tokens: totals.n_tokens,
                n_dropped_tokens: totals.n_dropped_tokens,
                n_skipped: totals.n_skipped,
            },
        };
        let completed = self.complete(&header);
        completed.map_err(self.error())?;
        fs::rename(&self.path, path).map_err(TokensError::unwritable("write", path))?;
        remove(&self.journal);
        Ok(())
    }

    fn complete(&mut self, header: &Header) -> io::Result<()> {
        self.file.flush()?;
        let file = self.file.get_mut();
        file.rewind()?;
        file.write_all(&header.to_bytes())?;
        file.sync_all()
    }

    /// Removes the file.
    pub(crate) fn discard(self) {
        remove(&self.journal);
        remove(&self.path);
    }

    fn error(&self) -> impl FnOnce(io::Error) -> TokensError + use<> {
        TokensError::unwritable("write", self.path.clone())
    }
}

/// What a file holds by its journal.
fn read_journal(path: &Path, id_bytes: u32) -> Option<Totals> {
    let entry: Entry = serde_json::from_slice(&files::read(path, bound::SETTINGS).ok()?).ok()?;
    (entry.id_bytes == id_bytes).then(|| Totals {
        n_documents: entry.n_documents,
        n_tokens: entry.n_tokens,
        n_sequences: entry.n_sequences,
        n_dropped_tokens: entry.n_dropped_tokens,
        ..Totals::default()
    })
}

fn cut(file: &mut File, n_bytes: u64) -> io::Result<()> {
    file.set_len(n_bytes)?;
    file.seek(SeekFrom::Start(n_bytes))?;
    Ok(())
}

/// Removes a file that does no harm if it stays.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokens;
    use crate::fixtures::folder_with;

    fn totals(n_sequences: u64) -> Totals {
        Totals {
            n_sequences,
            n_documents: 10 * n_sequences,
            is_resumable: true,
            ..Totals::default()
        }
    }

    #[test]
    fn ids_keep_their_value_in_two_and_four_bytes() {
        for (vocab_size, id, n_bytes) in [(1 << 16, 65_535, 2), ((1 << 16) + 1, 65_536, 4)] {
            let folder = folder_with(&[]);
            let (partial, path) = (folder.path().join("a.partial"), folder.path().join("a"));
            let (mut writer, done) = TokenWriter::open(&partial, 3, vocab_size).unwrap();
            assert_eq!(done, Totals::default());
            writer.append(&[0, 1, 2, id, 256, id], &totals(2)).unwrap();
            writer.publish(&totals(2), [7; 32], &path).unwrap();
            let n_expected = HEADER_BYTES as u64 + 6 * n_bytes;
            assert_eq!(path.metadata().unwrap().len(), n_expected);
            let tokens = Tokens::open(&path, &[7; 32]).unwrap().unwrap();
            let id = i64::from(id);
            assert_eq!(
                [tokens.sequence(0), tokens.sequence(1)],
                [[0, 1, 2], [id, 256, id]]
            );
            assert_eq!(tokens.counts().n_documents, 20);
            assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        }
    }

    #[test]
    fn what_the_journal_says_is_taken_up_and_the_rest_is_not() {
        let folder = folder_with(&[]);
        let (partial, path) = (folder.path().join("a.partial"), folder.path().join("a"));
        let (mut writer, _) = TokenWriter::open(&partial, 2, 300).unwrap();
        // The first entry is due at once, the next one after a while.
        writer.append(&[1, 2], &totals(1)).unwrap();
        writer.append(&[3, 4], &totals(2)).unwrap();
        drop(writer);
        let (mut writer, done) = TokenWriter::open(&partial, 2, 300).unwrap();
        assert_eq!((done.n_sequences, done.n_documents), (1, 10));
        writer.append(&[5, 6], &totals(2)).unwrap();
        writer.publish(&totals(2), [7; 32], &path).unwrap();
        let tokens = Tokens::open(&path, &[7; 32]).unwrap().unwrap();
        assert_eq!([tokens.sequence(0), tokens.sequence(1)], [[1, 2], [5, 6]]);
    }

    #[test]
    fn entries_are_written_from_time_to_time() {
        let folder = folder_with(&[]);
        let partial = folder.path().join("a.partial");
        let (mut writer, _) = TokenWriter::open(&partial, 2, 300).unwrap();
        for n_sequences in 1..4 {
            writer.append(&[1, 2], &totals(n_sequences)).unwrap();
            writer.last_entry = Instant::now().checked_sub(JOURNAL_EVERY);
        }
        drop(writer);
        let (_, done) = TokenWriter::open(&partial, 2, 300).unwrap();
        assert_eq!(done.n_sequences, 3);
    }

    #[test]
    fn a_journal_without_its_tokens_counts_for_nothing() {
        let folder = folder_with(&[]);
        let partial = folder.path().join("a.partial");
        let (mut writer, _) = TokenWriter::open(&partial, 2, 300).unwrap();
        writer.append(&[1, 2], &totals(1)).unwrap();
        writer.note(&totals(1)).unwrap();
        drop(writer);
        fs::write(&partial, [0; HEADER_BYTES + 3]).unwrap();
        let (writer, done) = TokenWriter::open(&partial, 2, 300).unwrap();
        assert_eq!(done, Totals::default());
        drop(writer);
        // Ids of another width are other tokens.
        fs::write(&partial, [0; HEADER_BYTES + 4]).unwrap();
        let (_, done) = TokenWriter::open(&partial, 2, 1 << 20).unwrap();
        assert_eq!(done, Totals::default());
        fs::write(folder.path().join("a.partial.json"), "{").unwrap();
        let (_, done) = TokenWriter::open(&partial, 2, 300).unwrap();
        assert_eq!(done, Totals::default());
    }
}
