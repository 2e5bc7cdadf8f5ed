//! A loaded language model of any built-in architecture, and its forward pass.

use crate::architecture;
use crate::body::Body;
use crate::device::check_device;
use crate::int8::OutlierCounts;
use crate::load::{Loader, first_not_finite};
use crate::precision::compute_kind;
use crate::replace::Replacements;
use crate::run::{Run, Stop};
use crate::tap::{Activations, Tape, Taps};
use crate::transfer::send;
use crate::{LmError, LoadOptions};
use facts::read_config;
use fault::Fault;
use plan::ModelFacts;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tch::{Device, Kind, TchError, Tensor};

/// The language model's head: hidden states to logits.
#[derive(Debug)]
struct Head {
    /// `[vocab_size, hidden_size]`
    weight: Tensor,
    softcap: Option<f64>,
}

impl Head {
    /// `hidden`: `[batch, ctx_len, hidden_size]`, the output of the final norm.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor, TchError> {
        let logits = hidden.f_linear(&self.weight, None::<&Tensor>)?;
        match self.softcap {
            Some(cap) => logits.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap),
            None => Ok(logits),
        }
    }
}

/// A language model that runs up to the last hookpoint asked for.
#[derive(Debug)]
pub struct LanguageModel {
    facts: ModelFacts,
    body: Box<dyn Body>,
    head: Option<Head>,
    /// Taps on what [`Self::hidden_states`] returns.
    hidden_states: Taps,
    device: Device,
    kind: Kind,
    linear_bytes: u64,
    n_layers: usize,
    model_dir: PathBuf,
    /// Whether 8-bit products do not wait for the number of columns with outliers.
    pub(crate) notes_outliers: bool,
    /// What [`Self::first_weight_not_finite`] found.
    bad_weight: OnceLock<Option<String>>,
}

impl LanguageModel {
    /// Loads the model of the Hugging Face folder `model_dir`: config.json and model.safetensors,
    /// or its shards.
    ///
    /// # Errors
    /// A folder, configuration or tensor that is missing or wrong, more layers than there are, or a
    /// device that is not there or out of memory.
    pub fn load(model_dir: &Path, options: &LoadOptions) -> Result<Self, LmError> {
        check_device(options.device)?;
        let config = read_config(model_dir)?;
        let layout = config.layout();
        let facts = layout.facts();
        let kind = compute_kind(model_dir, &config, options)?;
        let _no_grad = tch::no_grad_guard();
        let mut loader = Loader::open(model_dir, &layout, options, kind)?;
        let body = architecture::load(&config.architecture, &mut loader)?;
        let head = options.with_head.then(|| loader.head()).transpose()?;
        let blocks: Vec<String> = layout.block_names().collect();
        Ok(Self {
            body,
            head: head.map(|weight| Head {
                weight,
                softcap: layout.logit_softcap,
            }),
            hidden_states: Taps::none()
                .with_inputs(&facts, &blocks)?
                .with_outputs(&facts, &[layout.norm_name])?,
            facts,
            device: options.device,
            // On the CPU there is no wait.
            notes_outliers: options.device != Device::Cpu,
            kind,
            linear_bytes: loader.linear_bytes(),
            n_layers: loader.n_layers(),
            model_dir: model_dir.into(),
            bad_weight: OnceLock::new(),
        })
    }

    /// The name of the first tensor in the model's files, as far as it is loaded, that has NaN or infinity in
    /// what the model computes in; `None`: all numbers are finite. For when something that the model computes
    /// is not: the files are read again, the first time that it is asked.
    ///
    /// # Errors
    /// A file that is no longer there, or too little memory.
    pub fn first_weight_not_finite(&self) -> Result<Option<String>, LmError> {
        if let Some(known) = self.bad_weight.get() {
            return Ok(known.clone());
        }
        let config = read_config(&self.model_dir)?;
        let loaded = (self.n_layers, self.head.is_some());
        let found = first_not_finite(&self.model_dir, &config, loaded, self.kind)?;
        Ok(self.bad_weight.get_or_init(|| found).clone())
    }

    /// What planning knows of the model: the whole model, loaded or not.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What the forward pass computes in.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Memory of the weights of all linear modules but the head, in bytes: what 8-bit loading saves on.
    pub fn linear_bytes(&self) -> u64 {
        self.linear_bytes
    }

