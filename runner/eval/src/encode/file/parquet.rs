//! Rows as a Parquet table.

use super::RowWriter;
use crate::EvalError;
use crate::encode::rows::EncodedRows;
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use sae::FoundSae;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a group: it is held in memory, compressed, until it is written.
const ROWS_OF_GROUP: usize = 1 << 20;

/// A table that is being written.
pub(super) struct ParquetFile {
    path: PathBuf,
    writer: ArrowWriter<File>,
    schema: Arc<Schema>,
    /// By the index of the SAE.
    names: ArrayRef,
    /// Likewise.
    hookpoints: ArrayRef,
}

impl ParquetFile {
    pub(super) fn new(file: File, path: &Path, saes: &[&FoundSae]) -> Result<Self, EvalError> {
        let name = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let column = |column: &str, of: &DataType| Field::new(column, of.clone(), false);
        let schema = Arc::new(Schema::new(vec![
            column("sequence", &DataType::Int64),
            column("position", &DataType::Int32),
            column("token_id", &DataType::Int32),
            column("sae", &name),
            column("hookpoint", &name),
            column("latent", &DataType::Int32),
            column("activation", &DataType::Float32),
        ]));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROWS_OF_GROUP))
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
        let names = |name: fn(&FoundSae) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(
                saes.iter().map(|sae| name(sae)),
            ))
        };
        Ok(Self {
            path: path.into(),
            writer: writer.map_err(failed(path))?,
            schema,
            names: names(|sae| &sae.name),
            hookpoints: names(|sae| &sae.hookpoint),
        })
    }
}

impl RowWriter for ParquetFile {
    fn write(&mut self, rows: &EncodedRows) -> Result<(), EvalError> {
        let int32 = |column: &Vec<i32>| Int32Array::from(column.clone());
        let named =
            |names: &ArrayRef| DictionaryArray::<Int32Type>::new(int32(&rows.sae), names.clone());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(rows.sequence.clone())),
            Arc::new(int32(&rows.position)),
            Arc::new(int32(&rows.token_id)),
            Arc::new(named(&self.names)),
            Arc::new(named(&self.hookpoints)),
            Arc::new(int32(&rows.latent)),
            Arc::new(Float32Array::from(rows.activation.clone())),
        ];
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        let batch = batch.expect("columns of one length, as the schema has them");
        self.writer.write(&batch).map_err(failed(&self.path))
    }

    fn finish(self: Box<Self>) -> Result<(), EvalError> {
        let closed = self.writer.close();
        closed.map(|_| ()).map_err(failed(&self.path))
    }
}

fn failed(path: &Path) -> impl FnOnce(ParquetError) -> EvalError {
    move |source| EvalError::io("write", path)(std::io::Error::other(source))
}
