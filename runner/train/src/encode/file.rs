//! The file that rows go to.

mod parquet;
mod safetensors;

use super::rows::EncodedRows;
use crate::TrainError;
use files::OutputFile;
use parquet::ParquetFile;
use sae::FoundSae;
use safetensors::SafetensorsFile;
use std::path::{Path, PathBuf};

/// What a file of latents is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeFormat {
    /// A table with the columns of [`EncodedRows`], `sae` as a name, and the `hookpoint`.
    Parquet,
    /// A tensor for each column of [`EncodedRows`]; the names that `sae` counts are in the metadata.
    Safetensors,
}

impl EncodeFormat {
    /// By the end of a file's name; `None`: it is another.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "parquet" => Some(Self::Parquet),
            "safetensors" => Some(Self::Safetensors),
            _ => None,
        }
    }
}

/// A file that rows go to. Nothing is left of it where it is not finished.
pub(super) struct RowFile {
    path: PathBuf,
    output: OutputFile,
    writer: Box<dyn RowWriter>,
}

/// Writes rows in a format.
pub(super) trait RowWriter {
    fn write(&mut self, rows: &EncodedRows) -> Result<(), TrainError>;

    /// All rows are written.
    fn finish(self: Box<Self>) -> Result<(), TrainError>;
}

impl RowFile {
    pub(super) fn create(
        path: &Path,
        format: EncodeFormat,
        saes: &[&FoundSae],
    ) -> Result<Self, TrainError> {
        let output = OutputFile::create(path).map_err(TrainError::io("create", path))?;
        let file = output.handle().map_err(TrainError::io("create", path))?;
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

    pub(super) fn write(&mut self, rows: &EncodedRows) -> Result<(), TrainError> {
        match rows.is_empty() {
            true => Ok(()),
            false => self.writer.write(rows),
        }
    }

    pub(super) fn finish(self) -> Result<(), TrainError> {
        self.writer.finish()?;
        let finished = self.output.finish();
        finished.map_err(TrainError::io("write", &self.path))
    }
}
