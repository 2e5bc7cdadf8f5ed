//! What replaces a hookpoint's output: the mean of all outputs, or an SAE's.

use super::batch::Kept;
use crate::EvalError;
use lm::{LmError, ModulePass, rows};
use tch::{Kind, Tensor};

/// Those rows of `x` that count.
pub(super) fn select(x: &Tensor, rows: Option<&Tensor>) -> Result<Tensor, EvalError> {
    Ok(match rows {
        Some(rows) => x.f_index_select(0, rows)?,
        None => x.shallow_clone(),
    })
}

/// The output of `pass` with `mean`, `[width]`, in place of the rows that count.
pub(super) fn ablated(pass: ModulePass, mean: &Tensor, kept: &Kept) -> Result<Tensor, EvalError> {
    let y = rows(pass.output)?;
    let counting = kept.rows(y.size()[0]);
    let n_rows = counting.map_or(y.size()[0], |rows| rows.size()[0]);
    let mean = mean.f_to_kind(y.kind())?;
    let means = mean.f_expand([n_rows, mean.size()[0]], false)?;
    put(&pass, &y, counting, &means.f_contiguous()?)
}

/// The output of `pass` with what `reconstruct` makes of the rows that count in its place. It gets those of the output,
/// or of the input if `of_inputs`, and those of the output, Float.
pub(super) fn spliced(
    pass: ModulePass,
    kept: &Kept,
    of_inputs: bool,
    reconstruct: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor, EvalError>,
) -> Result<Tensor, EvalError> {
    let x = if of_inputs { pass.input } else { pass.output };
    let (x, y) = (rows(x)?, rows(pass.output)?);
    let counting = kept.rows(y.size()[0]);
    let (x, target) = (select(&x, counting)?, select(&y, counting)?);
    if target.size()[0] == 0 {
        return Ok(pass.output.shallow_clone());
    }
    let (x, target) = (x.f_to_kind(Kind::Float)?, target.f_to_kind(Kind::Float)?);
    let sae_out = reconstruct(&x, &target)?;
    put(&pass, &y, counting, &sae_out.f_to_kind(y.kind())?)
}

/// The output of `pass`, whose rows are `y`, with `replacement` in place of `rows`.
fn put(
    pass: &ModulePass,
    y: &Tensor,
    rows: Option<&Tensor>,
    replacement: &Tensor,
) -> Result<Tensor, EvalError> {
    let shape = pass.output.size();
    Ok(match rows {
        Some(rows) => y.f_index_copy(0, rows, replacement)?.f_reshape(shape)?,
        None => replacement.f_reshape(shape)?,
    })
}

/// Our own error, which went through the model unchanged, and not as one of the model's.
pub(super) fn own_error(error: LmError) -> EvalError {
    match error {
        LmError::Replacement { name, source } => match source.downcast::<EvalError>() {
            Ok(own) => *own,
            Err(source) => LmError::Replacement { name, source }.into(),
        },
        other => other.into(),
    }
}
