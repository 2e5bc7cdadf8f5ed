//! A worker as a child process, and the file it reports through.

use crate::error::CliError;
use crate::run::launch::Launcher;
use crate::run::worker_program::{self, WorkerProgram};
use plan::Order;
use plan::runs_layout::{LOG, ORDER};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, ChildStdin, Command};

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
        let mut command = launcher.command(&WorkerProgram::find()?, &order_path)?;
        let mut child = log.spawn(&mut command)?;
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            log: log.path,
            log_start: log.n_bytes,
            stdin,
        })
    }

    /// The line of its log that says most.
    pub(crate) fn last_message(&self) -> Option<String> {
        last_message(&self.output()?)
    }

    /// What its log says to do about an error.
    pub(crate) fn last_hint(&self) -> Option<String> {
        last_of("hint: ", &self.output()?).map(str::to_owned)
    }

    /// What it has printed.
    fn output(&self) -> Option<String> {
        let bytes = fs::read(&self.log).ok()?;
        let own = bytes.get(self.log_start as usize..)?;
        Some(String::from_utf8_lossy(own).into_owned())
    }

    /// Asks the worker to save and end.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }
}

/// The line of a worker's output that says most: an error, a panic, else the last.
pub(crate) fn last_message(text: &str) -> Option<String> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let panic = panic.and_then(|at| lines.get(at + 1).copied());
    let message = last_of("error: ", text).or(panic);
    message.or(lines.last().copied()).map(str::to_owned)
}

/// What follows `prefix` in the last line that begins with it.
fn last_of<'t>(prefix: &str, text: &'t str) -> Option<&'t str> {
    let mut lines = text.lines().rev();
    lines.find_map(|line| line.strip_prefix(prefix))
}

/// The file that what a worker prints is appended to.
pub(crate) struct WorkerLog {
    path: PathBuf,
    file: File,
    /// Its length so far.
    n_bytes: u64,
}

impl WorkerLog {
    /// Opens it at the end of what earlier workers printed.
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
        worker_program::remove_secrets(command.as_std_mut());
        command
            .stdin(Stdio::piped())
            .stdout(copy()?)
            .stderr(copy()?)
            // Passing Ctrl-C on is up to us; in a separate group the worker does not get it from the terminal.
            .process_group(0);
        command.spawn().map_err(|error| {
            let program = Path::new(command.as_std().get_program());
            CliError::io("start", program, &error)
        })
    }
}

/// How OpenMP's threads wait for the next loop.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Writes what a worker has to do into a file that is there whole.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn write_order(order: &Order, path: &Path) -> Result<(), CliError> {
    let text = serde_json::to_vec_pretty(order).expect("an order serialises to JSON");
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| CliError::io("write", path, &error))
}
