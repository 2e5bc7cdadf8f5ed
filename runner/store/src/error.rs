//! What can go wrong with the database, as the user can mend it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A database that cannot be opened, read or written, or a question that has no answer in it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing was ever run here.
    #[error("there is no database at `{}`", path.display())]
    NoDatabase {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The folder of the database cannot be made.
    #[error("cannot create the folder `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file or its folder cannot be written.
    #[error("the database `{}` or its folder cannot be written", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open the database `{}`", path.display())]
    CannotOpen {
        /// The database.
        path: PathBuf,
    },
    /// The disk or network file system fails, or allows no file of that size.
    #[error("the database `{}` cannot be read or written: the disk refuses it", path.display())]
    DiskFails {
        /// The database.
        path: PathBuf,
    },
    /// Memory ran out.
    #[error("there is not enough memory for the database `{}`", path.display())]
    NoMemory {
        /// The database.
        path: PathBuf,
    },
    /// A file of another kind.
    #[error("`{}` is not an SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A database of another program.
    #[error("`{}` is a database of another program", path.display())]
    ForeignDatabase {
        /// The database.
        path: PathBuf,
    },
    /// A database that a newer version has written.
    #[error(
        "the database `{}` has schema {found}, this version knows schemas up to {known}",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its newest migration.
        found: i64,
        /// The newest migration of this program.
        known: i64,
    },
    /// A database that an older version has written, opened for reading only.
    #[error("the database `{}` has the older schema {found}, expected {known}", path.display())]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its newest migration.
        found: i64,
        /// The newest migration of this program.
        known: i64,
    },
    /// A database that a version before the first release has written. None can bring it up to date.
    #[error(
        "the database `{}` has schema {found}, which only an unreleased version of sae-run knows",
        path.display()
    )]
    UnreleasedSchema {
        /// The database.
        path: PathBuf,
        /// Its newest migration.
        found: i64,
    },
    /// A migration that was applied in another wording than this program's.
    #[error("the database `{}` was made with another text of migration {version}", path.display())]
    ChangedMigration {
        /// The database.
        path: PathBuf,
        /// The migration.
        version: i64,
    },
    /// Another process writes, for longer than the busy timeout.
    #[error("the database `{}` is locked by another process", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// No space is left.
    #[error("no space is left for the database `{}`", path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("the database `{}` is damaged", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
    },
    /// A row that breaks a rule of the schema.
    #[error("the database `{}` refused a row: {rule}", path.display())]
    Constraint {
        /// The database.
        path: PathBuf,
        /// The rule, by the name it has in the schema.
        rule: String,
    },
    /// Any other failure of the database.
    #[error("the database `{}` failed: {reason}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite or the driver said.
        reason: String,
    },

    /// A sweep that was never run.
    #[error("no sweep is called `{sweep}`")]
    UnknownSweep {
        /// What was asked for.
        sweep: String,
        /// The names that look most like it.
        nearest: Vec<String>,
    },
    /// A job that was never planned.
    #[error("no job has the id or name `{job}`")]
    UnknownJob {
        /// What was asked for.
        job: String,
        /// The names that look most like it.
        nearest: Vec<String>,
    },
    /// A name or the start of an id that fits several jobs.
    #[error("`{job}` fits {} jobs", candidates.len())]
    AmbiguousJob {
        /// What was asked for.
        job: String,
        /// Each as `id (sweep/name)`.
        candidates: Vec<String>,
    },
    /// A stream that was never planned.
    #[error("there is no stream `{stream_id}`")]
    UnknownStream {
        /// What was asked for.
        stream_id: String,
    },
    /// An attempt that was never begun.
    #[error("stream `{stream_id}` has no attempt {number}")]
    UnknownAttempt {
        /// The stream.
        stream_id: String,
        /// What was asked for.
        number: u32,
    },
    /// A stream without work.
    #[error("all jobs of stream `{stream_id}` are done")]
    NothingToTrain {
        /// The stream.
        stream_id: String,
    },
    /// A stream that another worker trains.
    #[error("attempt {number} at stream `{stream_id}` is still running")]
    StillRunning {
        /// The stream.
        stream_id: String,
        /// The running attempt.
        number: u32,
    },

    /// A new attempt counts its events from an old number.
    #[error(
        "attempt {attempt} at stream `{stream_id}` wrote event {got} once more, expected {expected}"
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
        /// The job, and the SAE where it names one.
        what: String,
    },

    /// A job of which nothing is known but its plan.
    #[error("job `{job_id}` was never trained")]
    NeverTrained {
        /// The job.
        job_id: String,
    },
    /// An empty question.
    #[error("the query is empty")]
    EmptyQuery,
    /// What is recorded of a recipe's round is none.
    #[error("round {number} of sweep `{sweep}` is damaged in the database")]
    DamagedRound {
        /// The sweep.
        sweep: String,
        /// The round.
        number: u32,
        /// Why.
        source: serde_json::Error,
    },
    /// More than one statement.
    #[error("the query has {n_statements} statements, expected one")]
    SeveralStatements {
        /// How many.
        n_statements: usize,
    },
    /// A statement that is no query or would write.
    #[error("the statement is refused: a query only reads")]
    NotAQuery,
    /// A condition that is more or less than one expression.
    #[error("`{condition}` is not one SQL expression: {reason}")]
    NotACondition {
        /// The condition.
        condition: String,
        /// SQLite's words.
        reason: String,
    },
    /// A column that is not there.
    #[error("there is no column `{column}`")]
    UnknownColumn {
        /// What was asked for.
        column: String,
        /// The names that look most like it.
        nearest: Vec<String>,
    },
    /// A query that was asked to stop.
    #[error("the query was stopped")]
    QueryStopped,
    /// A query that took longer than it may.
    #[error("the query took longer than {} s", timeout.as_secs_f64())]
    QueryTimedOut {
        /// How long it may take.
        timeout: Duration,
    },
    /// A query that needs more memory than it may.
    #[error("the query needs more than {} MiB of memory", limit_bytes >> 20)]
    QueryTooLarge {
        /// What it may need.
        limit_bytes: i64,
    },
    /// A query with a text or a blob that is longer than it may be.
    #[error("a value of the query is longer than {} MiB", limit_bytes >> 20)]
    ValueTooLong {
        /// What it may have.
        limit_bytes: i32,
    },
    /// An answer that is larger than can be held.
    #[error("the {what} is larger than {} MiB", limit_bytes >> 20)]
    AnswerTooLarge {
        /// The answer, or a row of it.
        what: &'static str,
        /// What it may have.
        limit_bytes: usize,
    },
    /// A query that SQLite does not understand.
    #[error("{message}")]
    BadQuery {
        /// SQLite's words.
        message: String,
    },
}

