//! Patterns of file names, as fsspec's `glob` reads them.

use crate::DatasetError;
use fault::Fault;
use std::path::Path;

/// Files that no pattern takes unless it names them: those that describe a data set.
const DESCRIPTIONS: [&str; 6] = [
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dummy_data.zip",
    "dataset_dict.json",
];

/// A name or pattern of files, relative to the root of a data set: `*`, `?`, `[a-z]` and `[!a]`
/// stay within a folder, `**` matches any number of folders.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    AnyFolders,
    Name(Vec<Token>),
}

#[derive(Debug)]
enum Token {
    AnyText,
    AnyChar,
    Char(char),
    OneOf {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// The pattern `text` below the folder `dir`; the root if that is empty.
    ///
    /// # Errors
    /// It leads out of the data set, or has `**` together with other characters.
    pub(crate) fn new(dir: &str, text: &str) -> Result<Self, DatasetError> {
        let bad = || {
            let message = format!("`{text}` is not a name or pattern of files in a data set");
            let hint = "patterns begin at the root of the data set, and `**` is between slashes";
            DatasetError::from(Fault::input(message).with_hint(hint))
        };
        if text.starts_with('/') || dir.starts_with('/') || text.contains("://") {
            return Err(bad());
        }
        let mut parts = Vec::new();
        for part in dir.split('/').chain(text.split('/')) {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop().ok_or_else(bad)?),
                part if part != "**" && part.contains("**") => return Err(bad()),
                part => parts.push(part),
            }
        }
        let mut segments: Vec<Segment> = parts.iter().map(|part| Segment::new(part)).collect();
        if parts.last() == Some(&"**") {
            segments.push(Segment::new("*"));
        }
        Ok(Self {
            text: parts.join("/"),
            segments,
        })
    }

    /// Whether a listing takes the file `name` for this pattern: it matches, and neither describes
    /// the data set nor is hidden or in a folder such as `__pycache__`, unless the pattern says so.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.matches(name)
            && (!DESCRIPTIONS.contains(&base_name(name))
                || base_name(name) == base_name(&self.text))
            && n_hidden(name) == n_hidden(&self.text)
            && n_special(name) == n_special(&self.text)
    }

    /// The folder that contains everything that matches, or the one file: the pattern up to its first
    /// special character.
    pub(crate) fn fixed_part(&self) -> &str {
        match first_magic(&self.text) {
            Some(idx) => self.text[..idx]
                .rfind('/')
                .map_or("", |end| &self.text[..end]),
            None => &self.text,
        }
    }

    fn matches(&self, name: &str) -> bool {
        matches(
            &self.segments,
            name.split('/'),
            |segment| matches!(segment, Segment::AnyFolders),
            Segment::matches,
        )
    }
}

impl Segment {
    fn new(part: &str) -> Self {
        if part == "**" {
            return Self::AnyFolders;
        }
        let chars: Vec<char> = part.chars().collect();
        let mut rest = chars.as_slice();
        let mut tokens = Vec::new();
        while let Some((&first, behind)) = rest.split_first() {
            let token;
            (token, rest) = match (first, parse_set(behind)) {
                ('*', _) => (Token::AnyText, behind),
                ('?', _) => (Token::AnyChar, behind),
                ('[', Some(set)) => set,
                (literal, _) => (Token::Char(literal), behind),
            };
            tokens.push(token);
        }
        Self::Name(tokens)
    }

    fn matches(&self, part: &str) -> bool {
        let Self::Name(tokens) = self else {
            return false;
        };
        matches(
            tokens,
            part.chars(),
            |token| matches!(token, Token::AnyText),
            Token::matches,
        )
    }
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::AnyText => false,
            Self::AnyChar => true,
            Self::Char(literal) => *literal == c,
            Self::OneOf { is_negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *is_negated
            }
        }
    }
}

/// Splits `set]rest`, the text after a `[`; a `]` that comes first is a member.
fn parse_set(text: &[char]) -> Option<(Token, &[char])> {
    let is_negated = text.first() == Some(&'!');
    let text = if is_negated { &text[1..] } else { text };
    let end = 1 + text.get(1..)?.iter().position(|&c| c == ']')?;
    let mut members = &text[..end];
    let mut ranges = Vec::new();
    while let [low, rest @ ..] = members {
        let high;
        (high, members) = match rest {
            ['-', high, rest @ ..] => (high, rest),
            rest => (low, rest),
        };
        ranges.push((*low, *high));
    }
    Some((Token::OneOf { is_negated, ranges }, &text[end + 1..]))
}

