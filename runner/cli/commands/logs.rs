//! `sae-run logs`: what the workers of a job have printed.

use crate::error::CliError;
use crate::show::{job, table};
use crate::sweep::config;
use args::LogsArgs;
use plan::escaped_lines;
use plan::runs_layout::LOG;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a log that are read, from its end.
const MOST_BYTES: u64 = 16 << 20;

/// `sae-run logs JOB`.
///
/// # Errors
/// No database, no such job, a job that no worker has tried.
pub(crate) async fn logs(args: &LogsArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let job = store.job(&args.job).await?;
    let runs_dir = config::runs_dir(&args.store)?;
    let paths = job
        .stream_dirs
        .iter()
        .map(|dir| runs_dir.join(dir).join(LOG));
    // The stream that was heard of last comes first in the list, and last on the screen.
    let mut paths: Vec<_> = paths.filter(|path| path.is_file()).collect();
    paths.reverse();
    if paths.is_empty() {
        let message = format!("no worker of job `{}` has printed anything", job.job_id);
        return Err(CliError::input(message).with_hint("run its sweep first".to_owned()));
    }
    let n_logs = paths.len();
    for path in paths {
        if n_logs > 1 {
            table::note(&format!("{}:", path.display()));
        }
        let text = end_of(&path).map_err(|error| CliError::io("read", &path, &error))?;
        table::print(&escaped_lines(last_lines(&text, args.tail)))?;
    }
    Ok(0)
}

fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let n_bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(n_bytes.saturating_sub(MOST_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str, n: Option<usize>) -> &str {
    let Some(n) = n else { return text };
    let whole = text.strip_suffix('\n').unwrap_or(text);
    match whole.rmatch_indices('\n').nth(n.saturating_sub(1)) {
        _ if n == 0 => "",
        Some((index, _)) => &text[index + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_cut_out() {
        let last = |n| last_lines("a\nb\nc\n", n);
        assert_eq!(last(None), "a\nb\nc\n");
        assert_eq!(last(Some(0)), "");
        assert_eq!(last(Some(2)), "b\nc\n");
        assert_eq!(last(Some(9)), "a\nb\nc\n");
    }
}