impl StoreError {
    /// Whether it is an event that is at fault, and not the database.
    pub(crate) fn is_of_an_event(&self) -> bool {
        matches!(
            self,
            Self::EventsRestarted { .. } | Self::ForeignEvent { .. } | Self::Constraint { .. }
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoDatabase { .. } => {
                "run a sweep first, or name the folder of the runs you mean".into()
            }
            Self::Folder { .. } | Self::ReadOnly { .. } | Self::CannotOpen { .. } => {
                "check the permissions, or choose another folder with `runs_dir`".into()
            }
            Self::NotADatabase { .. } | Self::ForeignDatabase { .. } => {
                "nothing was changed; choose another folder with `runs_dir`".into()
            }
            Self::NewerSchema { .. } => {
                "nothing was changed; use the version that wrote it, or a newer one".into()
            }
            Self::OlderSchema { .. } => "run any sweep in this folder: it brings it up to date".into(),
            Self::UnreleasedSchema { .. } => {
                "nothing was changed; keep the folder as it is (its checkpoints are complete without the \
                 database, and the version that wrote it still reads it) and choose another with `runs_dir`"
                    .into()
            }
            Self::ChangedMigration { .. } => {
                "nothing was changed; use the version that wrote it".into()
            }
            Self::Busy { .. } => "wait for the other process, or end it".into(),
            Self::DiskFails { .. } => {
                "look for a quota, a limit of file sizes (`ulimit -f`), or errors of the disk (`dmesg`), then run again: \
                 nothing recorded is lost"
                    .into()
            }
            Self::NoMemory { .. } => "end other programs, or lower `launch.jobs`".into(),
            Self::DiskFull { .. } => "free some space and run again; nothing recorded is lost".into(),
            Self::Damaged { .. } => {
                "copy the file away, then try `sqlite3 runs.db .recover`; the checkpoints beside it \
                 do not depend on it"
                    .into()
            }
            Self::UnknownSweep { nearest, .. } | Self::UnknownJob { nearest, .. } => {
                return nearest_hint(nearest);
            }
            Self::UnknownColumn { nearest, .. } if !nearest.is_empty() => {
                return nearest_hint(nearest);
            }
            Self::AmbiguousJob { candidates, .. } => format!("it fits {}", candidates.join(", ")),
            _ => return self.hint_on_streams_and_queries(),
        };
        Some(text)
    }

