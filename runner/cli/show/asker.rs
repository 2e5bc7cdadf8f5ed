//! Asks the database one statement at a time, and prints the answers.

use crate::error::CliError;
use crate::run::signals::StopSignals;
use crate::show::answer::RowPrinter;
use crate::show::{answer, table};
use args::SqlArgs;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{QueryLimits, Store, StoreError};

/// How long SQLite may take to notice that the time is over.
const PATIENCE: Duration = Duration::from_secs(2);

/// The key of the rows in an object.
const ROWS: &str = "rows";

/// Exit code after a signal.
const STOPPED: u8 = 130;

/// Asks the database, as the options say.
pub(crate) struct Asker<'a> {
    store: &'a Store,
    args: &'a SqlArgs,
    signals: StopSignals,
}

impl<'a> Asker<'a> {
    /// # Errors
    /// Signals cannot be waited for.
    pub(crate) fn new(store: &'a Store, args: &'a SqlArgs) -> Result<Self, CliError> {
        let signals = StopSignals::new()?;
        Ok(Self {
            store,
            args,
            signals,
        })
    }

    /// Asks and prints.
    ///
    /// # Errors
    /// A statement that is wrong or would write, or that takes too much.
    pub(crate) async fn answer(&mut self, statement: &str) -> Result<u8, CliError> {
        match self.print(statement).await? {
            Answered::Whole => Ok(0),
            Answered::Cut => {
                let n_rows = table::count(self.args.max_rows, "row");
                table::note(&format!("cut after {n_rows}; `--max-rows N` gives more"));
                Ok(0)
            }
            Answered::Stopped => {
                table::note("stopped");
                Ok(STOPPED)
            }
        }
    }

    async fn print(&mut self, statement: &str) -> Result<Answered, CliError> {
        let limits = QueryLimits {
            max_rows: self.args.max_rows,
            timeout: (self.args.timeout > 0).then(|| Duration::from_secs(self.args.timeout)),
            ..QueryLimits::default()
        };
        let store = self.store;
        let Some(mut rows) = RowPrinter::of(self.args.format, ROWS) else {
            let asked = store.query_within(statement, &limits);
            let found = match self.within(&limits, asked).await {
                Err(StoreError::QueryStopped) => return Ok(Answered::Stopped),
                found => found?,
            };
            answer::print(&found, self.args.format, ROWS)?;
            return Ok(Answered::of(found.is_cut));
        };
        // As they come: there may be more rows than memory.
        let asked = store.query_into(statement, &limits, &mut rows);
        match self.within(&limits, asked).await {
            Err(StoreError::QueryStopped) => Ok(Answered::Stopped),
            is_cut => {
                let is_cut = is_cut?;
                rows.end()?;
                Ok(Answered::of(is_cut))
            }
        }
    }

    /// Waits for an answer and passes a stop on. SQLite checks neither the time nor for a stop while it is in one of
    /// its functions, such as `instr`: then its thread is abandoned.
    async fn within<T>(
        &mut self,
        limits: &QueryLimits,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::pin!(asked);
        let timeout = limits.timeout.unwrap_or(Duration::MAX);
        tokio::select! {
            answered = &mut asked => return answered,
            () = self.signals.recv() => limits.stop.store(true, Ordering::Relaxed),
            () = tokio::time::sleep(timeout.saturating_add(PATIENCE)) => {
                return Err(StoreError::QueryTimedOut { timeout });
            }
        }
        // It notices soon, or was done just now.
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        answered.unwrap_or(Err(StoreError::QueryStopped))
    }
}

/// How a statement was answered.
enum Answered {
    Whole,
    /// There are more rows than may be printed.
    Cut,
    Stopped,
}

impl Answered {
    fn of(is_cut: bool) -> Self {
        if is_cut { Self::Cut } else { Self::Whole }
    }
}