/// Whether `items` match `pattern`, some elements of which match any number of items.
fn matches<'a, P, I: Iterator<Item: Copy> + Clone>(
    mut pattern: &'a [P],
    mut items: I,
    is_many: impl Fn(&P) -> bool,
    is_match: impl Fn(&P, I::Item) -> bool,
) -> bool {
    // Only the last of these needs another try: what the earlier ones took can stay as it is.
    let mut last_many: Option<(&'a [P], I)> = None;
    loop {
        let mut behind = items.clone();
        match (pattern.split_first(), behind.next()) {
            (Some((first, rest)), _) if is_many(first) => {
                last_many = Some((rest, items.clone()));
                pattern = rest;
            }
            (None, None) => return true,
            (Some((first, rest)), Some(item)) if is_match(first, item) => {
                (pattern, items) = (rest, behind);
            }
            _ => {
                let Some((rest, untaken)) = &mut last_many else {
                    return false;
                };
                if untaken.next().is_none() {
                    return false;
                }
                (pattern, items) = (*rest, untaken.clone());
            }
        }
    }
}

/// Whether `path` is a pattern of files below a folder that exists.
pub fn is_pattern(path: &Path) -> bool {
    let text = path.to_str().filter(|text| has_magic(text));
    text.is_some_and(|text| {
        let (folder, _) = split_at_magic(text);
        folder.is_empty() || Path::new(folder).is_dir()
    })
}

/// Whether `text` is a pattern rather than a name.
pub(crate) fn has_magic(text: &str) -> bool {
    first_magic(text).is_some()
}

/// Splits a path with a pattern into the folder that has a name, and the rest.
pub(crate) fn split_at_magic(path: &str) -> (&str, &str) {
    let end = first_magic(path).unwrap_or(path.len());
    path.split_at(path[..end].rfind('/').map_or(0, |idx| idx + 1))
}

/// The last part of a name.
pub(crate) fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn first_magic(text: &str) -> Option<usize> {
    text.find(['*', '?', '['])
}

fn n_hidden(name: &str) -> usize {
    let is_hidden = |part: &&str| part.starts_with('.') && !part.trim_matches('.').is_empty();
    name.split('/').filter(is_hidden).count()
}

fn n_special(name: &str) -> usize {
    let folder = name.rfind('/').map_or("", |end| &name[..end]);
    let is_special = |part: &&str| part.starts_with("__");
    folder.split('/').filter(is_special).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken<'a>(pattern: &str, names: &[&'a str]) -> Vec<&'a str> {
        let pattern = Pattern::new("", pattern).unwrap();
        let taken = names.iter().filter(|name| pattern.takes(name));
        taken.copied().collect()
    }

    #[test]
    fn stars_stay_within_a_folder() {
        let names = ["a.csv", "b/a.csv", "b/c/a.csv"];
        assert_eq!(taken("*.csv", &names), ["a.csv"]);
        assert_eq!(taken("*/*.csv", &names), ["b/a.csv"]);
        assert_eq!(taken("**/*.csv", &names), names);
        assert_eq!(taken("**", &names), names);
        assert_eq!(taken("b/**", &names), ["b/a.csv", "b/c/a.csv"]);
        assert_eq!(taken("b/**/a.csv", &names), ["b/a.csv", "b/c/a.csv"]);
        assert_eq!(taken("a.csv/**", &names), [""; 0]);
        assert_eq!(taken("**/c/**/*a*v", &names), ["b/c/a.csv"]);
    }

    #[test]
    fn sets_are_those_of_fnmatch() {
        let names = ["a1", "a2", "a-", "ab", "é1", "a]", "a^", "a["];
        assert_eq!(taken("a[12]", &names), ["a1", "a2"]);
        assert_eq!(taken("a[!1-9b]", &names), ["a-", "a]", "a^", "a["]);
        assert_eq!(taken("a[-._ 0-9]", &names), ["a1", "a2", "a-"]);
        assert_eq!(taken("?1", &names), ["a1", "é1"]);
        assert_eq!(taken("a[]]", &names), ["a]"]);
        assert_eq!(taken("a[^b]", &names), ["ab", "a^"]);
        assert_eq!(taken("a[", &names), ["a["]);
        assert_eq!(taken("a[2-1]", &names), [""; 0]);
    }

    #[test]
    fn names_are_taken_apart_as_paths() {
        let names = ["a.csv", "s/b.csv", "{x}.csv"];
        assert_eq!(taken("./a.csv", &names), ["a.csv"]);
        assert_eq!(taken("s//b.csv", &names), ["s/b.csv"]);
        assert_eq!(taken("s/../a.csv", &names), ["a.csv"]);
        assert_eq!(taken("{x}.csv", &names), ["{x}.csv"]);
        assert_eq!(taken("s", &names), [""; 0]);
    }

    #[test]
    fn what_is_hidden_must_be_asked_for() {
        let names = [
            ".h",
            ".d/a",
            ".d/.b",
            "__x/c",
            "__d",
            "config.json",
            "s/README.md",
        ];
        assert_eq!(taken("**", &names), ["__d"]);
        assert_eq!(taken("*/*", &names), [""; 0]);
        assert_eq!(taken(".*", &names), [".h"]);
        assert_eq!(taken(".d/*", &names), [".d/a"]);
        assert_eq!(taken(".*/.*", &names), [".d/.b"]);
        assert_eq!(taken("__*/*", &names), ["__x/c"]);
        assert_eq!(taken("config.json", &names), ["config.json"]);
        assert_eq!(taken("**/README.md", &names), ["s/README.md"]);
    }

    #[test]
    fn patterns_that_lead_out_or_mean_nothing() {
        for pattern in [
            "/etc/passwd",
            "../a",
            "s/../../a",
            "**.csv",
            "hf://datasets/a/b",
        ] {
            let error = Pattern::new("", pattern).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("is not a name or pattern of files"),
                "{error:?}"
            );
        }
        assert!(Pattern::new("..", "a").is_err());
        assert!(Pattern::new("/etc", "*").is_err());
    }

    #[test]
    fn the_fixed_part_ends_before_the_first_pattern() {
        let fixed_part = |dir, text| Pattern::new(dir, text).unwrap().fixed_part().to_string();
        assert_eq!(fixed_part("", "**/a"), "");
        assert_eq!(fixed_part("s/t/", "u*/a"), "s/t");
        assert_eq!(fixed_part("s", "./a"), "s/a");
        assert_eq!(split_at_magic("/a/b*/c"), ("/a/", "b*/c"));
        assert_eq!(split_at_magic("b?"), ("", "b?"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = format!("{}b", "**/*a*/".repeat(40));
        let name = format!("{}c", "aaaaaaaa/".repeat(60));
        assert_eq!(taken(&pattern, &[&name]), [""; 0]);
    }
}
