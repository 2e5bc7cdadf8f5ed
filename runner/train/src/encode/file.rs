//! The file that rows go to: written beside its place, synced, renamed.

use super::parquet_file::ParquetFile;
use super::rows::EncodedRows;
use super::safetensors_file::SafetensorsFile;
use crate::TrainError;
use sae::{FoundSae, sync_dir};
use std::fs::{self, File};
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
    beside: PathBuf,
    /// `None` once all rows are written.
    writer: Option<Box<dyn RowWriter>>,
    is_in_place: bool,
}

impl Drop for RowFile {
    fn drop(&mut self) {
        if !self.is_in_place {
            // That it cannot be removed is no other error than the one that led here.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Writes rows in a format.
pub(super) trait RowWriter {
    fn write(&mut self, rows: &EncodedRows) -> Result<(), TrainError>;

    /// All rows are written.
    fn finish(self: Box<Self>) -> Result<File, TrainError>;
}

impl RowFile {
    pub(super) fn create(
        path: &Path,
        format: EncodeFormat,
        saes: &[&FoundSae],
    ) -> Result<Self, TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Always the same, so that what a killed process left is overwritten and not piled up.
        let beside = path.with_file_name(format!(".{name}.tmp"));
        let file = File::create(&beside).map_err(TrainError::io("create", &beside))?;
        let writer: Box<dyn RowWriter> = match format {
            EncodeFormat::Parquet => Box::new(ParquetFile::new(file, &beside, saes)?),
            EncodeFormat::Safetensors => Box::new(SafetensorsFile::new(file, &beside, saes)?),
        };
        Ok(Self {
            path: path.into(),
            beside,
            writer: Some(writer),
            is_in_place: false,
        })
    }

    pub(super) fn write(&mut self, rows: &EncodedRows) -> Result<(), TrainError> {
        match rows.is_empty() {
            true => Ok(()),
            false => self
                .writer
                .as_mut()
                .expect("it is not finished")
                .write(rows),
        }
    }

    pub(super) fn finish(mut self) -> Result<(), TrainError> {
        let (path, beside) = (&self.path, &self.beside);
        let writer = self.writer.take().expect("it is finished once");
        let file = writer.finish()?;
        file.sync_all().map_err(TrainError::io("sync", beside))?;
        fs::rename(beside, path).map_err(TrainError::io("rename", path))?;
        self.is_in_place = true;
        Ok(sync_dir(dir_of(&self.path))?)
    }
}

/// The folder of a file.
pub(super) fn dir_of(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}
