//! Which submodules' outputs to keep, and the forward pass as seen from a submodule.

use crate::LmError;
use plan::{ModelFacts, nearest};
use std::collections::HashSet;
use std::sync::Arc;
use tch::{TchError, Tensor};

/// Index of a submodule in the layout of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleId(pub(crate) usize);

/// The hookpoints whose outputs a forward pass shall return.
///
/// Names are resolved once, here: in the forward pass a submodule finds its tap by an index.
#[derive(Clone, Debug)]
pub struct Taps {
    names: Arc<[String]>,
    modules: Vec<ModuleId>,
    /// For each submodule of the model: which tap it serves.
    tap_of_module: Vec<Option<usize>>,
    n_layers_needed: usize,
}

impl Taps {
    /// Taps on the hookpoints called `names`; a name that comes twice counts once.
    ///
    /// # Errors
    /// The first name that the model of `facts` does not have.
    pub fn new<S: AsRef<str>>(facts: &ModelFacts, names: &[S]) -> Result<Self, LmError> {
        let mut seen = HashSet::new();
        let names = names
            .iter()
            .map(AsRef::as_ref)
            .filter(|&name| seen.insert(name));
        let names: Vec<&str> = names.collect();
        let modules: Vec<ModuleId> = names
            .iter()
            .map(|name| resolve(facts, name))
            .collect::<Result<_, _>>()?;
        let mut tap_of_module = vec![None; facts.hookpoints.len()];
        for (tap_idx, module) in modules.iter().enumerate() {
            tap_of_module[module.0] = Some(tap_idx);
        }
        let needed = modules
            .iter()
            .map(|module| facts.hookpoints[module.0].n_layers_needed);
        Ok(Self {
            n_layers_needed: needed.max().unwrap_or(0),
            names: names.into_iter().map(str::to_owned).collect(),
            modules,
            tap_of_module,
        })
    }

    /// The tapped hookpoints, in the order they were asked for.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many blocks must be loaded to serve all taps: for [`crate::LoadOptions::n_layers`].
    pub fn n_layers_needed(&self) -> usize {
        self.n_layers_needed
    }

    /// Taps on nothing.
    pub(crate) fn none() -> Self {
        Self {
            names: Arc::new([]),
            modules: Vec::new(),
            tap_of_module: Vec::new(),
            n_layers_needed: 0,
        }
    }

    /// Checks that a model of `facts`, loaded up to `n_layers` blocks, serves every tap.
    pub(crate) fn check(&self, facts: &ModelFacts, n_layers: usize) -> Result<(), LmError> {
        for (name, module) in self.names.iter().zip(&self.modules) {
            let hookpoint = facts.hookpoints.get(module.0).filter(|h| h.name == *name);
            let Some(hookpoint) = hookpoint else {
                return Err(LmError::ForeignTaps { name: name.clone() });
            };
            if hookpoint.n_layers_needed > n_layers {
                return Err(LmError::LayerNotLoaded {
                    name: name.clone(),
                    needed: hookpoint.n_layers_needed,
                    loaded: n_layers,
                });
            }
        }
        Ok(())
    }
}

fn resolve(facts: &ModelFacts, name: &str) -> Result<ModuleId, LmError> {
    let names = || {
        facts
            .hookpoints
            .iter()
            .map(|hookpoint| hookpoint.name.as_str())
    };
    names()
        .position(|known| known == name)
        .map(ModuleId)
        .ok_or_else(|| LmError::NoHookpoint {
            name: name.into(),
            model_type: facts.model_type.clone(),
            nearest: nearest(name, names(), 1).pop(),
        })
}

/// The outputs of the tapped hookpoints in one forward pass.
#[derive(Debug)]
pub struct Activations {
    names: Arc<[String]>,
    outputs: Vec<Tensor>,
}

impl Activations {
    /// The output of a tapped hookpoint: `[batch, ctx_len, d_out]`, in the model's compute kind.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let tap_idx = self.names.iter().position(|known| known == name)?;
        Some(&self.outputs[tap_idx])
    }

    /// Hookpoints and their outputs, in the order of the taps.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.outputs)
    }

    /// The outputs alone, in the order of the taps.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.outputs
    }
}

