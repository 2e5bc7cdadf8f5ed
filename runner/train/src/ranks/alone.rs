//! One process that trains a stream alone: it has all there is.

use super::{Ranks, Summing, UpdateSums};
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use sae::Moments;
use sae::Sae;
use tch::{Kind, Tensor};

/// One process alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone;

impl Ranks for Alone {
    fn number(&self) -> usize {
        1
    }

    fn rank(&self) -> usize {
        0
    }

    fn has_writer(&self) -> bool {
        true
    }

    fn n_threads(&self) -> Option<usize> {
        None
    }

    fn sums_are_complete(&self) -> bool {
        true
    }

    fn stops_at_once(&self, is_asked: bool) -> bool {
        is_asked
    }

    /// It continues: if it was stopped, it does so before its next forward pass.
    fn agree_to_stop(
        &self,
        _name: &str,
        _is_asked: bool,
        numbers: &[i64],
    ) -> Result<Option<Vec<Vec<i64>>>, TrainError> {
        Ok(Some(vec![numbers.to_vec()]))
    }

    fn all_have_tokens(&self, has_tokens: bool) -> Result<bool, TrainError> {
        Ok(has_tokens)
    }

    fn gather(&self, _name: &str, numbers: &[i64]) -> Result<Vec<Vec<i64>>, TrainError> {
        Ok(vec![numbers.to_vec()])
    }

    fn gather_text(&self, _name: &str, text: &str) -> Result<Vec<String>, TrainError> {
        Ok(vec![text.to_owned()])
    }

    fn exchange(
        &self,
        _name: &str,
        bytes: &Tensor,
        _sizes: (&[usize], &[usize]),
    ) -> Result<Tensor, TrainError> {
        Ok(bytes.shallow_clone())
    }

    fn sum<'a>(
        &'a self,
        _name: &str,
        ours: UpdateSums,
        _sae: &Sae,
    ) -> Result<Summing<'a>, TrainError> {
        Ok(Summing::Complete(Box::new(ours)))
    }

    fn sum_of_rows(&self, ours: &RowSum) -> Result<RowSum, TrainError> {
        Ok(RowSum {
            sum: ours.sum.shallow_clone(),
            n_rows: ours.n_rows,
        })
    }

    fn mean(&self, x: &Tensor) -> Result<Option<Tensor>, TrainError> {
        let mean = (x.size()[0] > 0).then(|| x.f_mean_dim(0, false, Kind::Float));
        Ok(mean.transpose()?)
    }

    fn merge_moments(
        &self,
        _name: &str,
        ours: Moments,
        _n_tokens: &[u64],
    ) -> Result<Moments, TrainError> {
        Ok(ours)
    }

    fn evaluators(&self) -> &dyn eval::Ranks {
        &eval::Alone
    }

    fn volume(&self, _n_updates: u64) -> Option<String> {
        None
    }
}