    /// How many blocks are loaded.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// The outputs and inputs of the tapped hookpoints for `input_ids`: `[batch, ctx_len]`, Int64,
    /// each sequence from position 0. Stops as soon as every tap was served; no gradient is recorded.
    ///
    /// Token ids are checked against the vocabulary and then sent to the model's device. Give them
    /// on the CPU: there neither waits for the device, and the check of those on a GPU does.
    ///
    /// # Errors
    /// Taps that this model or its loaded part cannot serve, input of the wrong shape or kind,
    /// longer than the model's positions or outside its vocabulary, or a device out of memory.
    pub fn forward(&self, input_ids: &Tensor, taps: &Taps) -> Result<Activations, LmError> {
        taps.check(&self.facts, self.n_layers)?;
        let input_ids = self.checked_input(input_ids)?;
        let _no_grad = tch::no_grad_guard();
        loop {
            let mut tape = Tape::until_served(taps);
            tape.outliers = self.outlier_counts();
            if !taps.is_empty() {
                match self.body.forward(&mut tape, &input_ids) {
                    Ok(_) | Err(Stop::Served) => {}
                    Err(stop) => return Err(failed(stop)),
                }
            }
            if tape.outliers.were_enough().map_err(in_forward)? {
                return Ok(tape
                    .finish()
                    .expect("every module of the loaded blocks runs"));
            }
        }
    }

    /// The hidden states for `input_ids`, `[batch, ctx_len]`, as `output_hidden_states=True` gives them
    /// in transformers: the input of every block, then the output of the final norm, each
    /// `[batch, ctx_len, hidden_size]`.
    ///
    /// # Errors
    /// A model of which not all blocks are loaded, and those of [`Self::forward`].
    pub fn hidden_states(&self, input_ids: &Tensor) -> Result<Vec<Tensor>, LmError> {
        let activations = self.forward(input_ids, &self.hidden_states)?;
        Ok(activations.into_tensors())
    }

    /// The logits `[batch, ctx_len, vocab_size]` for `input_ids`: `[batch, ctx_len]`, Int64.
    ///
    /// # Errors
    /// A model loaded without its head, and those of [`Self::forward`].
    pub fn logits(&self, input_ids: &Tensor) -> Result<Tensor, LmError> {
        let _no_grad = tch::no_grad_guard();
        self.logits_with(input_ids, &mut Replacements::default())
    }

    /// The logits with the outputs of some hookpoints replaced. Unlike the other passes this one
    /// records gradients if the caller has them on: of the logits with respect to whatever the
    /// replacements were made of, for losses on the model's output. The model's weights have no gradients.
    ///
    /// # Errors
    /// A replacement that fails or has the wrong shape, and those of [`Self::logits`].
    pub fn logits_with(
        &self,
        input_ids: &Tensor,
        replacements: &mut Replacements,
    ) -> Result<Tensor, LmError> {
        let input_ids = self.checked_input(input_ids)?;
        let hidden = |tape: &mut Tape| self.body.forward(tape, &input_ids);
        self.logits_of(hidden, replacements)
    }

    /// The logits for what block `first` gets, `[batch, ctx_len, hidden_size]`, as a tap on its input gives it, with the
    /// outputs of some hookpoints in that block or after it replaced. So passes that differ from there on share what is
    /// before it.
    ///
    /// # Errors
    /// A block that is not loaded, a replacement before it, and those of [`Self::logits_with`].
    pub fn logits_from(
        &self,
        first: usize,
        x: &Tensor,
        replacements: &mut Replacements,
    ) -> Result<Tensor, LmError> {
        if first >= self.n_layers {
            let n_layers = self.n_layers;
            let message = format!("there is no block {first}: {n_layers} are loaded");
            return Err(Fault::input(message).into());
        }
        replacements.check_from(&self.facts, first)?;
        let hidden = |tape: &mut Tape| self.body.blocks_from(tape, first, x.shallow_clone());
        self.logits_of(hidden, replacements)
    }

