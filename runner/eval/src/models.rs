//! The language model that SAEs are in, and the second one of crosscoders on two. The hookpoints of the second have
//! [`SECOND`] before their names.

use crate::EvalError;
use fault::Fault;
use lm::{Activations, LanguageModel, LmError, LoadOptions, Taps};
use plan::{HookpointFacts, ModelFacts, ModelUse, SECOND, name_in_model};
use sae::resolve_hookpoint;
use tch::{Device, Tensor};

/// What is known of the models before they are loaded.
#[derive(Debug)]
pub(crate) struct Facts {
    first: ModelFacts,
    second: Option<ModelFacts>,
}

/// Taps on the models.
#[derive(Debug)]
pub(crate) struct AllTaps {
    first: Taps,
    second: Option<Taps>,
}

/// A block of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) name: String,
    pub(crate) index: usize,
    pub(crate) is_in_second: bool,
}

/// The models.
#[derive(Debug)]
pub(crate) struct Models(Vec<LanguageModel>);

impl Facts {
    /// Reads the configurations of the models in `model`.
    pub(crate) fn read(model: &ModelUse) -> Result<Self, EvalError> {
        Ok(Self {
            first: facts::read_facts(&model.dir)?,
            second: model.second.as_deref().map(facts::read_facts).transpose()?,
        })
    }

    /// Tokens that the positions of all models were made for.
    pub(crate) fn max_ctx_len(&self) -> usize {
        let second = self.second.as_ref().map(|second| second.max_ctx_len);
        second.map_or(self.first.max_ctx_len, |most| {
            most.min(self.first.max_ctx_len)
        })
    }

    /// The hookpoint that `name` means, Hugging Face's or TransformerLens's, by its name here.
    ///
    /// # Errors
    /// A model has no such hookpoint; the error names the nearest.
    pub(crate) fn find(&self, name: &str) -> Result<HookpointFacts, EvalError> {
        let own = |facts, name| {
            resolve_hookpoint(facts, name).ok_or_else(|| LmError::no_hookpoint(facts, name))
        };
        let Some(of_second) = name.strip_prefix(SECOND) else {
            return Ok(own(&self.first, name)?.clone());
        };
        let second = self.second.as_ref().ok_or_else(|| {
            Fault::input(format!(
                "the SAE is also on `{of_second}` of a second model"
            ))
            .with_hint("name that model with `--crosscoder-model`")
        })?;
        Ok(plan::of_second(own(second, of_second)?))
    }

    /// Taps on these outputs and inputs.
    pub(crate) fn taps(&self, outputs: &[&str], inputs: &[&str]) -> Result<AllTaps, EvalError> {
        let taps = |facts, is_second| {
            let [outputs, inputs] = [outputs, inputs].map(|names| {
                let own = names.iter();
                let own = own.filter_map(|name| name_in_model(name, is_second));
                own.collect::<Vec<&str>>()
            });
            Ok::<_, EvalError>(Taps::new(facts, &outputs)?.with_inputs(facts, &inputs)?)
        };
        let second = self.second.as_ref();
        Ok(AllTaps {
            first: taps(&self.first, false)?,
            second: second.map(|facts| taps(facts, true)).transpose()?,
        })
    }
}

impl AllTaps {
    /// The same, and taps on the inputs of these blocks, which the hookpoints of both models name.
    pub(crate) fn with_blocks(self, facts: &Facts, blocks: &[Block]) -> Result<Self, EvalError> {
        let of_model = |is_second: bool| {
            let own = blocks
                .iter()
                .filter(|block| block.is_in_second == is_second);
            own.map(|block| block.name.clone()).collect::<Vec<_>>()
        };
        let second = self.second.zip(facts.second.as_ref());
        let second = second.map(|(taps, facts)| taps.with_inputs(facts, &of_model(true)));
        Ok(Self {
            first: self.first.with_inputs(&facts.first, &of_model(false))?,
            second: second.transpose()?,
        })
    }
}

impl Block {
    /// The block that is run first where the outputs of `hookpoints` are replaced, each of which the model of `facts`
    /// has; `None`: something before the blocks is.
    pub(crate) fn of_first<'a>(
        facts: &ModelFacts,
        is_in_second: bool,
        hookpoints: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let needed = |name: &str| facts.hookpoint(name).map_or(0, |own| own.n_layers_needed);
        let index = hookpoints.map(needed).min()?.checked_sub(1)?;
        Some(Self {
            name: format!("{}.{index}", facts.layers_name),
            index,
            is_in_second,
        })
    }

    /// What it gets.
    pub(crate) fn input<'a>(&self, activations: &'a Activations) -> Option<&'a Tensor> {
        if self.is_in_second {
            activations.input(&format!("{SECOND}{}", self.name))
        } else {
            activations.input(&self.name)
        }
    }
}

impl Models {
    /// Loads the models up to what `taps` need; without taps all, with their heads.
    pub(crate) fn load(
        model: &ModelUse,
        taps: Option<&AllTaps>,
        device: Device,
    ) -> Result<Self, EvalError> {
        let load = |dir, taps: Option<&Taps>| {
            let options = LoadOptions {
                device,
                dtype: model.dtype,
                load_in_8bit: model.load_in_8bit,
                n_layers: taps.map(Taps::n_layers_needed),
                with_head: taps.is_none(),
            };
            LanguageModel::load(dir, &options)
        };
        let mut models = vec![load(&model.dir, taps.map(|taps| &taps.first))?];
        if let Some(dir) = &model.second {
            models.push(load(dir, taps.and_then(|taps| taps.second.as_ref()))?);
        }
        Ok(Self(models))
    }

    /// The activations of both on the same tokens.
    pub(crate) fn forward(
        &self,
        input_ids: &Tensor,
        taps: &AllTaps,
    ) -> Result<Activations, EvalError> {
        let first = self.0[0].forward(input_ids, &taps.first)?;
        let both = self.0.get(1).zip(taps.second.as_ref());
        Ok(match both {
            Some((second, taps)) => first.joined(second.forward(input_ids, taps)?, SECOND),
            None => first,
        })
    }

    /// The first, then the second.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LanguageModel> {
        self.0.iter()
    }

    pub(crate) fn device(&self) -> Device {
        self.0[0].device()
    }

    /// The model whose weights are not all finite, if it is the second, or else the first.
    pub(crate) fn at_fault(&self) -> Result<&LanguageModel, EvalError> {
        Ok(lm::at_fault(&self.0[0], self.0.get(1))?)
    }
}

/// Those of `hookpoints` that are in each model, by their index and their name in it.
pub(crate) fn by_model<'a>(hookpoints: &[&'a str]) -> [Vec<(usize, &'a str)>; 2] {
    [false, true].map(|is_second| {
        let all = hookpoints.iter().enumerate();
        all.filter_map(|(index, name)| Some((index, name_in_model(name, is_second)?)))
            .collect()
    })
}
