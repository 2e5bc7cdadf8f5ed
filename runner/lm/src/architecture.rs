//! The architectures that are built in: which file reads, describes, loads and runs which
//! `model_type`. The only place that lists them.

use crate::LmError;
use crate::config::ConfigFile;
use crate::decoder::DecoderConfig;
use crate::layout::Layout;
use crate::load::Loader;
use crate::models::gpt_neo::GptNeoConfig;
use crate::models::gpt_neox::GptNeoxConfig;
use crate::models::gpt2::Gpt2Config;
use crate::tap::{Run, Tape};
use plan::ModelFacts;
use std::fmt::Debug;
use std::path::Path;
use tch::{Kind, Tensor};

/// The configuration of a model: what it is made of, and how it is loaded.
pub(crate) trait Architecture: Debug {
    /// Its submodules, and what planning and loading need to know beside them.
    fn layout(&self) -> Layout;

    /// Loads the model, or its first blocks.
    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Body>, LmError>;
}

/// A loaded model without its head.
pub(crate) trait Body: Debug + Send {
    /// The output of the final norm, or of the last loaded block: `[batch, ctx_len, hidden_size]`.
    /// `input_ids`: `[batch, ctx_len]`.
    fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor>;
}

type Read = fn(&ConfigFile) -> Result<Box<dyn Architecture>, LmError>;

const FAMILIES: [(&str, Read); 9] = [
    ("gemma2", |file| boxed(DecoderConfig::gemma2(file))),
    ("gemma3_text", |file| boxed(DecoderConfig::gemma3(file))),
    ("gpt2", |file| boxed(Gpt2Config::read(file))),
    ("gpt_neo", |file| boxed(GptNeoConfig::read(file))),
    ("gpt_neox", |file| boxed(GptNeoxConfig::read(file))),
    ("llama", |file| boxed(DecoderConfig::llama(file))),
    ("mistral", |file| boxed(DecoderConfig::mistral(file))),
    ("qwen2", |file| boxed(DecoderConfig::qwen2(file))),
    ("qwen3", |file| boxed(DecoderConfig::qwen3(file))),
];

fn boxed<T: Architecture + 'static>(
    config: Result<T, LmError>,
) -> Result<Box<dyn Architecture>, LmError> {
    config.map(|config| Box::new(config) as Box<dyn Architecture>)
}

/// The `model_type`s of Hugging Face that are built in.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(model_type, _)| *model_type)
}

/// The configuration of a model of any built-in architecture.
#[derive(Debug)]
pub struct ModelConfig {
    architecture: Box<dyn Architecture>,
    stored_kind: Option<Kind>,
}

/// Reads config.json of the model in `model_dir`.
///
/// # Errors
/// A missing folder or file, an unknown architecture, or the first key that is missing, of the
/// wrong type, not supported or in contradiction to another.
pub fn read_config(model_dir: &Path) -> Result<ModelConfig, LmError> {
    let file = ConfigFile::read(model_dir)?;
    let Some(model_type) = file.string("model_type")? else {
        return Err(file.missing("model_type"));
    };
    if file.value("quantization_config").is_some() {
        let problem = "is there, but quantised checkpoints are not read: take the original, and set \
                       `load_in_8bit` if that is what it was quantised for";
        return Err(file.bad("quantization_config", problem.into()));
    }
    let known = FAMILIES.iter().find(|(known, _)| *known == model_type);
    let (_, read) = known.ok_or_else(|| file.unknown_architecture(model_type, architectures()))?;
    Ok(ModelConfig {
        architecture: read(&file)?,
        stored_kind: file.stored_kind()?,
    })
}

/// Reads what planning needs to know of the model in `model_dir` from its config.json alone.
///
/// The hookpoints are those of transformers' `base_model.named_modules()`, in that order, less the
/// ones that do not run once per forward pass or do not return hidden states: `""`, the list of
/// blocks, the rotary embedding, and the dropout of attention weights.
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
        self.architecture.layout()
    }

    pub(crate) fn load(&self, loader: &mut Loader) -> Result<Box<dyn Body>, LmError> {
        self.architecture.load(loader)
    }

    /// The precision that config.json names as the checkpoint's.
    pub(crate) fn stored_kind(&self) -> Option<Kind> {
        self.stored_kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, fixtures, tiny_llama};
    use files::testing::any_bytes;
    use plan::HookpointFacts;
    use proptest::prelude::*;
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
        assert!(error.hint().unwrap().contains("gpt_neox, llama, mistral"));
    }

    #[test]
    fn quantised_checkpoints_are_not_read() {
        let model =
            TinyModel::with_config(json!({"quantization_config": {"quant_method": "gptq"}}));
        let error = read_facts(model.dir()).unwrap_err();
        assert!(matches!(error, LmError::BadKey { key, .. } if key == "quantization_config"));
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

    fn config_files() -> Vec<Vec<u8>> {
        let families = std::fs::read_dir(fixtures().join("families")).unwrap();
        let files = families.map(|family| family.unwrap().path().join("config.json"));
        files.map(|file| std::fs::read(file).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_model_s_configuration_or_none(bytes in any_bytes(config_files())) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), bytes).unwrap();
            if let Ok(facts) = read_facts(folder.path()) {
                let block = format!("{}.{}", facts.layers_name, facts.n_layers - 1);
                let is_block = |hookpoint: &HookpointFacts| hookpoint.name == block;
                prop_assert!(facts.hookpoints.iter().any(is_block), "{}", block);
            }
        }
    }
}
