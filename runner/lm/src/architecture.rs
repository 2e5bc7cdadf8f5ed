//! The architectures that are built in: which file reads, describes, loads and runs which
//! `model_type`. The only place that lists them.

use crate::LmError;
use crate::config::ConfigFile;
use crate::layout::Layout;
use crate::llama::{Llama, LlamaConfig};
use crate::load::Loader;
use crate::tap::{Run, Tape};
use plan::ModelFacts;
use std::path::Path;
use tch::Tensor;

/// The `model_type`s of Hugging Face that are built in.
pub const ARCHITECTURES: &[&str] = &["llama"];

/// The configuration of a model of any built-in architecture.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// `model_type` = `llama`.
    Llama(LlamaConfig),
}

/// Reads config.json of the model in `model_dir`.
///
/// # Errors
/// A missing folder or file, an unknown architecture, or the first key that is missing, of the
/// wrong type, not supported or in contradiction to another.
pub fn read_config(model_dir: &Path) -> Result<ModelConfig, LmError> {
    let file = ConfigFile::read(model_dir)?;
    match file.string("model_type")? {
        Some("llama") => LlamaConfig::read(&file).map(ModelConfig::Llama),
        Some(other) => Err(file.unknown_architecture(other, ARCHITECTURES)),
        None => Err(file.missing("model_type")),
    }
}

/// Reads what planning needs to know of the model in `model_dir` from its config.json alone.
///
/// The hookpoints are those of transformers' `base_model.named_modules()`, in that order, less the
/// ones that do not run once per forward pass or do not return hidden states: `""`, the list of
/// blocks, the rotary embedding.
///
/// # Errors
/// As [`read_config`].
pub fn read_facts(model_dir: &Path) -> Result<ModelFacts, LmError> {
    Ok(read_config(model_dir)?.facts())
}

impl ModelConfig {
    /// What planning needs to know of the model.
    pub fn facts(&self) -> ModelFacts {
        self.layout().facts()
    }

    pub(crate) fn layout(&self) -> Layout {
        match self {
            Self::Llama(config) => config.layout(),
        }
    }
}

/// The loaded model of any built-in architecture.
#[derive(Debug)]
pub(crate) enum Body {
    Llama(Llama),
}

impl Body {
    pub(crate) fn load(config: &ModelConfig, loader: &mut Loader) -> Result<Self, LmError> {
        match config {
            ModelConfig::Llama(config) => Llama::load(config, loader).map(Self::Llama),
        }
    }

    /// The final hidden states `[batch, ctx_len, hidden_size]` of token ids `[batch, ctx_len]`.
    pub(crate) fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        match self {
            Self::Llama(model) => model.forward(tape, input_ids),
        }
    }

    /// The logits `[batch, ctx_len, vocab_size]` of final hidden states; `None` without head.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Option<Run<Tensor>> {
        match self {
            Self::Llama(model) => model.logits(hidden),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, tiny_llama};
    use serde_json::json;

    #[test]
    fn missing_folder_comes_with_a_hint() {
        let error = read_facts(Path::new("no/such/folder")).unwrap_err();
        assert!(matches!(&error, LmError::NoModelFolder { path } if path.ends_with("folder")));
        assert!(error.hint().unwrap().contains("config.json"));
    }

    #[test]
    fn folder_without_config() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_facts(folder.path()).unwrap_err();
        assert!(matches!(error, LmError::ReadFile { path, .. } if path.ends_with("config.json")));
    }

    #[test]
    fn config_that_is_no_json_object() {
        for text in ["{\"model_type\": ", "[]", ""] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            let error = read_facts(folder.path()).unwrap_err();
            assert!(matches!(error, LmError::Json { .. }), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn unknown_architecture_lists_those_that_are_there() {
        let model = TinyModel::with_config(json!({"model_type": "mamba"}));
        let error = read_facts(model.dir()).unwrap_err();
        assert!(matches!(&error, LmError::UnknownArchitecture { got, .. } if got == "mamba"));
        assert_eq!(error.hint().unwrap(), "supported are: llama");
    }

    #[test]
    fn missing_model_type() {
        let model = TinyModel::with_config(json!({"model_type": null}));
        let error = read_facts(model.dir()).unwrap_err();
        assert!(matches!(error, LmError::MissingKey { key, .. } if key == "model_type"));
    }

    #[test]
    fn facts_of_the_tiny_llama() {
        let facts = read_facts(&tiny_llama()).unwrap();
        assert_eq!(
            (facts.n_layers, facts.hidden_size, facts.vocab_size),
            (4, 32, 300)
        );
        assert_eq!(
            (facts.max_ctx_len, facts.layers_name.as_str()),
            (128, "layers")
        );
        assert_eq!(facts.embedding_params, 300 * 32);
        // q and o, k and v, the three of the MLP, two norms.
        assert_eq!(
            facts.layer_params,
            2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
        );
    }
}
