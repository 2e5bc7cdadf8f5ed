//! The language of README, the map and the book: no turn of the table in docs/contributing.md, no long sentence.

use super::{in_repository, pages, read_page, spans};
use std::fs;
use std::path::{Path, PathBuf};

/// The longest sentence outside tables and code, in words. A code span is one word.
const MAX_WORDS: usize = 35;

/// A paragraph, list item, heading or table row.
struct Block {
    first_line: usize,
    is_prose: bool,
    text: String,
}

/// A word in lower case without the punctuation around it; empty if there is nothing else.
struct Word {
    line: usize,
    text: String,
    /// Whether punctuation follows, so that no turn includes this word and the next.
    ends_phrase: bool,
    ends_sentence: bool,
}

/// The first column of the table.
fn turns() -> Vec<String> {
    let page = read_page(in_repository("docs/contributing.md"));
    let (_, table) = page
        .prose
        .split_once("| turn | what to write |\n")
        .expect("docs/contributing.md has the table of turns");
    let rows = table.lines().skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .flat_map(|row| spans(row.split('|').nth(1).unwrap()))
        .collect()
}

/// The blocks of a page, without the fenced ones.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut is_fenced, mut is_open) = (false, false);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_fence = line.starts_with("```");
        is_fenced ^= is_fence;
        if is_fence || is_fenced || line.is_empty() {
            is_open = false;
            continue;
        }
        let is_prose = !line.starts_with(['#', '|']);
        if !is_open || !is_prose || is_list_item(line) {
            blocks.push(Block {
                first_line: index + 1,
                is_prose,
                text: String::new(),
            });
        }
        blocks.last_mut().unwrap().text += &format!("{line}\n");
        is_open = is_prose;
    }
    blocks
}

fn is_list_item(line: &str) -> bool {
    let marker = line.split(' ').next().unwrap();
    let number = marker.strip_suffix('.').unwrap_or_default();
    marker == "-" || (!number.is_empty() && number.chars().all(|it| it.is_ascii_digit()))
}

/// The text with `code` for each code span and without the targets of links. Line breaks stay.
fn without_code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let text: String = parts
        .map(|(index, part)| match index % 2 {
            0 => part.to_owned(),
            _ => format!("code{}", "\n".repeat(part.matches('\n').count())),
        })
        .collect();
    let mut parts = text.split("](");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        text + "]" + part.split_once(')').unwrap().1
    })
}

fn words(block: &Block) -> Vec<Word> {
    let text = without_code(&block.text).to_lowercase();
    let mut words = Vec::new();
    for (index, line) in text.lines().enumerate() {
        words.extend(line.split_whitespace().map(|word| {
            Word {
                line: block.first_line + index,
                text: word.trim_matches(|it: char| !it.is_alphanumeric()).into(),
                ends_phrase: !word.ends_with(char::is_alphanumeric),
                ends_sentence: word
                    .trim_end_matches(['*', ')', '"'])
                    .ends_with(['.', '!', '?']),
            }
        }));
    }
    words
}

/// The lines in which a turn begins.
fn lines_with(turn: &str, words: &[Word]) -> Vec<usize> {
    let turn: Vec<_> = turn.split(' ').collect();
    words
        .windows(turn.len())
        .filter(|window| {
            let (_, inner) = window.split_last().unwrap();
            let texts = window.iter().map(|word| word.text.as_str());
            texts.eq(turn.iter().copied()) && inner.iter().all(|word| !word.ends_phrase)
        })
        .map(|window| window[0].line)
        .collect()
}

/// The long sentences: first line and number of words.
fn long_sentences(words: &[Word]) -> Vec<(usize, usize)> {
    words
        .split_inclusive(|word| word.ends_sentence)
        .map(|sentence| {
            let n_words = sentence.iter().filter(|word| !word.text.is_empty());
            (sentence[0].line, n_words.count())
        })
        .filter(|&(_, n_words)| n_words > MAX_WORDS)
        .collect()
}

/// What to change on a page: file, line and turn, or file, line and length of a sentence.
fn faults(name: &str, text: &str, turns: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for block in blocks(text) {
        let words = words(&block);
        for turn in turns {
            let lines = lines_with(turn, &words).into_iter();
            faults.extend(lines.map(|line| format!("{name}:{line}: `{turn}`")));
        }
        if block.is_prose {
            let long = long_sentences(&words).into_iter();
            faults.extend(long.map(|(line, n)| format!("{name}:{line}: a sentence of {n} words")));
        }
    }
    faults
}

#[test]
fn the_pages_have_no_turn_to_avoid_and_no_long_sentence() {
    let turns = turns();
    assert!(turns.len() >= 30, "{turns:?}");
    let root = in_repository("");
    let faults: Vec<_> = pages()
        .iter()
        .flat_map(|page| {
            let name = page.path.strip_prefix(&root).unwrap().to_str().unwrap();
            faults(name, &fs::read_to_string(&page.path).unwrap(), &turns)
        })
        .collect();
    assert_none(&faults);
}

#[test]
fn sizes_are_in_decimal_units() {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let root = in_repository("");
    let mut files: Vec<PathBuf> = pages().into_iter().map(|page| page.path).collect();
    files.push(root.join("CHANGELOG.md"));
    let faults = files.iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().enumerate();
        let found = lines.filter(|(_, line)| units.iter().any(|unit| line.contains(unit)));
        let fault = |(index, line)| format!("{}:{}: {line}", path.display(), index + 1);
        found.map(fault).collect::<Vec<_>>()
    });
    assert_none(&faults.collect::<Vec<_>>());
}

