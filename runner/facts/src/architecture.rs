//! The architectures that are built in: which file reads and describes which
//! `model_type`. The only place that lists them.

use crate::FactsError;
use crate::config::ConfigFile;
use crate::decoder::DecoderConfig;
use crate::keys::{self, Keys};
use crate::layout::Layout;
use crate::models::gpt_neo::GptNeoConfig;
use crate::models::gpt_neox::GptNeoxConfig;
use crate::models::gpt2::Gpt2Config;
use plan::{Dtype, ModelFacts};
use serde_json::{Map, Value};
use std::path::Path;

/// What a model is made of, by the kind of its blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// Llama, Mistral, Qwen, Gemma.
    Decoder(DecoderConfig),
    /// GPT-2.
    Gpt2(Gpt2Config),
    /// GPT-Neo.
    GptNeo(GptNeoConfig),
    /// GPT-NeoX.
    GptNeox(GptNeoxConfig),
}

impl Architecture {
    fn layout(&self) -> Layout {
        match self {
            Self::Decoder(config) => config.layout(),
            Self::Gpt2(config) => config.layout(),
            Self::GptNeo(config) => config.layout(),
            Self::GptNeox(config) => config.layout(),
        }
    }
}

type Read = fn(&ConfigFile) -> Result<Architecture, FactsError>;

/// A family of models.
struct Family {
    model_type: &'static str,
    keys: &'static Keys,
    read: Read,
}

const FAMILIES: [Family; 10] = [
    family("gemma2", &keys::GEMMA2, |file| {
        DecoderConfig::gemma2(file).map(Architecture::Decoder)
    }),
    family("gemma3", &keys::GEMMA3, |file| {
        DecoderConfig::gemma3_with_images(file).map(Architecture::Decoder)
    }),
    family("gemma3_text", &keys::GEMMA3_TEXT, |file| {
        DecoderConfig::gemma3(file).map(Architecture::Decoder)
    }),
    family("gpt2", &keys::GPT2, |file| {
        Gpt2Config::read(file).map(Architecture::Gpt2)
    }),
    family("gpt_neo", &keys::GPT_NEO, |file| {
        GptNeoConfig::read(file).map(Architecture::GptNeo)
    }),
    family("gpt_neox", &keys::GPT_NEOX, |file| {
        GptNeoxConfig::read(file).map(Architecture::GptNeox)
    }),
    family("llama", &keys::LLAMA, |file| {
        DecoderConfig::llama(file).map(Architecture::Decoder)
    }),
    family("mistral", &keys::MISTRAL, |file| {
        DecoderConfig::mistral(file).map(Architecture::Decoder)
    }),
    family("qwen2", &keys::QWEN2, |file| {
        DecoderConfig::qwen2(file).map(Architecture::Decoder)
    }),
    family("qwen3", &keys::QWEN3, |file| {
        DecoderConfig::qwen3(file).map(Architecture::Decoder)
    }),
];

const fn family(model_type: &'static str, keys: &'static Keys, read: Read) -> Family {
    Family {
        model_type,
        keys,
        read,
    }
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
    /// What it is made of.
    pub architecture: Architecture,
    stored_dtype: Option<Dtype>,
    unknown_keys: Vec<String>,
}

/// Reads config.json of the model in `model_dir`.
///
/// # Errors
/// A missing folder or file, an unknown architecture, or the first key that is missing, of the
/// wrong type, not supported or in contradiction to another.
pub fn read_config(model_dir: &Path) -> Result<ModelConfig, FactsError> {
    of_file(ConfigFile::read(model_dir)?)
}

/// The same of a configuration that is not from a file.
///
/// # Errors
/// As [`read_config`].
pub(crate) fn of_map(map: Map<String, Value>) -> Result<ModelConfig, FactsError> {
    of_file(ConfigFile::of_map(map))
}

fn of_file(file: ConfigFile) -> Result<ModelConfig, FactsError> {
    let Some(model_type) = file.string("model_type")? else {
        return Err(file.missing("model_type"));
    };
    let known = FAMILIES.iter().find(|known| known.model_type == model_type);
    let known = known.ok_or_else(|| file.unknown_architecture(model_type, architectures()))?;
    known.read_config(file)
}

impl Family {
    fn read_config(&self, file: ConfigFile) -> Result<ModelConfig, FactsError> {
        let file = file.with_keys_of(self.keys.other_names)?;
        keys::refuse_unsupported(&file)?;
        Ok(ModelConfig {
            architecture: (self.read)(&file)?,
            stored_dtype: file.stored_dtype()?,
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
pub fn read_facts(model_dir: &Path) -> Result<ModelFacts, FactsError> {
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

    /// Its submodules, and what loading needs to know in addition to them.
    pub fn layout(&self) -> Layout {
        self.architecture.layout()
    }

    /// The precision that config.json names as the checkpoint's.
    pub fn stored_dtype(&self) -> Option<Dtype> {
        self.stored_dtype
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, fixtures, lacks, tiny_llama};
    use fault::Remedy;
    use files::testing::any_bytes;
    use plan::HookpointFacts;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn missing_folder_comes_with_a_hint() {
        let error = read_facts(Path::new("no/such/folder")).unwrap_err();
        assert_eq!(error.to_string(), "no model folder at `no/such/folder`");
        assert!(error.hint().unwrap().contains("config.json"));
    }

    #[test]
    fn folder_without_config() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_facts(folder.path()).unwrap_err();
        assert!(
            matches!(error, FactsError::ReadFile { path, .. } if path.ends_with("config.json"))
        );
    }

    #[test]
    fn config_that_is_no_json_object() {
        for text in ["{\"model_type\": ", "[]", ""] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            let error = read_facts(folder.path()).unwrap_err();
            let message = error.to_string();
            let is_told = message.ends_with("is not a JSON object of the expected form");
            assert!(is_told, "{text:?}: {error:?}");
        }
    }

    #[test]
    fn unknown_architecture_lists_those_that_are_there() {
        let model = TinyModel::with_config(json!({"model_type": "mamba"}));
        let error = read_facts(model.dir()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("is a model of type `mamba`"), "{message}");
        assert!(error.hint().unwrap().contains("gpt_neox, llama, mistral"));
    }

    #[test]
    fn quantised_checkpoints_are_not_read() {
        let model =
            TinyModel::with_config(json!({"quantization_config": {"quant_method": "gptq"}}));
        let error = read_facts(model.dir()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("is quantised by gptq"), "{message}");
        assert!(error.hint().unwrap().contains("original checkpoint"));
    }

    #[test]
    fn missing_model_type() {
        let model = TinyModel::with_config(json!({"model_type": null}));
        let error = read_facts(model.dir()).unwrap_err();
        assert!(lacks(&error, "model_type"), "{error}");
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
