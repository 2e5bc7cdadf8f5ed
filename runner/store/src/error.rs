//! What can go wrong with the database, as the user can mend it.

use fault::Fault;
use miette::Diagnostic;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A database that cannot be opened, read or written, or a question that has no answer in it.
#[derive(Debug, Error, Diagnostic)]
pub enum StoreError {
    /// Nothing was ever run here.
    #[error("there is no database at `{}`", path.display())]
    #[diagnostic(help("run a sweep first, or name the folder of the runs you mean"))]
    NoDatabase {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A database that an older version has written, opened for reading only.
    #[error("the database `{}` has the older schema {found}, expected {known}", path.display())]
    #[diagnostic(help("run any sweep in this folder: it brings it up to date"))]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its newest migration.
        found: i64,
        /// The newest migration of this program.
        known: i64,
    },
    /// A row that breaks a rule of the schema.
    #[error("the database `{}` refused a row: {rule}", path.display())]
    Constraint {
        /// The database.
        path: PathBuf,
        /// The rule, by the name it has in the schema.
        rule: String,
    },
    /// A new attempt counts its events from an old number.
    #[error(
        "attempt {attempt} at stream `{stream_id}` wrote event {got} again, expected {expected}"
    )]
    EventsRestarted {
        /// The stream.
        stream_id: String,
        /// The attempt.
        attempt: u32,
        /// Number of the next event.
        expected: u64,
        /// Number that was found.
        got: u64,
    },
    /// An event about something the stream does not train.
    #[error(
        "event {seq} of stream `{stream_id}` is about `{what}`, which the stream does not train"
    )]
    ForeignEvent {
        /// The stream.
        stream_id: String,
        /// Number of the event.
        seq: u64,
        /// The job, and the SAE if it names one.
        what: String,
    },
    /// A query that was asked to stop.
    #[error("the query was stopped")]
    QueryStopped,
    /// A query that took longer than it may.
    #[error("the query took longer than {} s", timeout.as_secs_f64())]
    #[diagnostic(help("raise the limit with `sae-run sql --timeout SECONDS`, or ask for less"))]
    QueryTimedOut {
        /// How long it may take.
        timeout: Duration,
    },
    /// Anything else.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

/// For a file or folder that is not as it must be to be opened.
pub(crate) const PERMISSIONS: &str =
    "check the permissions, or choose another folder with `runs_dir`";
/// For a file that is not ours.
pub(crate) const OTHER_FOLDER: &str = "nothing was changed; choose another folder with `runs_dir`";

impl StoreError {
    /// Whether it is an event that is at fault, and not the database.
    pub(crate) fn is_of_an_event(&self) -> bool {
        matches!(
            self,
            Self::EventsRestarted { .. } | Self::ForeignEvent { .. } | Self::Constraint { .. }
        )
    }

    /// Classifies what SQLite says by what the user can do about it.
    pub(crate) fn from_sqlx(path: &Path, source: sqlx::Error) -> Self {
        match result_code(&source) {
            Some(19) => Self::Constraint {
                rule: message(&source),
                path: path.to_owned(),
            },
            code => known_code(path, code)
                .unwrap_or_else(|| database_failed(path, message(&source)))
                .into(),
        }
    }
}

/// What one of the primary codes of <https://www.sqlite.org/rescode.html> means for the user.
fn known_code(path: &Path, code: Option<i32>) -> Option<Fault> {
    let path = path.display();
    let (message, hint) = match code? {
        5 | 6 => (
            format!("the database `{path}` is locked by another process"),
            "wait for the other process, or end it",
        ),
        3 | 8 => (
            format!("the database `{path}` or its folder cannot be written"),
            PERMISSIONS,
        ),
        7 => (
            format!("there is not enough memory for the database `{path}`"),
            "end other programs, or lower `launch.jobs`",
        ),
        10 | 22 => (
            format!("the database `{path}` cannot be read or written: the disk refuses it"),
            "look for a quota, a limit of file sizes (`ulimit -f`), or errors of the disk (`dmesg`), then run \
             again: nothing recorded is lost",
        ),
        11 => (
            format!("the database `{path}` is damaged"),
            "copy the file away, then try `sqlite3 runs.db .recover`; the checkpoints in the same folder do not depend on it",
        ),
        13 => (
            format!("no space is left for the database `{path}`"),
            "free some space and run again; nothing recorded is lost",
        ),
        14 => (format!("cannot open the database `{path}`"), PERMISSIONS),
        26 => (format!("`{path}` is not an SQLite database"), OTHER_FOLDER),
        _ => return None,
    };
    Some(Fault::input(message).with_hint(hint))
}

/// Any other failure of the database, with the message of SQLite or the driver.
pub(crate) fn database_failed(path: &Path, reason: impl Display) -> Fault {
    Fault::input(format!(
        "the database `{}` failed: {reason}",
        path.display()
    ))
}

/// A name that means nothing here, with those that look most like it.
pub(crate) fn unknown_name(message: String, nearest: &[String]) -> Fault {
    Fault::input(message).with_hint(
        did_you_mean(nearest).unwrap_or_else(|| {
            "`sae-run ls` lists the sweeps, `sae-run ls SWEEP` their jobs".into()
        }),
    )
}

/// The names that look most like another; `None` if there is no such name.
pub(crate) fn did_you_mean(nearest: &[String]) -> Option<String> {
    let names: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

/// SQLite's primary result code, if the error is SQLite's.
pub(crate) fn result_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// SQLite's message, without the driver's.
pub(crate) fn message(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

/// A failure inside the crate, before it is known which file it happened in.
#[derive(Debug)]
pub(crate) enum Trouble {
    Sql(sqlx::Error),
    Store(StoreError),
}

impl Trouble {
    pub(crate) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sql(error) => StoreError::from_sqlx(path, error),
            Self::Store(error) => error,
        }
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}
