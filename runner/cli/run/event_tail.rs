//! A worker's events.jsonl as it is appended to. What cannot be read stops nothing: it is passed over, and put
//! aside once the worker has ended.

use crate::error::CliError;
use crate::run::unreadable::Unreadable;
use crate::show::table;
use plan::{BadEvent, Event, MAX_EVENT_BYTES};
use std::fs;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use store::Store;

/// Bytes that are read and folded in one go.
const BATCH_BYTES: u64 = 4 * MAX_EVENT_BYTES as u64;

/// Largest gap in the numbers that lost lines can explain. A worker cannot have reached a number beyond it.
const MAX_LOST: u64 = 1 << 32;

/// Reads the events of a file as they are appended.
#[derive(Debug)]
pub(crate) struct EventTail {
    path: PathBuf,
    /// The latest attempt that was begun.
    last_attempt: u32,
    offset: u64,
    /// Lines before `offset`.
    n_lines: u64,
    /// The line that `offset` is within, if it is too long to be held.
    long_line: Option<LongLine>,
    /// Number of the last event that was taken.
    last_seq: u64,
    /// An event whose number does not follow `last_seq`: the next event shows which of the two is right.
    held: Option<Line>,
    unreadable: Unreadable,
}

/// A line that is too long, as far as it was read.
#[derive(Clone, Copy, Debug)]
struct LongLine {
    start: u64,
    /// Bytes before the first NUL.
    n_text_bytes: usize,
    /// Whether nothing follows on that but NULs, as in what was being written at a power cut.
    ends_in_nuls: bool,
}

impl LongLine {
    /// Looks at the part at `offset`.
    fn pass_over(&mut self, part: &[u8], offset: u64) {
        let is_text = offset == self.start + self.n_text_bytes as u64;
        let n_text_bytes = if is_text {
            part.iter().take_while(|&&byte| byte != 0).count()
        } else {
            0
        };
        self.n_text_bytes += n_text_bytes;
        self.ends_in_nuls &= part[n_text_bytes..].iter().all(|&byte| byte == 0);
    }

    fn is_of_a_power_cut(&self) -> bool {
        self.ends_in_nuls && self.n_text_bytes <= MAX_EVENT_BYTES
    }
}

/// An event, and where it is in the file.
#[derive(Debug)]
struct Line {
    event: Event,
    number: u64,
    bytes: Range<u64>,
}

