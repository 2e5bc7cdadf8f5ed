//! Rows of token ids without a header.

use super::Document;
use super::rows::{ReadRows, RowError};
use super::unpack::Source;
use crate::DatasetError;
use fault::Fault;
use plan::{DataFile, RowSpec};

/// The rows of a `.bin` file: `ctx_len` little-endian ids of 2 or 4 bytes each.
pub(super) struct BinRows {
    source: Source,
    ctx_len: usize,
    n_id_bytes: usize,
    row: Vec<u8>,
    n_bytes: u64,
}

impl BinRows {
    /// Opens `file` of `n_file_bytes`.
    ///
    /// # Errors
    /// It cannot be read, or is not made of whole rows.
    pub(super) fn open(
        file: &DataFile,
        spec: &RowSpec,
        n_file_bytes: u64,
    ) -> Result<Self, DatasetError> {
        let rows = Self {
            source: Source::open(file)?,
            ctx_len: spec.ctx_len,
            n_id_bytes: spec.bin_id_bytes,
            row: Vec::new(),
            n_bytes: 0,
        };
        let n_row_bytes = rows.n_row_bytes() as u64;
        let is_whole = n_file_bytes.checked_rem(n_row_bytes) == Some(0);
        if !is_whole {
            return Err(rows.partial(n_file_bytes));
        }
        Ok(rows)
    }

    fn n_row_bytes(&self) -> usize {
        self.ctx_len.saturating_mul(self.n_id_bytes)
    }

    fn partial(&self, n_bytes: u64) -> DatasetError {
        let n_row_bytes = self.n_row_bytes() as u64;
        let n_rest_bytes = n_bytes.checked_rem(n_row_bytes).unwrap_or(n_bytes);
        let path = self.source.path().display();
        let message = format!(
            "`{path}` has {n_bytes} bytes, which is not a multiple of {n_row_bytes} ({} ids of {} bytes): \
             {n_rest_bytes} are left over",
            self.ctx_len, self.n_id_bytes
        );
        let hint = "`ctx_len` and `bin_dtype` must be those with which the file was written";
        Fault::input(message).with_hint(hint).into()
    }
}

impl ReadRows for BinRows {
    fn next_row(&mut self) -> Result<Option<Document>, RowError> {
        let n_row_bytes = self.n_row_bytes();
        self.row.clear();
        let n_bytes = self.source.read_up_to(n_row_bytes, &mut self.row)?;
        self.n_bytes += n_bytes as u64;
        if n_bytes == 0 {
            return Ok(None);
        }
        if n_bytes < n_row_bytes {
            return Err(self.partial(self.n_bytes).into());
        }
        let ids = self.row.chunks_exact(self.n_id_bytes).map(token_id);
        Ok(Some(Document::TokenIds(ids.collect())))
    }

    fn n_bytes_read(&self) -> u64 {
        self.source.n_bytes_read()
    }
}

fn token_id(bytes: &[u8]) -> u32 {
    let id = |id, byte: &u8| id << 8 | u32::from(*byte);
    bytes.iter().rev().fold(0, id)
}

#[cfg(test)]
mod tests {
    use crate::samples::{Sample, assert_ends};
    use fault::Remedy;

    #[test]
    fn ids_are_little_endian_in_rows() {
        let content: Vec<u8> = (0..12).collect();
        let mut sample = Sample::new(&[("a.bin", &content)]);
        assert!(sample.open().unwrap().are_tokenised());
        let rows = [[0x0100, 0x0302, 0x0504], [0x0706, 0x0908, 0x0b0a]];
        assert_eq!(sample.token_ids().unwrap(), rows);
        sample.spec.bin_id_bytes = 4;
        assert_eq!(
            sample.token_ids().unwrap(),
            [[0x0302_0100, 0x0706_0504, 0x0b0a_0908]]
        );
    }

    #[test]
    fn a_partial_row_is_an_error() {
        let message = "has 13 bytes, which is not a multiple of 6 (3 ids of 2 bytes): 1 are left";
        let error = Sample::new(&[("a.bin", &[0; 13])]).error();
        assert_ends(&error, message);
        assert!(error.hint().unwrap().contains("`ctx_len` and `bin_dtype`"));
    }

    #[test]
    fn rows_of_nothing_are_an_error() {
        let mut sample = Sample::new(&[("a.bin", &[0; 4])]);
        sample.spec.ctx_len = 0;
        assert_ends(&sample.error(), "4 are left over");
    }

    #[test]
    fn an_empty_file_has_no_rows() {
        let sample = Sample::new(&[("a.bin", &[])]);
        assert!(sample.token_ids().unwrap().is_empty());
    }
}
