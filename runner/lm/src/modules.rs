//! Submodules by their names and by their indices.

use crate::LmError;
use fault::Fault;
use plan::ModelFacts;

/// Index of a submodule in the layout of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ModuleId(pub(crate) usize);

/// Checks that `module` is the hookpoint called `name` of the model of `facts`, and within the
/// `n_layers` blocks that are loaded.
pub(crate) fn check_loaded(
    facts: &ModelFacts,
    n_layers: usize,
    name: &str,
    module: ModuleId,
) -> Result<(), LmError> {
    let hookpoint = facts.hookpoints.get(module.0).filter(|h| h.name == name);
    match hookpoint.map(|hookpoint| hookpoint.n_layers_needed) {
        None => Err(Fault::input(format!(
            "made for another model: hookpoint `{name}` is not where this one has it"
        ))
        .into()),
        Some(needed) if needed > n_layers => Err(Fault::input(format!(
            "hookpoint `{name}` needs {needed} layers, {n_layers} are loaded"
        ))
        .with_hint(format!(
            "load the model with `n_layers` of at least {needed}"
        ))
        .into()),
        Some(_) => Ok(()),
    }
}

/// The submodule called `name`.
pub(crate) fn resolve(facts: &ModelFacts, name: &str) -> Result<ModuleId, LmError> {
    let mut hookpoints = facts.hookpoints.iter();
    hookpoints
        .position(|known| known.name == name)
        .map(ModuleId)
        .ok_or_else(|| LmError::no_hookpoint(facts, name))
}
