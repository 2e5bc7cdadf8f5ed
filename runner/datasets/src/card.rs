//! The configurations of a data set, from the front matter of its README.md.

use crate::DatasetError;
use crate::error::many_configs;
use fault::Fault;
use serde::Deserialize;
use serde_saphyr::{DuplicateKeyPolicy, options};
use std::collections::BTreeSet;

/// What the front matter says about data files.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Card {
    configs: Option<Vec<CardConfig>>,
}

/// A named part of a data set.
#[derive(Debug, Deserialize)]
pub(crate) struct CardConfig {
    config_name: String,
    data_files: Option<CardFiles>,
    /// Folder of its files.
    pub(crate) data_dir: Option<String>,
    #[serde(default)]
    default: bool,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a name, a list of names, or a list of entries of `split` and `path`"
)]
enum CardFiles {
    One(String),
    Many(Vec<String>),
    OfSplits(Vec<SplitFiles>),
}

#[derive(Debug, Deserialize)]
struct SplitFiles {
    split: String,
    path: Paths,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name or a list of names")]
enum Paths {
    One(String),
    Many(Vec<String>),
}

/// A split and the patterns of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Its name.
    pub(crate) name: String,
    /// Patterns, which are resolved one after the other.
    pub(crate) patterns: Vec<String>,
}

impl Card {
    /// Reads the text of a README.md.
    ///
    /// # Errors
    /// Front matter that is not YAML, or whose `configs` are not those of a data set.
    pub(crate) fn parse(dataset: &str, text: &str) -> Result<Self, DatasetError> {
        let Some(yaml) = front_matter(text) else {
            return Ok(Self::default());
        };
        // PyYAML takes the last of equal keys too.
        let options = options! {
            duplicate_keys: DuplicateKeyPolicy::LastWins,
            with_snippet: false,
        };
        let card: Option<Self> =
            serde_saphyr::from_str_with_options(yaml, options).map_err(|source| {
                let message =
                    format!("cannot use the front matter of README.md of data set `{dataset}`");
                let hint = "correct README.md, or name the files with `data_files`";
                Fault::input(message).with_hint(hint).because(source)
            })?;
        Ok(card.unwrap_or_default().without_duplicates())
    }

    /// Of configurations with the same name only the last one counts.
    fn without_duplicates(mut self) -> Self {
        let mut seen = BTreeSet::new();
        if let Some(configs) = &mut self.configs {
            configs.reverse();
            configs.retain(|config| seen.insert(config.config_name.clone()));
            configs.reverse();
        }
        self
    }

    /// The names of the configurations; a data set without any has `default`.
    pub(crate) fn names(&self) -> Vec<String> {
        let configs = self.configs.as_deref().unwrap_or_default();
        if configs.is_empty() {
            return vec!["default".into()];
        }
        configs
            .iter()
            .map(|config| config.config_name.clone())
            .collect()
    }

    /// The configuration of this name.
    pub(crate) fn config(&self, name: &str) -> Option<&CardConfig> {
        let mut configs = self.configs.iter().flatten();
        configs.find(|config| config.config_name == name)
    }

    /// The default configuration: the one marked `default: true`, the one
    /// named `default`, or the only one. `None`: the card has no such configuration.
    ///
    /// # Errors
    /// There are several, and none or several of them are the default.
    pub(crate) fn default_config(
        &self,
        dataset: &str,
    ) -> Result<Option<&CardConfig>, DatasetError> {
        let configs = self.configs.as_deref().unwrap_or_default();
        if let [] | [_] = configs {
            return Ok(configs.first());
        }
        let mut marked = configs.iter().filter(|config| config.default);
        match (marked.next(), marked.next()) {
            (Some(config), None) => Ok(Some(config)),
            (None, _) if self.config("default").is_some() => Ok(self.config("default")),
            _ => Err(many_configs(dataset, &self.names()).into()),
        }
    }
}

impl CardConfig {
    /// The splits it names; `None` if they follow from the names of the files.
    pub(crate) fn splits(&self) -> Option<Vec<Split>> {
        let splits = match self.data_files.as_ref()? {
            CardFiles::One(pattern) => vec![Split::train(vec![pattern.clone()])],
            CardFiles::Many(patterns) => vec![Split::train(patterns.clone())],
            CardFiles::OfSplits(splits) => splits.iter().map(SplitFiles::to_split).collect(),
        };
        Some(splits)
    }
}

impl SplitFiles {
    fn to_split(&self) -> Split {
        Split {
            name: self.split.clone(),
            patterns: match &self.path {
                Paths::One(pattern) => vec![pattern.clone()],
                Paths::Many(patterns) => patterns.clone(),
            },
        }
    }
}

