//! Documents of record batches, which Parquet and Arrow files consist of.

use super::Document;
use super::rows::{Column, ID_COLUMN, MAX_DOCUMENT_BYTES, ReadRows, RowError, RowLocation};
use crate::DatasetError;
use crate::error::damaged;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Fields};
use fault::{Fault, without_panic};
use std::error::Error;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whatever is wrong with a file.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The record batches of a file.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, BoxError>> + Send>;

/// The rows of a Parquet or Arrow file.
pub(super) struct ColumnarRows {
    path: PathBuf,
    format: &'static str,
    column: Column,
    batches: Batches,
    batch: Option<Batch>,
    row: u64,
    progress: Progress,
}

/// How far a columnar file is read.
pub(super) enum Progress {
    /// By the bytes taken from it.
    Bytes(Arc<AtomicU64>),
    /// By its rows, of which this many are promised.
    Rows {
        /// Rows of the file.
        n_rows: u64,
        /// Its length.
        n_file_bytes: u64,
    },
}

struct Batch {
    /// The structs around the column, then the column.
    arrays: Vec<ArrayRef>,
    row_idx: usize,
}

impl ColumnarRows {
    pub(super) fn new(
        path: &Path,
        format: &'static str,
        column: &Column,
        batches: Batches,
        progress: Progress,
    ) -> Self {
        Self {
            path: path.to_path_buf(),
            format,
            column: column.clone(),
            batches,
            batch: None,
            row: 0,
            progress,
        }
    }

    /// Goes to the next row; false at the end of the file.
    fn advance(&mut self) -> Result<bool, DatasetError> {
        loop {
            if let Some(batch) = &mut self.batch
                && batch.row_idx + 1 < batch.n_rows()
            {
                batch.row_idx += 1;
                self.row += 1;
                return Ok(true);
            }
            if !self.read_batch()? {
                return self.check_n_rows();
            }
            if self.batch.as_ref().is_some_and(|batch| batch.n_rows() > 0) {
                self.row += 1;
                return Ok(true);
            }
        }
    }

    fn read_batch(&mut self) -> Result<bool, DatasetError> {
        self.batch = None;
        let Self { path, format, .. } = self;
        let batch = guarded(path, format, || self.batches.next().transpose())?;
        let Some(batch) = batch else {
            return Ok(false);
        };
        let found = resolve(batch.schema_ref().fields(), &self.column);
        let names = found.map(|(names, _)| names).unwrap_or_default();
        self.batch = Some(Batch {
            arrays: arrays_at(&batch, &names),
            row_idx: 0,
        });
        Ok(true)
    }

    fn check_n_rows(&self) -> Result<bool, DatasetError> {
        match self.progress {
            Progress::Rows { n_rows, .. } if n_rows != self.row => Err(damaged(
                &self.path,
                self.format,
                format!("it has {} rows, but promises {n_rows}", self.row),
            )),
            _ => Ok(false),
        }
    }

    fn document(&self, batch: &Batch) -> Result<Document, RowError> {
        let location = RowLocation {
            path: &self.path,
            line: self.row,
        };
        let Some(array) = batch.value() else {
            return Err(if self.column.holds_ids {
                location.not_ids(&self.column, "null")
            } else {
                location.not_text(&self.column, "null", Vec::new())
            });
        };
        if self.column.holds_ids {
            return token_ids_at(array, batch.row_idx)
                .map(Document::TokenIds)
                .map_err(|got| location.not_ids(&self.column, &got));
        }
        let text = text_at(array, batch.row_idx)
            .ok_or_else(|| location.not_text(&self.column, "null", Vec::new()))?;
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(location.too_long());
        }
        Ok(Document::Text(text.to_string()))
    }
}

impl ReadRows for ColumnarRows {
    fn next_row(&mut self) -> Result<Option<Document>, RowError> {
        if !self.advance()? {
            return Ok(None);
        }
        self.batch
            .as_ref()
            .map(|batch| self.document(batch))
            .transpose()
    }

    fn n_bytes_read(&self) -> u64 {
        match &self.progress {
            Progress::Bytes(n_bytes) => n_bytes.load(Ordering::Relaxed),
            Progress::Rows {
                n_rows,
                n_file_bytes,
            } => {
                let read = u128::from(*n_file_bytes) * u128::from(self.row);
                (read / u128::from(*n_rows).max(1)) as u64
            }
        }
    }
}

impl Batch {
    fn n_rows(&self) -> usize {
        self.arrays.first().map_or(0, Array::len)
    }

    /// The array with the row's value; `None` if it, or a struct around it, is null.
    fn value(&self) -> Option<&dyn Array> {
        let is_null = |array: &ArrayRef| array.is_null(self.row_idx);
        let array = self.arrays.last()?;
        (!self.arrays.iter().any(is_null)).then_some(array)
    }
}

/// The names that lead to `column` in a schema, and its type.
///
/// A column of exactly that name wins over one in a struct.
pub(super) fn resolve<'a>(
    fields: &'a Fields,
    column: &Column,
) -> Option<(Vec<String>, &'a DataType)> {
    if let Some((_, field)) = fields.find(&column.name) {
        return Some((vec![column.name.clone()], field.data_type()));
    }
    let (head, below) = column.path.split_first()?;
    let mut data_type = fields.find(head)?.1.data_type();
    for name in below {
        let DataType::Struct(inner) = data_type else {
            return None;
        };
        data_type = inner.find(name)?.1.data_type();
    }
    Some((column.path.clone(), data_type))
}