    fn hint_on_streams_and_queries(&self) -> Option<String> {
        let text = match self {
            Self::NeverTrained { .. } => {
                "run its sweep first; `--where` chooses among trained SAEs"
            }
            Self::StillRunning { .. } => "wait for it, or end its worker",
            Self::EmptyQuery => "such as `SELECT job, fvu FROM result ORDER BY fvu`",
            Self::SeveralStatements { .. } => "ask them one by one",
            Self::NotAQuery => {
                "begin with SELECT, WITH, VALUES or EXPLAIN; what a PRAGMA tells, \
                 `SELECT * FROM pragma_table_info('job')` tells too"
            }
            Self::NotACondition { .. } => "such as `k <= 64 AND fvu < 0.1`",
            Self::UnknownColumn { .. } => {
                "`SELECT name FROM pragma_table_info('result')` lists the columns"
            }
            Self::QueryTimedOut { .. } => {
                "`sae-run sql --timeout SECONDS` gives it longer; or ask for less"
            }
            Self::QueryTooLarge { .. } => {
                "what is sorted, grouped or made distinct is held in memory: ask for fewer rows or columns, \
                 with `WHERE` or `LIMIT`"
            }
            Self::ValueTooLong { .. } => {
                "`substr` cuts a value, `LIMIT` in a subquery shortens a list"
            }
            Self::AnswerTooLarge { .. } => {
                "ask for fewer columns or rows; `sae-run sql --csv` and `--json` give any number of rows"
            }
            Self::BadQuery { .. } => {
                "`SELECT name, sql FROM sqlite_schema` shows tables, views and what their columns \
                 mean; the views `result` and `curve` are made for reading"
            }
            _ => return None,
        };
        Some(text.into())
    }

    /// Classifies what SQLite says by what the user can do about it.
    pub(crate) fn from_sqlx(path: &Path, source: sqlx::Error) -> Self {
        let path = path.to_owned();
        match result_code(&source) {
            // The primary codes of <https://www.sqlite.org/rescode.html>.
            Some(5 | 6) => Self::Busy { path },
            Some(3 | 8) => Self::ReadOnly { path },
            Some(7) => Self::NoMemory { path },
            Some(10 | 22) => Self::DiskFails { path },
            Some(11) => Self::Damaged { path },
            Some(13) => Self::DiskFull { path },
            Some(14) => Self::CannotOpen { path },
            Some(19) => Self::Constraint {
                rule: message(&source),
                path,
            },
            Some(26) => Self::NotADatabase { path },
            _ => Self::Database {
                reason: message(&source),
                path,
            },
        }
    }
}

/// SQLite's primary result code, where the error is SQLite's.
pub(crate) fn result_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// SQLite's words, without the driver's.
pub(crate) fn message(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

fn nearest_hint(nearest: &[String]) -> Option<String> {
    let names: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => Some("`sae-run ls` lists what there is".into()),
        names => Some(format!("did you mean {}?", names.join(" or "))),
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
