//! A worker that a machine of the pool runs: waited for, or found again.

use crate::error::CliError;
use crate::pool::{KILLED, Place, PoolBoard, PoolFolder, WITHDRAWN};
use crate::run::event_tail::EventTail;
use crate::show::table;
use plan::runs_layout::LOG;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use store::{AttemptEnd, OpenStream, Outcome, Store};

/// Between two looks at what the board knows.
const PAUSE: Duration = Duration::from_millis(200);

/// What trains a stream that was offered to the pool.
pub(crate) struct PoolWorker<'a> {
    board: &'a PoolBoard,
    /// Its entry.
    entry: String,
    /// The stream's folder.
    dir: PathBuf,
    /// What was said last of it.
    told: Option<String>,
    /// Since when it is nowhere.
    absent_since: Option<Instant>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum PoolEnd {
    /// As its member says.
    How(String),
    /// Its entry is gone.
    Gone,
}

impl<'a> PoolWorker<'a> {
    /// The entry of the stream whose folder is `dir`.
    pub(crate) fn new(board: &'a PoolBoard, entry: String, dir: PathBuf) -> Self {
        Self {
            board,
            entry,
            dir,
            told: None,
            absent_since: None,
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The folder of the pool cannot be read.
    pub(crate) async fn ended(&mut self) -> Result<PoolEnd, CliError> {
        loop {
            match self.board.place(&self.entry)? {
                Some(Place::Ended { how }) => return Ok(PoolEnd::How(how)),
                Some(_) => self.absent_since = None,
                None => {
                    let since = *self.absent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.board.patience() {
                        return Ok(PoolEnd::Gone);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What it prints.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// What is new about it, for the user.
    pub(crate) fn news(&mut self) -> Option<String> {
        let place = self.board.place(&self.entry).ok()??;
        if matches!(place, Place::Ended { .. }) {
            return None;
        }
        let text = place.describe();
        (self.told.as_ref() != Some(&text)).then(|| {
            self.told = Some(text.clone());
            text
        })
    }

    /// Removes its entry once the attempt is closed.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn forget(&self) -> Result<(), CliError> {
        self.board.folder.forget(&self.entry)
    }
}

impl PoolEnd {
    /// The exit code of the worker; `None`: it has none.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self {
            Self::How(how) => how.parse().ok(),
            Self::Gone => None,
        }
    }

    /// How the attempt ended.
    pub(crate) fn attempt(&self) -> AttemptEnd {
        let outcome = match (self, self.exit_code()) {
            (Self::How(how), None) if how == WITHDRAWN => Outcome::Stopped,
            (_, Some(0)) => Outcome::Done,
            (_, Some(130)) => Outcome::Interrupted,
            (_, Some(1 | 2)) => Outcome::Failed,
            _ => Outcome::Crashed,
        };
        let reason = match self {
            _ if outcome == Outcome::Done => None,
            Self::How(how) if how == WITHDRAWN => Some("it was cancelled".to_owned()),
            Self::How(how) if how == KILLED => Some("a signal ended the worker".to_owned()),
            Self::How(how) => Some(format!(
                "the worker ended with exit code {}",
                table::escaped(how)
            )),
            Self::Gone => Some("its entry in the pool is gone".to_owned()),
        };
        AttemptEnd {
            outcome,
            exit_code: self.exit_code(),
            reason,
        }
    }
}

/// Takes in what was written of a stream that is locked and was offered to the pool, and closes its attempt if it has
/// ended. Gives the open attempt's number, if it has not.
///
/// # Errors
/// The folder of the pool cannot be read, or the database cannot be written.
pub(crate) async fn settle(
    store: &Store,
    mut tail: EventTail,
    (open, entry, folder): (&OpenStream, &str, &PoolFolder),
) -> Result<Option<u32>, CliError> {
    let place = folder.place(entry)?;
    let stream_id = &open.stream_id;
    while tail.fold_next(store, stream_id).await?.is_some() {}
    // Its last events may be of a later run.
    let number = store.open_number(stream_id).await?;
    let Some(Place::Ended { how }) = &place else {
        return Ok(number);
    };
    tail.take_in(store, stream_id).await?;
    if let Some(number) = store.open_number(stream_id).await? {
        let end = PoolEnd::How(how.clone()).attempt();
        store.end_attempt(stream_id, number, &end).await?;
    }
    folder.forget(entry)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        for (how, outcome) in [
            ("0", Outcome::Done),
            ("1", Outcome::Failed),
            ("2", Outcome::Failed),
            ("130", Outcome::Interrupted),
            (KILLED, Outcome::Crashed),
            (WITHDRAWN, Outcome::Stopped),
            ("134", Outcome::Crashed),
        ] {
            let end = PoolEnd::How(how.to_owned()).attempt();
            assert_eq!(end.outcome, outcome, "{how}");
            assert_eq!(end.reason.is_none(), how == "0", "{how}");
        }
        assert_eq!(PoolEnd::Gone.attempt().outcome, Outcome::Crashed);
    }
}
