//! A data set, as the user names it.

use crate::{PlanError, RowRange, SplitPart};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Which part of a data set is wanted, as Python's `load_dataset` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRequest {
    /// The split, such as `train`, or an expression such as `train[:5%]+test`.
    pub split: String,
    /// The configuration, if the data set has several (`name` in Python).
    pub config: Option<String>,
    /// Folder of the data set to look in.
    pub data_dir: Option<String>,
    /// Names or patterns of files in the data set; empty: by the usual conventions.
    pub data_files: Vec<String>,
}

impl Default for DatasetRequest {
    fn default() -> Self {
        Self {
            split: "train".into(),
            config: None,
            data_dir: None,
            data_files: Vec::new(),
        }
    }
}

impl DatasetRequest {
    /// The same of each split that the expression names, and the rows that are taken from it.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub fn parts(&self) -> Result<Vec<(Self, RowRange)>, String> {
        let parts = SplitPart::parse(&self.split)?.into_iter();
        let of_part = |SplitPart { name, rows }| {
            let request = Self {
                split: name,
                ..self.clone()
            };
            (request, rows)
        };
        Ok(parts.map(of_part).collect())
    }
}

/// Further arguments of `load_dataset`: `name`, `data_dir`, `data_files` (one or a list) and
/// `revision`. Written as a table, or as sparsify has it: `name=en,data_dir=articles`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "WrittenArgs")]
pub struct DataArgs(Map<String, Value>);

/// How they are written.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a table, or text like `name=en`")]
enum WrittenArgs {
    Table(Map<String, Value>),
    Text(String),
}

impl<'de> Deserialize<'de> for DataArgs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut args = match WrittenArgs::deserialize(deserializer)? {
            WrittenArgs::Table(args) => args,
            WrittenArgs::Text(text) => parse_args(&text).map_err(serde::de::Error::custom)?,
        };
        // A configuration or a folder may be called `2024`.
        for value in args.values_mut().filter(|value| value.is_number()) {
            *value = value.to_string().into();
        }
        check_args(&args).map_err(serde::de::Error::custom)?;
        Ok(Self(args))
    }
}

/// `a=b,c=d`; blanks around the parts do not count.
fn parse_args(text: &str) -> Result<Map<String, Value>, String> {
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().into())),
        None => Err(format!(
            "expected `KEY=VALUE` pairs with commas between, got `{part}`"
        )),
    };
    parts.map(pair).collect()
}

fn check_args(args: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in args {
        let is_list = || {
            let items = value.as_array();
            items.is_some_and(|items| items.iter().all(Value::is_string))
        };
        let is_right = match key.as_str() {
            "name" | "data_dir" | "revision" => value.is_string(),
            "data_files" => value.is_string() || is_list(),
            _ => {
                let known = "`name`, `data_dir`, `data_files`, `revision`";
                return Err(format!("no argument `{key}`; there are {known}"));
            }
        };
        if !is_right {
            return Err(format!("argument `{key}` cannot be {value}"));
        }
    }
    Ok(())
}

impl DataArgs {
    /// Branch, tag or commit of a data set of the Hub.
    pub fn revision(&self) -> Option<&str> {
        self.text("revision")
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }
}

/// What names a part of a data set among the settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DataName {
    /// Path, pattern or Hub id of the data set.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// Further arguments.
    pub args: DataArgs,
}

impl DataName {
    /// Whether some rows are, or may be, of both. `split_key` is the setting of the split.
    pub(crate) fn shares_rows_with(
        &self,
        other: &Self,
        split_key: &str,
    ) -> Result<bool, PlanError> {
        let own = self.request(split_key)?;
        let parts = |request: DatasetRequest| request.parts().unwrap_or_default();
        let (own, others) = (parts(own), parts(other.request("split")?));
        let is_shared = |(request, rows): &(DatasetRequest, RowRange)| {
            let mut same = others
                .iter()
                .filter(|(other, _)| other.split == request.split);
            same.any(|(_, other)| !rows.is_apart_from(other))
        };
        let is_one = self.dataset == other.dataset && self.args == other.args;
        Ok(is_one && own.iter().any(is_shared))
    }

