//! What replaces submodules' outputs: reconstructions, for evaluation and for losses on the model's
//! own output.

use crate::LmError;
use crate::int8::OutlierCounts;
use crate::modules::{ModuleId, check_loaded, resolve};
use crate::run::{Run, Stop};
use fault::Fault;
use plan::ModelFacts;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use tch::Tensor;

/// A submodule at the moment when it has run.
#[derive(Clone, Copy, Debug)]
pub struct ModulePass<'a> {
    /// Its input: as a rule `[batch, ctx_len, d_in]`; token ids or positions for an embedding.
    pub input: &'a Tensor,
    /// Its output: as a rule `[batch, ctx_len, d_out]`; see [`crate::Activations::get`].
    pub output: &'a Tensor,
}

type Replace<'r> = dyn FnMut(ModulePass) -> Result<Tensor, Box<dyn Error + Send + Sync>> + 'r;

struct Replacement<'r> {
    name: String,
    replace: Box<Replace<'r>>,
    /// What it has given in this pass, if that may have to be run again.
    given: Vec<Tensor>,
    /// How often it was asked since the pass was run again.
    n_asked: usize,
}

/// Functions that replace the outputs of hookpoints in a forward pass.
///
/// ```no_run,standalone_crate
/// # use sae_run_lm as lm;
/// # fn main() -> Result<(), lm::LmError> {
/// # let options = lm::LoadOptions { with_head: true, ..Default::default() };
/// # let model = lm::LanguageModel::load(std::path::Path::new("models/tiny"), &options)?;
/// # let input_ids = tch::Tensor::from_slice(&[1_i64, 2, 3]).view([1, 3]);
/// // The logits without the MLP of block 3.
/// let mut ablated = lm::Replacements::default();
/// ablated.add(model.facts(), "layers.3.mlp", |pass| Ok(pass.output.f_zeros_like()?))?;
/// let logits = model.logits_with(&input_ids, &mut ablated)?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Replacements<'r> {
    of_module: BTreeMap<ModuleId, Replacement<'r>>,
}

impl<'r> Replacements<'r> {
    /// Replaces the output of `hookpoint` by what `replace` makes of the pass: a tensor of the same
    /// shape and kind, on the same device.
    ///
    /// # Errors
    /// A hookpoint that the model of `facts` does not have.
    pub fn add(
        &mut self,
        facts: &ModelFacts,
        hookpoint: &str,
        replace: impl FnMut(ModulePass) -> Result<Tensor, Box<dyn Error + Send + Sync>> + 'r,
    ) -> Result<(), LmError> {
        let replacement = Replacement {
            name: hookpoint.to_owned(),
            replace: Box::new(replace),
            given: Vec::new(),
            n_asked: 0,
        };
        self.of_module
            .insert(resolve(facts, hookpoint)?, replacement);
        Ok(())
    }

    /// Checks that a model of `facts`, loaded up to `n_layers` blocks, has every hookpoint.
    pub(crate) fn check(&self, facts: &ModelFacts, n_layers: usize) -> Result<(), LmError> {
        self.of_module.iter().try_for_each(|(module, replacement)| {
            check_loaded(facts, n_layers, &replacement.name, *module)
        })
    }

    /// Checks that every hookpoint is in block `first` of a model of `facts`, or after it.
    pub(crate) fn check_from(&self, facts: &ModelFacts, first: usize) -> Result<(), LmError> {
        let is_before = |module: &ModuleId| facts.hookpoints[module.0].n_layers_needed <= first;
        match self.of_module.iter().find(|(module, _)| is_before(module)) {
            None => Ok(()),
            Some((_, replacement)) => {
                let name = &replacement.name;
                let message = format!("hookpoint `{name}` is before block {first}");
                Err(Fault::input(message).into())
            }
        }
    }

    /// Begins a pass.
    pub(crate) fn begin(&mut self) {
        for replacement in self.of_module.values_mut() {
            replacement.given.clear();
            replacement.n_asked = 0;
        }
    }

    /// Begins the pass again: what a function has given so far is what it would give.
    pub(crate) fn begin_again(&mut self) {
        for replacement in self.of_module.values_mut() {
            replacement.n_asked = 0;
        }
    }

    /// The replacement of an output, if there is one. Its function sees a pass only after that was found right, by
    /// the `outliers` before it, and so once.
    pub(crate) fn apply(
        &mut self,
        id: ModuleId,
        pass: ModulePass<'_>,
        outliers: &mut OutlierCounts,
    ) -> Run<Option<Tensor>> {
        let Some(replacement) = self.of_module.get_mut(&id) else {
            return Ok(None);
        };
        replacement.n_asked += 1;
        if let Some(given) = replacement.given.get(replacement.n_asked - 1) {
            return Ok(Some(given.shallow_clone()));
        }
        if !outliers.were_enough()? {
            return Err(Stop::TooFewCols);
        }
        let fail = |error: LmError| Stop::Replacement(Box::new(error));
        let replaced = (replacement.replace)(pass).map_err(|source| {
            fail(LmError::Replacement {
                name: replacement.name.clone(),
                source,
            })
        })?;
        let form = |x: &Tensor| (x.size(), x.kind(), x.device());
        if form(&replaced) == form(pass.output) {
            if outliers.may_repeat() {
                replacement.given.push(replaced.shallow_clone());
            }
            return Ok(Some(replaced));
        }
        let (name, expected, got) = (&replacement.name, form(pass.output), form(&replaced));
        let fault = Fault::input(format!(
            "the replacement of hookpoint `{name}` has shape, kind and device {got:?}, expected {expected:?}"
        ));
        Err(fail(fault.into()))
    }
}

impl fmt::Debug for Replacements<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.of_module.values().map(|replacement| &replacement.name);
        formatter.debug_list().entries(names).finish()
    }
}
