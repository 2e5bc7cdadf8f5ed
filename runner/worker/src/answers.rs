//! Lines on standard output.

use fault::{Remedy, message_chain};
use miette::Diagnostic;
use plan::Answer;
use std::io::{self, Write};

/// Prints an answer. The process that asked may be gone: then this one is about to end, and nothing is lost.
pub(crate) fn answer(answer: &Answer) {
    print(&serde_json::to_string(answer).expect("answers serialise to JSON"));
}

/// Prints a line.
pub(crate) fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// That a task failed.
pub(crate) fn failed<E: Diagnostic + 'static>(error: &E) -> Answer {
    Answer::Failed {
        message: message_chain(error),
        hint: error.hint(),
        kind: error.kind(),
    }
}