    /// The logits of what `hidden` gives, which is run again if 8-bit products ask for it.
    fn logits_of(
        &self,
        hidden: impl Fn(&mut Tape) -> Run<Tensor>,
        replacements: &mut Replacements,
    ) -> Result<Tensor, LmError> {
        let head = self.head.as_ref().ok_or_else(|| {
            Fault::input("the model was loaded without its head")
                .with_hint("load the model with `with_head`")
        })?;
        replacements.check(&self.facts, self.n_layers)?;
        replacements.begin();
        loop {
            let mut tape = Tape::to_the_end(replacements);
            tape.outliers = self.outlier_counts();
            match hidden(&mut tape) {
                Ok(hidden) => {
                    let logits = head.logits(&hidden).map_err(in_forward)?;
                    if tape.outliers.were_enough().map_err(in_forward)? {
                        return Ok(logits);
                    }
                }
                Err(Stop::TooFewCols) => {}
                Err(stop) => return Err(failed(stop)),
            }
            replacements.begin_again();
        }
    }

    fn outlier_counts(&self) -> OutlierCounts {
        if self.notes_outliers {
            OutlierCounts::noted()
        } else {
            OutlierCounts::default()
        }
    }

    /// `input_ids` on the model's device.
    fn checked_input(&self, input_ids: &Tensor) -> Result<Tensor, LmError> {
        let shape = input_ids.size();
        let &[_, ctx_len] = shape.as_slice() else {
            return Err(wrong_input(input_ids));
        };
        if input_ids.kind() != Kind::Int64 || input_ids.numel() == 0 {
            return Err(wrong_input(input_ids));
        }
        let max_ctx_len = self.facts.max_ctx_len;
        if ctx_len as usize > max_ctx_len {
            return Err(Fault::input(format!(
                "ctx_len = {ctx_len} is longer than the model's {max_ctx_len} positions"
            ))
            .with_hint(format!("set `ctx_len` to at most {max_ctx_len}"))
            .into());
        }
        self.check_token_ids(input_ids)?;
        send(input_ids, self.device).map_err(in_forward)
    }

    fn check_token_ids(&self, input_ids: &Tensor) -> Result<(), LmError> {
        let vocab_size = self.facts.vocab_size;
        let extremes = extremes(input_ids).map_err(in_forward)?;
        match extremes
            .into_iter()
            .find(|id| !(0..vocab_size as i64).contains(id))
        {
            Some(token_id) => Err(Fault::input(format!(
                "token id {token_id} is outside the vocabulary of {vocab_size}"
            ))
            .with_hint("was the text tokenized with this model's tokenizer?")
            .into()),
            None => Ok(()),
        }
    }
}

/// The least and the greatest of `ids`.
fn extremes(ids: &Tensor) -> Result<[i64; 2], TchError> {
    let (least, greatest) = ids.f_aminmax(None, false)?;
    // Sync: if the ids are on a GPU. Without it, an id outside the vocabulary would fail an
    // assertion of a kernel, and with that every later use of the GPU by this process.
    let both = Tensor::f_stack(&[least, greatest], 0)?.f_to_device(Device::Cpu)?;
    Ok([both.f_int64_value(&[0])?, both.f_int64_value(&[1])?])
}

fn wrong_input(input_ids: &Tensor) -> LmError {
    let (got, kind) = (input_ids.size(), input_ids.kind());
    Fault::input(format!(
        "token ids have shape {got:?} and kind {kind:?}, expected [batch, ctx_len] and Int64"
    ))
    .into()
}

pub(crate) fn in_forward(source: TchError) -> LmError {
    LmError::torch("in the forward pass of the language model", source)
}

