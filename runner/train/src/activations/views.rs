//! Activations of a forward pass as SAEs take them: vectors of the tokens that count, one a row.

use crate::TrainError;
use lm::{Activations, rows, send, side_by_side};
use plan::{SaeSpec, TrainConfig};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Which activations: hookpoints, their inputs or outputs, and the tokens that do not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct View {
    /// Those of several are side by side.
    pub(crate) hookpoints: Vec<String>,
    pub(crate) side: Side,
    pub(crate) exclude_tokens: Vec<u32>,
}

impl View {
    /// What an SAE takes and what it should give.
    pub(crate) fn of_sae(config: &TrainConfig, spec: &SaeSpec) -> (Self, Self) {
        let view = |hookpoints: &[String], side| Self {
            hookpoints: hookpoints.to_vec(),
            side,
            exclude_tokens: config.exclude_tokens.clone(),
        };
        let output = view(spec.outputs(), Side::Output);
        let input = if config.transcode {
            view(std::slice::from_ref(&spec.hookpoint), Side::Input)
        } else {
            output.clone()
        };
        (input, output)
    }
}

/// Which end of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Input,
    Output,
}

/// The activations of one forward pass, in every view that is asked for.
pub(crate) struct Views<'a> {
    activations: &'a Activations,
    token_ids: &'a [i64],
    made: BTreeMap<View, Tensor>,
}

impl<'a> Views<'a> {
    /// `token_ids`: those of the pass, row after row.
    pub(crate) fn new(activations: &'a Activations, token_ids: &'a [i64]) -> Self {
        Self {
            activations,
            token_ids,
            made: BTreeMap::new(),
        }
    }

    /// `[n_tokens, width]`, Float. A hookpoint may have several vectors for a token (a norm of heads),
    /// or one for a position of all sequences (a position embedding): each vector then counts as a
    /// token, and no vector of a position is left out.
    pub(crate) fn get(&mut self, view: &View) -> Result<Tensor, TrainError> {
        if let Some(made) = self.made.get(view) {
            return Ok(made.shallow_clone());
        }
        let rows = self.rows(view)?.f_to_kind(Kind::Float)?;
        self.made.insert(view.clone(), rows.shallow_clone());
        Ok(rows)
    }

    /// The same in what the model computes in.
    pub(crate) fn rows(&self, view: &View) -> Result<Tensor, TrainError> {
        let of_hookpoint = |hookpoint: &String| {
            let tensor = match view.side {
                Side::Input => self.activations.input(hookpoint),
                Side::Output => self.activations.get(hookpoint),
            };
            rows(tensor.expect("every view's hookpoint is tapped"))
        };
        let all = view.hookpoints.iter().map(of_hookpoint);
        let all = all.collect::<Result<Vec<_>, _>>()?;
        let rows = side_by_side(&view.hookpoints, &all)?;
        let included = included(self.token_ids, &view.exclude_tokens, rows.device())?;
        match included {
            Some(included) => select(&rows, &included, self.token_ids.len()),
            None => Ok(rows),
        }
    }
}

/// Indices of the tokens that count: `[n_included]`, Int64; `None`: all do.
pub(crate) fn included(
    token_ids: &[i64],
    exclude_tokens: &[u32],
    device: Device,
) -> Result<Option<Tensor>, TrainError> {
    if exclude_tokens.is_empty() {
        return Ok(None);
    }
    let counts = tokens::included(token_ids, exclude_tokens);
    let numbered = counts.iter().zip(0i64..);
    let indices: Vec<i64> = numbered
        .filter_map(|(counts, idx)| counts.then_some(idx))
        .collect();
    Ok(Some(send(&Tensor::f_from_slice(&indices)?, device)?))
}

/// The rows of the tokens at the indices `included`; all rows if they are not those of tokens.
pub(crate) fn select(
    rows: &Tensor,
    included: &Tensor,
    n_tokens: usize,
) -> Result<Tensor, TrainError> {
    Ok(match rows_of(rows, included, n_tokens)? {
        Some(indices) => rows.f_index_select(0, &indices)?,
        None => rows.shallow_clone(),
    })
}

/// Indices of the rows of the tokens at the indices `included`.
pub(crate) fn rows_of(
    rows: &Tensor,
    included: &Tensor,
    n_tokens: usize,
) -> Result<Option<Tensor>, TrainError> {
    let (n_rows, n_tokens) = (rows.size()[0], n_tokens as i64);
    if n_rows < n_tokens || n_rows % n_tokens != 0 {
        return Ok(None);
    }
    let n_each = n_rows / n_tokens;
    let within = Tensor::f_arange(n_each, (Kind::Int64, rows.device()))?;
    let first = included.f_mul_scalar(n_each)?.f_unsqueeze(1)?;
    Ok(Some(first.f_add(&within)?.f_flatten(0, 1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: &Tensor) -> Vec<i64> {
        Vec::try_from(x.flatten(0, -1).to_kind(Kind::Int64)).unwrap()
    }

    #[test]
    fn rows_of_excluded_tokens_are_left_out() {
        let included = included(&[5, 3, 5, 7], &[5], Device::Cpu).unwrap().unwrap();
        assert_eq!(values(&included), [1, 3]);
        let one_each = Tensor::from_slice(&[0i64, 1, 2, 3]).view([4, 1]);
        assert_eq!(values(&select(&one_each, &included, 4).unwrap()), [1, 3]);
        let two_each = Tensor::arange(8, (Kind::Int64, Device::Cpu)).view([8, 1]);
        assert_eq!(
            values(&select(&two_each, &included, 4).unwrap()),
            [2, 3, 6, 7]
        );
        let of_positions = Tensor::from_slice(&[0i64, 1]).view([2, 1]);
        assert_eq!(
            values(&select(&of_positions, &included, 4).unwrap()),
            [0, 1]
        );
    }

    #[test]
    fn without_excluded_tokens_nothing_is_selected() {
        assert!(included(&[1, 2], &[], Device::Cpu).unwrap().is_none());
    }
}
