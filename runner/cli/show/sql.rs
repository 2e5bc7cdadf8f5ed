//! `sae-run sql`: read-only statements, one at a time.

use crate::error::CliError;
use crate::run::signals::StopSignals;
use crate::show::answer::RowPrinter;
use crate::show::{answer, job, prompt, table};
use args::SqlArgs;
use files::bound;
use std::future::Future;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{QueryLimits, Store, StoreError};

/// How long SQLite may take to notice that the time is over.
const PATIENCE: Duration = Duration::from_secs(2);

/// Exit code after a signal.
const STOPPED: u8 = 130;

/// `sae-run sql`.
///
/// # Errors
/// No database, a statement that is wrong or would write, a file that cannot be read.
pub(crate) async fn sql(args: &SqlArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let mut asker = Asker::new(&store, args)?;
    match statement(args)? {
        Some(statement) => asker.answer(&statement).await,
        None => prompt::prompt(&store, &mut asker).await,
    }
}

/// The statement given; `None` where a person is to be asked.
fn statement(args: &SqlArgs) -> Result<Option<String>, CliError> {
    match (&args.statement, &args.file) {
        (Some(statement), _) => Ok(Some(statement.clone())),
        (None, Some(file)) => read(file).map(Some),
        (None, None) if std::io::stdin().is_terminal() => Ok(None),
        (None, None) => Err(CliError::input("there is no statement, and no terminal to ask for one")
            .with_hint("give one, such as `sae-run sql \"SELECT job, fvu FROM result\"`, or a file with `-f FILE.sql` (`-f -` for standard input)".to_owned())),
    }
}

fn read(file: &Path) -> Result<String, CliError> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        files::read_text(file, bound::SETTINGS)
    };
    text.map_err(|error| CliError::io("read", file, &error))
}

/// Asks the database, as the options say.
pub(crate) struct Asker<'a> {
    store: &'a Store,
    args: &'a SqlArgs,
    signals: StopSignals,
}

impl<'a> Asker<'a> {
    fn new(store: &'a Store, args: &'a SqlArgs) -> Result<Self, CliError> {
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
        let Some(mut rows) = RowPrinter::of(self.args.format) else {
            let asked = store.query_within(statement, &limits);
            let found = match self.within(&limits, asked).await {
                Err(StoreError::QueryStopped) => return Ok(Answered::Stopped),
                found => found?,
            };
            answer::print(&found, self.args.format)?;
            return Ok(Answered::of(found.is_cut));
        };
        // As they come: there may be more of them than memory.
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

    /// Waits for an answer and passes a stop on. SQLite does not look at the time, nor at a stop, while it is
    /// in one of its functions, such as `instr`: then its thread is left behind.
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
