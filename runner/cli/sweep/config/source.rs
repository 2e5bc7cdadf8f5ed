//! A TOML text and the lines of its keys.

use crate::error::CliError;
use files::bound;
use plan::{takes_text, takes_texts};
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A TOML text with a name for messages.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// Path of the file, or the option as typed.
    pub(super) name: String,
    pub(super) text: String,
    /// Whether lines mean anything to the user.
    pub(super) has_lines: bool,
}

impl SourceFile {
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let text = files::read_text(path, bound::SETTINGS).map_err(|error| {
            CliError::io("read", path, &error).with_hint(
                "a sweep is a TOML file: `sae-run SWEEP.toml`; docs/sweeps.md explains one"
                    .to_owned(),
            )
        })?;
        let file = Self {
            name: path.display().to_string(),
            text,
            has_lines: true,
        };
        file.table()?;
        Ok(file)
    }

    /// An option without its value.
    pub(super) fn option(&self) -> &str {
        let end = if self.name.starts_with("--set ") {
            '='
        } else {
            ' '
        };
        self.name.split(end).next().unwrap_or(&self.name)
    }

    pub(super) fn table(&self) -> Result<Spanned<DeTable<'_>>, CliError> {
        DeTable::parse(&self.text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line_of(span.start));
            CliError::input(error.message())
                .at(&format!("{}:{line}", self.name))
                .with_hint("TOML is made of `key = value` lines below `[table]` lines".to_owned())
        })
    }

    /// The keys of a top-level table, in the order of the text.
    pub(super) fn keys_of(&self, table: &str) -> Vec<String> {
        let Ok(root) = self.table() else {
            return Vec::new();
        };
        let found = root
            .get_ref()
            .iter()
            .find(|(key, _)| key.get_ref() == table);
        let Some(DeValue::Table(inner)) = found.map(|(_, value)| value.get_ref()) else {
            return Vec::new();
        };
        let mut keys: Vec<_> = inner.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        keys.into_iter()
            .map(|key| key.get_ref().to_string())
            .collect()
    }

    /// `file:line` of the deepest key of `path` that the text has; `None` if it has fewer than
    /// `depth` keys of `path`.
    pub(super) fn location(&self, path: &[&str], depth: usize) -> Option<String> {
        let root = self.table().ok()?;
        let mut table = root.get_ref();
        let mut line = None;
        let mut n_found = 0;
        for name in path {
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else {
                break;
            };
            line = Some(self.line_of(key.span().start));
            n_found += 1;
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        let line = line.filter(|_| n_found >= depth)?;
        Some(if self.has_lines {
            format!("{}:{line}", self.name)
        } else {
            self.name.clone()
        })
    }

    /// The text, with the bare values of text settings put in quotes, as they were written: a model may be called
    /// `123`.
    pub(super) fn with_quoted_texts(&self) -> Cow<'_, str> {
        let mut spans = Vec::new();
        if let Ok(root) = self.table() {
            add_bare_texts(root.get_ref(), &mut Vec::new(), &mut spans);
        }
        if spans.is_empty() {
            return Cow::Borrowed(&self.text);
        }
        spans.sort_by_key(|span| span.start);
        let mut text = self.text.clone();
        for span in spans.into_iter().rev() {
            let quoted = toml::Value::from(&self.text[span.clone()]).to_string();
            text.replace_range(span, &quoted);
        }
        Cow::Owned(text)
    }

    /// The number of the line, from 1, that holds byte `offset`.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        1 + self
            .text
            .bytes()
            .take(offset)
            .filter(|&byte| byte == b'\n')
            .count()
    }
}

/// Adds the spans of numbers, dates and truth values that are given for settings that are text. `path`: the keys of
/// the table.
fn add_bare_texts<'a>(
    table: &'a DeTable<'_>,
    path: &mut Vec<&'a str>,
    spans: &mut Vec<Range<usize>>,
) {
    for (key, value) in table {
        path.push(key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => add_bare_texts(inner, path, spans),
            DeValue::Array(items) if takes_texts(path) => {
                let bare = items.iter().filter(|item| is_bare(item.get_ref()));
                spans.extend(bare.map(Spanned::span));
            }
            other if is_bare(other) && takes_text(path) => spans.push(value.span()),
            _ => {}
        }
        path.pop();
    }
}

fn is_bare(value: &DeValue<'_>) -> bool {
    !matches!(
        value,
        DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_)
    )
}
