//! What a plan does without: the files of a model of known shapes, weights, a tokenizer, a data set.

use crate::error::CliError;
use crate::sweep::hub_access;
use crate::sweep::models::ModelName;
use plan::{DataName, digest_json};
use std::collections::{BTreeSet, HashSet};

/// What was looked for and is not available.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// In the order in which it was looked for.
    lines: Vec<String>,
    models: BTreeSet<ModelName>,
    data: HashSet<DataName>,
}

impl Lacking {
    /// One line for each thing.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Whether no weights of a model were found.
    pub(crate) fn has_no_weights(&self, model: &ModelName) -> bool {
        self.models.contains(model)
    }

    /// No file of a model was found, and its shapes are known.
    pub(crate) fn files_of(&mut self, model: &ModelName, error: &CliError) {
        self.say(format!(
            "no file of `{}` is available ({}): planned with its published shapes",
            model.name,
            first_clause(error)
        ));
    }

    /// A model's weights cannot be read. Gives what is hashed in place of their digest.
    pub(crate) fn weights_of(&mut self, model: &ModelName, error: Option<&CliError>) -> String {
        self.models.insert(model.clone());
        if let Some(error) = error {
            self.say(format!(
                "no weights of `{}` ({}): planned with config.json alone",
                model.name,
                first_clause(error)
            ));
        }
        in_place_of(&(&model.name, &model.revision))
    }

    /// A data set was not found. Gives what is hashed in place of the digest of its tokens.
    pub(crate) fn data_set(&mut self, data: &DataName, error: &CliError) -> String {
        if self.data.insert(data.clone()) {
            self.say(format!(
                "no data set `{}` ({}): its tokens are not counted",
                data.dataset,
                first_clause(error)
            ));
        }
        in_place_of(&format!("{data:?}"))
    }

    /// A model has no tokenizer. Gives what is hashed in place of the digest of the tokens of `data`.
    pub(crate) fn tokenizer_of(&mut self, model: &ModelName, data: &DataName) -> String {
        self.say(format!(
            "no tokenizer of `{}`: tokens are estimated by the size of the text",
            model.name
        ));
        in_place_of(&(&model.name, format!("{data:?}")))
    }

    /// A model has no tokenizer to compare with that of the other model of a crosscoder.
    pub(crate) fn tokenizer_to_compare(&mut self, model: &ModelName) {
        self.say(format!(
            "no tokenizer of `{}`: whether both models have the same is not known",
            model.name
        ));
    }

    fn say(&mut self, line: String) {
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }
}

/// Used instead of a digest that is not known.
fn in_place_of(name: &impl serde::Serialize) -> String {
    digest_json(&("not known", name))
}

/// Of a message with its causes, the first.
fn first_clause(error: &CliError) -> String {
    let message = error.to_string();
    if message.starts_with("cannot reach the Hub")
        || message.starts_with("offline") && hub_access::is_out_of_reach()
    {
        return "the Hub does not answer".to_owned();
    }
    let end = message.find(": ").unwrap_or(message.len());
    message[..end].to_owned()
}
