//! What is reported while token data is made.

use crate::TokensError;
use crate::chunk::Totals;
use plan::count;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// What happens while token data is made. Of data that is there already, only bad rows are reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildProgress {
    /// Another process makes the same token data; its result will be used. Reported again and again,
    /// so that the wait can be stopped.
    Waiting,
    /// A token file that cannot be used is replaced.
    Discarded {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An earlier process was stopped after `n_documents` documents; the work resumes there.
    Resumed {
        /// Documents that it had tokenised.
        n_documents: u64,
    },
    /// Documents have been tokenised.
    Tokenised {
        /// Documents so far.
        n_documents: u64,
        /// Tokens so far, separators and dropped pieces included.
        n_tokens: u64,
        /// Sequences so far.
        n_sequences: u64,
        /// Bytes of the data files read so far.
        n_bytes_read: u64,
        /// Bytes of all data files.
        n_bytes_total: u64,
    },
    /// All is tokenised, now or earlier, without some bad rows.
    Skipped {
        /// How many.
        n_rows: u64,
        /// What is wrong with the first one; only known to who made the data.
        first: Option<String>,
    },
}

impl BuildProgress {
    pub(crate) fn so_far(totals: &Totals, n_bytes_total: u64) -> Self {
        Self::Tokenised {
            n_documents: totals.n_documents,
            n_tokens: totals.n_tokens,
            n_sequences: totals.n_sequences,
            n_bytes_read: totals.n_bytes_read,
            n_bytes_total,
        }
    }
}

impl fmt::Display for BuildProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => {
                f.write_str("waiting for another process that tokenises the same data")
            }
            Self::Discarded { path, problem } => {
                let path = path.display();
                write!(f, "`{path}` is made again: {problem}")
            }
            Self::Resumed { n_documents } => {
                let documents = count(*n_documents as usize, "document");
                write!(f, "tokenising continues after {documents}")
            }
            Self::Tokenised {
                n_documents,
                n_tokens,
                ..
            } => {
                let documents = count(*n_documents as usize, "document");
                write!(f, "{documents}, {}", count(*n_tokens as usize, "token"))
            }
            Self::Skipped { n_rows, first } => {
                write!(f, "skipped {}", count(*n_rows as usize, "bad row"))?;
                match first {
                    Some(first) => write!(f, "; the first one: {first}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Called with the progress; breaks to stop.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(BuildProgress) -> ControlFlow<()>;

/// Turns a wish to stop into an error.
pub(crate) fn go_on(flow: ControlFlow<()>) -> Result<(), TokensError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TokensError::Stopped),
    }
}
