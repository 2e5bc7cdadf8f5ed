//! `events.jsonl`: the worker's only word to the outside, one JSON object a line.

use crate::TrainError;
use plan::{Event, EventKind};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
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
    /// Opens the file, drops a line that a killed worker left half-written, and goes on numbering
    /// where the last whole line stopped, or behind `last_seq` where lines were lost: the database
    /// has that number already.
    pub(crate) fn open(path: &Path, attempt: u32, last_seq: u64) -> Result<Self, TrainError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(TrainError::io("read", path)(error)),
        };
        let whole = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let last_seq = last_seq.max(
            match text[..whole].split(|&byte| byte == b'\n').rev().nth(1) {
                None => 0,
                Some(line) => {
                    let event: Event =
                        serde_json::from_slice(line).map_err(TrainError::damaged(path))?;
                    event.seq
                }
            },
        );
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        let file = file.map_err(TrainError::io("open", path))?;
        file.set_len(whole as u64)
            .map_err(TrainError::io("truncate", path))?;
        Ok(Self {
            path: path.into(),
            file: Some(file),
            last_seq,
            attempt,
        })
    }

    /// A log that keeps nothing, for a process beside the one that writes.
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

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
