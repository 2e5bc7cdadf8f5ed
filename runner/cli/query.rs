//! `sae-run sql`: read-only statements, one at a time.

use crate::error::CliError;
use crate::signals::StopSignals;
use crate::{answer, inspect, prompt, table};
use args::SqlArgs;
use files::bound;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{QueryLimits, QueryTable, Store, StoreError};

/// Exit code after a signal.
const STOPPED: u8 = 130;

/// `sae-run sql`.
///
/// # Errors
/// No database, a statement that is wrong or would write, a file that cannot be read.
pub(crate) async fn sql(args: &SqlArgs) -> Result<u8, CliError> {
    let store = inspect::open(&args.store).await?;
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
    /// A statement that is wrong or would write.
    pub(crate) async fn answer(&mut self, statement: &str) -> Result<u8, CliError> {
        match self.ask(statement).await {
            Ok(found) => {
                let code = answer::print(&found, self.args.format)?;
                if found.is_cut {
                    let n_rows = table::count(found.rows.len(), "row");
                    table::note(&format!("cut after {n_rows}; `--max-rows N` gives more"));
                }
                Ok(code)
            }
            Err(StoreError::QueryStopped) => {
                table::note("stopped");
                Ok(STOPPED)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn ask(&mut self, statement: &str) -> Result<QueryTable, StoreError> {
        let limits = QueryLimits {
            max_rows: self.args.max_rows,
            timeout: self.args.timeout.map(Duration::from_secs),
            ..QueryLimits::default()
        };
        let asked = self.store.query_within(statement, &limits);
        tokio::pin!(asked);
        tokio::select! {
            found = &mut asked => return found,
            () = self.signals.recv() => limits.stop.store(true, Ordering::Relaxed),
        }
        // It notices soon, or was done just now.
        asked.await
    }
}
