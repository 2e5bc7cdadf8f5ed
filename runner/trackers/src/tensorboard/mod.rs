//! TensorBoard's event files: one for each job, in the folder `tensorboard/SWEEP/JOB`.
//!
//! A file that a killed process left is read up to its last whole record, cut off there, and continued.
//!
//! - `records.rs`: TFRecord; `protobuf.rs`, `event.rs`: what a record says

mod event;
mod protobuf;
mod records;

use crate::{Tracker, TrackerFolder};
use fault::Fault;
use files::OutputFile;
use plan::{RunEnd, TrackedPoint, TrackedRun, TrackedSoFar, folder_name};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Writes event files.
#[derive(Debug)]
pub struct TensorBoard {
    dir: PathBuf,
    files: HashMap<String, EventFile>,
}

/// The file of a run.
#[derive(Debug)]
struct EventFile {
    path: PathBuf,
    /// Bytes of whole records.
    n_bytes: u64,
    so_far: TrackedSoFar,
}

/// What the names of all files begin with; TensorBoard knows them by it.
const PREFIX: &str = "events.out.tfevents.";

impl TensorBoard {
    /// Below `folder`.
    pub fn new(folder: &TrackerFolder) -> Self {
        Self {
            dir: folder.path().join("tensorboard"),
            files: HashMap::new(),
        }
    }
}

impl Tracker for TensorBoard {
    fn begin(&mut self, run: &TrackedRun) -> Result<TrackedSoFar, Fault> {
        let name = format!("{}-{}", folder_name(&run.job), run.job_id);
        let dir = self.dir.join(&run.sweep).join(name);
        fs::create_dir_all(&dir).map_err(Fault::own_io("create", &dir))?;
        let seconds = run.started_ms / 1000;
        let path = dir.join(format!("{PREFIX}{seconds:010}.{}", run.id));
        let file = EventFile::open(path, run)?;
        remove_older(&dir, &file.path).map_err(Fault::own_io("clear", &dir))?;
        let so_far = file.so_far;
        self.files.insert(run.id.clone(), file);
        Ok(so_far)
    }

    fn log(&mut self, run: &TrackedRun, points: &[TrackedPoint]) -> Result<TrackedSoFar, Fault> {
        let file = self.files.get_mut(&run.id);
        let file = file.expect("runs are begun first");
        file.append(points)
            .map_err(Fault::own_io("write", &file.path))?;
        Ok(file.so_far)
    }

    fn end(&mut self, run: &TrackedRun, _: RunEnd) -> Result<(), Fault> {
        self.files.remove(&run.id);
        Ok(())
    }
}

impl EventFile {
    fn open(path: PathBuf, run: &TrackedRun) -> Result<Self, Fault> {
        let header = event::header(run);
        let found = read(&path, header.len()).map_err(Fault::own_io("read", &path))?;
        if let Some((n_bytes, so_far)) = found {
            return Ok(Self {
                path,
                n_bytes,
                so_far,
            });
        }
        let bytes: Vec<u8> = header
            .iter()
            .flat_map(|record| records::framed(record))
            .collect();
        let written = OutputFile::create(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.finish()
        });
        written.map_err(Fault::own_io("write", &path))?;
        Ok(Self {
            path,
            n_bytes: bytes.len() as u64,
            so_far: TrackedSoFar::default(),
        })
    }

    fn append(&mut self, points: &[TrackedPoint]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        // What follows is half a record of a process that was killed, or of a full disk.
        file.set_len(self.n_bytes)?;
        file.seek(SeekFrom::Start(self.n_bytes))?;
        let records = points.iter().map(event::of_point);
        let bytes: Vec<u8> = records
            .flat_map(|record| records::framed(&record))
            .collect();
        file.write_all(&bytes)?;
        self.n_bytes += bytes.len() as u64;
        self.so_far = points.iter().fold(self.so_far, TrackedSoFar::with);
        Ok(())
    }
}

/// The bytes of a file's whole records, and what they have. `None`: there is no file, or not its whole beginning.
fn read(path: &Path, n_header: usize) -> io::Result<Option<(u64, TrackedSoFar)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut file = BufReader::new(file);
    let (mut n_records, mut n_bytes, mut so_far) = (0, 0, TrackedSoFar::default());
    while let Some(record) = records::next(&mut file)? {
        n_records += 1;
        n_bytes += records::framed(&record).len() as u64;
        if n_records > n_header {
            so_far = event::so_far(so_far, &record);
        }
    }
    Ok((n_records >= n_header).then_some((n_bytes, so_far)))
}

/// Removes the files that the job had before it was trained again from the start.
fn remove_older(dir: &Path, current: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PREFIX) && path != current {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
