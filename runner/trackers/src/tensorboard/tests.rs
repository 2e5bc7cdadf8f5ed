use super::*;
use crate::testing::{points, run};
use std::fs;

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Logs what is lacking of `points`, as another process would.
    fn log(&self, run: &TrackedRun, points: &[TrackedPoint]) -> TrackedSoFar {
        let folder = TrackerFolder::open(self.folder.path()).unwrap();
        let mut tracker = TensorBoard::new(&folder);
        let so_far = tracker.begin(run).unwrap();
        let lacking: Vec<_> = points
            .iter()
            .filter(|point| so_far.lacks(point))
            .cloned()
            .collect();
        let so_far = tracker.log(run, &lacking).unwrap();
        tracker.end(run, RunEnd::Done).unwrap();
        so_far
    }

    fn file(&self) -> PathBuf {
        let dir = self.folder.path().join("tensorboard/s/k_4-0123456789ab");
        let files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

#[test]
fn a_file_that_was_torn_anywhere_ends_in_the_same_bytes() {
    let points = points(&[1, 2, 3], Some(3));
    let whole = Case::new();
    let so_far = whole.log(&run("a"), &points);
    assert_eq!((so_far.step, so_far.evaluated), (Some(3), Some(3)));
    let bytes = fs::read(whole.file()).unwrap();
    for end in (0..bytes.len()).step_by(11) {
        let torn = Case::new();
        torn.log(&run("a"), &[]);
        // NULs are what a power cut leaves.
        let mut left = bytes[..end].to_vec();
        left.resize(left.len() + end % 3 * 7, 0);
        fs::write(torn.file(), left).unwrap();
        torn.log(&run("a"), &points);
        assert_eq!(fs::read(torn.file()).unwrap(), bytes, "torn at {end}");
    }
}

#[test]
fn what_is_there_is_not_written_again() {
    let case = Case::new();
    case.log(&run("a"), &points(&[1, 2], None));
    let before = fs::read(case.file()).unwrap();
    case.log(&run("a"), &points(&[1, 2], None));
    assert_eq!(fs::read(case.file()).unwrap(), before);
    case.log(&run("a"), &points(&[1, 2, 3], None));
    assert!(fs::read(case.file()).unwrap().starts_with(&before));
}

#[test]
fn a_job_that_begins_again_has_another_file() {
    let case = Case::new();
    case.log(&run("a"), &points(&[1, 2], None));
    let before = case.file();
    let so_far = case.log(&run("b"), &points(&[1], None));
    assert_eq!(so_far.step, Some(1));
    assert_ne!(case.file(), before);
}
