//! Mistakes in what was typed that clap alone cannot explain.

use crate::Args;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use plan::{TrainConfig, nearest};
use std::path::Path;

/// What is wrong with the words after the program's name, which gave no command; `error`: what clap says, if it is not
/// a sweep to run either.
pub(crate) fn explained(error: Option<&clap::Error>, words: &[String]) -> Option<String> {
    let of_first = words.first().and_then(|word| of_first(word));
    of_first.or_else(|| of_setting(error?, words))
}

/// What is wrong with the first word, if it is neither a command nor a sweep.
fn of_first(word: &str) -> Option<String> {
    let may_be_file = Path::new(word).extension().is_some() || word.contains('/');
    if word.starts_with('-') || may_be_file || Path::new(word).exists() {
        return None;
    }
    let command = Args::command();
    if command.find_subcommand(word).is_some() || word == "help" {
        return None;
    }
    let names = command.get_subcommands().map(clap::Command::get_name);
    let near = nearest(word, names, 1);
    let hint = match near.first() {
        Some(name) => format!("did you mean `{name}`? `sae-run --help` lists the commands"),
        None => {
            "`sae-run --help` lists the commands; a sweep is a file such as `sweep.toml`".into()
        }
    };
    Some(format!(
        "error: `{word}` is neither a command nor a file\nhint: {hint}\n"
    ))
}

/// What to type in place of an option that is a setting.
fn of_setting(error: &clap::Error, words: &[String]) -> Option<String> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let name = option.split('=').next().unwrap_or_default();
    let key = name.trim_start_matches('-').replace('-', "_");
    if !TrainConfig::keys().contains(&key) {
        return None;
    }
    let at = words
        .iter()
        .position(|word| word.split('=').next() == Some(name))?;
    let value = match words[at].split_once('=') {
        Some((_, value)) => Some(value),
        None => words.get(at + 1).map(String::as_str),
    };
    let value = value
        .filter(|value| !value.starts_with("--"))
        .unwrap_or("VALUE");
    Some(format!(
        "error: `{name}` is a setting, and here no option\nhint: `--set train.{key}={value}`\n"
    ))
}
