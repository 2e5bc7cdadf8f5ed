//! The architectures that are built in: which file reads, describes, loads and runs which
//! `model_type`. The only place that lists them.

use crate::LmError;
use crate::config::ConfigFile;
use crate::decoder::DecoderConfig;
use crate::keys::{self, Keys};
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

/// A family of models.
struct Family {
    model_type: &'static str,
    keys: &'static Keys,
    read: Read,
}

const FAMILIES: [Family; 10] = [
    family("gemma2", &keys::GEMMA2, |file| {
        boxed(DecoderConfig::gemma2(file))
    }),
    family("gemma3", &keys::GEMMA3, |file| {
        boxed(DecoderConfig::gemma3_with_images(file))
    }),
    family("gemma3_text", &keys::GEMMA3_TEXT, |file| {
        boxed(DecoderConfig::gemma3(file))
    }),
    family("gpt2", &keys::GPT2, |file| boxed(Gpt2Config::read(file))),
    family("gpt_neo", &keys::GPT_NEO, |file| {
        boxed(GptNeoConfig::read(file))
    }),
    family("gpt_neox", &keys::GPT_NEOX, |file| {
        boxed(GptNeoxConfig::read(file))
    }),
    family("llama", &keys::LLAMA, |file| {
        boxed(DecoderConfig::llama(file))
    }),
    family("mistral", &keys::MISTRAL, |file| {
        boxed(DecoderConfig::mistral(file))
    }),
    family("qwen2", &keys::QWEN2, |file| {
        boxed(DecoderConfig::qwen2(file))
    }),
    family("qwen3", &keys::QWEN3, |file| {
        boxed(DecoderConfig::qwen3(file))
    }),
];

const fn family(model_type: &'static str, keys: &'static Keys, read: Read) -> Family {
    Family {
        model_type,
        keys,
        read,
    }
}

fn boxed<T: Architecture + 'static>(
    config: Result<T, LmError>,
) -> Result<Box<dyn Architecture>, LmError> {
    config.map(|config| Box::new(config) as Box<dyn Architecture>)
}

/// The `model_type`s of Hugging Face that are built in.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

/// The keys of a built-in architecture.
#[cfg(test)]
pub(crate) fn keys_of(model_type: &str) -> &'static Keys {
    let mut families = FAMILIES.iter();
    families
        .find(|family| family.model_type == model_type)
        .unwrap()
        .keys
}

/// The configuration of a model of any built-in architecture.
#[derive(Debug)]
pub struct ModelConfig {
    architecture: Box<dyn Architecture>,
    stored_kind: Option<Kind>,
    unknown_keys: Vec<String>,
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
    let known = FAMILIES.iter().find(|known| known.model_type == model_type);
    let known = known.ok_or_else(|| file.unknown_architecture(model_type, architectures()))?;
    known.read_config(file)
}

impl Family {
    fn read_config(&self, file: ConfigFile) -> Result<ModelConfig, LmError> {
        let file = file.with_keys_of(self.keys.other_names)?;
        keys::refuse_unsupported(&file)?;
        Ok(ModelConfig {
            architecture: (self.read)(&file)?,
            stored_kind: file.stored_kind()?,
            unknown_keys: self.keys.unknown_in(&file)?,
        })
    }
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

    /// The keys of config.json that are not known for this kind of model and were not read, in order;
    /// within an object as a path, such as `rope_scaling.finetuned`.
    pub fn unknown_keys(&self) -> &[String] {
        &self.unknown_keys
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
        assert!(matches!(&error, LmError::QuantisedModel { scheme, .. } if scheme == "gptq"));
        assert!(error.hint().unwrap().contains("original checkpoint"));
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
