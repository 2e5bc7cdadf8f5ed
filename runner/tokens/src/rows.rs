//! Data sets that hold token ids already: every row is one sequence.

use crate::TokensError;
use crate::chunk::{Totals, Visit};
use datasets::{Document, Documents};
use fault::Fault;
use plan::OnBadRow;

/// Rows handed on together.
const ROWS_PER_VISIT: usize = 1024;

/// The rows of `documents` from `start` on, each of which must have `ctx_len` token ids, as
/// sparsify takes a data set with a column `input_ids`.
pub(crate) fn visit_token_ids(
    mut documents: Documents,
    ctx_len: usize,
    on_bad_row: OnBadRow,
    start: Totals,
    visit: Visit<'_>,
) -> Result<Totals, TokensError> {
    let mut rows = Rows {
        ctx_len,
        on_bad_row,
        n_read: 0,
        n_of_other_length: 0,
        first_of_other_length: None,
    };
    let mut totals = Totals {
        is_resumable: true,
        ..start
    };
    let mut sequences = Vec::with_capacity(ROWS_PER_VISIT * ctx_len);
    while rows.n_read < totals.n_documents && rows.next(&mut documents, &mut sequences)? {
        sequences.clear();
    }
    loop {
        let has_more = rows.next(&mut documents, &mut sequences)?;
        if !has_more || sequences.len() >= ROWS_PER_VISIT * ctx_len {
            let n_rows = (sequences.len() / ctx_len) as u64;
            totals.n_documents += n_rows;
            totals.n_sequences += n_rows;
            totals.n_tokens += sequences.len() as u64;
            totals.n_bytes_read = documents.n_bytes_read();
            totals.n_skipped = documents.n_skipped() + rows.n_of_other_length;
            let first = documents.first_skipped().map(str::to_owned);
            totals.first_skipped = first.or_else(|| rows.first_of_other_length.clone());
            visit(&sequences, &totals)?;
            sequences.clear();
        }
        if !has_more {
            return Ok(totals);
        }
    }
}

struct Rows {
    ctx_len: usize,
    on_bad_row: OnBadRow,
    /// Rows of the right length so far.
    n_read: u64,
    n_of_other_length: u64,
    first_of_other_length: Option<String>,
}

impl Rows {
    /// Appends the next row to `sequences`; false after the last.
    fn next(
        &mut self,
        documents: &mut Documents,
        sequences: &mut Vec<u32>,
    ) -> Result<bool, TokensError> {
        loop {
            let Some(document) = documents.next().transpose()? else {
                return Ok(false);
            };
            let Document::TokenIds(token_ids) = document else {
                let name = documents.name();
                return Err(Fault::input(format!(
                    "data set `{name}` has text where its first file has token ids"
                ))
                .into());
            };
            if token_ids.len() == self.ctx_len {
                self.n_read += 1;
                sequences.extend(token_ids);
                return Ok(true);
            }
            let row = self.n_read + self.n_of_other_length + 1;
            let (name, got, ctx_len) = (documents.name(), token_ids.len(), self.ctx_len);
            let message =
                format!("row {row} of data set `{name}` has {got} token ids; ctx_len is {ctx_len}");
            if self.on_bad_row == OnBadRow::Fail {
                let hint = format!(
                    "set ctx_len to {got}; where rows differ in length, `on_bad_row = \"skip\"` leaves the others out"
                );
                return Err(Fault::input(message).with_hint(hint).into());
            }
            self.n_of_other_length += 1;
            self.first_of_other_length.get_or_insert(message);
        }
    }
}