/// Why a forward pass ends before the last module.
pub(crate) enum Stop {
    /// Every tap was served.
    Served,
    /// An operation failed.
    Torch(TchError),
}

impl From<TchError> for Stop {
    fn from(error: TchError) -> Self {
        Self::Torch(error)
    }
}

/// What a submodule returns within a forward pass.
pub(crate) type Run<T> = Result<T, Stop>;

/// One forward pass: every submodule runs through [`Tape::module`], the one place that sees its
/// input and its output.
pub(crate) struct Tape<'a> {
    taps: &'a Taps,
    outputs: Vec<Option<Tensor>>,
    n_waiting: usize,
}

impl<'a> Tape<'a> {
    pub(crate) fn new(taps: &'a Taps) -> Self {
        let n_waiting = taps.names.len();
        Self {
            taps,
            outputs: (0..n_waiting).map(|_| None).collect(),
            n_waiting,
        }
    }

    /// Runs submodule `id` on its input `x`; the forward pass stops here when the output was the
    /// last one wanted.
    ///
    /// The output is kept without a copy, so what follows must not change it in place.
    pub(crate) fn module(
        &mut self,
        id: ModuleId,
        x: &Tensor,
        run: impl FnOnce(&mut Self, &Tensor) -> Run<Tensor>,
    ) -> Run<Tensor> {
        let output = run(self, x)?;
        let Some(tap_idx) = self.taps.tap_of_module.get(id.0).copied().flatten() else {
            return Ok(output);
        };
        if self.outputs[tap_idx]
            .replace(output.shallow_clone())
            .is_none()
        {
            self.n_waiting -= 1;
        }
        if self.n_waiting == 0 {
            Err(Stop::Served)
        } else {
            Ok(output)
        }
    }

    /// The outputs; `None` when a tap was not served.
    pub(crate) fn finish(self) -> Option<Activations> {
        Some(Activations {
            names: self.taps.names.clone(),
            outputs: self.outputs.into_iter().collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_facts;
    use crate::testing::tiny_llama;

    #[test]
    fn names_keep_their_order_and_count_once() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let taps = Taps::new(&facts, &["layers.2.mlp", "embed_tokens", "layers.2.mlp"]).unwrap();
        assert_eq!(taps.names(), ["layers.2.mlp", "embed_tokens"]);
        assert_eq!(taps.n_layers_needed(), 3);
    }

    #[test]
    fn unknown_name_gets_the_nearest() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let error = Taps::new(&facts, &["layers.2.mpl"]).unwrap_err();
        assert!(matches!(&error, LmError::NoHookpoint { name, .. } if name == "layers.2.mpl"));
        assert_eq!(error.hint().unwrap(), "did you mean `layers.2.mlp`?");
    }

    #[test]
    fn a_pass_stops_with_the_last_wanted_output() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let taps = Taps::new(&facts, &["layers.0", "embed_tokens"]).unwrap();
        let [embedding, block] = [resolve(&facts, "embed_tokens"), resolve(&facts, "layers.0")];
        let (embedding, block) = (embedding.unwrap(), block.unwrap());
        let mut tape = Tape::new(&taps);
        let x = Tensor::from(1.0);
        assert!(tape.module(embedding, &x, |_, x| Ok(x + 1)).is_ok());
        assert!(tape.module(ModuleId(3), &x, |_, x| Ok(x + 5)).is_ok());
        let stopped = tape.module(block, &x, |_, x| Ok(x + 2));
        assert!(matches!(stopped, Err(Stop::Served)));
        let outputs = tape.finish().unwrap();
        let values: Vec<(&str, f64)> = outputs
            .iter()
            .map(|(name, x)| (name, x.double_value(&[])))
            .collect();
        assert_eq!(values, [("layers.0", 3.0), ("embed_tokens", 2.0)]);
    }
}
