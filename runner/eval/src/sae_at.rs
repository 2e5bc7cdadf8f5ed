//! Where in a language model an SAE belongs.

use crate::EvalError;
use fault::Fault;
use lm::LmError;
use plan::{HookpointFacts, ModelFacts};
use sae::{LoadOptions, Sae, resolve_hookpoint};
use std::path::Path;

/// The hookpoint that `name` means, Hugging Face's or TransformerLens's.
///
/// # Errors
/// The model has no such hookpoint; the error names the nearest.
fn find<'a>(facts: &'a ModelFacts, name: &str) -> Result<&'a HookpointFacts, EvalError> {
    resolve_hookpoint(facts, name).ok_or_else(|| LmError::no_hookpoint(facts, name).into())
}

/// The SAE in `dir`, and the hookpoint of the model that `name` means.
///
/// # Errors
/// An SAE that cannot be read or does not fit the hookpoint; no such hookpoint.
pub(crate) fn load<'a>(
    facts: &'a ModelFacts,
    name: &str,
    dir: &Path,
    options: &LoadOptions,
) -> Result<(Sae, &'a HookpointFacts), EvalError> {
    let sae = Sae::load_from_disk(dir, options.clone())?;
    let hookpoint = find(facts, name)?;
    check_widths(dir, &sae, hookpoint)?;
    Ok((sae, hookpoint))
}

/// Checks that the SAE in `dir` fits a hookpoint: an SAE takes the module's output, a transcoder its
/// input; both give its output.
///
/// # Errors
/// Other widths.
fn check_widths(dir: &Path, sae: &Sae, hookpoint: &HookpointFacts) -> Result<(), EvalError> {
    let d_in = if sae.cfg.transcode {
        hookpoint.d_in.unwrap_or(0)
    } else {
        hookpoint.d_out
    };
    let got = (sae.cfg.d_in, sae.b_dec.size()[0] as usize);
    let expected = (d_in, hookpoint.d_out);
    if got == expected {
        return Ok(());
    }
    let message = format!(
        "the SAE in `{}` has widths {got:?}, in and out, `{}` of the model needs {expected:?}",
        dir.display(),
        hookpoint.name
    );
    let hint = "it was trained on another model, or at another hookpoint";
    Err(Fault::input(message).with_hint(hint).into())
}
