//! `sae-run sql`: read-only statements, one at a time.

use crate::error::CliError;
use crate::show::asker::Asker;
use crate::show::{prompt, several};
use args::SqlArgs;
use files::bound;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// `sae-run sql`.
///
/// # Errors
/// No database, a statement that is wrong or would write, a file that cannot be read.
pub(crate) async fn sql(args: &SqlArgs) -> Result<u8, CliError> {
    let opened = several::open(&args.store).await?;
    let store = &opened.store;
    let mut asker = Asker::new(store, args)?;
    match statement(args)? {
        Some(statement) => asker.answer(&statement).await,
        None => prompt::prompt(store, &mut asker).await,
    }
}

/// The statement given; `None` if the user is to be asked.
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
