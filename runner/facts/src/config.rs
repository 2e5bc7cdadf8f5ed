//! Reading Hugging Face's config.json key by key, so that each error names its key.

use crate::FactsError;
use crate::json::{WRONG_FILE, read_json, shown};
use crate::missing::{ORIGINAL, refuse_adapter};
use fault::Fault;
use plan::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// By key, the other name under which the file has it.
    written_as: BTreeMap<&'static str, &'static str>,
}

impl ConfigFile {
    /// Reads `config.json` of `model_dir`.
    pub(crate) fn read(model_dir: &Path) -> Result<Self, FactsError> {
        if !model_dir.is_dir() {
            let message = format!("no model folder at `{}`", model_dir.display());
            return Err(Fault::input(message)
                .with_hint(
                    "`model` is the path of a folder with config.json, model.safetensors and tokenizer.json",
                )
                .into());
        }
        refuse_adapter(model_dir)?;
        let path = model_dir.join("config.json");
        let map = read_json(&path)?;
        Ok(Self {
            path,
            map,
            written_as: BTreeMap::new(),
        })
    }

    /// One that is not in a file.
    pub(crate) fn of_map(map: Map<String, Value>) -> Self {
        Self {
            path: PathBuf::from("config.json"),
            map,
            written_as: BTreeMap::new(),
        }
    }

    /// The same with the values of other names under the keys that they mean: `other_names` are pairs of
    /// such a name and its key. transformers lets the other name win without a message.
    ///
    /// # Errors
    /// A key and its other name with two values.
    pub(crate) fn with_keys_of(
        mut self,
        other_names: &[(&'static str, &'static str)],
    ) -> Result<Self, FactsError> {
        for &(name, key) in other_names {
            let Some(value) = self.map.remove(name).filter(|value| !value.is_null()) else {
                continue;
            };
            match self.value(key) {
                None => {
                    self.map.insert(key.into(), value);
                    self.written_as.insert(key, name);
                }
                Some(own) if *own != value => {
                    let (own, value) = (shown(own), shown(&value));
                    let problem = format!("is {own}, but `{name}`, its other name, is {value}");
                    return Err(self.bad(key, problem));
                }
                Some(_) => {}
            }
        }
        Ok(self)
    }

