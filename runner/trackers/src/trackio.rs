//! Trackio: files of JSON lines in the inbox of its folder, which its dashboard takes in and removes.
//!
//! Each line has an id that follows from its run and step, so Trackio takes in a line once, however often it is written.
//! How much was written is kept in `sae-run/` next to the inbox, so that it seldom is written twice.

use crate::Tracker;
use fault::Fault;
use files::{OutputFile, bound, host_name};
use plan::{RunEnd, TrackedPoint, TrackedRun, TrackedSoFar};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the lines.
const VERSION: u32 = 1;

/// The project that all runs are in.
const PROJECT: &str = "sae-run";

/// Writes into the inbox of Trackio.
#[derive(Debug)]
pub struct Trackio {
    dir: PathBuf,
    /// This process, as the inbox has it.
    writer: String,
    /// Files that it has written.
    n_files: u64,
    so_far: HashMap<String, TrackedSoFar>,
}

impl Trackio {
    /// `dir`: Trackio's folder.
    pub fn new(dir: &Path) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        let writer = format!("{} {} {now}", host_name(), process::id());
        Self {
            dir: dir.to_path_buf(),
            writer: short_hash(&writer),
            n_files: 0,
            so_far: HashMap::new(),
        }
    }

    fn state_path(&self, run: &TrackedRun) -> PathBuf {
        self.dir.join("sae-run").join(format!("{}.json", run.id))
    }

    fn write(&mut self, lines: &str) -> Result<(), Fault> {
        let dir = self.dir.join("inbox").join(&self.writer);
        let path = dir.join(format!("{:08}.jsonl", self.n_files));
        // The dashboard removes the folder while it is empty.
        let mut written = put(&path, lines);
        for _ in 0..3 {
            match &written {
                Err(error) if error.kind() == ErrorKind::NotFound => written = put(&path, lines),
                _ => break,
            }
        }
        written.map_err(Fault::own_io("write", &path))?;
        self.n_files += 1;
        Ok(())
    }
}

impl Tracker for Trackio {
    fn begin(&mut self, run: &TrackedRun) -> Result<TrackedSoFar, Fault> {
        let path = self.state_path(run);
        let so_far = match files::read(&path, bound::SETTINGS) {
            // A damaged one only means that lines are written again.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => TrackedSoFar::default(),
            Err(error) => return Err(Fault::own_io("read", &path)(error)),
        };
        self.so_far.insert(run.id.clone(), so_far);
        Ok(so_far)
    }

    fn log(&mut self, run: &TrackedRun, points: &[TrackedPoint]) -> Result<TrackedSoFar, Fault> {
        let before = self.so_far.get(&run.id).copied().unwrap_or_default();
        if points.is_empty() {
            return Ok(before);
        }
        let lines = points.iter().enumerate().map(|(index, point)| {
            // One line of a file is enough.
            let config = (index == 0).then(|| config(run));
            format!("{}\n", line(run, point, config))
        });
        self.write(&lines.collect::<String>())?;
        let so_far = points.iter().fold(before, TrackedSoFar::with);
        let path = self.state_path(run);
        let state = json!(so_far).to_string();
        put(&path, &state).map_err(Fault::own_io("write", &path))?;
        self.so_far.insert(run.id.clone(), so_far);
        Ok(so_far)
    }

    fn end(&mut self, run: &TrackedRun, _: RunEnd) -> Result<(), Fault> {
        self.so_far.remove(&run.id);
        Ok(())
    }
}

fn line(run: &TrackedRun, point: &TrackedPoint, config: Option<Value>) -> Value {
    let metrics = point
        .values
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)));
    let id = format!("{} {} {}", run.id, point.step, point.is_evaluation);
    json!({
        "v": VERSION,
        "kind": "metric",
        "project": PROJECT,
        "run": run.job,
        "run_id": run.id,
        "metrics": metrics.collect::<Map<_, _>>(),
        "step": point.step,
        "timestamp": timestamp(point.time_ms),
        "config": config,
        "log_id": blake3::hash(id.as_bytes()).to_hex()[..32],
    })
}

/// The settings. Names that begin with `_` are Trackio's own.
fn config(run: &TrackedRun) -> Value {
    let mut config = run.config.clone();
    config.insert("job_id".into(), json!(run.job_id));
    config.insert("_Group".into(), json!(run.sweep));
    config.insert("_Created".into(), json!(timestamp(run.started_ms)));
    config.insert("_Username".into(), Value::Null);
    Value::Object(config)
}

fn timestamp(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// Writes a file as a whole, with the folders above it.
fn put(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(files::dir_of(path))?;
    let mut file = OutputFile::create(path)?;
    file.write_all(text.as_bytes())?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{points, run};

    /// The lines in the inbox, file by file.
    fn lines(dir: &Path) -> Vec<Value> {
        let writers = fs::read_dir(dir.join("inbox")).unwrap();
        let mut files: Vec<_> = writers
            .flat_map(|writer| fs::read_dir(writer.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        let text = files.iter().map(|path| fs::read_to_string(path).unwrap());
        let text: String = text.collect();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_is_the_same_whoever_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let points = points(&[1, 2], Some(2));
        for _ in 0..2 {
            let mut tracker = Trackio::new(dir.path());
            assert_eq!(tracker.begin(&run("a")).unwrap(), TrackedSoFar::default());
            tracker.log(&run("a"), &points).unwrap();
            // As after a kill before that was written.
            fs::remove_dir_all(dir.path().join("sae-run")).unwrap();
        }
        let lines = lines(dir.path());
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[..3], lines[3..]);
        let mut ids: Vec<_> = lines
            .iter()
            .map(|line| line["log_id"].to_string())
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert_eq!(lines[0]["config"]["_Group"], "s");
        assert_eq!(lines[0]["timestamp"], "2023-11-14T22:13:20.001+00:00");
        assert_eq!(lines[1]["metrics"]["layers.0/fvu"], 0.5);
    }

    #[test]
    fn what_was_written_is_known() {
        let dir = tempfile::tempdir().unwrap();
        Trackio::new(dir.path())
            .log(&run("a"), &points(&[1, 2], None))
            .unwrap();
        let so_far = Trackio::new(dir.path()).begin(&run("a")).unwrap();
        assert_eq!((so_far.step, so_far.evaluated), (Some(2), None));
        let other = Trackio::new(dir.path()).begin(&run("b")).unwrap();
        assert_eq!(other, TrackedSoFar::default());
    }
}
