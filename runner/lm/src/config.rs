//! Reading Hugging Face's config.json key by key, so that each error names its key.

use crate::LmError;
use files::bound;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tch::Kind;

/// Largest width or count a configuration may have. Real ones are far below.
pub(crate) const MAX_COUNT: u64 = 1 << 24;

/// Largest number of blocks. The names of all submodules of all blocks are listed when planning,
/// so a nonsensical number must not get that far.
const MAX_LAYERS: u64 = 1 << 12;

/// A config.json, or an object within it.
#[derive(Clone)]
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
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The same with `value` under `key` where the key is not there, not even with null.
    pub(crate) fn with_default_if_absent(&self, key: &str, value: usize) -> Self {
        let mut file = self.clone();
        if !file.map.contains_key(key) {
            file.map.insert(key.into(), value.into());
        }
        file
    }

    /// The object under `key`, with errors still naming the same file.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, LmError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                path: self.path.clone(),
                map: map.clone(),
            })),
            Some(other) => Err(self.wrong_type(key, "an object", other)),
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, LmError> {
        self.value(key)
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| self.wrong_type(key, "a string", value))
            })
            .transpose()
    }

    pub(crate) fn bool(&self, key: &str, default: bool) -> Result<bool, LmError> {
        self.value(key).map_or(Ok(default), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.wrong_type(key, "true or false", value))
        })
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, LmError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.wrong_type(key, "a number above 0", value)),
        }
    }

    /// A finite number above 0 for a key that has a default and that null sets to nothing.
    pub(crate) fn positive_or_null(
        &self,
        key: &str,
        default: Option<f64>,
    ) -> Result<Option<f64>, LmError> {
        if self.map.contains_key(key) {
            self.positive(key)
        } else {
            Ok(default)
        }
    }

    /// As [`Self::count`], for a key that has a default and that null sets to nothing.
    pub(crate) fn count_or_null(
        &self,
        key: &str,
        default: usize,
    ) -> Result<Option<usize>, LmError> {
        if self.map.contains_key(key) {
            self.count(key)
        } else {
            Ok(Some(default))
        }
    }

    /// The precision under `dtype`, or `torch_dtype` as older files call it.
    pub(crate) fn stored_kind(&self) -> Result<Option<Kind>, LmError> {
        let name = self.string("dtype")?.or(self.string("torch_dtype")?);
        Ok(match name.map(|name| name.trim_start_matches("torch.")) {
            Some("float32") => Some(Kind::Float),
            Some("bfloat16") => Some(Kind::BFloat16),
            Some("float16") => Some(Kind::Half),
            _ => None,
        })
    }

    /// A list of strings.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, LmError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let strings = value
            .as_array()
            .and_then(|values| values.iter().map(Value::as_str).collect());
        match strings {
            Some(strings) => Ok(Some(strings)),
            None => Err(self.wrong_type(key, "a list of strings", value)),
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

    /// A number of blocks with a default.
    pub(crate) fn n_layers_or(&self, key: &str, default: usize) -> Result<usize, LmError> {
        Ok(self.count_up_to(key, MAX_LAYERS)?.unwrap_or(default))
    }

    /// A whole number, 0 or more.
    pub(crate) fn index(&self, key: &str) -> Result<Option<usize>, LmError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(index) => Ok(Some(index as usize)),
            None => Err(self.wrong_type(key, "a whole number from 0", value)),
        }
    }

    /// The width of a head that `n_heads` heads of `hidden_size` channels have; both with their keys.
    pub(crate) fn head_dim_of(
        &self,
        size_key: &str,
        hidden_size: usize,
        heads_key: &str,
        n_heads: usize,
    ) -> Result<usize, LmError> {
        if hidden_size.is_multiple_of(n_heads) {
            return Ok(hidden_size / n_heads);
        }
        let problem = format!("is {hidden_size}, no multiple of `{heads_key}` = {n_heads}");
        Err(self.bad(size_key, problem))
    }

    /// For each of `n_layers` blocks whether its attention slides: by `layer_types` where it is there.
    pub(crate) fn layer_slides(
        &self,
        n_layers: usize,
        default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, LmError> {
        const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
        let key = "layer_types";
        let Some(kinds) = self.strings(key)? else {
            return Ok((0..n_layers).map(default).collect());
        };
        if kinds.len() != n_layers {
            let problem = format!("names {} blocks of {n_layers}", kinds.len());
            return Err(self.bad(key, problem));
        }
        match kinds.iter().find(|kind| !KINDS.contains(kind)) {
            Some(unknown) => Err(self.unsupported(key, unknown, KINDS)),
            None => Ok(kinds.iter().map(|kind| *kind == KINDS[1]).collect()),
        }
    }

    fn count_up_to(&self, key: &str, max: u64) -> Result<Option<usize>, LmError> {
        let Some(value) = self.value(key) else {
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
        supported: impl IntoIterator<Item = &'static str>,
    ) -> LmError {
        LmError::UnsupportedValue {
            path: self.path.clone(),
            key: key.into(),
            got: got.into(),
            supported: supported.into_iter().collect(),
        }
    }

    pub(crate) fn unknown_architecture(
        &self,
        got: &str,
        supported: impl IntoIterator<Item = &'static str>,
    ) -> LmError {
        LmError::UnknownArchitecture {
            path: self.path.clone(),
            got: got.into(),
            supported: supported.into_iter().collect(),
        }
    }

    fn wrong_type(&self, key: &str, expected: &str, got: &Value) -> LmError {
        self.bad(key, format!("must be {expected}, got `{got}`"))
    }
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LmError> {
    let text = files::read(path, bound::SETTINGS).map_err(|source| LmError::ReadFile {
        path: path.into(),
        source,
    })?;
    files::from_json(&text).map_err(|source| LmError::Json {
        path: path.into(),
        source,
    })
}
