//! Sequences of tokens in a memory-mapped file.

use crate::TokenCounts;
use crate::header::{HEADER_BYTES, Header};
use crate::mapping::map_tokens;
use fault::Fault;
use memmap2::Mmap;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// The token data of a [`crate::TokenSpec`]: `n_sequences` sequences of `ctx_len` tokens, in the
/// order of the documents. Kept in a memory-mapped file; a clone shares it.
#[derive(Clone, Debug)]
pub struct Tokens {
    map: Arc<Mmap>,
    header: Header,
}

impl Tokens {
    /// Opens the token file at `path`; `None`: there is no such file.
    pub(crate) fn open(path: &Path, digest: &[u8; 32]) -> Result<Option<Self>, Fault> {
        let file = match files::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(unreadable)?,
        };
        let map = map_tokens(&file).map_err(unreadable)?;
        let header = Header::read(&map, digest)?;
        Ok(Some(Self {
            map: Arc::new(map),
            header,
        }))
    }

    /// Number of sequences, at least 1.
    pub fn n_sequences(&self) -> usize {
        self.header.n_sequences as usize
    }

    /// Length of a sequence, in tokens.
    pub fn ctx_len(&self) -> usize {
        self.header.ctx_len as usize
    }

    /// What became of the data set's rows.
    pub fn counts(&self) -> TokenCounts {
        self.header.counts
    }

    /// Bytes of a token id: 2 or 4.
    pub fn id_bytes(&self) -> usize {
        self.header.id_bytes as usize
    }

    /// The digest of what the tokens were made from, as [`crate::TokenSpec::digest`] gives it.
    pub fn digest(&self) -> String {
        blake3::Hash::from_bytes(self.header.digest)
            .to_hex()
            .to_string()
    }

    /// The token ids of one sequence, `[ctx_len]`.
    ///
    /// # Panics
    /// `sequence_idx` is not below [`Tokens::n_sequences`].
    pub fn sequence(&self, sequence_idx: usize) -> Vec<i64> {
        let mut ids = Vec::with_capacity(self.ctx_len());
        self.append_sequence(sequence_idx, &mut ids);
        ids
    }

    /// The token ids of one sequence as stored on disk: little-endian, [`Tokens::id_bytes`] each.
    ///
    /// # Panics
    /// As [`Tokens::sequence`].
    pub fn sequence_bytes(&self, sequence_idx: usize) -> &[u8] {
        let n_bytes = self.ctx_len() * self.id_bytes();
        let start = HEADER_BYTES + sequence_idx * n_bytes;
        &self.map[start..start + n_bytes]
    }

    /// Appends the token ids of one sequence to `ids`.
    pub(crate) fn append_sequence(&self, sequence_idx: usize, ids: &mut Vec<i64>) {
        let bytes = self.sequence_bytes(sequence_idx);
        if self.id_bytes() == 2 {
            ids.extend(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|id| i64::from(u16::from_le_bytes(*id))),
            );
        } else {
            ids.extend(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|id| i64::from(u32::from_le_bytes(*id))),
            );
        }
    }
}

fn unreadable(error: Error) -> Fault {
    Fault::input(format!("it cannot be read: {error}"))
}
