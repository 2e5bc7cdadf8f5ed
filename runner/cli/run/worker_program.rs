//! The program that computes, and single tasks for it.

use crate::error::CliError;
use crate::installed;
use crate::libtorch::Libtorch;
use crate::show::table;
use fault::FailureKind;
use plan::{Answer, Machine, Task};
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use tempfile::NamedTempFile;

/// It is next to this program.
const PROGRAM: &str = "sae-run-worker";

/// How a program ends whose libraries cannot be loaded.
pub(crate) const NOT_LOADED: i32 = 127;

/// Variables with the token for the Hub, or the way to it, or an address that may have one in it. A worker never
/// touches the network, and what it runs has no use for secrets.
pub(crate) const SECRETS: [&str; 4] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_ENDPOINT",
];

/// Keeps secrets from a worker, and from what it runs.
pub(crate) fn remove_secrets(command: &mut Command) {
    for secret in SECRETS {
        command.env_remove(secret);
    }
}

/// The worker program, and the libraries it runs on.
#[derive(Debug)]
pub(crate) struct WorkerProgram {
    path: PathBuf,
    /// A variable for the loader and its value, if the program was not built with its libraries.
    libraries: Option<(&'static str, OsString)>,
}

impl WorkerProgram {
    /// # Errors
    /// It is not next to this program, or there is no PyTorch that it runs on.
    pub(crate) fn find() -> Result<Self, CliError> {
        Ok(Self {
            path: path()?,
            libraries: Libtorch::chosen()?.map(Libtorch::library_path),
        })
    }

    /// One that is somewhere else.
    #[cfg(test)]
    pub(crate) fn at(path: PathBuf) -> Self {
        Self {
            path,
            libraries: None,
        }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.envs(self.libraries.clone());
        command
    }

    /// The words that have another program start it. The libraries are not for that program: it may have some in
    /// another version.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let libraries = self.libraries.iter().flat_map(|(variable, value)| {
            let mut set = OsString::from(*variable);
            set.push("=");
            set.push(value);
            ["env".into(), set]
        });
        libraries.chain([self.path.clone().into()]).collect()
    }
}

/// Where the worker program is.
fn path() -> Result<PathBuf, CliError> {
    let own = installed::program().map_err(|error| {
        CliError::environment(format!("cannot find the folder of this program: {error}"))
    })?;
    let path = own.with_file_name(PROGRAM);
    if path.is_file() {
        Ok(path)
    } else {
        Err(
            CliError::environment(format!("there is no `{}`", path.display())).with_hint(format!(
                "`sae-run` needs `{PROGRAM}` in its own folder, and `cargo build` makes both; use a link to `sae-run` instead of a copy"
            )),
        )
    }
}

/// libtorch, and the machine as it sees it; asked for once.
///
/// # Errors
/// There is no worker program, or it cannot load libtorch.
pub(crate) fn machine() -> Result<&'static Machine, CliError> {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    if let Some(machine) = MACHINE.get() {
        return Ok(machine);
    }
    let asked = TaskProcess::start(&Task::Machine, Stdio::null())?;
    let machine = asked.finish(&mut |_, _| {})?;
    Ok(MACHINE.get_or_init(|| machine))
}

/// Has a task done, and gives its value. `report` receives how much is done, and the total.
///
/// # Errors
/// What the worker says, or that it ended without a message.
pub(crate) fn run<T: DeserializeOwned>(
    task: &Task,
    report: &mut dyn FnMut(u64, Option<u64>),
) -> Result<T, CliError> {
    TaskProcess::start(task, Stdio::inherit())?.finish(report)
}

/// A worker at a task. Its standard error is ours, and so is its group: what stops us stops it.
pub(crate) struct TaskProcess {
    child: Child,
    answers: BufReader<ChildStdout>,
    /// It is there as long as the worker may read it.
    _task: NamedTempFile,
}

impl TaskProcess {
    /// Starts a worker on a task.
    ///
    /// # Errors
    /// A program that cannot be started, or no space for the task.
    pub(crate) fn start(task: &Task, stdin: Stdio) -> Result<Self, CliError> {
        Self::start_by(task, |command| {
            command.stdin(stdin);
        })
    }

