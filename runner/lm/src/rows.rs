//! Hidden states as vectors, one a row.

use crate::LmError;
use crate::model::in_forward;
use fault::Fault;
use tch::Tensor;

/// `x` with one vector a row: `[n_rows, width]`.
///
/// # Errors
/// Too little memory.
pub fn rows(x: &Tensor) -> Result<Tensor, LmError> {
    let width = x.size().last().copied().unwrap_or(0);
    x.f_reshape([-1, width]).map_err(in_forward)
}

/// The rows that the hookpoints called `names` gave for the same tokens, one hookpoint's columns after the other's:
/// `[n_rows, sum of the widths]`.
///
/// # Errors
/// Hookpoints with other numbers of rows; too little memory.
pub fn side_by_side(names: &[String], rows: &[Tensor]) -> Result<Tensor, LmError> {
    if let [one] = rows {
        return Ok(one.shallow_clone());
    }
    let n_rows = rows[0].size()[0];
    if let Some(other) = rows.iter().position(|rows| rows.size()[0] != n_rows) {
        let (n_others, first, other) = (rows[other].size()[0], &names[0], &names[other]);
        let message = format!(
            "`{first}` gives {n_rows} vectors for a batch, `{other}` gives {n_others}: one SAE cannot be on both"
        );
        let hint = "choose `hookpoints` with one vector for each token";
        return Err(Fault::input(message).with_hint(hint).into());
    }
    Tensor::f_cat(rows, 1).map_err(in_forward)
}
