//! The columns with outliers of an input. Their number is the shape of a product, for which the host must wait. On a
//! device it does so once for a pass: each product takes as many columns as [`most_cols`] says, most of them none
//! with outliers, and notes whether that was enough; if it was not, the pass is run again, and the host waits for the
//! number of columns of that product from then on. What a product computes depends on its input alone: the larger
//! shape is taken only where it is needed.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Kind, TchError, Tensor};

/// One in this number of columns may have outliers without a wait for how many have.
const COLS_FOR_EACH: i64 = 16;

/// CUDA's products are fast where sizes are multiples of this.
const MULTIPLE: i64 = 8;

/// Whether an input had too many columns with outliers, once.
pub(super) type HasMany = Arc<AtomicBool>;

/// How many columns with outliers are multiplied without knowing their number.
fn most_cols(d_in: i64) -> i64 {
    let most = (d_in as u64).div_ceil(COLS_FOR_EACH as u64);
    (most.next_multiple_of(MULTIPLE as u64) as i64).min(d_in)
}

/// The products of a forward pass whose numbers of columns with outliers are to be looked at. By default it
/// has no product: each counts its own, for which the host waits on a device.
#[derive(Default)]
pub(crate) struct OutlierCounts {
    are_noted: bool,
    noted: Vec<(Tensor, HasMany)>,
}

impl OutlierCounts {
    /// Those of a pass that does not wait before its end.
    pub(crate) fn noted() -> Self {
        Self {
            are_noted: true,
            noted: Vec::new(),
        }
    }

    /// Whether the pass may have to be run again.
    pub(crate) fn may_repeat(&self) -> bool {
        self.are_noted
    }

    /// Whether no product since the last call had more columns with outliers than it took; if one had, the pass
    /// has to be run again.
    ///
    /// # Errors
    /// What libtorch reports of the products.
    pub(crate) fn were_enough(&mut self) -> Result<bool, TchError> {
        let noted = std::mem::take(&mut self.noted);
        if noted.is_empty() {
            return Ok(true);
        }
        let had_more: Vec<&Tensor> = noted.iter().map(|(had_more, _)| had_more).collect();
        // Sync: once for all products.
        let had_more = Vec::<bool>::try_from(Tensor::f_stack(&had_more, 0)?)?;
        for (had_more, (_, has_many)) in had_more.iter().zip(&noted) {
            has_many.fetch_or(*had_more, Ordering::Relaxed);
        }
        Ok(!had_more.contains(&true))
    }
}

impl Debug for OutlierCounts {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} products", self.noted.len())
    }
}

/// Columns of an input that are multiplied apart.
pub(super) struct OutlierCols {
    /// Indices: `[n]`, Int64.
    pub(super) indices: Tensor,
    /// Which of all columns have outliers: `[d_in]`, Bool.
    have_outliers: Tensor,
    /// Which of `indices` have outliers: `[n]`, Bool. `None`: all.
    are_real: Option<Tensor>,
}

impl OutlierCols {
    /// `outliers`: `[n_tokens, d_in]`, Bool; `has_many`: that of the weight.
    pub(super) fn find(
        outliers: &Tensor,
        has_many: &HasMany,
        counts: &mut OutlierCounts,
    ) -> Result<Self, TchError> {
        let have_outliers = outliers.f_any_dim(0, false)?;
        if !counts.are_noted {
            return Self::counted(have_outliers);
        }
        let most = most_cols(have_outliers.size()[0]);
        if has_many.load(Ordering::Relaxed) {
            let counted = Self::counted(have_outliers.shallow_clone())?;
            if counted.indices.size()[0] > most {
                return Ok(counted);
            }
        } else {
            let n = have_outliers.f_sum(Kind::Int64)?;
            counts.noted.push((n.f_gt(most)?, Arc::clone(has_many)));
        }
        Self::at_most(have_outliers, most)
    }

    fn counted(have_outliers: Tensor) -> Result<Self, TchError> {
        Ok(Self {
            // Sync: on a device.
            indices: have_outliers.f_nonzero()?.f_squeeze_dim(1)?,
            have_outliers,
            are_real: None,
        })
    }

