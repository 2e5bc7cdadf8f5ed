//! Sums of rows, for means over passes and ranks.

use crate::TrainError;
use tch::{Kind, Tensor};

/// Rows that were seen, added up.
#[derive(Debug)]
pub(crate) struct RowSum {
    /// `[width]`, Double.
    pub(crate) sum: Tensor,
    pub(crate) n_rows: i64,
}

impl RowSum {
    /// Of `x`: `[n_rows, width]`.
    pub(crate) fn of(x: &Tensor) -> Result<Self, TrainError> {
        Ok(Self {
            sum: x.f_sum_dim_intlist(0, false, Kind::Double)?,
            n_rows: x.size()[0],
        })
    }

    pub(crate) fn add(&mut self, x: &Tensor) -> Result<(), TrainError> {
        let other = Self::of(x)?;
        self.sum = self.sum.f_add(&other.sum)?;
        self.n_rows += other.n_rows;
        Ok(())
    }

    /// `[width]`, Float; `None`: there is no row.
    pub(crate) fn mean(&self) -> Result<Option<Tensor>, TrainError> {
        let mean = || self.sum.f_div_scalar(self.n_rows)?.f_to_kind(Kind::Float);
        Ok((self.n_rows > 0).then(mean).transpose()?)
    }
}
