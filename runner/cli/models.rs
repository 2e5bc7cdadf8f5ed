//! Language models by the names that sweeps have for them: a folder of this machine, or a model of
//! the Hugging Face Hub.

use crate::error::CliError;
use crate::paths;
use crate::progress;
use crate::table;
use hub::{Hub, HubError, Progress, Snapshot};
use indicatif::{DecimalBytes, ProgressBar};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// A model that was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundModel {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Where it is one of the Hub; its weights need not be there yet.
    snapshot: Option<Snapshot>,
}

impl FoundModel {
    /// The commit of a model of the Hub.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.snapshot
            .as_ref()
            .map(|snapshot| snapshot.commit.as_str())
    }
}

/// Finds the model called `name`: a folder next to the sweep, below the current folder or on the
/// `shelf`; else, where the name can be the id of one, a model of the Hub at `revision`. Of the
/// latter, what planning needs is downloaded.
///
/// # Errors
/// There is none, or not at that revision; a folder has no revisions.
pub(crate) fn find_model(
    name: &str,
    revision: Option<&str>,
    sweep_dir: &Path,
    shelf: &Path,
) -> Result<FoundModel, CliError> {
    let missing = match paths::find("model", name, sweep_dir, Some(shelf)) {
        Ok(dir) => return of_folder(name, revision, dir),
        Err(missing) => missing,
    };
    if !hub::is_repo_id(name) {
        return Err(missing.about("model".to_owned()));
    }
    let found = Hub::from_env().and_then(|hub| hub.model_files(name, revision));
    let snapshot = found.map_err(|error| of_hub_or_folder(error, &missing))?;
    if let Some(notice) = &snapshot.notice {
        table::note(&notice.to_string());
    }
    Ok(FoundModel {
        dir: snapshot.dir.clone(),
        snapshot: Some(snapshot),
    })
}

fn of_folder(name: &str, revision: Option<&str>, dir: PathBuf) -> Result<FoundModel, CliError> {
    let Some(revision) = revision else {
        let snapshot = None;
        return Ok(FoundModel { dir, snapshot });
    };
    let message = format!(
        "`{name}` is the folder `{}`, which has no revision `{revision}`",
        dir.display()
    );
    let hint = "leave `revision` out, or move the folder away if the model of the Hub is meant";
    Err(CliError::input(message)
        .with_hint(hint.to_owned())
        .about("revision".to_owned()))
}

/// What the Hub says no to may have been meant as a folder.
fn of_hub_or_folder(error: HubError, missing: &CliError) -> CliError {
    let setting = match error {
        HubError::NoSuchRevision { .. } | HubError::BadRevision { .. } => "revision",
        _ => "model",
    };
    let is_doubtful = matches!(
        error,
        HubError::NoSuchRepo { .. } | HubError::NotCached { .. } | HubError::Network { .. }
    );
    let hint = error.hint();
    let hint = match (hint, missing.hint()) {
        (Some(hint), Some(places)) if is_doubtful => {
            Some(format!("{hint}; if a folder is meant: {places}"))
        }
        (hint, _) => hint,
    };
    CliError::from(error)
        .with_hint(hint)
        .about(setting.to_owned())
}

/// Downloads the weights of a model of the Hub, as far as they are not in the cache.
///
/// # Errors
/// As [`find_model`], and a download that fails.
pub(crate) fn fetch_weights(model: &FoundModel, quiet: bool) -> Result<(), CliError> {
    let Some(snapshot) = &model.snapshot else {
        return Ok(());
    };
    let mut shown = DownloadProgress::new(&snapshot.repo, quiet);
    let mut show = |progress| shown.show(progress);
    let fetched = Hub::from_env().and_then(|hub| hub.download_weights(snapshot, &mut show));
    shown.finish();
    Ok(fetched?)
}

/// A bar on standard error, or a line now and then where that is no terminal.
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
    /// So many tenths.
    Tenths(u64),
}

impl DownloadProgress {
    fn new(repo: &str, quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = match is_terminal && !quiet {
            true => ProgressBar::no_length(),
            false => ProgressBar::hidden(),
        };
        let template = "{prefix:20!} {bar:30} {decimal_bytes}/{decimal_total_bytes}, \
                        {decimal_bytes_per_sec}, {eta} left{msg}";
        Self {
            repo: repo.into(),
            with_lines: !is_terminal && !quiet,
            bar: bar
                .with_style(progress::style(template))
                .with_prefix(repo.to_owned()),
            said: Said::Nothing,
        }
    }

    fn show(&mut self, progress: Progress) {
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
        self.bar.set_message(match progress.is_waiting {
            true => ", waiting for another process",
            false => "",
        });
        if self.with_lines {
            self.say(progress);
        }
    }

    fn say(&mut self, progress: Progress) {
        let tenths = progress.done_bytes * 10 / progress.total_bytes.max(1);
        let saying = match progress.is_waiting {
            true => Said::Waiting,
            false => Said::Tenths(tenths),
        };
        // Before the first byte, not all files are counted yet.
        if saying == self.said || !progress.is_waiting && progress.done_bytes == 0 {
            return;
        }
        self.said = saying;
        let total = DecimalBytes(progress.total_bytes);
        table::note(&match progress.is_waiting {
            true => format!("another process downloads `{}`; waiting for it", self.repo),
            false => format!("downloading `{}`: {} % of {total}", self.repo, 10 * tenths),
        });
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
