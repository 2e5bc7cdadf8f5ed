//! What a job writes first, next to its order: that its machine sees the runs folder, and what its clock says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Its name in the stream's folder.
pub(super) const FILE: &str = "slurm.here";

/// Clocks that differ by less are taken for equal, in seconds.
const MOST_SKEW_S: u64 = 60;

/// The last sign of life of a stream's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignOfLife {
    /// The job of Slurm.
    pub(crate) job_id: u64,
    /// How often it was begun again before.
    pub(crate) n_restarts: u32,
    /// Its first machine.
    pub(crate) host: String,
    /// Seconds by which that machine's clock is ahead of the runs folder's, or behind it.
    skew_s: i64,
}

impl SignOfLife {
    /// That in a stream's folder; `None`: there is none that can be read.
    pub(crate) fn read(stream_dir: &Path) -> Option<Self> {
        let path: PathBuf = stream_dir.join(FILE);
        let text = files::read_text(&path, files::bound::SETTINGS).ok()?;
        let mut words = text.split_whitespace();
        let job_id = words.next()?.parse().ok()?;
        let n_restarts = words.next()?.parse().ok()?;
        let host = words.next()?.to_owned();
        let there: i64 = words.next()?.parse().ok()?;
        let written = fs::metadata(&path)
            .and_then(|found| found.modified())
            .ok()?;
        let here = written.duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(Self {
            job_id,
            n_restarts,
            host,
            skew_s: there.saturating_sub(i64::try_from(here).ok()?),
        })
    }

    /// What to say of a clock that differs.
    pub(crate) fn skew(&self) -> Option<String> {
        let (skew_s, host) = (self.skew_s, plan::escaped(&self.host));
        let which = if skew_s > 0 { "ahead of" } else { "behind" };
        let by = skew_s.unsigned_abs();
        (by > MOST_SKEW_S).then(|| {
            format!("the clock of `{host}` is {by} s {which} that of the runs folder: times of its jobs are shown as it says")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Option<SignOfLife> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        SignOfLife::read(dir.path())
    }

    #[test]
    fn a_sign_says_which_job_and_by_which_clock() {
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let sign = written(&format!("12 1 n1 {now}\n")).unwrap();
        assert_eq!(
            (sign.job_id, sign.n_restarts, sign.host.as_str()),
            (12, 1, "n1")
        );
        assert_eq!(sign.skew(), None);
        let ahead = written(&format!("12 1 n1 {}\n", now + 3600)).unwrap();
        assert!(ahead.skew().unwrap().contains("s ahead of"));
        let behind = written(&format!("12 1 n1 {}\n", now - 3600)).unwrap();
        assert!(behind.skew().unwrap().contains("s behind"));
        for bad in ["", "12", "x 1 n1 5", "12 1 n1 soon"] {
            assert_eq!(written(bad), None, "{bad}");
        }
    }
}