    /// What `key` is called in the file.
    pub(crate) fn written<'a>(&self, key: &'a str) -> &'a str {
        self.written_as.get(key).unwrap_or(&key)
    }

    /// The keys that have a value.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let set = self.map.iter().filter(|(_, value)| !value.is_null());
        set.map(|(key, _)| key.as_str())
    }

    /// Whether `key` is there, even with null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value of `key`; null counts as absent.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The same with `value` under `key` if the key is not there, not even with null.
    pub(crate) fn with_default_if_absent(&self, key: &str, value: usize) -> Self {
        let mut file = self.clone();
        if !file.map.contains_key(key) {
            file.map.insert(key.into(), value.into());
        }
        file
    }

    /// The same without `keys`.
    pub(crate) fn without(&self, keys: &[&str]) -> Self {
        let mut file = self.clone();
        file.map.retain(|key, _| !keys.contains(&key.as_str()));
        file
    }

    /// The same, but `other` replaces all keys.
    pub(crate) fn overlaid_by(&self, other: &Self) -> Self {
        let mut file = self.clone();
        file.map.extend(other.map.clone());
        file
    }

    /// The object under `key`, with errors still naming the same file.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, FactsError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                path: self.path.clone(),
                map: map.clone(),
                written_as: BTreeMap::new(),
            })),
            Some(other) => Err(self.wrong_type(key, "an object", other)),
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, FactsError> {
        self.value(key)
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| self.wrong_type(key, "a string", value))
            })
            .transpose()
    }

    pub(crate) fn bool(&self, key: &str, default: bool) -> Result<bool, FactsError> {
        self.value(key).map_or(Ok(default), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.wrong_type(key, "true or false", value))
        })
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, FactsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong_type(key, "a number", value)),
        }
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, FactsError> {
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
    ) -> Result<Option<f64>, FactsError> {
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
    ) -> Result<Option<usize>, FactsError> {
        if self.map.contains_key(key) {
            self.count(key)
        } else {
            Ok(Some(default))
        }
    }

    /// The precision under `dtype`, or `torch_dtype` as older files call it.
    pub(crate) fn stored_dtype(&self) -> Result<Option<Dtype>, FactsError> {
        let name = self.string("dtype")?.or(self.string("torch_dtype")?);
        Ok(match name.map(|name| name.trim_start_matches("torch.")) {
            Some("float32") => Some(Dtype::Float32),
            Some("bfloat16") => Some(Dtype::BFloat16),
            Some("float16") => Some(Dtype::Float16),
            _ => None,
        })
    }

    /// A list of strings.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, FactsError> {
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
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, FactsError> {
        self.count_up_to(key, MAX_COUNT)
    }

    /// A number of blocks, at least 1.
    pub(crate) fn n_layers(&self, key: &str) -> Result<usize, FactsError> {
        self.count_up_to(key, MAX_LAYERS)?
            .ok_or_else(|| self.missing(key))
    }

    /// A number of blocks with a default.
    pub(crate) fn n_layers_or(&self, key: &str, default: usize) -> Result<usize, FactsError> {
        Ok(self.count_up_to(key, MAX_LAYERS)?.unwrap_or(default))
    }

    /// A whole number, 0 or more.
    pub(crate) fn index(&self, key: &str) -> Result<Option<usize>, FactsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match whole(value) {
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
    ) -> Result<usize, FactsError> {
        if hidden_size.is_multiple_of(n_heads) {
            return Ok(hidden_size / n_heads);
        }
        let heads_key = self.written(heads_key);
        let problem = format!("is {hidden_size}, no multiple of `{heads_key}` = {n_heads}");
        Err(self.bad(size_key, problem))
    }

    /// For each of `n_layers` blocks whether its attention slides: by `layer_types` if it is there.
    /// `attention` is the older name of `full_attention`.
    pub(crate) fn layer_slides(
        &self,
        n_layers: usize,
        default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, FactsError> {
        const KINDS: [&str; 3] = ["full_attention", "attention", "sliding_attention"];
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
            None => Ok(kinds.iter().map(|kind| *kind == KINDS[2]).collect()),
        }
    }

    fn count_up_to(&self, key: &str, max: u64) -> Result<Option<usize>, FactsError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match whole(value) {
            Some(count) if (1..=max).contains(&count) => Ok(Some(count as usize)),
            _ => Err(self.wrong_type(key, &format!("a whole number from 1 to {max}"), value)),
        }
    }

    /// As [`Self::count`], for a key without default.
    pub(crate) fn required_count(&self, key: &str) -> Result<usize, FactsError> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn missing(&self, key: &str) -> FactsError {
        let (path, key) = (self.path.display(), self.written(key));
        Fault::input(format!("`{path}` lacks the key `{key}`"))
            .with_hint(WRONG_FILE)
            .into()
    }

    pub(crate) fn bad(&self, key: &str, problem: String) -> FactsError {
        let (path, key) = (self.path.display(), self.written(key));
        Fault::input(format!("key `{key}` of `{path}` {problem}")).into()
    }

    pub(crate) fn quantised(&self, key: &str, scheme: String) -> FactsError {
        let path = self.path.display();
        Fault::input(format!(
            "by the key `{key}` of `{path}` the checkpoint is quantised by {scheme}, which is not read"
        ))
        .with_hint(ORIGINAL)
        .into()
    }

    pub(crate) fn unsupported(
        &self,
        key: &str,
        got: &str,
        supported: impl IntoIterator<Item = &'static str>,
    ) -> FactsError {
        let (path, key) = (self.path.display(), self.written(key));
        let message = format!("key `{key}` of `{path}` is `{got}`, which is not supported");
        Fault::input(message)
            .with_hint(supported_are(supported))
            .into()
    }

    pub(crate) fn unknown_architecture(
        &self,
        got: &str,
        supported: impl IntoIterator<Item = &'static str>,
    ) -> FactsError {
        let path = self.path.display();
        Fault::input(format!(
            "`{path}` is a model of type `{got}`, which is not supported"
        ))
        .with_hint(supported_are(supported))
        .into()
    }

    fn wrong_type(&self, key: &str, expected: &str, got: &Value) -> FactsError {
        self.bad(key, format!("must be {expected}, got `{}`", shown(got)))
    }
}

fn supported_are(supported: impl IntoIterator<Item = &'static str>) -> String {
    let supported: Vec<_> = supported.into_iter().collect();
    format!("supported are: {}", supported.join(", "))
}

/// A whole number from 0, also one that is written as a float.
fn whole(value: &Value) -> Option<u64> {
    let of_float = || {
        let number = value.as_f64()?;
        let is_count = number.fract() == 0.0 && (0.0..=MAX_COUNT as f64).contains(&number);
        is_count.then_some(number as u64)
    };
    value.as_u64().or_else(of_float)
}