fn failed(stop: Stop) -> LmError {
    match stop {
        Stop::Torch(source) => in_forward(source),
        Stop::Replacement(error) => *error,
        Stop::Served | Stop::TooFewCols => unreachable!("such a pass has not failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, assert_close, fixtures, tiny_llama};
    use fault::Remedy;
    use plan::Dtype;
    use std::collections::HashMap;

    /// Outputs of transformers for `input_ids`, see `tests/fixtures/README.md`.
    fn golden() -> HashMap<String, Tensor> {
        let path = fixtures().join("golden/modules.safetensors");
        Tensor::read_safetensors(path)
            .unwrap()
            .into_iter()
            .collect()
    }

    fn load(options: LoadOptions) -> LanguageModel {
        LanguageModel::load(&tiny_llama(), &options).unwrap()
    }

    fn first_layers(n_layers: usize) -> LanguageModel {
        load(LoadOptions {
            n_layers: Some(n_layers),
            ..LoadOptions::default()
        })
    }

    fn names(model: &LanguageModel) -> Vec<String> {
        let hookpoints = model.facts().hookpoints.iter();
        hookpoints.map(|hookpoint| hookpoint.name.clone()).collect()
    }

    fn ids(token_ids: &[i64]) -> Tensor {
        Tensor::from_slice(token_ids).view([1, -1])
    }

    #[test]
    fn every_module_agrees_with_transformers() {
        let (golden, model) = (golden(), load(LoadOptions::default()));
        let taps = Taps::new(model.facts(), &names(&model)).unwrap();
        let outputs = model.forward(&golden["input_ids"], &taps).unwrap();
        for (name, output) in outputs.iter() {
            assert_close(name, output, &golden[name]);
        }
        // Besides the modules there are the input and the logits.
        assert_eq!(outputs.iter().count(), golden.len() - 2);
    }

    #[test]
    fn logits_from_a_block_on_are_those_of_the_whole_pass() {
        let model = load(LoadOptions {
            with_head: true,
            ..LoadOptions::default()
        });
        let input_ids = ids(&[5, 9, 250, 3]);
        let double = |replacements: &mut Replacements| {
            let put = |pass: crate::ModulePass| Ok(pass.output * 2);
            replacements
                .add(model.facts(), "layers.2.mlp", put)
                .unwrap();
        };
        let mut whole = Replacements::default();
        double(&mut whole);
        let expected = model.logits_with(&input_ids, &mut whole).unwrap();
        for first in [0, 1, 2] {
            let block = format!("layers.{first}");
            let taps = Taps::none().with_inputs(model.facts(), &[&block]).unwrap();
            let activations = model.forward(&input_ids, &taps).unwrap();
            let x = activations.input(&block).unwrap();
            let mut rest = Replacements::default();
            double(&mut rest);
            let logits = model.logits_from(first, x, &mut rest).unwrap();
            assert_eq!(logits, expected, "{block}");
            let clean = model.logits_from(first, x, &mut Replacements::default());
            assert_eq!(clean.unwrap(), model.logits(&input_ids).unwrap(), "{block}");
        }
        let x = Tensor::zeros([1, 4, 32], (Kind::Float, Device::Cpu));
        let mut late = Replacements::default();
        double(&mut late);
        let error = model.logits_from(3, &x, &mut late).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("`layers.2.mlp` is before block 3"),
            "{message}"
        );
        let none = model.logits_from(4, &x, &mut Replacements::default());
        assert!(none.unwrap_err().to_string().contains("no block 4"));
    }

    #[test]
    fn logits_agree_with_transformers() {
        let golden = golden();
        let model = load(LoadOptions {
            with_head: true,
            n_layers: Some(1),
            ..LoadOptions::default()
        });
        assert_eq!(model.n_layers(), 4, "the head needs all blocks");
        let logits = model.logits(&golden["input_ids"]).unwrap();
        assert_close("logits", &logits, &golden["logits"]);
    }

    #[test]
    fn facts_list_the_modules_of_transformers_in_order() {
        let path = fixtures().join("golden/modules.json");
        let text = std::fs::read_to_string(path).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let width = |value: &serde_json::Value| value.as_u64().map(|width| width as usize);
        let expected = golden["hookpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hookpoint| {
                let name = hookpoint["name"].as_str().unwrap();
                (
                    name,
                    width(&hookpoint["d_in"]),
                    width(&hookpoint["d_out"]).unwrap(),
                )
            });
        let facts = facts::read_facts(&tiny_llama()).unwrap();
        let got = facts
            .hookpoints
            .iter()
            .map(|h| (h.name.as_str(), h.d_in, h.d_out));
        assert_eq!(got.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    /// Each hookpoint alone, on a model that holds no more blocks than the facts say it needs.
    #[test]
    fn the_layers_needed_suffice() {
        let golden = golden();
        for n_layers in 0..=4 {
            let model = first_layers(n_layers);
            let hookpoints = model.facts().hookpoints.iter();
            for hookpoint in hookpoints.filter(|h| h.n_layers_needed == n_layers) {
                let name = hookpoint.name.as_str();
                let taps = Taps::new(model.facts(), &[name]).unwrap();
                assert_eq!(taps.n_layers_needed(), n_layers);
                let outputs = model.forward(&golden["input_ids"], &taps).unwrap();
                assert_close(name, outputs.get(name).unwrap(), &golden[name]);
            }
        }
    }

    #[test]
    fn a_tap_after_the_loaded_blocks() {
        let model = first_layers(2);
        for (name, layers_needed) in [
            ("layers.2", 3),
            ("layers.2.input_layernorm", 3),
            ("norm", 4),
        ] {
            let taps = Taps::new(model.facts(), &["layers.1", name]).unwrap();
            let error = model.forward(&ids(&[1, 2]), &taps).unwrap_err();
            let message = format!("hookpoint `{name}` needs {layers_needed} layers, 2 are loaded");
            assert_eq!(error.to_string(), message);
            assert!(error.hint().unwrap().contains(&layers_needed.to_string()));
        }
    }

    #[test]
    fn taps_of_another_model() {
        let other = TinyModel::with_config(serde_json::json!({"num_hidden_layers": 2}));
        let facts = facts::read_facts(other.dir()).unwrap();
        let taps = Taps::new(&facts, &["layers.0", "norm"]).unwrap();
        let error = load(LoadOptions::default())
            .forward(&ids(&[1]), &taps)
            .unwrap_err();
        let message = error.to_string();
        let expected = "made for another model: hookpoint `norm`";
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn options_that_cannot_be_met() {
        let load = |options| LanguageModel::load(&tiny_llama(), &options).unwrap_err();
        let too_many = load(LoadOptions {
            n_layers: Some(5),
            ..LoadOptions::default()
        });
        let message = "cannot load 5 layers of a model that has 4";
        assert_eq!(too_many.to_string(), message);
        let far_gpu = load(LoadOptions {
            device: Device::Cuda(99),
            ..LoadOptions::default()
        });
        let message = far_gpu.to_string();
        let expected = "cannot use device `cuda:99`";
        assert!(message.starts_with(expected), "{message}");
        let headless = first_layers(4).logits(&ids(&[1])).unwrap_err();
        let message = "the model was loaded without its head";
        assert_eq!(headless.to_string(), message);
    }

    #[test]
    fn input_that_is_no_batch_of_tokens() {
        let model = first_layers(1);
        let taps = Taps::new(model.facts(), &["layers.0"]).unwrap();
        let fail = |input: &Tensor| model.forward(input, &taps).unwrap_err();
        let batch = ids(&[1, 2, 3, 4]);
        for wrong in [
            batch.view([4]),
            batch.view([1, 2, 2]),
            batch.to_kind(Kind::Int),
            ids(&[]),
        ] {
            let message = fail(&wrong).to_string();
            assert!(message.starts_with("token ids have shape"), "{message}");
        }
        for token_id in [-1, 300] {
            let error = fail(&ids(&[0, 299, token_id]));
            let message = format!("token id {token_id} is outside the vocabulary of 300");
            assert_eq!(error.to_string(), message);
        }
        assert!(model.forward(&ids(&[5; 128]), &taps).is_ok());
        let too_long = fail(&ids(&[5; 129]));
        let expected = "ctx_len = 129 is longer than the model's 128 positions";
        assert_eq!(too_long.to_string(), expected);
    }

    #[test]
    fn no_taps_no_work() {
        let model = first_layers(0);
        let taps = Taps::new::<&str>(model.facts(), &[]).unwrap();
        assert!(
            model
                .forward(&ids(&[1]), &taps)
                .unwrap()
                .into_tensors()
                .is_empty()
        );
    }

    /// transformers in bfloat16 is 1.2 % off its own float32 here.
    #[test]
    fn half_precision_stays_near() {
        let golden = golden();
        let model = load(LoadOptions {
            dtype: Dtype::BFloat16,
            n_layers: Some(1),
            ..LoadOptions::default()
        });
        let taps = Taps::new(model.facts(), &["layers.0"]).unwrap();
        let outputs = model.forward(&golden["input_ids"], &taps).unwrap();
        let (output, expected) = (&outputs.into_tensors()[0], &golden["layers.0"]);
        assert_eq!(output.kind(), Kind::BFloat16);
        let error = (output.to_kind(Kind::Float) - expected).norm() / expected.norm();
        assert!(error.double_value(&[]) < 0.015, "{error:?}");
    }

    #[test]
    fn outputs_carry_no_gradient() {
        let model = first_layers(1);
        let taps = Taps::new(model.facts(), &["layers.0"]).unwrap();
        let outputs = model.forward(&ids(&[1, 2]), &taps).unwrap();
        assert!(!outputs.get("layers.0").unwrap().requires_grad());
    }
}
