//! Reading Hugging Face's config.json key by key, so that each error names its key.

use crate::LmError;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Largest width or count a configuration may have. Real ones are far below; products of two stay
/// within 64 bits.
const MAX_COUNT: u64 = 1 << 24;

/// Largest number of blocks. The names of all submodules of all blocks are listed when planning,
/// so a nonsensical number must not get that far.
const MAX_LAYERS: u64 = 1 << 12;

/// A config.json, or an object within it.
pub(crate) struct ConfigFile {
    path: PathBuf,
    map: Map<String, Value>,
}

impl ConfigFile {
    /// Reads `config.json` of `model_dir`.
    pub(crate) fn read(model_dir: &Path) -> Result<Self, LmError> {
        if !model_dir.is_dir() {
            return Err(LmError::NoModelFolder {
                path: model_dir.into(),
            });
        }
        let path = model_dir.join("config.json");
        let map = read_json(&path)?;
        Ok(Self { path, map })
    }

    /// The value of `key`; null counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The object under `key`, with errors still naming the same file.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, LmError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                path: self.path.clone(),
                map: map.clone(),
            })),
            Some(other) => Err(self.wrong_type(key, "an object", other)),
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, LmError> {
        self.get(key)
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| self.wrong_type(key, "a string", value))
            })
            .transpose()
    }

    pub(crate) fn bool(&self, key: &str, default: bool) -> Result<bool, LmError> {
        self.get(key).map_or(Ok(default), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.wrong_type(key, "true or false", value))
        })
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, LmError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.wrong_type(key, "a number above 0", value)),
        }
    }

    /// A width or count, at least 1.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, LmError> {
        self.count_up_to(key, MAX_COUNT)
    }

    /// A number of blocks, at least 1.
    pub(crate) fn n_layers(&self, key: &str) -> Result<usize, LmError> {
        self.count_up_to(key, MAX_LAYERS)?
            .ok_or_else(|| self.missing(key))
    }

    fn count_up_to(&self, key: &str, max: u64) -> Result<Option<usize>, LmError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(count) if (1..=max).contains(&count) => Ok(Some(count as usize)),
            _ => Err(self.wrong_type(key, &format!("a whole number from 1 to {max}"), value)),
        }
    }

    /// As [`Self::count`], for a key without default.
    pub(crate) fn required_count(&self, key: &str) -> Result<usize, LmError> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn missing(&self, key: &str) -> LmError {
        LmError::MissingKey {
            path: self.path.clone(),
            key: key.into(),
        }
    }

    pub(crate) fn bad(&self, key: &str, problem: String) -> LmError {
        LmError::BadKey {
            path: self.path.clone(),
            key: key.into(),
            problem,
        }
    }

    pub(crate) fn unsupported(
        &self,
        key: &str,
        got: &str,
        supported: &'static [&'static str],
    ) -> LmError {
        LmError::UnsupportedValue {
            path: self.path.clone(),
            key: key.into(),
            got: got.into(),
            supported,
        }
    }

    pub(crate) fn unknown_architecture(
        &self,
        got: &str,
        supported: &'static [&'static str],
    ) -> LmError {
        LmError::UnknownArchitecture {
            path: self.path.clone(),
            got: got.into(),
            supported,
        }
    }

    fn wrong_type(&self, key: &str, expected: &str, got: &Value) -> LmError {
        self.bad(key, format!("must be {expected}, got `{got}`"))
    }
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LmError> {
    let text = std::fs::read(path).map_err(|source| LmError::ReadFile {
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| LmError::Json {
        path: path.into(),
        source,
    })
}
