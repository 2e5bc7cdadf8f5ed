//! Remarks on standard error.

use fault::plain;
use plan::{brief, escaped, redacted};

/// A remark on standard error: one line that fits on a screen, without secrets and without anything that steers a terminal. What
/// serde and the operating system say is in words.
#[expect(clippy::print_stderr, reason = "the one place that prints remarks")]
pub(crate) fn note(text: &str) {
    eprintln!("{}", remark(text));
}

/// A remark, and what to do about it.
pub(crate) fn note_with_hint(text: &str, hint: &str) {
    note(text);
    note(&format!("hint: {hint}"));
}

/// A text as a remark shows it.
pub(crate) fn remark(text: &str) -> String {
    brief(&escaped(&redacted(&plain(text)))).into_owned()
}
