//! Errors that no caller branches on: what went wrong, who can fix it, and how.
//!
//! A crate's error type has a variant only for what some caller treats in its own way; everything else is
//! a [`Fault`], made where it happens. Variants name their remedy next to their message, with
//! [`miette::Diagnostic`]; [`Remedy`] reads it of both.

mod panics;
mod plain;

pub use panics::without_panic;
pub use plain::plain;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::path::Path;

/// The diagnostic code of errors that are not the input's fault. All others have no code.
pub const INTERNAL: &str = "internal";

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The user's input: a retry would fail the same way.
    Input,
    /// The machine's or the program's.
    Internal,
}

impl FailureKind {
    /// With which a process ends that failed so.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Input => 2,
            Self::Internal => 1,
        }
    }
}

/// An error as text: a message in lower case without a full stop, and what would help.
#[derive(Debug)]
pub struct Fault {
    kind: FailureKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fault {
    /// The input is at fault: a file, a setting, a name.
    pub fn input(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Input,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// The machine or the program is at fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Internal,
            ..Self::input(message)
        }
    }

    /// The input names a file or folder that cannot be used: "cannot read `path`".
    pub fn io(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let message = format!("cannot {action} `{}`", path.as_ref().display());
        move |source| Self::input(message).because(source)
    }

    /// A file or folder of the program itself cannot be used.
    pub fn own_io(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let message = format!("cannot {action} `{}`", path.as_ref().display());
        let hint = "can the folder be written, and is there space on the disk?";
        move |source| Self::internal(message).because(source).with_hint(hint)
    }

    /// Another error, with its own message.
    pub fn of<E: Diagnostic + 'static>(error: &E) -> Self {
        Self {
            kind: error.kind(),
            ..Self::input(message_chain(error))
        }
        .with_optional_hint(Remedy::hint(error))
    }

    /// The same, with what to do about it.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        self.with_optional_hint(Some(hint.into()))
    }

    /// The same, with what to do about it if that is known.
    pub fn with_optional_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// The same, caused by another error, which is shown after it.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl Diagnostic for Fault {
    fn code<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        (self.kind == FailureKind::Internal).then(|| Box::new(INTERNAL) as _)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as _)
    }
}

/// What every error with a diagnosis tells.
pub trait Remedy {
    /// What to do about it.
    fn hint(&self) -> Option<String>;

    /// Whose fault it is.
    fn kind(&self) -> FailureKind;
}

impl<E: Diagnostic + ?Sized> Remedy for E {
    fn hint(&self) -> Option<String> {
        self.help().map(|help| help.to_string())
    }

    fn kind(&self) -> FailureKind {
        match self.code() {
            Some(code) if code.to_string() == INTERNAL => FailureKind::Internal,
            _ => FailureKind::Input,
        }
    }
}

/// An error and its causes in one line.
pub fn message_chain(error: &dyn Error) -> String {
    let mut message = without_stack(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {}", without_stack(error));
        cause = error.source();
    }
    message
}

/// The message of an error, in words. libtorch's end with some 40 lines of C++ functions, of use to no one here.
pub fn without_stack(error: &dyn Error) -> String {
    let message = error.to_string();
    plain(match message.split_once("\nException raised from ") {
        Some((message, _)) => message.trim_end(),
        None => &message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_tells_its_cause_its_hint_and_its_kind() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let fault = Fault::io("read", "a/b.json")(missing).with_hint("is it there?");
        assert_eq!(
            message_chain(&fault),
            "cannot read `a/b.json`: entity not found"
        );
        assert_eq!(fault.hint().as_deref(), Some("is it there?"));
        assert_eq!(fault.kind(), FailureKind::Input);
        let fault = Fault::internal("the device is lost")
            .because("CUDA out of memory.\nException raised from malloc (most recent call first):\nframe #0: c10");
        assert_eq!(
            message_chain(&fault),
            "the device is lost: CUDA out of memory."
        );
        assert_eq!(fault.kind(), FailureKind::Internal);
        assert_eq!((fault.kind().exit_code(), fault.hint()), (1, None));
    }
}
