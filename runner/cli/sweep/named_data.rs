//! A model and a data set that `sae-run eval` and `sae-run encode` use, if asked to, instead of those of the job whose
//! SAEs they are given.

use crate::commands::data::tokenise;
use crate::error::CliError;
use crate::sweep::inputs::Inputs;
use crate::sweep::models::{ModelDirs, ModelName};
use crate::sweep::paths::{Folders, Near};
use args::NamedDataArgs;
use plan::{CachedTokens, ModelUse, TrainConfig};
use serde_json::{Map, Value, json};
use std::path::Path;
use tokens::Tokens;

/// What was named, as it was typed.
pub(crate) struct Named<'a> {
    pub(crate) model: ModelName,
    /// The second model of crosscoders, if it is not the job's.
    pub(crate) second: Option<ModelName>,
    pub(crate) dtype: Option<&'a str>,
    pub(crate) load_in_8bit: bool,
    pub(crate) dataset: Option<&'a str>,
    pub(crate) data: &'a NamedDataArgs,
    pub(crate) tokenizer_class: Option<&'a str>,
    pub(crate) ctx_len: Option<usize>,
}

impl Named<'_> {
    /// The same under the names of settings, to override those of a job.
    pub(crate) fn settings(&self) -> Map<String, Value> {
        let ModelName { name, revision } = &self.model;
        // How a job's own data is read says nothing of data that is named.
        let split = self.data.split.as_deref().unwrap_or("train");
        let data_args = self.data.data_args.as_deref().unwrap_or_default();
        let options = json!({
            "model": name,
            "dtype": self.dtype,
            "load_in_8bit": self.load_in_8bit.then_some(true),
            "dataset": self.dataset,
            "split": self.dataset.map(|_| split),
            "data_args": self.dataset.map(|_| data_args),
            "text_column": self.data.text_column,
            "tokenizer_class": self.tokenizer_class,
            "ctx_len": self.ctx_len,
        });
        let mut settings = options.as_object().cloned().unwrap_or_default();
        settings.retain(|_, value| !value.is_null());
        settings.insert("revision".into(), json!(revision));
        if let Some(ModelName { name, revision }) = &self.second {
            settings.insert("crosscoder".into(), true.into());
            settings.insert("crosscoder_model".into(), json!(name));
            settings.insert("crosscoder_revision".into(), json!(revision));
        }
        // All that is named is used, nothing is held out, and nothing is trained.
        settings.insert("eval_fraction".into(), 0.0.into());
        for key in ["eval_dataset", "eval_split", "finetune", "max_examples"] {
            settings.insert(key.into(), Value::Null);
        }
        settings.insert("eval_data_args".into(), json!({}));
        settings
    }
}

/// A model and the tokens of a data set, on this machine.
pub(crate) struct NamedInputs {
    pub(crate) models: ModelDirs,
    pub(crate) vocab_size: usize,
    pub(crate) tokens: Tokens,
}

impl NamedInputs {
    /// Those of the settings `config`; what the Hub has is downloaded.
    ///
    /// # Errors
    /// Settings that contradict each other; a model or a data set that is not there or cannot be used.
    pub(crate) fn fetch(config: &TrainConfig, quiet: bool) -> Result<Self, CliError> {
        config.validate()?;
        let folders = Folders::of_this_machine()?;
        let mut inputs = Inputs::new(&Near::folder(Path::new(".")), &folders);
        inputs.of(config, 1)?;
        inputs.fetch_data(config, quiet)?;
        let models = inputs.fetch_models(config, quiet)?;
        let spec = inputs.tokens(config, &config.train_data());
        let tokens = tokenise(&spec, &folders.cache, quiet)?;
        Ok(Self {
            models,
            vocab_size: spec.vocab_size,
            tokens,
        })
    }
}

/// The models in `models` for a task, as the settings `config` want them.
pub(crate) fn model_use(models: ModelDirs, device: &str, config: &TrainConfig) -> ModelUse {
    ModelUse {
        dir: models.first,
        second: models.second,
        dtype: config.dtype,
        load_in_8bit: config.load_in_8bit,
        device: device.to_owned(),
    }
}

/// Where a worker finds token data that was made here.
///
/// # Errors
/// No cache folder can be found.
pub(crate) fn cached(tokens: &Tokens) -> Result<CachedTokens, CliError> {
    Ok(CachedTokens {
        cache_dir: Folders::of_this_machine()?.cache,
        digest: tokens.digest(),
    })
}