    /// What is asked of the data set; `split_key` is the setting of the split.
    ///
    /// # Errors
    /// A split that is neither a name nor an expression of parts.
    pub fn request(&self, split_key: &str) -> Result<DatasetRequest, PlanError> {
        let split = &self.split;
        if let Err(problem) = SplitPart::parse(split) {
            let problem = format!("cannot be `{split}`: {problem}");
            return Err(PlanError::setting(split_key, &problem));
        }
        let own = |key| self.args.text(key).map(str::to_owned);
        let files = self.args.0.get("data_files");
        let one_or_many = |files: &Value| match files {
            Value::Array(files) => files.iter().filter_map(text_of).collect(),
            file => text_of(file).into_iter().collect(),
        };
        Ok(DatasetRequest {
            split: split.clone(),
            config: own("name"),
            data_dir: own("data_dir"),
            data_files: files.map(one_or_many).unwrap_or_default(),
        })
    }
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// What to do about a row that cannot be used: broken JSON, no text, too few token ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// End with an error that names it.
    #[default]
    Fail,
    /// Leave it out, and count it.
    Skip,
}

/// What makes a model's tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerClass {
    /// tokenizer.json as it is.
    #[default]
    File,
    /// The class that `AutoTokenizer` of transformers 5 picks, which may take only the vocabulary and merges
    /// of tokenizer.json.
    Transformers,
}

/// The width of the token ids in a `.bin` file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BinDtype {
    /// uint16, as sparsify; uint32 for vocabularies of more than 65 536.
    #[default]
    Auto,
    /// Two bytes.
    Uint16,
    /// Four bytes.
    Uint32,
}

impl BinDtype {
    /// Bytes of a token id for a model with `vocab_size` tokens.
    pub fn id_bytes(self, vocab_size: usize) -> usize {
        match self {
            Self::Auto if vocab_size <= 1 << 16 => 2,
            Self::Uint16 => 2,
            Self::Auto | Self::Uint32 => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(value: Value) -> Result<DataArgs, serde_json::Error> {
        serde_json::from_value(value)
    }

    fn request(args: DataArgs, split: &str) -> Result<DatasetRequest, PlanError> {
        let (dataset, split) = ("d".into(), split.into());
        DataName {
            dataset,
            split,
            args,
        }
        .request("split")
    }

    #[test]
    fn arguments_are_a_table_or_text() {
        let text = args(json!("name=en, data_dir=a/b")).unwrap();
        assert_eq!(
            text,
            args(json!({"name": "en", "data_dir": "a/b"})).unwrap()
        );
        assert_eq!(args(json!("")).unwrap(), DataArgs::default());
        let request = request(text, "test").unwrap();
        let expected = DatasetRequest {
            split: "test".into(),
            config: Some("en".into()),
            data_dir: Some("a/b".into()),
            data_files: Vec::new(),
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn data_files_are_one_or_many() {
        for (written, expected) in [
            (json!("data_files=a.csv"), vec!["a.csv"]),
            (json!({"data_files": ["b/*", "a"]}), vec!["b/*", "a"]),
        ] {
            let request = request(args(written).unwrap(), "train").unwrap();
            assert_eq!(request.data_files, expected);
        }
        let of_year = request(args(json!({"name": 2024, "data_dir": 7})).unwrap(), "train");
        assert_eq!(of_year.unwrap().config.as_deref(), Some("2024"));
        let args = args(json!({"revision": "v1"})).unwrap();
        assert_eq!(args.revision(), Some("v1"));
    }

    #[test]
    fn unknown_and_odd_arguments_are_named() {
        for (written, problem) in [
            (json!("streaming=true"), "no argument `streaming`"),
            (json!("name"), "`KEY=VALUE`"),
            (json!({"name": [3]}), "argument `name` cannot be [3]"),
            (json!({"data_files": [3]}), "cannot be [3]"),
            (json!(7), "expected a table"),
        ] {
            let error = args(written).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_split_is_made_of_parts() {
        for split in ["", "train[:10%", "train+"] {
            let error = request(DataArgs::default(), split).unwrap_err();
            assert_eq!(error.setting_key(), Some("split"), "{split}");
        }
        let request = request(DataArgs::default(), "train[:10%]+test").unwrap();
        let parts = request.parts().unwrap();
        let of_part = |idx: usize| (parts[idx].0.split.as_str(), parts[idx].1.is_whole());
        assert_eq!([of_part(0), of_part(1)], [("train", false), ("test", true)]);
    }

    #[test]
    fn ids_are_as_wide_as_the_vocabulary_needs() {
        assert_eq!(BinDtype::Auto.id_bytes(1 << 16), 2);
        assert_eq!(BinDtype::Auto.id_bytes((1 << 16) + 1), 4);
        assert_eq!(BinDtype::Uint16.id_bytes(128_000), 2);
        assert_eq!(BinDtype::Uint32.id_bytes(10), 4);
    }
}
