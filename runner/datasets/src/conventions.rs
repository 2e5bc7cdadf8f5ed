//! The splits of a data set by the names of its files and folders.

use super::card::Split;
use super::listing::Listing;
use super::patterns::{Pattern, base_name};
use crate::DatasetError;
use std::collections::BTreeSet;

const SHARDS: &str = "data/{split}-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]*.*";

/// The splits that `datasets` recognises by words in names, and those words.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

const WORD_IN_FOLDER: [&str; 4] = [
    "**/{word}/**",
    "**/{word}[-._ 0-9]*/**",
    "**/*[-._ 0-9]{word}/**",
    "**/*[-._ 0-9]{word}[-._ 0-9]*/**",
];

const WORD_IN_FILE: [&str; 2] = ["**/{word}[-._ 0-9]*", "**/*[-._ 0-9]{word}[-._ 0-9]*"];

/// The splits of the files below `dir`: the first convention of `datasets` 5.2 that fits anything.
/// Files count here whether or not they hold data. Empty if no file fits a convention.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn conventions(listing: &Listing<'_>, dir: &str) -> Result<Vec<Split>, DatasetError> {
    let shards = shards(listing, dir)?;
    if !shards.is_empty() {
        return Ok(shards);
    }
    let all = [Split::train(vec!["**".into()])];
    let conventions: [&[Split]; 5] = [
        &[Split::new("logs", &["**/*.eval"])],
        &[Split::new("test", &["**/task.toml", "**/instruction.md"])],
        &splits_by_words(&WORD_IN_FOLDER),
        &splits_by_words(&WORD_IN_FILE),
        &all,
    ];
    for convention in conventions {
        let mut splits = Vec::new();
        for split in convention {
            if is_there(listing, dir, split)? {
                splits.push(split.clone());
            }
        }
        if !splits.is_empty() {
            return Ok(splits);
        }
    }
    Ok(Vec::new())
}

/// The splits of files such as `data/train-00000-of-00002.parquet`.
fn shards(listing: &Listing<'_>, dir: &str) -> Result<Vec<Split>, DatasetError> {
    let pattern = Pattern::new(dir, &SHARDS.replace("{split}", "*"))?;
    let names = listing.matching(&pattern)?;
    let found: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| split_of_shard(base_name(name)))
        .collect();
    let mut found: Vec<&str> = found.into_iter().collect();
    found.sort_by_key(|name| {
        let index = WORDS.iter().position(|(split, _)| split == name);
        index.unwrap_or(WORDS.len())
    });
    let to_split = |name| Split::new(name, &[&SHARDS.replace("{split}", name)]);
    Ok(found.into_iter().map(to_split).collect())
}

fn is_there(listing: &Listing<'_>, dir: &str, split: &Split) -> Result<bool, DatasetError> {
    for pattern in &split.patterns {
        if !listing.matching(&Pattern::new(dir, pattern)?)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn splits_by_words(patterns: &[&str]) -> Vec<Split> {
    let to_split = |(name, words): (&str, &[&str])| {
        let mut split = Split::new(name, &[]);
        for word in words {
            let patterns = patterns
                .iter()
                .map(|pattern| pattern.replace("{word}", word));
            split.patterns.extend(patterns);
        }
        split
    };
    WORDS.into_iter().map(to_split).collect()
}

/// The split in `train-00000-of-00002-abc.parquet`.
fn split_of_shard(name: &str) -> Option<&str> {
    let is_number = |text: &[u8]| text.len() == 5 && text.iter().all(u8::is_ascii_digit);
    let is_shard = |idx: &usize| {
        let behind = &name.as_bytes()[idx + 1..];
        behind.get(..5).is_some_and(is_number)
            && behind.get(5..9) == Some(b"-of-")
            && behind.get(9..14).is_some_and(is_number)
    };
    let mut dashes = name.match_indices('-').map(|(idx, _)| idx);
    dashes
        .rfind(is_shard)
        .map(|idx| &name[..idx])
        .filter(|split| !split.is_empty())
}
