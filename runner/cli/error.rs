//! The one place where errors become messages on the screen and an exit code.

use crate::show::remark::remark;
use datasets::DatasetError;
use facts::FactsError;
use fault::{FailureKind, Fault, Remedy, message_chain};
use hub::HubError;
use miette::Diagnostic;
use plan::PlanError;
use recipe::RecipeError;
use std::fmt;
use std::path::Path;
use store::StoreError;
use tokens::TokensError;

/// Lines of a message that are shown at most.
const MOST_LINES: usize = 16;
/// What is left of a longer one.
const LINES_AT_START: usize = 11;
const LINES_AT_END: usize = 4;

/// An error as the user sees it.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    hint: Option<String>,
    /// The setting it is about.
    setting: Option<String>,
    exit_code: u8,
}

impl CliError {
    /// The user's input is at fault.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            setting: None,
            exit_code: FailureKind::Input.exit_code(),
        }
    }

    /// `kind`: whose fault it is, as a worker says.
    pub(crate) fn of_kind(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            exit_code: kind.exit_code(),
            ..Self::input(message)
        }
    }

    /// The machine is not as it should be; for scripts the same as bad input.
    pub(crate) fn environment(message: impl Into<String>) -> Self {
        Self::input(message)
    }

    /// A file or folder that cannot be used.
    pub(crate) fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::environment(format!("cannot {action} `{}`: {error}", path.display()))
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same, about the setting `key`.
    pub(crate) fn about(mut self, key: impl Into<Option<String>>) -> Self {
        self.setting = key.into();
        self
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The setting it is about.
    pub(crate) fn setting(&self) -> Option<&str> {
        self.setting.as_deref()
    }

    /// The same, with a location in front: `sweep.toml:3: ...`.
    pub(crate) fn at(mut self, location: &str) -> Self {
        self.message = format!("{location}: {}", self.message);
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }

    #[expect(clippy::print_stderr, reason = "the one place that prints errors")]
    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.shown());
        if let Some(hint) = &self.hint {
            eprintln!("hint: {}", remark(hint));
        }
    }

    /// The message as it is printed. Lines after the first are indented, so that none looks like a separate message; of
    /// very many lines, the first and the last are shown.
    fn shown(&self) -> String {
        let message = fault::plain(&self.message);
        let lines: Vec<&str> = message.lines().collect();
        let (first, last) = if lines.len() > MOST_LINES {
            (
                &lines[..LINES_AT_START],
                &lines[lines.len() - LINES_AT_END..],
            )
        } else {
            (&lines[..], &[][..])
        };
        let n_left_out = lines.len() - first.len() - last.len();
        let left_out = format!("[... {n_left_out} more lines ...]");
        let between = (n_left_out > 0).then_some(left_out.as_str());
        let lines = first
            .iter()
            .copied()
            .chain(between)
            .chain(last.iter().copied());
        let shown = lines.enumerate().map(|(index, line)| {
            let indent = if index > 0 && !line.starts_with(' ') {
                "  "
            } else {
                ""
            };
            format!("{indent}{}", remark(line))
        });
        shown.collect::<Vec<_>>().join("\n")
    }

    /// An error in one line, whatever the names in it are made of.
    fn of<E: Diagnostic + 'static>(error: &E) -> Self {
        Self::input(plan::escaped(&message_chain(error))).with_hint(error.hint())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Errors for which scripts see one exit code, that of bad input.
macro_rules! as_input {
    ($($error:ty),*) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::of(&error)
            }
        }
    )*};
}

as_input!(DatasetError, FactsError, HubError, StoreError, TokensError);

impl From<PlanError> for CliError {
    fn from(error: PlanError) -> Self {
        Self::of(&error).about(error.setting_key().map(str::to_owned))
    }
}

impl From<RecipeError> for CliError {
    fn from(error: RecipeError) -> Self {
        // A recipe's own error message may have several lines.
        Self::input(message_chain(&error)).with_hint(error.hint())
    }
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        Self {
            exit_code: fault.kind().exit_code(),
            ..Self::of(&fault)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn names_in_an_error_neither_steer_nor_forge() {
        let error = CliError::from(StoreError::NoDatabase {
            path: PathBuf::from("a\n\x1b[2Jhint: run this"),
        });
        let shown = error.shown();
        assert_eq!(shown.lines().count(), 1, "{shown}");
        assert!(shown.contains(r"a\n\u001b[2Jhint: run this"), "{shown}");
        let recipe = CliError::from(RecipeError::Failed {
            recipe: "r".into(),
            message: "line 3\nhint: run this\x07".into(),
        });
        let shown = recipe.shown();
        assert!(
            shown.ends_with("line 3\n  hint: run this\\u0007"),
            "{shown}"
        );
    }

    #[test]
    fn no_error_fills_more_than_a_screen() {
        let long = CliError::input("x".repeat(100_000)).shown();
        assert!(long.len() < 1000, "{}", long.len());
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}")).collect();
        let shown = CliError::input(lines.join("\n")).shown();
        assert_eq!(shown.lines().count(), 16, "{shown}");
        assert!(
            shown.contains("  line 10\n  [... 985 more lines ...]\n  line 996\n"),
            "{shown}"
        );
    }

    #[test]
    fn no_error_repeats_a_secret() {
        let token = format!("hf_{}", "a".repeat(34));
        let error = CliError::input(format!("`https://me:{token}@host` is not `{token}`"));
        assert_eq!(error.shown(), "`https://***@host` is not `***`");
    }
}
