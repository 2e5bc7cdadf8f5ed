//! Weights & Biases and MLflow, through a Python process that has their packages.
//!
//! It is started with the text of `runner/python/sae_run/bridge.py`, so that it is of this version wherever the package
//! `sae_run` is installed, if it is. Each question is a line of JSON on its standard input, each answer a line on its
//! standard output. It ends when its standard input does, after all that it was given is written.

use crate::{Tracker, TrackerFolder};
use fault::Fault;
use plan::{RunEnd, TrackedPoint, TrackedRun, TrackedSoFar, TrackerKind};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PROGRAM: &str = include_str!("../../python/sae_run/bridge.py");

/// Names the Python that has the packages of trackers.
pub const PYTHON_VARIABLE: &str = "SAE_RUN_TRACKERS_PYTHON";

/// A Python process that writes to one of the others.
#[derive(Debug)]
pub struct Bridge {
    kind: TrackerKind,
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

/// Where it is started.
#[derive(Clone, Copy, Debug)]
pub struct BridgeSite<'a> {
    /// The folder for what it writes.
    pub folder: &'a TrackerFolder,
    /// Whether all is written there, whatever variables of the user name another place.
    pub is_own: bool,
    /// The sweep whose runs it writes.
    pub sweep: &'a str,
    /// Where Python is looked for.
    pub pythons: &'a [PathBuf],
    /// Variables that it is not given.
    pub secrets: &'a [&'a str],
}

/// What it answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// How much of the run is there.
    SoFar(TrackedSoFar),
    /// The package is there, or the run has ended.
    Done,
    /// This Python has not all packages.
    Missing(String),
    /// Something went wrong.
    Error(String),
}

impl Bridge {
    /// Starts it with the first Python that has the packages.
    ///
    /// # Errors
    /// None of them has the packages.
    pub fn start(kind: TrackerKind, site: &BridgeSite<'_>) -> Result<Self, Fault> {
        let mut lacking = String::new();
        for python in site.pythons {
            let Ok(mut bridge) = Self::spawn(kind, site, python) else {
                continue;
            };
            match bridge.answer()? {
                Answer::Done => return Ok(bridge),
                Answer::Missing(what) => lacking = format!("`{what}` for `{}`", python.display()),
                answer => return Err(bridge.unexpected(answer)),
            }
        }
        let package = match kind {
            TrackerKind::Mlflow => "mlflow",
            _ => "wandb",
        };
        let message = if lacking.is_empty() {
            "there is no Python".to_owned()
        } else {
            format!("there is no package {lacking}")
        };
        Err(Fault::input(message).with_hint(format!(
            "`pip install {package}`, or name a Python that has it in {PYTHON_VARIABLE}"
        )))
    }

    fn spawn(kind: TrackerKind, site: &BridgeSite<'_>, python: &Path) -> io::Result<Self> {
        let folder = site.folder.path();
        let log = folder.join(format!("{kind}.log"));
        let mut command = Command::new(python);
        for secret in site.secrets {
            command.env_remove(secret);
        }
        command
            .args(["-c", PROGRAM, kind.name()])
            .arg(folder)
            .arg(site.sweep)
            .args(site.is_own.then_some("own"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(OpenOptions::new().create(true).append(true).open(&log)?)
            // Ctrl-C ends training first; what is left is written then.
            .process_group(0);
        let mut child = command.spawn()?;
        Ok(Self {
            kind,
            questions: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            log,
        })
    }

    fn ask(&mut self, question: &Value) -> Result<Answer, Fault> {
        let mut text = question.to_string();
        text.push('\n');
        let questions = self.questions.as_mut().expect("it is open until the end");
        // If it has ended, there is no answer either.
        let _ = questions.write_all(text.as_bytes());
        self.answer()
    }

    /// The next answer. What a site's own start-up code prints comes before the first.
    fn answer(&mut self) -> Result<Answer, Fault> {
        let mut line = String::new();
        while matches!(self.answers.read_line(&mut line), Ok(1..)) {
            if let Ok(answer) = serde_json::from_str(&line) {
                return Ok(answer);
            }
            line.clear();
        }
        let message = format!("the Python process of {} has ended", self.kind);
        Err(Fault::internal(message)
            .with_hint(format!("`{}` has what it printed", self.log.display())))
    }

    fn unexpected(&self, answer: Answer) -> Fault {
        let fault = match answer {
            Answer::Error(message) => Fault::internal(message),
            other => Fault::internal(format!("the answer of {} is {other:?}", self.kind)),
        };
        fault.with_hint(format!("`{}` has what it printed", self.log.display()))
    }

    fn so_far(&mut self, question: &Value) -> Result<TrackedSoFar, Fault> {
        match self.ask(question)? {
            Answer::SoFar(so_far) => Ok(so_far),
            answer => Err(self.unexpected(answer)),
        }
    }
}

impl Tracker for Bridge {
    fn begin(&mut self, run: &TrackedRun) -> Result<TrackedSoFar, Fault> {
        self.so_far(&json!({"do": "begin", "run": run}))
    }

    fn log(&mut self, run: &TrackedRun, points: &[TrackedPoint]) -> Result<TrackedSoFar, Fault> {
        self.so_far(&json!({"do": "log", "id": run.id, "points": points}))
    }

    fn end(&mut self, run: &TrackedRun, end: RunEnd) -> Result<(), Fault> {
        match self.ask(&json!({"do": "end", "id": run.id, "end": end}))? {
            Answer::Done => Ok(()),
            answer => Err(self.unexpected(answer)),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // It then writes the rest, and ends.
        self.questions = None;
        let _ = self.child.wait();
    }
}
