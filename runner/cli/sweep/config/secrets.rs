//! A sweep is recorded with its text, so no secret may be in it. What is refused is never repeated.

use super::source::SourceFile;
use crate::error::CliError;
use plan::{Sweep, has_secret, names_secret};
use std::env;
use toml::de::{DeTable, DeValue};

/// Variables that hold the token for the Hub.
const TOKEN_VARIABLES: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// A shorter text is not a secret: `pad_token = "</s>"` is a setting of a user's recipe.
const MIN_SECRET_BYTES: usize = 8;

const HINT: &str = "put the token for the Hub into `HF_TOKEN`, or log in with `hf auth login`; a sweep is recorded, \
                    and takes no secrets";

/// Refuses a layer that has a secret in its text, or text under a key that is named as secrets are.
///
/// # Errors
/// There is one; its location is shown, not the secret.
pub(super) fn check(file: &SourceFile) -> Result<(), CliError> {
    let own = own_tokens();
    let mut lines = file.text.lines().zip(1..);
    if let Some((_, line)) = lines.find(|(line, _)| has_secret_or(line, &own)) {
        return Err(found("a secret", &location(file, line)));
    }
    let root = file.table()?;
    match first_named(root.get_ref()) {
        Some((key, at)) => Err(found(
            &format!("`{key}`"),
            &location(file, file.line_of(at)),
        )),
        None => Ok(()),
    }
}

/// Refuses a variable as [`check`] does a layer.
///
/// # Errors
/// There is a secret in it.
pub(super) fn check_variable(variable: &str, key: &str, value: &str) -> Result<(), CliError> {
    let is_named = names_secret(key) && value.len() >= MIN_SECRET_BYTES;
    if is_named || has_secret_or(value, &own_tokens()) {
        return Err(found("a secret", &format!("variable `{variable}`")));
    }
    Ok(())
}

/// Refuses what all layers give together, if it has a secret: a text may be spelt in many ways.
///
/// # Errors
/// There is a secret in it.
pub(super) fn check_sweep(sweep: &Sweep) -> Result<(), CliError> {
    let text = serde_json::to_string(sweep).expect("a sweep serialises to JSON");
    if has_secret_or(&text, &own_tokens()) {
        Err(found("a secret", "the sweep"))
    } else {
        Ok(())
    }
}

/// Refuses a recipe whose text, which is recorded with the sweep, has a secret in it.
///
/// # Errors
/// There is one.
pub(crate) fn check_recipe(name: &str, text: &str) -> Result<(), CliError> {
    if has_secret_or(text, &own_tokens()) {
        Err(found("a secret", &format!("recipe `{name}`")))
    } else {
        Ok(())
    }
}

/// The hint on an unknown key, if that is named as secrets are.
pub(super) fn hint_on(key: &str) -> Option<String> {
    names_secret(key).then(|| HINT.to_owned())
}

fn found(what: &str, location: &str) -> CliError {
    CliError::input(format!("{what} does not belong here"))
        .at(location)
        .with_hint(HINT.to_owned())
}

fn location(file: &SourceFile, line: usize) -> String {
    if file.has_lines {
        format!("{}:{line}", file.name)
    } else {
        file.option().to_owned()
    }
}

fn has_secret_or(text: &str, own: &[String]) -> bool {
    has_secret(text) || own.iter().any(|token| text.contains(token))
}

/// The tokens that this process was started with.
fn own_tokens() -> Vec<String> {
    let tokens = TOKEN_VARIABLES
        .iter()
        .filter_map(|name| env::var(name).ok());
    let tokens = tokens.map(|token| token.trim().to_owned());
    tokens
        .filter(|token| token.len() >= MIN_SECRET_BYTES)
        .collect()
}

/// The first key with text that is named as secrets are, and where it is.
fn first_named(table: &DeTable<'_>) -> Option<(String, usize)> {
    table.iter().find_map(|(key, value)| match value.get_ref() {
        DeValue::Table(inner) => first_named(inner),
        value if names_secret(key.get_ref()) && has_text(value) => {
            Some((key.get_ref().to_string(), key.span().start))
        }
        _ => None,
    })
}

fn has_text(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(text) => text.len() >= MIN_SECRET_BYTES,
        DeValue::Array(items) => items.iter().any(|item| has_text(item.get_ref())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        let file = SourceFile {
            name: "s.toml".into(),
            text: text.into(),
            has_lines: true,
        };
        check(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_are_found_by_their_look_and_by_their_name() {
        let token = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH";
        for (text, start) in [
            (format!("name = 's'\n# {token}\n"), "s.toml:2: a secret"),
            (
                format!("[train]\nmodel = 'https://me:{token}@hub/x'\n"),
                "s.toml:2: a secret",
            ),
            (
                "[vary]\nk = [1]\nhub_token = 'plain secret'\n".into(),
                "s.toml:3: `hub_token`",
            ),
            (
                "[vary.deep]\nkeys.secret = ['short', 'a long one']\n".into(),
                "s.toml:2: `secret`",
            ),
        ] {
            let message = checked(&text).unwrap_err();
            assert!(message.starts_with(start), "{message}");
            assert!(
                !message.contains(token) && !message.contains("plain"),
                "{message}"
            );
        }
        let harmless = "name = 's'\n[vary]\npad_token = '</s>'\nsecret = 7\nexclude_tokens = [1]\n";
        assert_eq!(checked(harmless), Ok(()));
    }
}
