//! Which submodules' inputs and outputs to keep, and the forward pass as seen from a submodule.

use crate::LmError;
use crate::int8::OutlierCounts;
use crate::modules::{ModuleId, check_loaded, resolve};
use crate::replace::{ModulePass, Replacements};
use crate::run::{Run, Stop};
use fault::Fault;
use plan::ModelFacts;
use std::sync::Arc;
use tch::Tensor;

/// The side of a submodule on which its hidden states are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Input,
    Output,
}

/// One thing that a forward pass must return.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TapPoint {
    name: String,
    module: ModuleId,
    side: Side,
}

/// Which taps a submodule serves, by their index in the list.
#[derive(Clone, Copy, Debug, Default)]
struct ServedTaps {
    input: Option<usize>,
    output: Option<usize>,
}

/// The hookpoints whose outputs or inputs a forward pass must return.
///
/// Names are resolved once, here: in the forward pass a submodule finds its taps by an index.
#[derive(Clone, Debug)]
pub struct Taps {
    points: Arc<[TapPoint]>,
    /// For each submodule of the model.
    of_module: Vec<ServedTaps>,
    n_layers_needed: usize,
}

impl Taps {
    /// Taps on the outputs of the hookpoints called `names`; a name that comes twice counts once.
    ///
    /// # Errors
    /// The first name that the model of `facts` does not have.
    pub fn new<S: AsRef<str>>(facts: &ModelFacts, names: &[S]) -> Result<Self, LmError> {
        Self::none().with_outputs(facts, names)
    }

    /// The same, and taps on the outputs of the hookpoints called `names`.
    ///
    /// # Errors
    /// The first name that the model of `facts` does not have.
    pub fn with_outputs<S: AsRef<str>>(
        self,
        facts: &ModelFacts,
        names: &[S],
    ) -> Result<Self, LmError> {
        self.with(facts, names, Side::Output)
    }

    /// The same, and taps on the inputs of the hookpoints called `names`.
    ///
    /// # Errors
    /// The first name that the model of `facts` does not have, or whose input is token ids or
    /// positions.
    pub fn with_inputs<S: AsRef<str>>(
        self,
        facts: &ModelFacts,
        names: &[S],
    ) -> Result<Self, LmError> {
        self.with(facts, names, Side::Input)
    }

    /// Taps on nothing, to begin with.
    pub fn none() -> Self {
        Self {
            points: Arc::new([]),
            of_module: Vec::new(),
            n_layers_needed: 0,
        }
    }

    fn with<S: AsRef<str>>(
        self,
        facts: &ModelFacts,
        names: &[S],
        side: Side,
    ) -> Result<Self, LmError> {
        self.check(facts, facts.n_layers)?;
        let mut points = self.points.to_vec();
        for name in names {
            let point = TapPoint {
                name: name.as_ref().to_owned(),
                module: resolve(facts, name.as_ref())?,
                side,
            };
            if side == Side::Input && facts.hookpoints[point.module.0].d_in.is_none() {
                let name = point.name;
                return Err(Fault::input(format!(
                    "the input of hookpoint `{name}` is not a hidden state"
                ))
                .into());
            }
            if !points.contains(&point) {
                points.push(point);
            }
        }
        Ok(Self::of_points(facts, points))
    }

    fn of_points(facts: &ModelFacts, points: Vec<TapPoint>) -> Self {
        let mut of_module = vec![ServedTaps::default(); facts.hookpoints.len()];
        for (tap_idx, point) in points.iter().enumerate() {
            let served = &mut of_module[point.module.0];
            match point.side {
                Side::Input => served.input = Some(tap_idx),
                Side::Output => served.output = Some(tap_idx),
            }
        }
        let needed = points
            .iter()
            .map(|point| facts.hookpoints[point.module.0].n_layers_needed);
        Self {
            n_layers_needed: needed.max().unwrap_or(0),
            of_module,
            points: points.into(),
        }
    }

    /// How many blocks must be loaded to serve all taps: for [`crate::LoadOptions::n_layers`].
    pub fn n_layers_needed(&self) -> usize {
        self.n_layers_needed
    }

    /// Whether nothing is tapped.
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Checks that a model of `facts`, loaded up to `n_layers` blocks, serves every tap.
    pub(crate) fn check(&self, facts: &ModelFacts, n_layers: usize) -> Result<(), LmError> {
        self.points
            .iter()
            .try_for_each(|point| check_loaded(facts, n_layers, &point.name, point.module))
    }

    fn served_by(&self, id: ModuleId) -> ServedTaps {
        self.of_module.get(id.0).copied().unwrap_or_default()
    }
}