impl EventTail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            unreadable: Unreadable::new(path.clone()),
            path,
            last_attempt: u32::MAX,
            offset: 0,
            n_lines: 0,
            long_line: None,
            last_seq: 0,
            held: None,
        }
    }

    /// The same, of a file in which no attempt after `attempt` can have written.
    pub(crate) fn up_to_attempt(self, attempt: u32) -> Self {
        Self {
            last_attempt: attempt,
            ..self
        }
    }

    /// Folds the next lines into the database; gives those of the events that fit. `None`: there is no
    /// whole new line yet.
    ///
    /// # Errors
    /// A file that cannot be read, or a database that cannot be written.
    pub(crate) async fn fold_next(
        &mut self,
        store: &Store,
        stream_id: &str,
    ) -> Result<Option<Vec<Event>>, CliError> {
        match self.read_batch()? {
            Some(lines) => self.fold(store, stream_id, lines).await.map(Some),
            None => Ok(None),
        }
    }

    /// Folds what was held back and puts aside what cannot be read, once no process writes any more and nothing is new.
    /// Also gives what to tell the user about that.
    ///
    /// # Errors
    /// A database or a folder that cannot be written.
    pub(crate) async fn end(
        &mut self,
        store: &Store,
        stream_id: &str,
    ) -> Result<(Vec<Event>, Option<String>), CliError> {
        let last = self.settle();
        let taken = self.fold(store, stream_id, last).await?;
        Ok((taken, self.unreadable.put_aside()?))
    }

    /// Folds all that there is and [ends](Self::end); gives what to tell the user.
    ///
    /// # Errors
    /// As [`EventTail::fold_next`] and [`EventTail::end`].
    async fn fold_all(
        &mut self,
        store: &Store,
        stream_id: &str,
    ) -> Result<Option<String>, CliError> {
        while self.fold_next(store, stream_id).await?.is_some() {}
        let (_, note) = self.end(store, stream_id).await?;
        Ok(note)
    }

    /// [Folds all](Self::fold_all), and tells the user which parts cannot be read.
    ///
    /// # Errors
    /// As [`EventTail::fold_all`].
    pub(crate) async fn take_in(&mut self, store: &Store, stream_id: &str) -> Result<(), CliError> {
        if let Some(note) = self.fold_all(store, stream_id).await? {
            table::note(&note);
        }
        Ok(())
    }

    /// Ends, but what cannot be read stays where it is: for a folder of which nothing may be changed.
    ///
    /// # Errors
    /// A database that cannot be written.
    pub(crate) async fn end_unchanged(
        &mut self,
        store: &Store,
        stream_id: &str,
    ) -> Result<(), CliError> {
        let last = self.settle();
        self.fold(store, stream_id, last).await.map(drop)
    }

    /// The next events, without a database. `None`: there is no whole new line yet.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn read_next(&mut self) -> Result<Option<Vec<Event>>, CliError> {
        let lines = self.read_batch()?;
        Ok(lines.map(|lines| lines.into_iter().map(|line| line.event).collect()))
    }

    async fn fold(
        &mut self,
        store: &Store,
        stream_id: &str,
        lines: Vec<Line>,
    ) -> Result<Vec<Event>, CliError> {
        let sources = lines.iter().map(|line| (line.number, line.bytes.clone()));
        let sources: Vec<_> = sources.collect();
        let events: Vec<_> = lines.into_iter().map(|line| line.event).collect();
        let refused = store.fold_what_fits(stream_id, &events).await?;
        let mut refused = refused.into_iter().peekable();
        let mut taken = Vec::with_capacity(events.len());
        for (index, (event, (number, bytes))) in events.into_iter().zip(sources).enumerate() {
            match refused.next_if(|(refused, _)| *refused == index) {
                Some((_, error)) => self.unreadable.add(number, bytes, &error),
                None => taken.push(event),
            }
        }
        Ok(taken)
    }

    fn read_batch(&mut self) -> Result<Option<Vec<Line>>, CliError> {
        let bytes = self.next_bytes();
        let bytes = bytes.map_err(|error| CliError::io("read", &self.path, &error))?;
        let before = self.offset;
        let mut taken = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let is_whole = part.ends_with(b"\n");
            if is_whole && self.long_line.is_none() {
                self.read_line(part, &mut taken);
            } else if self.long_line.is_some() || part.len() > MAX_EVENT_BYTES {
                self.pass_over(part);
            } else {
                break;
            }
            self.n_lines += u64::from(is_whole);
            if self.unreadable.is_all_the_rest() {
                break;
            }
        }
        Ok((self.offset > before).then_some(taken))
    }

    /// Reads a part of a line that is too long.
    fn pass_over(&mut self, part: &[u8]) {
        let long_line = self.long_line.get_or_insert(LongLine {
            start: self.offset,
            n_text_bytes: 0,
            ends_in_nuls: true,
        });
        long_line.pass_over(part, self.offset);
        self.offset += part.len() as u64;
        if part.ends_with(b"\n") {
            self.end_long_line();
        }
    }

    fn end_long_line(&mut self) {
        if let Some(LongLine { start, .. }) = self.long_line.take() {
            self.unreadable
                .add(self.n_lines + 1, start..self.offset, &BadEvent::TooLong);
        }
    }

    /// What comes after `offset`, as much as is read at once.
    fn next_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let metadata = match fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(bytes),
            metadata => metadata?,
        };
        if !metadata.is_file() {
            self.unreadable.add_all();
        }
        if self.unreadable.is_all_the_rest() {
            return Ok(bytes);
        }
        if metadata.len() < self.offset {
            self.start_over();
        }
        let mut file = files::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        file.take(BATCH_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The file was cut: what it has now is read from the start. Events that are in the database already are not taken
    /// twice.
    fn start_over(&mut self) {
        let path = std::mem::take(&mut self.path);
        *self = Self::new(path).up_to_attempt(self.last_attempt);
    }

    fn read_line(&mut self, line: &[u8], taken: &mut Vec<Line>) {
        let bytes = self.offset..self.offset + line.len() as u64;
        self.offset = bytes.end;
        let number = self.n_lines + 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        match Event::from_line(line) {
            Err(error) => self.unreadable.add(number, bytes, &error),
            Ok(event) if event.attempt > self.last_attempt => {
                let reason = format!(
                    "it is from attempt {}, which was never begun",
                    event.attempt
                );
                self.unreadable.add(number, bytes, &reason);
            }
            Ok(event) => self.put_in_order(
                Line {
                    event,
                    number,
                    bytes,
                },
                taken,
            ),
        }
    }

    /// Takes a line whose number is the next one, and holds back any other: if lines were lost, the numbers after them
    /// continue; if a number is wrong, the next one is lower.
    fn put_in_order(&mut self, line: Line, taken: &mut Vec<Line>) {
        let seq = line.event.seq;
        if let Some(held) = self.held.take() {
            let held_seq = held.event.seq;
            let is_confirmed = seq == held_seq + 1 || (self.last_seq < held_seq && held_seq < seq);
            if is_confirmed {
                self.take(held, taken);
            } else {
                self.reject(&held);
            }
        }
        match seq {
            seq if seq == self.last_seq + 1 => self.take(line, taken),
            seq if seq > self.last_seq + MAX_LOST => self.reject(&line),
            _ => self.held = Some(line),
        }
    }

    /// The line that was held back and is the last: lines before it were lost, or it is an old one. Half a
    /// line is the next worker's to drop; one that is too long is kept, unless it is what a power cut left.
    fn settle(&mut self) -> Vec<Line> {
        if self.long_line.is_some_and(|line| !line.is_of_a_power_cut()) {
            self.end_long_line();
        }
        let mut taken = Vec::new();
        match self.held.take() {
            Some(held) if held.event.seq > self.last_seq => self.take(held, &mut taken),
            Some(held) => self.reject(&held),
            None => {}
        }
        taken
    }

    fn take(&mut self, line: Line, taken: &mut Vec<Line>) {
        self.last_seq = line.event.seq;
        taken.push(line);
    }

    fn reject(&mut self, line: &Line) {
        let (seq, last_seq) = (line.event.seq, self.last_seq);
        let reason = format!("its number {seq} does not follow {last_seq}");
        self.unreadable
            .add(line.number, line.bytes.clone(), &reason);
    }
}

#[cfg(test)]
mod tests;
