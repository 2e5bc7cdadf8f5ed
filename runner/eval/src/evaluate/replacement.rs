//! What replaces a hookpoint's output: the mean of all outputs, or an SAE's.

use super::batch::Kept;
use super::sums::SaeSums;
use crate::EvalError;
use lm::{LanguageModel, LmError, ModulePass, Replacements};
use sae::Sae;
use tch::{Kind, Tensor};

/// `[-1, width]`: one row for each vector.
pub(super) fn rows_of(x: &Tensor) -> Result<Tensor, EvalError> {
    let width = x.size().last().copied().unwrap_or(0);
    Ok(x.f_reshape([-1, width])?)
}

/// Those rows of `x` that count.
pub(super) fn select(x: &Tensor, rows: Option<&Tensor>) -> Result<Tensor, EvalError> {
    Ok(match rows {
        Some(rows) => x.f_index_select(0, rows)?,
        None => x.shallow_clone(),
    })
}

/// The output of `pass` with `mean`, `[width]`, in place of the rows that count.
pub(super) fn ablated(pass: ModulePass, mean: &Tensor, kept: &Kept) -> Result<Tensor, EvalError> {
    let y = rows_of(pass.output)?;
    let rows = kept.rows(y.size()[0]);
    let n_rows = rows.map_or(y.size()[0], |rows| rows.size()[0]);
    let mean = mean.f_to_kind(y.kind())?;
    let means = mean.f_expand([n_rows, mean.size()[0]], false)?;
    put(&pass, &y, rows, &means.f_contiguous()?)
}

/// The output of `pass` with what `sae` computes from it (a transcoder: from the module's input) in place of
/// the rows that count; adds to `sums`.
pub(super) fn spliced(
    pass: ModulePass,
    sae: &Sae,
    kept: &Kept,
    sums: &mut SaeSums,
) -> Result<Tensor, EvalError> {
    let x = if sae.cfg.transcode {
        pass.input
    } else {
        pass.output
    };
    let (x, y) = (rows_of(x)?, rows_of(pass.output)?);
    let rows = kept.rows(y.size()[0]);
    let (x, target) = (select(&x, rows)?, select(&y, rows)?);
    if target.size()[0] == 0 {
        return Ok(pass.output.shallow_clone());
    }
    let (x, target) = (x.f_to_kind(Kind::Float)?, target.f_to_kind(Kind::Float)?);
    let sae_out = sums.reconstruct(sae, &x, &target)?;
    put(&pass, &y, rows, &sae_out.f_to_kind(y.kind())?)
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

/// The logits with the output of `hookpoint` replaced by what `replace` returns for it.
pub(super) fn logits(
    model: &LanguageModel,
    input_ids: &Tensor,
    hookpoint: &str,
    mut replace: impl FnMut(ModulePass) -> Result<Tensor, EvalError>,
) -> Result<Tensor, EvalError> {
    let mut replacements = Replacements::default();
    replacements.add(model.facts(), hookpoint, |pass| Ok(replace(pass)?))?;
    model
        .logits_with(input_ids, &mut replacements)
        .map_err(own_error)
}

/// Our own error, which went through the model unchanged, and not as one of the model's.
fn own_error(error: LmError) -> EvalError {
    match error {
        LmError::Replacement { name, source } => match source.downcast::<EvalError>() {
            Ok(own) => *own,
            Err(source) => LmError::Replacement { name, source }.into(),
        },
        other => other.into(),
    }
}
