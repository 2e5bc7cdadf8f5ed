//! The commands on the pages exist, with their options.

use super::{Page, in_repository, pages, spans};
use crate::common::Workspace;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What starts `sae-run` in a line of a fenced block.
const STARTERS: [&str; 4] = ["$", "sae-run", "srun", "torchrun"];

/// Command lines of a page: lines of its blocks, and spans of its prose.
fn command_lines(page: &Page) -> Vec<String> {
    let blocks = page.blocks.iter().filter(|block| block.language.is_empty());
    let mut lines: Vec<String> = blocks
        .flat_map(|block| {
            let joined = block.text.replace("\\\n", " ");
            joined.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| STARTERS.contains(&line.split(' ').next().unwrap()) || is_make(line))
        .collect();
    let in_prose = spans(&page.prose).into_iter();
    lines.extend(in_prose.filter(|span| span.starts_with("sae-run ") || is_make(span)));
    lines
}

fn is_make(line: &str) -> bool {
    line.starts_with("make ")
}

/// The words of a help text that are long options, with `-` for `_`, and its commands.
struct Help {
    options: BTreeSet<String>,
    commands: BTreeSet<String>,
}

/// Asks the program for help, once for each command.
struct Helps {
    workspace: Workspace,
    known: BTreeMap<Vec<String>, Help>,
}

impl Helps {
    fn of(&mut self, command: &[&str]) -> &Help {
        let key = command.iter().map(|&word| word.to_owned()).collect();
        let workspace = &self.workspace;
        self.known.entry(key).or_insert_with(|| {
            let text = workspace
                .run(&[command, &["--help"][..]].concat())
                .succeeds()
                .stdout;
            let words = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
            let options = words.filter(|word| word.starts_with("--")).map(dashed);
            Help {
                options: options.collect(),
                commands: commands_in(&text),
            }
        })
    }

    /// Says which of the words after `sae-run` does not exist.
    fn unknown(&mut self, words: &[&str]) -> Option<String> {
        let mut command = Vec::new();
        for word in words {
            if !self.of(&command).commands.contains(*word) {
                break;
            }
            command.push(*word);
        }
        let rest = &words[command.len()..];
        let is_sweep =
            |word: &&str| word.ends_with(".toml") || word.starts_with("--") || *word == "...";
        if command.is_empty() && !rest.first().is_none_or(is_sweep) {
            return Some(rest[0].to_owned());
        }
        let help = self.of(&command);
        let options = rest.iter().filter(|word| word.starts_with("--"));
        let mut names = options.map(|word| dashed(word.split('=').next().unwrap()));
        names.find(|name| !help.options.contains(name))
    }
}

fn dashed(option: &str) -> String {
    option.replace('_', "-")
}

/// The names below `Commands:`.
fn commands_in(help: &str) -> BTreeSet<String> {
    let list = help.split_once("Commands:\n").map_or("", |(_, list)| list);
    let list = list.split("\n\n").next().unwrap();
    let lines = list.lines().filter_map(|line| line.strip_prefix("  "));
    lines
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

/// The words after `sae-run`, up to a remark or a redirection.
fn words_after_program(line: &str) -> Option<Vec<&str>> {
    let mut words = line.split_whitespace();
    words.find(|&word| word == "sae-run")?;
    Some(
        words
            .take_while(|word| !["#", ">", "|"].contains(word))
            .collect(),
    )
}

#[test]
fn commands_and_options_on_the_pages_exist() {
    let makefile = fs::read_to_string(in_repository("Makefile")).unwrap();
    let mut helps = Helps {
        workspace: Workspace::new(),
        known: BTreeMap::new(),
    };
    let mut n_seen = 0;
    for page in pages() {
        for line in command_lines(&page) {
            n_seen += 1;
            let wrong = if is_make(&line) {
                let target = line.split_whitespace().nth(1).unwrap();
                let is_there = makefile.contains(&format!("\n{target}:"));
                (!is_there).then(|| target.to_owned())
            } else {
                words_after_program(&line).and_then(|words| helps.unknown(&words))
            };
            assert_eq!(wrong, None, "{}: `{line}`", page.path.display());
        }
    }
    assert!(n_seen > 50, "{n_seen} commands were found");
    assert_eq!(
        helps.unknown(&["recipes", "test", "--no-such"]),
        Some("--no-such".into())
    );
    assert_eq!(helps.unknown(&["trian"]), Some("trian".into()));
}