/// Asserts that no turn is in what `part` takes of each file of Rust; its sentences may be long.
fn assert_no_turn(files: &[PathBuf], part: impl Fn(&str) -> String) {
    let turns = turns();
    let faults = files.iter().flat_map(|path| {
        let text = part(&fs::read_to_string(path).unwrap());
        let faults = faults(&path.display().to_string(), &text, &turns);
        faults
            .into_iter()
            .filter(|fault| !fault.contains("a sentence of"))
    });
    assert_none(&faults.collect::<Vec<_>>());
}

fn assert_none(faults: &[String]) {
    let hint = "docs/contributing.md says what to write";
    assert!(faults.is_empty(), "{hint}:\n{}", faults.join("\n"));
}

/// The comments of a file of Rust, each line where it was, and nothing else.
fn comments(text: &str) -> String {
    let comment = |line: &str| {
        let (before, comment) = line.split_once("//").unwrap_or_default();
        // In a text such as an address it begins no comment.
        let is_comment = before.trim().is_empty() || before.ends_with(' ');
        let is_comment = is_comment && before.matches('"').count().is_multiple_of(2);
        let comment = comment.trim_start_matches(['/', '!']);
        if is_comment {
            comment.trim_start().to_owned()
        } else {
            String::new()
        }
    };
    text.lines().map(comment).collect::<Vec<_>>().join("\n")
}

/// The files of Rust below a folder.
fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => rust_files(&path, files),
            Some(end) if end == "rs" => files.push(path),
            _ => {}
        }
    }
}

#[test]
fn the_comments_of_the_code_have_no_turn_to_avoid() {
    let mut files = Vec::new();
    for folder in ["runner", "tests"] {
        rust_files(&in_repository(folder), &mut files);
    }
    assert!(files.len() > 400, "{}", files.len());
    assert_no_turn(&files, comments);
}

/// The messages in the code of a file of Rust, each line where it was: what is in quotes, without what is in a comment,
/// in SQL or in tests.
fn messages(text: &str) -> String {
    let (code, _) = text.split_once("#[cfg(test)]\nmod ").unwrap_or((text, ""));
    let mut is_inside = false;
    let message = |line: &str| {
        let line = line.replace("\\\"", "").replace("'\"'", "");
        if !is_inside && line.trim_start().starts_with("//") {
            return String::new();
        }
        let parts = line.split('"');
        let n_marks = parts.clone().count() - 1;
        let first = usize::from(!is_inside);
        let within: Vec<&str> = parts.skip(first).step_by(2).collect();
        // A text that continues in the next line ends in a backslash.
        is_inside = (n_marks % 2 == 1) != is_inside && line.ends_with('\\');
        let text = within.join(" . ").trim_end_matches('\\').to_owned();
        let is_whole = !is_inside && !text.is_empty();
        if is_whole { text + " ." } else { text }
    };
    code.lines().map(message).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_messages_of_the_code_have_no_turn_to_avoid() {
    let mut files = Vec::new();
    rust_files(&in_repository("runner"), &mut files);
    // What tests, benchmarks and the report's page say no user reads as a message.
    let is_said = |path: &Path| {
        let path = path.display().to_string();
        let others = ["test", "examples", "benches", "hub_server", "golden"];
        !others.iter().any(|other| path.contains(other))
    };
    files.retain(|path| is_said(path.strip_prefix(in_repository("")).unwrap()));
    assert!(files.len() > 300, "{}", files.len());
    assert_no_turn(&files, messages);
}

#[test]
fn messages_are_what_is_in_quotes() {
    let code = "let a = \"it \\\n     goes on\"; // \"not\" here\nlet b = '\"';\nsay(\"x\", \"y\");\n\
                #[cfg(test)]\nmod tests { \"never\" }";
    let found = messages(code);
    let lines: Vec<&str> = found.lines().map(str::trim).collect();
    assert_eq!(lines, ["it", "goes on . not .", "", "x . y ."]);
    let turns = ["goes on".to_owned()];
    assert_eq!(faults("code", &found, &turns), ["code:2: `goes on`"]);
}

#[test]
fn turns_and_long_sentences_are_found_outside_code() {
    let turns = ["goes on", "behind"].map(str::to_owned);
    let sentence = |n_words| format!("{} end.", "word ".repeat(n_words - 1));
    let page = [
        "# Behind the scenes",
        "It goes",
        "on. Where it goes, on time, `behind` is",
        "`a span`, [not here](behind.md).",
        "```",
        "goes on",
        "```",
        &format!("- {}", sentence(MAX_WORDS)),
        &format!("- Short. {}", sentence(MAX_WORDS + 1)),
        &format!("| a cell | behind | {} |", sentence(MAX_WORDS + 1)),
        "1. goes on",
    ];
    let expected = [
        "page:1: `behind`",
        "page:2: `goes on`",
        "page:9: a sentence of 36 words",
        "page:10: `behind`",
        "page:11: `goes on`",
    ];
    assert_eq!(faults("page", &page.join("\n"), &turns), expected);
}
