//! The prompt of `sae-run sql`: statement after statement, with completion and history.

use crate::error::CliError;
use crate::show::asker::Asker;
use crate::show::table;
use crate::sweep::paths::Folders;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use std::fs;
use std::path::PathBuf;
use store::Store;

/// SQL's keywords for questions.
const KEYWORDS: [&str; 28] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "HAVING",
    "LIMIT",
    "JOIN",
    "LEFT JOIN",
    "USING",
    "WITH",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS NULL",
    "LIKE",
    "BETWEEN",
    "DISTINCT",
    "DESC",
    "NULLS LAST",
    "count(",
    "min(",
    "max(",
    "avg(",
    "sum(",
    "round(",
];

type SqlEditor = Editor<Words, DefaultHistory>;

/// Reads statements and answers them until the end of input. A statement may go over several lines
/// and ends in `;`, by SQLite's own rule.
///
/// # Errors
/// A terminal that cannot be read. An error in a statement is shown, and the next statement is asked for.
pub(crate) async fn prompt(store: &Store, asker: &mut Asker<'_>) -> Result<u8, CliError> {
    let unusable =
        |error: ReadlineError| CliError::environment(format!("cannot use the terminal: {error}"));
    let mut editor = SqlEditor::new().map_err(unusable)?;
    editor.set_helper(Some(Words::of(store).await?));
    let history = history();
    if let Some(history) = &history {
        // The file does not exist at first.
        let _ = editor.load_history(history);
    }
    table::note("read-only; end a statement with `;`, leave with Ctrl-D");
    while let Some(statement) = read_statement(&mut editor).map_err(unusable)? {
        let _ = editor.add_history_entry(statement.trim());
        if let Err(error) = asker.answer(&statement).await {
            error.print();
        }
    }
    if let Some(history) = &history {
        save(&mut editor, history);
    }
    Ok(0)
}

/// The next statement; `None` at the end of input. Ctrl-C drops what was begun.
fn read_statement(editor: &mut SqlEditor) -> Result<Option<String>, ReadlineError> {
    let mut statement = String::new();
    loop {
        let prompt = if statement.is_empty() {
            "sql> "
        } else {
            "...> "
        };
        match editor.readline(prompt) {
            Ok(line) => statement += &(line + "\n"),
            Err(ReadlineError::Interrupted) => statement.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error),
        }
        if statement.trim().is_empty() {
            statement.clear();
        } else if store::is_complete(&statement) {
            return Ok(Some(statement));
        }
    }
}

/// What was asked is kept in the cache, if there is one.
fn history() -> Option<PathBuf> {
    Some(Folders::of_this_machine().ok()?.cache.join("sql_history"))
}

fn save(editor: &mut SqlEditor, history: &PathBuf) {
    let made = history.parent().map_or(Ok(()), fs::create_dir_all);
    let saved = made
        .map_err(ReadlineError::from)
        .and_then(|()| editor.save_history(history));
    if let Err(error) = saved {
        table::note(&format!("the history could not be saved: {error}"));
    }
}

/// The words that completion offers.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words {
    words: Vec<String>,
}

impl Words {
    /// SQL's keywords, and the tables, views and columns of the database.
    async fn of(store: &Store) -> Result<Self, CliError> {
        let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')
                   UNION
                   SELECT columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
                   WHERE tables.type IN ('table', 'view')";
        let names = store.query(sql).await?.rows.into_iter().flatten();
        let names = names.filter_map(|name| name.as_str().map(str::to_owned));
        // A name that would steer the terminal has to be typed.
        let names = names.filter(|name| *name == table::escaped(name));
        let words = KEYWORDS.map(str::to_owned).into_iter().chain(names);
        Ok(Self {
            words: words.collect(),
        })
    }

    /// The words that complete the last one of `text`, and where that one begins.
    fn completions(&self, text: &str) -> (usize, Vec<String>) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = text.trim_end_matches(is_word).len();
        let begun = &text[start..];
        let fits = |word: &&String| {
            let head = word.get(..begun.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(begun))
        };
        (start, self.words.iter().filter(fits).cloned().collect())
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = self.completions(&line[..position]);
        let pair = |word: String| Pair {
            display: word.clone(),
            replacement: word,
        };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_completed() {
        let words = ["SELECT", "sum(", "fvu", "fvu_eval"].map(str::to_owned);
        let words = Words {
            words: words.into(),
        };
        let completions = |text| words.completions(text);
        assert_eq!(completions("sel"), (0, vec!["SELECT".into()]));
        let fvu = vec!["fvu".to_owned(), "fvu_eval".into()];
        assert_eq!(completions("SELECT round(fv"), (13, fvu));
        assert_eq!(completions("größe, S").0, 9);
        assert_eq!(completions("nothing"), (0, vec![]));
    }
}
