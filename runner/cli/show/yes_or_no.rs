//! Asking before something is deleted.

use crate::error::CliError;
use crate::show::table;
use std::io::{BufRead, IsTerminal};
use std::path::Path;

/// What is asked.
pub(crate) struct Question {
    /// With a question mark.
    pub(crate) text: &'static str,
    /// What is so if the answer is no.
    pub(crate) unchanged: &'static str,
    /// What does it without asking.
    pub(crate) yes: &'static str,
}

/// Asks at the terminal, and says so if the answer is no.
///
/// # Errors
/// There is no terminal.
pub(crate) fn ask(question: &Question) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        let (unchanged, yes) = (question.unchanged, question.yes);
        return Err(CliError::input("there is no terminal to ask at")
            .with_hint(format!("{unchanged}; {yes}")));
    }
    table::note(&format!("{} [y/N]", question.text));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| CliError::io("read", Path::new("standard input"), &error))?;
    let is_yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !is_yes {
        table::note(question.unchanged);
    }
    Ok(is_yes)
}
