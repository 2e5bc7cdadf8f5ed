//! Where rows go: rank 0 writes them to the file, and other ranks send theirs to it.

use super::file::RowFile;
use super::rows::EncodedRows;
use crate::EvalError;
use crate::ranks::Ranks;
use plan::{EncodeTask, FoundSae};

/// The rows of all ranks, in the order of the sequences.
pub(super) struct Output<'a> {
    ranks: &'a dyn Ranks,
    /// On rank 0.
    file: Option<RowFile>,
    /// What this rank has for rank 0.
    ours: Vec<u8>,
    /// In the file, of each SAE.
    n_rows: Vec<u64>,
}

impl<'a> Output<'a> {
    /// # Errors
    /// The file cannot be created.
    pub(super) fn create(
        task: &EncodeTask,
        saes: &[&FoundSae],
        ranks: &'a dyn Ranks,
    ) -> Result<Self, EvalError> {
        let create = || RowFile::create(&task.out, task.format, saes);
        Ok(Self {
            ranks,
            file: ranks.has_writer().then(create).transpose()?,
            ours: Vec::new(),
            n_rows: vec![0; saes.len()],
        })
    }

    /// Rows of this rank's batch of a round. Rank 0 has the first batch.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn add(&mut self, rows: &EncodedRows) -> Result<(), EvalError> {
        match &mut self.file {
            Some(file) => write(file, rows, &mut self.n_rows),
            None => {
                rows.append_to(&mut self.ours);
                Ok(())
            }
        }
    }

    /// Puts the rows of the other ranks after those of rank 0.
    ///
    /// # Errors
    /// A rank that is gone, or a file that cannot be written.
    pub(super) fn end_round(&mut self) -> Result<(), EvalError> {
        let of_ranks = match self.ranks.shard().n_ranks {
            1 => Vec::new(),
            _ => self.ranks.to_first("rows", &self.ours)?,
        };
        self.ours.clear();
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        for bytes in of_ranks {
            for rows in EncodedRows::all_of(&bytes) {
                write(file, &rows, &mut self.n_rows)?;
            }
        }
        Ok(())
    }

    /// All rows are there; gives how many, of each SAE, on rank 0.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn finish(self) -> Result<Vec<u64>, EvalError> {
        if let Some(file) = self.file {
            file.finish()?;
        }
        Ok(self.n_rows)
    }
}

fn write(file: &mut RowFile, rows: &EncodedRows, n_rows: &mut [u64]) -> Result<(), EvalError> {
    for sae_idx in &rows.sae {
        n_rows[*sae_idx as usize] += 1;
    }
    file.write(rows)
}
