//! Lines on standard output.

use fault::{FailureKind, message_chain};
use plan::Answer;
use std::io::{self, Write};

/// Prints an answer. Whoever asked may be gone: then this process is about to end, and nothing is lost.
pub(crate) fn answer(answer: &Answer) {
    print(&serde_json::to_string(answer).expect("answers serialise to JSON"));
}

/// Prints a line.
pub(crate) fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// That a task failed.
pub(crate) fn failed(
    error: &(impl std::error::Error + 'static),
    (hint, kind): (Option<String>, FailureKind),
) -> Answer {
    Answer::Failed {
        message: message_chain(error),
        hint,
        kind,
    }
}
