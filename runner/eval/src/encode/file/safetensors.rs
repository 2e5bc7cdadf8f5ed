//! Rows as tensors of a safetensors file. Its header comes first and has the lengths, so the columns
//! are in separate files until all rows are there.

use super::RowWriter;
use crate::EvalError;
use crate::encode::rows::EncodedRows;
use sae::{FoundSae, SafetensorsHeader};
use serde_json::json;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

/// Columns, with safetensors' name of their kind and the bytes of a number; the widest first, so that
/// all are aligned.
const COLUMNS: [(&str, &str, u64); 6] = [
    ("sequence", "I64", 8),
    ("position", "I32", 4),
    ("token_id", "I32", 4),
    ("sae", "I32", 4),
    ("latent", "I32", 4),
    ("activation", "F32", 4),
];

/// A file that is being written.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    file: File,
    /// Without names, so that nothing is left of them.
    columns: Vec<BufWriter<File>>,
    n_rows: u64,
    /// The names of the SAEs and their hookpoints, as JSON.
    saes: String,
}

impl SafetensorsFile {
    pub(super) fn new(file: File, path: &Path, saes: &[&FoundSae]) -> Result<Self, EvalError> {
        // Next to the file, where there is space for it.
        let dir = files::dir_of(path);
        let column = |_| Ok(BufWriter::new(tempfile::tempfile_in(dir)?));
        let columns = COLUMNS.iter().map(column).collect::<io::Result<_>>();
        let name = |sae: &&FoundSae| json!({"name": sae.name, "hookpoint": sae.hookpoint});
        Ok(Self {
            path: path.into(),
            file,
            columns: columns.map_err(EvalError::io("create", dir))?,
            n_rows: 0,
            saes: json!(saes.iter().map(name).collect::<Vec<_>>()).to_string(),
        })
    }

    fn header(&self) -> Vec<u8> {
        let mut header = SafetensorsHeader::with_metadata(json!({"saes": self.saes}));
        for (column, dtype, n_bytes) in COLUMNS {
            header.push(column, dtype, &[self.n_rows as i64], n_bytes * self.n_rows);
        }
        header.to_bytes()
    }

    fn put_together(&mut self) -> io::Result<()> {
        self.file.write_all(&self.header())?;
        for column in &mut self.columns {
            column.rewind()?;
            io::copy(column.get_mut(), &mut self.file)?;
        }
        Ok(())
    }
}

impl RowWriter for SafetensorsFile {
    fn write(&mut self, rows: &EncodedRows) -> Result<(), EvalError> {
        let bytes = [
            bytes_of(&rows.sequence, i64::to_le_bytes),
            bytes_of(&rows.position, i32::to_le_bytes),
            bytes_of(&rows.token_id, i32::to_le_bytes),
            bytes_of(&rows.sae, i32::to_le_bytes),
            bytes_of(&rows.latent, i32::to_le_bytes),
            bytes_of(&rows.activation, f32::to_le_bytes),
        ];
        for (column, bytes) in self.columns.iter_mut().zip(bytes) {
            let written = column.write_all(&bytes);
            written.map_err(EvalError::io("write", &self.path))?;
        }
        self.n_rows += rows.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), EvalError> {
        let written = self.put_together();
        written.map_err(EvalError::io("write", &self.path))
    }
}

fn bytes_of<T: Copy, const N: usize>(column: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    column.iter().flat_map(|&number| bytes(number)).collect()
}
