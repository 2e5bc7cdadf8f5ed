//! How far a download from the Hub is, for people.

use crate::error::CliError;
use crate::show::progress;
use crate::show::table;
use hub::{HubError, Progress};
use indicatif::{DecimalBytes, ProgressBar};
use std::io::IsTerminal;

/// Runs a download of files of `repo` and shows how far it is.
///
/// # Errors
/// As the download.
pub(crate) fn shown<T>(
    repo: &str,
    quiet: bool,
    download: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<T, HubError>,
) -> Result<T, CliError> {
    let mut shown = DownloadProgress::new(repo, quiet);
    let downloaded = download(&mut |progress| shown.show(progress));
    shown.finish();
    Ok(downloaded?)
}

/// A bar on standard error, or a line now and then if that is not a terminal.
struct DownloadProgress {
    repo: String,
    with_lines: bool,
    bar: ProgressBar,
    /// What was said last.
    said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    /// That another process has to end first.
    Waiting,
    /// This number of tenths.
    Tenths(u128),
}

impl DownloadProgress {
    fn new(repo: &str, quiet: bool) -> Self {
        let template = "{prefix:20!} {bar:30} {decimal_bytes}/{decimal_total_bytes}, \
                        {decimal_bytes_per_sec}, {eta} left{msg}";
        Self {
            repo: repo.into(),
            with_lines: !std::io::stderr().is_terminal() && !quiet,
            bar: progress::bar(template, quiet).with_prefix(repo.to_owned()),
            said: Said::Nothing,
        }
    }

    fn show(&mut self, progress: Progress) {
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
        let waiting = if progress.is_waiting {
            ", waiting for another process"
        } else {
            ""
        };
        progress::label(&self.bar, waiting);
        if self.with_lines {
            self.say(progress);
        }
    }

    fn say(&mut self, progress: Progress) {
        // Lengths are what a Hub says, and may be any.
        let tenths = 10 * u128::from(progress.done_bytes) / u128::from(progress.total_bytes.max(1));
        let saying = if progress.is_waiting {
            Said::Waiting
        } else {
            Said::Tenths(tenths)
        };
        // Before the first byte, not all files are counted yet.
        if saying == self.said || !progress.is_waiting && progress.done_bytes == 0 {
            return;
        }
        self.said = saying;
        let total = DecimalBytes(progress.total_bytes);
        let text = if progress.is_waiting {
            format!("another process downloads `{}`; waiting for it", self.repo)
        } else {
            format!("downloading `{}`: {} % of {total}", self.repo, 10 * tenths)
        };
        table::note(&text);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