    /// The first `n` of them in the order of columns, and others if they are fewer.
    fn at_most(have_outliers: Tensor, n: i64) -> Result<Self, TchError> {
        let d_in = have_outliers.size()[0];
        let backwards =
            Tensor::f_arange_start_step(d_in, 0, -1, (Kind::Int, have_outliers.device()))?;
        let order = have_outliers
            .f_to_kind(Kind::Int)?
            .f_mul_scalar(d_in)?
            .f_add(&backwards)?;
        let (_, indices) = order.f_topk(n, -1, true, true)?;
        Ok(Self {
            are_real: Some(have_outliers.f_index_select(0, &indices)?),
            indices,
            have_outliers,
        })
    }

    /// Whether it is known that no column has outliers.
    pub(super) fn are_none(&self) -> bool {
        self.indices.size()[0] == 0
    }

    /// The columns of `x`: `[n_tokens, n]`; those without outliers are 0.
    pub(super) fn of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut cols = x.f_index_select(1, &self.indices)?;
        match &self.are_real {
            None => Ok(cols),
            Some(are_real) => cols.f_masked_fill_(&are_real.f_logical_not()?, 0.0),
        }
    }

    /// `x` with 0 in all columns with outliers.
    pub(super) fn clear(&self, mut x: Tensor) -> Result<Tensor, TchError> {
        match self.are_real {
            None => x.f_index_fill_(1, &self.indices, 0.0),
            Some(_) => x.f_masked_fill_(&self.have_outliers, 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::Int8Weight;
    use crate::testing::{assert_close, wide};
    use tch::Device;

    const D_IN: i64 = 320;

    /// The output, and how often it took to be right.
    fn output(weight: &Int8Weight, x: &Tensor) -> (Tensor, usize) {
        let mut n_runs = 0;
        loop {
            let mut counts = OutlierCounts::noted();
            let output = weight.linear(x, None, &mut counts).unwrap();
            n_runs += 1;
            if counts.were_enough().unwrap() {
                return (output, n_runs);
            }
        }
    }

    fn random(shape: &[i64], seed: i64) -> Tensor {
        tch::manual_seed(seed);
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn an_output_does_not_depend_on_earlier_ones() {
        let most = most_cols(D_IN);
        assert_eq!(most, 24);
        for kind in [Kind::Float, Kind::BFloat16] {
            for (n_cols, expected_runs) in [(0, 1), (1, 1), (most, 1), (most + 1, 2), (D_IN, 2)] {
                let weight = Int8Weight::quantise(&random(&[40, D_IN], 1)).unwrap();
                let x = random(&[30, D_IN], 2);
                // Every seventh column, of which there are as many.
                let cols = Tensor::arange(n_cols, (Kind::Int64, Device::Cpu)) * 7;
                let _ = x.get(3).index_fill_(0, &cols.remainder(D_IN), 8.0);
                let x = x.to_kind(kind);
                let (fresh, n_runs) = output(&weight, &x);
                assert_eq!(n_runs, expected_runs, "{n_cols} columns");
                let many = random(&[30, D_IN], 3) * 10;
                let _ = output(&weight, &many.to_kind(kind));
                let (later, n_runs) = output(&weight, &x);
                assert_eq!((n_runs, &later), (1, &fresh), "{n_cols} columns");

                let counted = weight.linear(&x, None, &mut OutlierCounts::default());
                let counted = counted.unwrap();
                if kind == Kind::Float {
                    assert_close("as counted", &fresh, &counted);
                } else {
                    let off = (wide(&fresh) - wide(&counted)).norm() / wide(&counted).norm();
                    assert!(off.double_value(&[]) < 1.0 / 256.0, "{off:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_stay_so() {
        let weight = Int8Weight::quantise(&random(&[5, 40], 1)).unwrap();
        let x = random(&[4, 40], 2);
        let _ = x.get(1).narrow(0, 7, 1).fill_(f64::NAN);
        let _ = x.get(2).narrow(0, 8, 1).fill_(f64::INFINITY);
        let (output, _) = output(&weight, &x);
        let is_finite = output.isfinite().all_dim(1, false);
        assert_eq!(
            Vec::<bool>::try_from(is_finite).unwrap(),
            [true, false, false, true]
        );
    }
}
