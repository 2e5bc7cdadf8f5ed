//! The log of this process.

/// A line for standard error, which is a worker's log; people read it at a terminal.
#[expect(
    clippy::print_stderr,
    reason = "a worker's standard error is its log file"
)]
pub(crate) fn log(line: &str) {
    eprintln!("{}", plan::escaped(line));
}