/// The outputs and inputs of the tapped hookpoints in one forward pass.
#[derive(Debug)]
pub struct Activations {
    points: Arc<[TapPoint]>,
    tensors: Vec<Tensor>,
}

impl Activations {
    /// The output of a tapped hookpoint: as a rule `[batch, ctx_len, d_out]`, in the model's compute
    /// kind. As in transformers, the output of a position embedding is `[1, ctx_len, d_out]` and that
    /// of a norm of heads has a dimension of heads too.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.find(name, Side::Output)
    }

    /// The input of a hookpoint tapped by [`Taps::with_inputs`]: as a rule `[batch, ctx_len, d_in]`.
    pub fn input(&self, name: &str) -> Option<&Tensor> {
        self.find(name, Side::Input)
    }

    /// These, and those of another pass with `prefix` before the names of its hookpoints.
    #[must_use]
    pub fn joined(self, other: Self, prefix: &str) -> Self {
        let renamed = other.points.iter().map(|point| TapPoint {
            name: format!("{prefix}{}", point.name),
            ..point.clone()
        });
        Self {
            points: self.points.iter().cloned().chain(renamed).collect(),
            tensors: self.tensors.into_iter().chain(other.tensors).collect(),
        }
    }

    /// Hookpoints whose outputs were tapped, and these, in the order of the taps.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.of_side(Side::Output)
    }

    /// Hookpoints whose inputs were tapped, and these, in the order of the taps.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.of_side(Side::Input)
    }

    /// Everything tapped, in the order of the taps.
    pub(crate) fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    fn of_side(&self, side: Side) -> impl Iterator<Item = (&str, &Tensor)> {
        let both = self.points.iter().zip(&self.tensors);
        both.filter(move |(point, _)| point.side == side)
            .map(|(point, tensor)| (point.name.as_str(), tensor))
    }

    fn find(&self, name: &str, side: Side) -> Option<&Tensor> {
        let is_it = |point: &TapPoint| point.side == side && point.name == name;
        Some(&self.tensors[self.points.iter().position(is_it)?])
    }
}

/// One forward pass: every submodule runs through [`Tape::module`], the one place that sees its
/// input and its output.
pub(crate) struct Tape<'a, 'r> {
    /// Without taps the pass goes through to the end.
    taps: Option<&'a Taps>,
    replacements: Option<&'a mut Replacements<'r>>,
    tensors: Vec<Option<Tensor>>,
    n_waiting: usize,
    /// Of the 8-bit products so far.
    pub(crate) outliers: OutlierCounts,
}

impl<'a, 'r> Tape<'a, 'r> {
    /// A pass that stops as soon as every tap was served.
    pub(crate) fn until_served(taps: &'a Taps) -> Self {
        Self {
            taps: Some(taps),
            replacements: None,
            tensors: taps.points.iter().map(|_| None).collect(),
            n_waiting: taps.points.len(),
            outliers: OutlierCounts::default(),
        }
    }

    /// A pass to the end of the model, with some outputs replaced.
    pub(crate) fn to_the_end(replacements: &'a mut Replacements<'r>) -> Self {
        Self {
            taps: None,
            replacements: Some(replacements),
            tensors: Vec::new(),
            n_waiting: 0,
            outliers: OutlierCounts::default(),
        }
    }

    /// Runs submodule `id` on its input `x`; the forward pass stops here when its input or output
    /// was the last thing wanted.
    ///
    /// Both are kept without a copy, so what follows must not change them in place.
    pub(crate) fn module(
        &mut self,
        id: ModuleId,
        x: &Tensor,
        run: impl FnOnce(&mut Self, &Tensor) -> Run<Tensor>,
    ) -> Run<Tensor> {
        let served = self
            .taps
            .map_or_else(ServedTaps::default, |taps| taps.served_by(id));
        self.serve(served.input, x)?;
        let output = run(self, x)?;
        self.serve(served.output, &output)?;
        match &mut self.replacements {
            Some(replacements) => {
                let pass = ModulePass {
                    input: x,
                    output: &output,
                };
                let replaced = replacements.apply(id, pass, &mut self.outliers)?;
                Ok(replaced.unwrap_or(output))
            }
            None => Ok(output),
        }
    }

    fn serve(&mut self, tap_idx: Option<usize>, tensor: &Tensor) -> Run<()> {
        let Some(tap_idx) = tap_idx else {
            return Ok(());
        };
        let earlier = self.tensors[tap_idx].replace(tensor.shallow_clone());
        self.n_waiting -= usize::from(earlier.is_none());
        if self.n_waiting == 0 {
            Err(Stop::Served)
        } else {
            Ok(())
        }
    }

