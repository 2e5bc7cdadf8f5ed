//! What may be published of a job on the Hub: everything except where it was on this machine.

use plan::DataFiles;
use plan::Order;
use plan::TrainConfig;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use store::PublishableSae;

/// Written instead of a path that has no name, or whose name is that of a user.
const A_FOLDER: &str = "a local folder";
/// Folders that hold a folder for each user.
const USER_FOLDERS: [&str; 3] = ["/home", "/Users", "/export/home"];
/// Settings that name a model, data or SAEs.
const NAMES: [&str; 5] = [
    "model",
    "crosscoder_model",
    "dataset",
    "eval_dataset",
    "finetune",
];
/// Settings with arguments for a data set, and the setting that names it.
const DATA_ARGS: [(&str, &str); 2] = [("data_args", "dataset"), ("eval_data_args", "eval_dataset")];

/// A job as strangers may see it. The card and the files next to the weights are made from this alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicJob {
    /// Its name.
    pub(super) name: String,
    pub(super) recipe: String,
    pub(super) model: String,
    /// The other one of a crosscoder over two models.
    pub(super) crosscoder_model: Option<String>,
    pub(super) dataset: String,
    /// Its settings, as JSON.
    pub(super) settings: String,
}

impl PublicJob {
    /// `order`: the last order of the job's worker, which says what is of the Hub; `None`: nothing is.
    pub(super) fn new(sae: &PublishableSae, order: Option<&Order>) -> Self {
        let names = PublicNames::of(order);
        let of = &sae.provenance;
        let settings: Map<String, Value> = serde_json::from_str(&of.config).unwrap_or_default();
        Self {
            name: names.label(&sae.result.job, &settings),
            recipe: names.name(&of.recipe),
            model: names.name(&of.model),
            crosscoder_model: settings
                .get("crosscoder_model")
                .and_then(Value::as_str)
                .map(|name| names.name(name)),
            dataset: names.name(&of.dataset),
            settings: names.settings(settings),
        }
    }
}

/// The names of models and data sets of the Hub that a job was trained with; all others are paths.
#[derive(Debug, Default)]
struct PublicNames {
    of_hub: BTreeSet<String>,
}

impl PublicNames {
    fn of(order: Option<&Order>) -> Self {
        let mut of_hub = BTreeSet::new();
        let Some(order) = order else {
            return Self { of_hub };
        };
        let is_of_hub =
            |data: &DataFiles| data.files.iter().all(|file| file.content_hash.is_some());
        let has_eval_data = order.eval_dataset.as_ref().is_some_and(is_of_hub);
        let jobs = order.jobs.iter().chain(&order.evaluate);
        for TrainConfig {
            model,
            crosscoder_model,
            dataset,
            eval_dataset,
            ..
        } in jobs.map(|job| &job.job.config)
        {
            let model = order.model_commit.is_some().then_some(model);
            let second = order.second_model.as_ref();
            let second = second.and_then(|second| second.commit.as_ref());
            let second = second.and(crosscoder_model.as_ref());
            let dataset = is_of_hub(&order.dataset).then_some(dataset);
            let eval_dataset = eval_dataset.as_ref().filter(|_| has_eval_data);
            of_hub.extend(
                [model, second, dataset, eval_dataset]
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
        }
        of_hub.retain(|name| hub::is_repo_id(name));
        Self { of_hub }
    }

    /// The one function that makes a path public: a name of the Hub stays; of a path only the last part is shown.
    fn name(&self, name: &str) -> String {
        if self.of_hub.contains(name) {
            return name.to_owned();
        }
        let path = Path::new(name);
        let is_of_user = env::home_dir().is_some_and(|home| path == home)
            || USER_FOLDERS
                .iter()
                .any(|users| path.parent() == Some(Path::new(users)));
        match path.file_name().filter(|_| !is_of_user) {
            _ if name.is_empty() => String::new(),
            Some(last) if !name.starts_with('~') || path.components().nth(1).is_some() => {
                last.to_string_lossy().into_owned()
            }
            _ => A_FOLDER.to_owned(),
        }
    }

    /// Settings as JSON.
    fn settings(&self, mut settings: Map<String, Value>) -> String {
        for (key, of) in DATA_ARGS {
            let of = settings.get(of).filter(|of| !of.is_null());
            let of = of.or(settings.get("dataset"));
            let is_of_hub = of
                .and_then(Value::as_str)
                .is_some_and(|name| self.of_hub.contains(name));
            let Some(args) = settings.get_mut(key) else {
                continue;
            };
            change_texts(args, &|text| {
                if is_of_hub && stays_inside(text) {
                    text.to_owned()
                } else {
                    self.name(text)
                }
            });
        }
        for (key, value) in &mut settings {
            let is_name = NAMES.contains(&key.as_str());
            let is_done = DATA_ARGS.iter().any(|(args, _)| args == key);
            if !is_done {
                change_texts(value, &|text| {
                    if is_name || is_path(text) {
                        self.name(text)
                    } else {
                        text.to_owned()
                    }
                });
            }
        }
        serde_json::to_string_pretty(&settings).expect("settings serialise to JSON")
    }

    /// A job's name, which recipes make from settings.
    fn label(&self, name: &str, settings: &Map<String, Value>) -> String {
        let mut paths = BTreeSet::new();
        let args = DATA_ARGS.map(|(args, _)| args);
        for value in NAMES
            .iter()
            .chain(&args)
            .filter_map(|&key| settings.get(key))
        {
            collect_texts(value, &mut paths);
        }
        paths.retain(|path| path.contains('/') && self.name(path) != *path);
        // The longest first: one may be a part of another.
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
        let replaced = paths.iter().fold(name.to_owned(), |name, path| {
            name.replace(path.as_str(), &self.name(path))
        });
        let parts = replaced.split_inclusive(ends_word).map(|part| {
            let word = part.trim_end_matches(ends_word);
            if is_path(word) {
                self.name(word) + &part[word.len()..]
            } else {
                part.to_owned()
            }
        });
        parts.collect()
    }
}

/// Whether a character separates the parts of a job's name.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || "=,+;:()[]'\"".contains(c)
}

