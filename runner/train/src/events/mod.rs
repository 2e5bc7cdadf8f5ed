//! `events.jsonl`: all that the worker reports to the outside, one JSON object a line.

pub(crate) mod health;
pub(crate) mod interval;
pub(crate) mod meter;

use crate::TrainError;
use plan::{Event, EventKind, MAX_EVENT_BYTES};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends numbered events to a stream's file; of several processes, one does.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    /// `None`: another process writes.
    file: Option<File>,
    last_seq: u64,
    attempt: u32,
}

impl EventLog {
    /// Opens the file and drops a line that a killed worker left half-written. Numbers continue after
    /// that of the last line that can be read, or after `last_seq` if lines were lost: the database has
    /// that number already.
    pub(crate) fn open(path: &Path, attempt: u32, last_seq: u64) -> Result<Self, TrainError> {
        let mut options = OpenOptions::new();
        let file = options.create(true).read(true).append(true).open(path);
        let mut file = file.map_err(TrainError::io("open", path))?;
        let end = end_of_lines(&mut file).map_err(TrainError::io("read", path))?;
        file.set_len(end.n_bytes)
            .map_err(TrainError::io("truncate", path))?;
        Ok(Self {
            path: path.into(),
            file: Some(file),
            last_seq: last_seq.max(end.seq),
            attempt,
        })
    }

    /// A log that keeps nothing, for a process other than the one that writes.
    pub(crate) fn silent() -> Self {
        Self {
            path: PathBuf::new(),
            file: None,
            last_seq: 0,
            attempt: 0,
        }
    }

    /// Appends one event; a reader sees it at once.
    pub(crate) fn write(&mut self, kind: EventKind) -> Result<(), TrainError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let event = Event {
            seq: self.last_seq + 1,
            time_ms: now_ms(),
            attempt: self.attempt,
            kind,
        };
        let mut line = serde_json::to_vec(&event).expect("plain fields serialise to JSON");
        line.push(b'\n');
        files::check_lease();
        file.write_all(&line)
            .map_err(TrainError::io("write", &self.path))?;
        self.last_seq = event.seq;
        Ok(())
    }

    /// Returns when everything written is on the disk.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        match &self.file {
            Some(file) => file.sync_data().map_err(TrainError::io("sync", &self.path)),
            None => Ok(()),
        }
    }
}

/// Where the whole lines of a file end.
struct End {
    n_bytes: u64,
    /// Number of the last event among the last lines that can be read; 0: there is no event.
    seq: u64,
}

/// Bytes that are read at once.
const WINDOW: u64 = 2 * MAX_EVENT_BYTES as u64;

fn end_of_lines(file: &mut File) -> io::Result<End> {
    let mut n_bytes = file.metadata()?.len();
    // Half a line may be of any length.
    while n_bytes > 0 {
        let text = before(file, n_bytes)?;
        let start = n_bytes - text.len() as u64;
        if let Some(end) = text.iter().rposition(|&byte| byte == b'\n') {
            n_bytes = start + end as u64 + 1;
            break;
        }
        n_bytes = start;
    }
    let text = before(file, n_bytes)?;
    let mut lines = text.rsplit(|&byte| byte == b'\n');
    let seq = lines.find_map(|line| Some(Event::from_line(line).ok()?.seq));
    Ok(End {
        n_bytes,
        seq: seq.unwrap_or(0),
    })
}

/// The bytes before `end`, at most [`WINDOW`] of them.
fn before(file: &mut File, end: u64) -> io::Result<Vec<u8>> {
    let start = end.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(end - start).read_to_end(&mut text)?;
    Ok(text)
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use tempfile::tempdir;

    fn read(path: &Path) -> Vec<Event> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn numbers_go_on_over_attempts_and_half_a_line_is_dropped() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut log = EventLog::open(&path, 1, 0).unwrap();
        log.write(EventKind::Interrupted { step: 4 }).unwrap();
        log.write(EventKind::Finished).unwrap();
        let file = log.file.as_mut().unwrap();
        file.write_all(b"{\"seq\":3,\"ti").unwrap();
        let mut log = EventLog::open(&path, 2, 0).unwrap();
        log.write(EventKind::Finished).unwrap();
        let events = read(&path);
        let seen: Vec<_> = events
            .iter()
            .map(|event| (event.seq, event.attempt))
            .collect();
        assert_eq!(seen, [(1, 1), (2, 1), (3, 2)]);
        assert_eq!(events[0].kind, EventKind::Interrupted { step: 4 });
    }

    #[test]
    fn a_file_of_half_a_line_is_begun_anew() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, b"{\"seq\":1").unwrap();
        EventLog::open(&path, 1, 0)
            .unwrap()
            .write(EventKind::Finished)
            .unwrap();
        assert_eq!(read(&path).len(), 1);
    }

    #[test]
    fn a_file_that_was_lost_is_numbered_on() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut log = EventLog::open(&path, 3, 41).unwrap();
        log.write(EventKind::Finished).unwrap();
        assert_eq!(read(&path)[0].seq, 42);
    }

    /// What is in a file after `before`, and one more event.
    fn after(before: &[u8], last_seq: u64) -> Vec<u8> {
        let dir = tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, before).unwrap();
        let mut log = EventLog::open(&path, 2, last_seq).unwrap();
        log.write(EventKind::Finished).unwrap();
        fs::read(&path).unwrap()
    }

    const LINE: &str = "{\"seq\":7,\"time_ms\":1,\"attempt\":1,\"event\":\"finished\"}\n";

    fn last(text: &[u8]) -> Event {
        let line = text.split_inclusive(|&byte| byte == b'\n').next_back();
        Event::from_line(line.unwrap()).unwrap()
    }

    #[test]
    fn lines_that_cannot_be_read_are_left_and_passed_over() {
        for bad in [
            &b"\0\0\0\n"[..],
            b"\xff\n",
            b"[]\n",
            b"{\"seq\":9}\n",
            b"\n\n",
        ] {
            let before = [LINE.as_bytes(), bad].concat();
            let text = after(&before, 0);
            assert!(text.starts_with(&before));
            assert_eq!(last(&text).seq, 8);
            assert_eq!(last(&after(&before, 20)).seq, 21);
            assert_eq!(last(&after(bad, 20)).seq, 21);
        }
    }

    #[test]
    fn half_a_line_is_dropped_however_long_it_is() {
        for n_bytes in [1, WINDOW as usize, 3 * WINDOW as usize + 5] {
            let half = vec![0; n_bytes];
            let text = after(&[LINE.as_bytes(), &half].concat(), 0);
            assert!(text.starts_with(LINE.as_bytes()));
            assert_eq!((last(&text).seq, text.len() < 200), (8, true));
            assert_eq!(last(&after(&half, 3)).seq, 4);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_written_on(
            parts in prop::collection::vec(
                prop_oneof![any::<Vec<u8>>(), Just(LINE.as_bytes().to_vec()), Just(vec![b'\n'])], 0..9),
            last_seq in 0_u64..100,
        ) {
            let before = parts.concat();
            let text = after(&before, last_seq);
            let whole = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            prop_assert!(text.starts_with(&before[..whole]));
            prop_assert!(last(&text).seq > last_seq);
            prop_assert_eq!(&text[whole..text.len()].iter().filter(|b| **b == b'\n').count(), &1);
        }
    }
}