    /// What was tapped; `None` when nothing was, or a tap was not served.
    pub(crate) fn finish(self) -> Option<Activations> {
        Some(Activations {
            points: self.taps?.points.clone(),
            tensors: self.tensors.into_iter().collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_llama;
    use facts::read_facts;
    use fault::Remedy;

    #[test]
    fn names_keep_their_order_and_count_once() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let taps = Taps::new(&facts, &["layers.2.mlp", "embed_tokens", "layers.2.mlp"]).unwrap();
        let names: Vec<&str> = taps
            .points
            .iter()
            .map(|point| point.name.as_str())
            .collect();
        assert_eq!(names, ["layers.2.mlp", "embed_tokens"]);
        assert_eq!(taps.n_layers_needed(), 3);
    }

    #[test]
    fn unknown_name_gets_the_nearest() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let error = Taps::new(&facts, &["layers.2.mpl"]).unwrap_err();
        let message = "`layers.2.mpl` is not a hookpoint of this llama model";
        assert_eq!(error.to_string(), message);
        assert_eq!(error.hint().unwrap(), "did you mean `layers.2.mlp`?");
    }

    #[test]
    fn a_pass_stops_with_the_last_wanted_output() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let taps = Taps::new(&facts, &["layers.0", "embed_tokens"]).unwrap();
        let [embedding, block] = [resolve(&facts, "embed_tokens"), resolve(&facts, "layers.0")];
        let (embedding, block) = (embedding.unwrap(), block.unwrap());
        let mut tape = Tape::until_served(&taps);
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

    #[test]
    fn inputs_are_served_before_the_module_runs() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let taps = Taps::new(&facts, &["layers.1"]).unwrap();
        let taps = taps.with_inputs(&facts, &["layers.1", "layers.2"]).unwrap();
        let [first, second] = ["layers.1", "layers.2"].map(|name| resolve(&facts, name).unwrap());
        let mut tape = Tape::until_served(&taps);
        let x = Tensor::from(1.0);
        let x = tape.module(first, &x, |_, x| Ok(x + 1)).unwrap();
        let stopped = tape.module(second, &x, |_, _| panic!("nobody wants its output"));
        assert!(matches!(stopped, Err(Stop::Served)));
        let activations = tape.finish().unwrap();
        let value = |x: Option<&Tensor>| x.map(|x| x.double_value(&[]));
        assert_eq!(value(activations.input("layers.1")), Some(1.0));
        assert_eq!(value(activations.get("layers.1")), Some(2.0));
        assert_eq!(value(activations.input("layers.2")), Some(2.0));
        assert_eq!(value(activations.get("layers.2")), None);
        assert_eq!(activations.iter().count(), 1);
        let inputs: Vec<&str> = activations.inputs().map(|(name, _)| name).collect();
        assert_eq!(inputs, ["layers.1", "layers.2"]);
    }

    #[test]
    fn passes_of_two_models_are_joined() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let pass = |value: f64| {
            let taps = Taps::new(&facts, &["layers.1"]).unwrap();
            let taps = taps.with_inputs(&facts, &["layers.1"]).unwrap();
            let mut tape = Tape::until_served(&taps);
            let block = resolve(&facts, "layers.1").unwrap();
            let stopped = tape.module(block, &Tensor::from(value), |_, x| Ok(x + 1));
            assert!(matches!(stopped, Err(Stop::Served)));
            tape.finish().unwrap()
        };
        let both = pass(1.0).joined(pass(5.0), "2:");
        let value = |x: Option<&Tensor>| x.map(|x| x.double_value(&[]));
        assert_eq!(value(both.get("layers.1")), Some(2.0));
        assert_eq!(value(both.get("2:layers.1")), Some(6.0));
        assert_eq!(value(both.input("2:layers.1")), Some(5.0));
        assert_eq!(value(both.get("2:layers.2")), None);
        assert_eq!(both.iter().count(), 2);
    }

    #[test]
    fn taps_grow_on_one_model_only() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let other = read_facts(&crate::testing::fixtures().join("families/gpt2")).unwrap();
        let taps = Taps::new(&facts, &["norm"]).unwrap();
        let error = taps.with_inputs(&other, &["h.0"]).unwrap_err();
        let message = error.to_string();
        let expected = "made for another model: hookpoint `norm`";
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn token_ids_are_no_input() {
        let facts = read_facts(&tiny_llama()).unwrap();
        let error = Taps::none()
            .with_inputs(&facts, &["embed_tokens"])
            .unwrap_err();
        let message = "the input of hookpoint `embed_tokens` is not a hidden state";
        assert_eq!(error.to_string(), message);
    }
}