/// Whether a text is a path that says so itself.
fn is_path(text: &str) -> bool {
    ["/", "~", "./", "../"]
        .iter()
        .any(|start| text.starts_with(start))
        || text.contains("://")
}

/// Whether a path leads nowhere but into the data set that it is a part of.
fn stays_inside(path: &str) -> bool {
    !is_path(path) && files::stays_below(Path::new(path))
}

fn change_texts(value: &mut Value, change: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change_texts(item, change)),
        Value::Object(map) => map.values_mut().for_each(|item| change_texts(item, change)),
        _ => {}
    }
}

fn collect_texts(value: &Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            texts.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        Value::Object(map) => map.values().for_each(|item| collect_texts(item, texts)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of_hub(names: &[&str]) -> PublicNames {
        PublicNames {
            of_hub: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn folders_of_this_machine_are_not_told() {
        let names = of_hub(&["org/model"]);
        for (name, public) in [
            ("org/model", "org/model"),
            ("gpt2", "gpt2"),
            ("", ""),
            // It may be one of the Hub by its form, and was a folder.
            ("secret/model", "model"),
            ("/data/secret/tiny", "tiny"),
            ("/data/secret/", "secret"),
            ("../secret/text.jsonl", "text.jsonl"),
            ("~/secret/text.jsonl", "text.jsonl"),
            ("~me", A_FOLDER),
            ("~", A_FOLDER),
            ("/home/me", A_FOLDER),
            ("/home/me/text", "text"),
            ("/", A_FOLDER),
            ("..", A_FOLDER),
            ("a/..", A_FOLDER),
            (".", A_FOLDER),
            ("https://me:secret@host/x", "x"),
        ] {
            assert_eq!(names.name(name), public, "{name}");
        }
    }

    #[test]
    fn all_settings_with_paths_are_made_public() {
        let Value::Object(settings) = json!({
            "model": "org/model",
            "dataset": "/secret/text.jsonl",
            "data_args": {"data_dir": "/secret/a", "data_files": ["secret/b.jsonl", "/secret/c"]},
            "eval_dataset": "org/text",
            "eval_data_args": {"name": "en", "data_files": ["part/*.parquet", "../secret/d"]},
            "finetune": "secret/saes",
            "crosscoder_model": "secret/tuned",
            "text_column": "text.body",
            "unheard_of": "/secret/e",
            "k": 4,
        }) else {
            unreachable!("an object");
        };
        let text = of_hub(&["org/model", "org/text"]).settings(settings);
        let expected = json!({
            "model": "org/model",
            "dataset": "text.jsonl",
            "data_args": {"data_dir": "a", "data_files": ["b.jsonl", "c"]},
            "eval_dataset": "org/text",
            "eval_data_args": {"name": "en", "data_files": ["part/*.parquet", "d"]},
            "finetune": "saes",
            "crosscoder_model": "tuned",
            "text_column": "text.body",
            "unheard_of": "e",
            "k": 4,
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn a_name_made_of_settings_loses_their_folders() {
        let Value::Object(settings) = json!({
            "model": "secret/model",
            "dataset": "/secret/text.jsonl",
            "hookpoints": ["layers.0"],
        }) else {
            unreachable!("an object");
        };
        let names = of_hub(&[]);
        for (name, public) in [
            ("dataset=/secret/text.jsonl,k=4", "dataset=text.jsonl,k=4"),
            ("k=4 on secret/model", "k=4 on model"),
            ("finetune=/secret/saes,k=4", "finetune=saes,k=4"),
            (
                "hookpoints=layers.0+layers.1",
                "hookpoints=layers.0+layers.1",
            ),
            ("k=4/lr=1", "k=4/lr=1"),
        ] {
            assert_eq!(names.label(name, &settings), public);
        }
    }
}
