//! SAELens's layout: `cfg.json` and `sae_weights.safetensors`, and what they say of an SAE's training.

use crate::cfg_file::{CONFIG_FILE, WEIGHTS_FILE, read_config};
use crate::crosscoder::{CrosscoderConfig, is_crosscoder_folder};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// Name of the weights' file.
pub const SAELENS_WEIGHTS_FILE: &str = "sae_weights.safetensors";

/// Where `cfg.json` says what was trained on. Before version 6, what is now in `metadata` was next to the
/// rest.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    metadata: Map<String, Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Config {
    fn metadata_text(&self, key: &str) -> Option<String> {
        let value = self.metadata.get(key).or_else(|| self.others.get(key));
        Some(value?.as_str()?.to_owned())
    }
}

/// Whether `dir` is in SAELens's layout.
pub fn is_saelens_folder(dir: &Path) -> bool {
    dir.join(SAELENS_WEIGHTS_FILE).is_file() && !dir.join(WEIGHTS_FILE).is_file()
}

/// The submodule that an SAE in SAELens's layout was trained on: Hugging Face's name if it has it,
/// or else TransformerLens's.
pub(crate) fn hook_name(dir: &Path) -> Option<String> {
    let config = config_of(dir)?;
    ["hf_hook_name", "hook_name", "hook_point"]
        .into_iter()
        .find_map(|key| config.metadata_text(key))
}

/// The language model it was trained on, as it calls it.
pub(crate) fn model_name(dir: &Path) -> Option<String> {
    config_of(dir)?.metadata_text("model_name")
}

/// The threshold that training estimated, of an SAE that was saved here; those of its hookpoints, if each has its own.
/// Empty: it has no estimate.
pub fn threshold_ema(dir: &Path) -> Vec<f64> {
    if is_crosscoder_folder(dir) {
        let Ok(config) = CrosscoderConfig::of_folder(dir) else {
            return Vec::new();
        };
        return if config.threshold_ema_by_hookpoint.is_empty() {
            config.threshold_ema.into_iter().collect()
        } else {
            config.threshold_ema_by_hookpoint
        };
    }
    let config = config_of(dir);
    let estimate = config.and_then(|config| config.metadata.get("threshold_ema")?.as_f64());
    estimate.into_iter().collect()
}

fn config_of(dir: &Path) -> Option<Config> {
    is_saelens_folder(dir).then(|| read_config(&dir.join(CONFIG_FILE)).ok())?
}