    /// Starts a worker that keeps answering what is written to it, and that signals for us do not reach.
    ///
    /// # Errors
    /// As [`TaskProcess::start`].
    pub(crate) fn start_apart(task: &Task) -> Result<(Self, ChildStdin), CliError> {
        let mut process = Self::start_by(task, |command| {
            command.stdin(Stdio::piped()).process_group(0);
        })?;
        let stdin = process.child.stdin.take().expect("it is piped");
        Ok((process, stdin))
    }

    fn start_by(task: &Task, with: impl FnOnce(&mut Command)) -> Result<Self, CliError> {
        let program = WorkerProgram::find()?;
        let file = write(task)?;
        let mut command = program.command();
        command.arg("task").arg(file.path()).stdout(Stdio::piped());
        remove_secrets(&mut command);
        with(&mut command);
        let child = command.spawn();
        let mut child = child.map_err(|error| CliError::io("start", &program.path, &error))?;
        let stdout = child.stdout.take().expect("it is piped");
        Ok(Self {
            child,
            answers: BufReader::new(stdout),
            _task: file,
        })
    }

    /// The next answer that is not a report; what it waits for is shown. `None`: it has ended.
    ///
    /// # Errors
    /// What the worker says.
    pub(crate) fn next<T: DeserializeOwned>(
        &mut self,
        report: &mut dyn FnMut(u64, Option<u64>),
        wait_hint: &str,
    ) -> Result<Option<T>, CliError> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.answers.read_line(&mut line);
            read.map_err(odd_answer)?;
            if line.is_empty() {
                return Ok(None);
            }
            let answer = serde_json::from_str(&line);
            match answer.map_err(odd_answer)? {
                Answer::Progress { n_done, n_total } => report(n_done, n_total),
                Answer::Waiting { message } => table::note_with_hint(&message, wait_hint),
                Answer::Done(value) => {
                    let value = serde_json::from_value(value);
                    return Ok(Some(value.map_err(odd_answer)?));
                }
                Answer::Failed {
                    message,
                    hint,
                    kind,
                } => return Err(CliError::of_kind(kind, message).with_hint(hint)),
            }
        }
    }

    /// The value of the task, when it is done.
    fn finish<T: DeserializeOwned>(
        mut self,
        report: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<T, CliError> {
        let value = self.next(report, "")?;
        let status = self.child.wait();
        value.ok_or_else(|| match (status, Libtorch::chosen()) {
            (Ok(status), Ok(Some(libtorch))) if status.code() == Some(NOT_LOADED) => {
                libtorch.not_loaded()
            }
            (status, libtorch) => {
                let how = status.map_or_else(|error| error.to_string(), |how| how.to_string());
                let libtorch = libtorch.ok().flatten().map(Libtorch::describe);
                let libtorch = libtorch.map_or_else(String::new, |it| format!("; it runs on {it}"));
                let message = format!("`{PROGRAM}` ended without an answer: {how}{libtorch}");
                CliError::of_kind(FailureKind::Internal, message)
            }
        })
    }
}

impl Drop for TaskProcess {
    /// A worker that no one listens to has nothing to do.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn odd_answer(why: impl Display) -> CliError {
    let message = format!("cannot read the answer of `{PROGRAM}`: {why}");
    CliError::of_kind(FailureKind::Internal, message)
        .with_hint("are `sae-run` and `sae-run-worker` of one version?".to_owned())
}

/// The task in a file that is removed with what is returned.
fn write(task: &Task) -> Result<NamedTempFile, CliError> {
    let dir = std::env::temp_dir();
    let written = tempfile::Builder::new()
        .prefix("sae-run-task-")
        .suffix(".json")
        .tempfile()
        .and_then(|mut file| {
            file.write_all(&serde_json::to_vec(task).expect("tasks serialise to JSON"))?;
            Ok(file)
        });
    written.map_err(|error| CliError::io("write to", Path::new(&dir), &error))
}
