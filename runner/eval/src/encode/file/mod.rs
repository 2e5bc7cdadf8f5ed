//! The file that rows go to.

mod parquet;
mod safetensors;

use super::rows::EncodedRows;
use crate::EvalError;
use files::OutputFile;
use parquet::ParquetFile;
use plan::{EncodeFormat, FoundSae};
use safetensors::SafetensorsFile;
use std::path::{Path, PathBuf};

/// A file that rows go to. Nothing is left of it if it is not finished.
pub(super) struct RowFile {
    path: PathBuf,
    output: OutputFile,
    writer: Box<dyn RowWriter>,
}

/// Writes rows in a format.
pub(super) trait RowWriter {
    fn write(&mut self, rows: &EncodedRows) -> Result<(), EvalError>;

    /// All rows are written.
    fn finish(self: Box<Self>) -> Result<(), EvalError>;
}

impl RowFile {
    pub(super) fn create(
        path: &Path,
        format: EncodeFormat,
        saes: &[&FoundSae],
    ) -> Result<Self, EvalError> {
        let output = OutputFile::create(path).map_err(EvalError::io("create", path))?;
        let file = output.handle().map_err(EvalError::io("create", path))?;
        let writer: Box<dyn RowWriter> = match format {
            EncodeFormat::Parquet => Box::new(ParquetFile::new(file, path, saes)?),
            EncodeFormat::Safetensors => Box::new(SafetensorsFile::new(file, path, saes)?),
        };
        Ok(Self {
            path: path.into(),
            output,
            writer,
        })
    }

    pub(super) fn write(&mut self, rows: &EncodedRows) -> Result<(), EvalError> {
        if rows.is_empty() {
            Ok(())
        } else {
            self.writer.write(rows)
        }
    }

    pub(super) fn finish(self) -> Result<(), EvalError> {
        self.writer.finish()?;
        let finished = self.output.finish();
        finished.map_err(EvalError::io("write", &self.path))
    }
}