impl Split {
    /// The split `name` of the files that `patterns` take.
    pub(crate) fn new(name: &str, patterns: &[&str]) -> Self {
        Self {
            name: name.into(),
            patterns: patterns.iter().map(ToString::to_string).collect(),
        }
    }

    /// The split of files that are not divided into splits.
    pub(crate) fn train(patterns: Vec<String>) -> Self {
        Self {
            name: "train".into(),
            patterns,
        }
    }
}

/// The YAML between two lines of `---` at the beginning of `text`.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let block = text.trim_start().strip_prefix("---")?;
    let block = block
        .strip_prefix('\r')
        .unwrap_or(block)
        .strip_prefix('\n')?;
    let is_end = |idx: &usize| {
        let behind = block[idx + "\n---".len()..].trim_start_matches([' ', '\t']);
        behind.is_empty() || behind.starts_with(['\n', '\r'])
    };
    let end = block
        .match_indices("\n---")
        .map(|(idx, _)| idx)
        .find(is_end)?;
    Some(&block[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    fn card(configs: &str) -> Result<Card, DatasetError> {
        Card::parse(
            "it",
            &format!("---\nlicense: mit\nconfigs:\n{configs}\n---\n# It\n"),
        )
    }

    fn default_of(configs: &str) -> Result<String, DatasetError> {
        let card = card(configs)?;
        let config = card.default_config("it")?;
        Ok(config.unwrap().config_name.clone())
    }

    #[test]
    fn files_have_three_notations() {
        let card = card(
            "- config_name: one\n  data_files: a.csv\n\
             - config_name: two\n  data_files:\n  - a.csv\n  - b/*\n  data_dir: d\n\
             - config_name: 2024\n  data_files:\n  - split: dev\n    path: a.csv\n  \
             - split: train\n    path: [b, c]\n\
             - config_name: four\n  unknown: {x: [1]}",
        )
        .unwrap();
        let splits = |name: &str| card.config(name).unwrap().splits();
        assert_eq!(splits("one").unwrap(), [Split::new("train", &["a.csv"])]);
        assert_eq!(
            splits("two").unwrap(),
            [Split::new("train", &["a.csv", "b/*"])]
        );
        assert_eq!(card.config("two").unwrap().data_dir.as_deref(), Some("d"));
        let both = [
            Split::new("dev", &["a.csv"]),
            Split::new("train", &["b", "c"]),
        ];
        assert_eq!(splits("2024").unwrap(), both);
        assert_eq!(splits("four"), None);
        assert_eq!(card.names(), ["one", "two", "2024", "four"]);
    }

    #[test]
    fn the_default_is_marked_named_or_alone() {
        let marked = "- config_name: default\n- config_name: b\n  default: true";
        assert_eq!(default_of(marked).unwrap(), "b");
        assert_eq!(
            default_of("- config_name: a\n- config_name: default").unwrap(),
            "default"
        );
        assert_eq!(default_of("- config_name: a").unwrap(), "a");
        let error = default_of("- config_name: a\n- config_name: b").unwrap_err();
        assert_eq!(error.hint().unwrap(), "choose one of `a`, `b`");
        let replaced = "- config_name: a\n  default: true\n- config_name: b\n- config_name: a";
        assert!(default_of(replaced).is_err());
        let twice = "- config_name: a\n  default: true\n- config_name: b\n  default: true";
        let error = default_of(twice).unwrap_err();
        assert_eq!(error.hint().unwrap(), "choose one of `a`, `b`");
    }

    #[test]
    fn a_card_may_say_nothing() {
        let rule_in_text = "---\n---\n";
        for text in [
            "",
            "# It",
            "--- \nconfigs: 1\n---",
            rule_in_text,
            "---\nconfigs: 1\n--- x\n",
        ] {
            assert_eq!(
                Card::parse("it", text).unwrap().names(),
                ["default"],
                "{text:?}"
            );
        }
        for text in [
            "\u{feff}---\na: 1\n---",
            "\n---\na: 1\n---",
            "---\r\na: 1\r\n---  \r\n# It",
            "---\n\n---\n",
        ] {
            assert!(front_matter(text).is_some(), "{text:?}");
            assert_eq!(
                Card::parse("it", text).unwrap().names(),
                ["default"],
                "{text:?}"
            );
        }
    }

    #[test]
    fn broken_cards_are_errors_on_one_line() {
        let broken = ["  - [a: b", "  train: a.csv", "- data_files: a", "- 1"];
        let of_files = "- config_name: a\n  data_files: {train: a.csv}";
        for configs in broken.into_iter().chain([of_files]) {
            let error = card(configs).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(error.to_string().contains("README.md"), "{error}");
            assert!(
                !source.contains('\n') && source.contains("line"),
                "{source:?}"
            );
        }
    }
}