/// The names that lead to `column` in the schema of the file at `path`.
///
/// # Errors
/// There is no such column, or it holds neither what text nor what token ids are kept in.
pub(super) fn check_column(
    path: &Path,
    fields: &Fields,
    column: &Column,
) -> Result<Vec<String>, DatasetError> {
    let Some((names, data_type)) = resolve(fields, column) else {
        return Err(column.not_in(path, texts_in(fields)));
    };
    let fits = if column.holds_ids {
        is_id_list(data_type)
    } else {
        is_text(data_type)
    };
    if !fits {
        return Err(wrong_type(path, fields, column, data_type));
    }
    Ok(names)
}

fn wrong_type(path: &Path, fields: &Fields, column: &Column, got: &DataType) -> DatasetError {
    let (name, path) = (&column.name, path.display());
    let (wanted, hint) = match name.as_str() {
        ID_COLUMN => (
            "lists of integers",
            "`input_ids` is read wherever there is one: it must have lists of token ids; to read text from another column, rename it"
                .to_owned(),
        ),
        _ => ("text", column.missing_hint(&texts_in(fields))),
    };
    let message = format!("column `{name}` of `{path}` has {got}, not {wanted}");
    DatasetError::Column(Fault::input(message).with_hint(hint))
}

/// Runs a decoder, for which a panic on a broken file is but another error.
pub(super) fn guarded<T, E: Into<BoxError>>(
    path: &Path,
    format: &'static str,
    decode: impl FnOnce() -> Result<T, E>,
) -> Result<T, DatasetError> {
    match without_panic(decode) {
        Ok(result) => result.map_err(|error| damaged(path, format, error)),
        Err(panic) => Err(damaged(path, format, panic)),
    }
}

fn arrays_at(batch: &RecordBatch, names: &[String]) -> Vec<ArrayRef> {
    let Some((head, below)) = names.split_first() else {
        return Vec::new();
    };
    let mut next = batch.column_by_name(head).cloned();
    let mut below = below.iter();
    let mut arrays = Vec::new();
    while let Some(array) = next {
        next = below.next().and_then(|name| {
            let outer = array.as_struct_opt()?;
            outer.column_by_name(name).cloned()
        });
        arrays.push(array);
    }
    arrays
}

/// The columns of a schema that hold text, by their dotted names.
fn texts_in(fields: &Fields) -> Vec<String> {
    let mut names = Vec::new();
    for field in fields {
        match field.data_type() {
            DataType::Struct(inner) => {
                let inner = texts_in(inner);
                names.extend(inner.iter().map(|name| format!("{}.{name}", field.name())));
            }
            data_type if is_text(data_type) => names.push(field.name().clone()),
            _ => {}
        }
    }
    names
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_id_list(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => item.data_type().is_integer(),
        // Of lists without items a file can have any number.
        DataType::FixedSizeList(item, n_items) => *n_items > 0 && item.data_type().is_integer(),
        _ => false,
    }
}

/// The text at `row_idx`, which is not null; `None` if it refers to a null in its dictionary.
fn text_at(array: &dyn Array, row_idx: usize) -> Option<&str> {
    match array.data_type() {
        DataType::Utf8 => Some(array.as_string::<i32>().value(row_idx)),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row_idx)),
        DataType::Utf8View => Some(array.as_string_view().value(row_idx)),
        _ => {
            let dictionary = array.as_any_dictionary_opt()?;
            let key = dictionary.slice(row_idx, 1);
            let key = *key.as_any_dictionary_opt()?.normalized_keys().first()?;
            let values = dictionary.values();
            if values.is_null(key) {
                return None;
            }
            text_at(values, key)
        }
    }
}

/// The ids at `row_idx`, which is not null, or what is there instead.
fn token_ids_at(array: &dyn Array, row_idx: usize) -> Result<Vec<u32>, String> {
    let list = match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().value(row_idx),
        DataType::LargeList(_) => array.as_list::<i64>().value(row_idx),
        _ => array.as_fixed_size_list().value(row_idx),
    };
    if list.null_count() > 0 {
        return Err("a list with a null".into());
    }
    match list.data_type() {
        DataType::Int8 => token_ids::<Int8Type>(&list),
        DataType::Int16 => token_ids::<Int16Type>(&list),
        DataType::Int32 => token_ids::<Int32Type>(&list),
        DataType::Int64 => token_ids::<Int64Type>(&list),
        DataType::UInt8 => token_ids::<UInt8Type>(&list),
        DataType::UInt16 => token_ids::<UInt16Type>(&list),
        DataType::UInt32 => token_ids::<UInt32Type>(&list),
        DataType::UInt64 => token_ids::<UInt64Type>(&list),
        other => Err(format!("a list of {other}")),
    }
}

fn token_ids<T: ArrowPrimitiveType>(list: &dyn Array) -> Result<Vec<u32>, String>
where
    u32: TryFrom<T::Native>,
{
    let ids = list.as_primitive::<T>().values().iter();
    ids.map(|id| u32::try_from(*id).map_err(|_| format!("a list with {id:?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::assert_damaged;

    #[test]
    fn a_panic_of_a_decoder_is_damage() {
        let broken = || -> Result<(), BoxError> {
            let lengths: Vec<usize> = Vec::new();
            panic!("{} lengths", lengths.len())
        };
        let error = guarded(Path::new("a.parquet"), "Parquet", broken).unwrap_err();
        assert_damaged(&error, "`a.parquet` is not a readable Parquet file");
        let source = error.source().map(ToString::to_string);
        assert_eq!(source.unwrap(), "0 lengths");
    }
}
