//! A worker as a child process, and the file it reports through.

use crate::error::CliError;
use crate::launch::Launcher;
use plan::Event;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, ChildStdin, Command};
use train::Order;

/// A running worker. It saves and ends when its standard input ends, so it cannot outlive us.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    pub(crate) child: Child,
    /// What it prints.
    pub(crate) log: PathBuf,
    /// Length of the log before it.
    log_start: u64,
    stdin: Option<ChildStdin>,
}

impl WorkerProcess {
    /// Writes the order into `dir` and starts a worker on it.
    ///
    /// # Errors
    /// A folder that cannot be written, or a program that cannot be started.
    pub(crate) fn start(
        order: &Order,
        dir: &Path,
        launcher: &dyn Launcher,
    ) -> Result<Self, CliError> {
        let order_path = dir.join(ORDER);
        write_order(order, &order_path)?;
        let log = WorkerLog::open(dir.join(LOG))?;
        let mut command = launcher.command(&this_program()?, &order_path)?;
        let mut child = log.spawn(&mut command)?;
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            log: log.path,
            log_start: log.n_bytes,
            stdin,
        })
    }

    /// The line of its log that says most: an error, a panic, else the last.
    pub(crate) fn last_words(&self) -> Option<String> {
        let text = fs::read(&self.log).ok()?;
        let text = String::from_utf8_lossy(text.get(self.log_start as usize..)?);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let error = lines
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("error: "));
        let panic = lines.iter().position(|line| line.contains("panicked at"));
        let panic = panic.and_then(|at| lines.get(at + 1).copied());
        error.or(panic).or(lines.last().copied()).map(str::to_owned)
    }

    /// Asks the worker to save and end.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }
}

/// This executable, which a worker is too.
///
/// # Errors
/// The system does not tell.
pub(crate) fn this_program() -> Result<PathBuf, CliError> {
    std::env::current_exe()
        .map_err(|error| CliError::environment(format!("cannot find myself: {error}")))
}

/// The file that what a worker prints is appended to.
pub(crate) struct WorkerLog {
    path: PathBuf,
    file: File,
    /// Its length so far.
    n_bytes: u64,
}

impl WorkerLog {
    /// Opens it behind what earlier workers printed.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn open(path: PathBuf) -> Result<Self, CliError> {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let opened = file.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (n_bytes, file) = opened.map_err(|error| CliError::io("open", &path, &error))?;
        Ok(Self {
            path,
            file,
            n_bytes,
        })
    }

    /// Starts a worker, which ends when its standard input does.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child, CliError> {
        let copy = || {
            let copy = self.file.try_clone();
            copy.map_err(|error| CliError::io("open", &self.path, &error))
        };
        if std::env::var_os(WAIT_POLICY).is_none() {
            // Else libtorch's threads go round in circles for milliseconds after each of its loops, on the
            // cores that the kernels in Rust compute on.
            command.env(WAIT_POLICY, "passive");
        }
        command
            .stdin(Stdio::piped())
            .stdout(copy()?)
            .stderr(copy()?)
            // Ctrl-C is ours to pass on; a group of its own keeps the terminal from doing it.
            .process_group(0);
        command.spawn().map_err(|error| {
            let program = Path::new(command.as_std().get_program());
            CliError::io("start", program, &error)
        })
    }
}

/// How OpenMP's threads wait for the next loop.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// The name of a worker's order in its stream's folder.
pub(crate) const ORDER: &str = "order.json";

/// The name of the file that a worker reports through, in its stream's folder.
pub(crate) const EVENTS: &str = "events.jsonl";

/// What a worker prints goes into this file in its stream's folder.
pub(crate) const LOG: &str = "worker.log";

fn write_order(order: &Order, path: &Path) -> Result<(), CliError> {
    let text = serde_json::to_vec_pretty(order).expect("an order serialises to JSON");
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| CliError::io("write", path, &error))
}

/// Reads the events of a file as they are appended.
#[derive(Debug)]
pub(crate) struct EventTail {
    path: PathBuf,
    offset: u64,
    /// Lines before `offset`.
    n_lines: usize,
}

impl EventTail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            offset: 0,
            n_lines: 0,
        }
    }

    /// The whole lines since the last call; a line that is still being written waits.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub(crate) fn read_new(&mut self) -> Result<Vec<Event>, CliError> {
        let unreadable = |error: &std::io::Error| CliError::io("read", &self.path, error);
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&error)),
        };
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read_to_end(&mut text))
            .map_err(|error| unreadable(&error))?;
        let whole = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        self.offset += whole as u64;
        let before = self.n_lines;
        let lines: Vec<_> = text[..whole]
            .split_inclusive(|&byte| byte == b'\n')
            .collect();
        self.n_lines += lines.len();
        let events = lines.iter().enumerate();
        let events = events
            .filter(|(_, line)| line.len() > 1)
            .map(|(index, line)| {
                let event = serde_json::from_slice(line);
                event.map_err(|error| self.damaged(before + index + 1, &error))
            });
        events.collect()
    }

    fn damaged(&self, line: usize, error: &serde_json::Error) -> CliError {
        let path = self.path.display();
        CliError::environment(format!("line {line} of `{path}` is damaged: {error}")).with_hint(format!(
            "nothing was changed; put a good copy back, or keep the lines before it: `sed -i '{line},$d' {path}`"
        ))
    }
}
