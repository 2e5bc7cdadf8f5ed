//! Calling Slurm's programs.

use crate::error::CliError;
use crate::run::worker_program;
use std::env;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::Semaphore;

/// How long a program may take. The controller of a busy cluster may need a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Programs that run at the same time, at most.
static AT_ONCE: Semaphore = Semaphore::const_new(2);
/// When the next program may begin.
static NEXT: Mutex<Option<Instant>> = Mutex::new(None);
/// Programs that are started in a minute, at most: a controller serves all users of a cluster.
const MOST_PER_MINUTE: f64 = 300.0;
/// Another number of them.
const PER_MINUTE: &str = "SAE_RUN_SLURM_CALLS";

/// Waits for the turn of one more program.
async fn turn() {
    let given = env::var(PER_MINUTE)
        .ok()
        .and_then(|number| number.parse().ok());
    let per_minute = given
        .filter(|number: &f64| *number > 0.0)
        .unwrap_or(MOST_PER_MINUTE);
    let own = {
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let own = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
        *next = Some(own + Duration::from_secs_f64(60.0 / per_minute));
        own
    };
    tokio::time::sleep_until(own.into()).await;
}

/// Why a program of Slurm gave no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// It cannot be started.
    Missing(CliError),
    /// It did not answer in time. What it was asked for may have been done.
    Late,
    /// It refused, in these words.
    Refused(String),
}

impl Silence {
    pub(super) fn into_error(self, program: &str) -> CliError {
        match self {
            Self::Missing(error) => error,
            Self::Late => CliError::environment(format!(
                "`{program}` did not answer within {} s",
                PATIENCE.as_secs()
            ))
            .with_hint("is Slurm's controller up? `scontrol ping` asks it".to_owned()),
            Self::Refused(why) => CliError::environment(format!("`{program}` failed: {why}")),
        }
    }
}

/// What a program of Slurm prints. It does not get the token for the Hub, and neither does a job.
pub(super) async fn output_of(program: &str, args: &[&str]) -> Result<String, Silence> {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("LC_ALL", "C")
        .env("SLURM_TIME_FORMAT", "standard")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    worker_program::remove_secrets(command.as_std_mut());
    // Such variables choose columns, clusters and output of the programs.
    for variable in [
        "SQUEUE_FORMAT",
        "SQUEUE_FORMAT2",
        "SQUEUE_STATES",
        "SINFO_FORMAT",
        "SQUEUE_SORT",
    ] {
        command.env_remove(variable);
    }
    turn().await;
    let _one_more = AT_ONCE.acquire().await;
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(Silence::Late),
        Ok(Err(error)) => return Err(Silence::Missing(not_started(program, &error))),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Silence::Refused(complaint(program, &output)))
    }
}

fn not_started(program: &str, error: &std::io::Error) -> CliError {
    if error.kind() != ErrorKind::NotFound {
        return CliError::io("start", Path::new(program), error);
    }
    CliError::environment(format!("there is no Slurm here: `{program}` is not on PATH"))
        .with_hint(
            "run this on a machine of the cluster that can submit jobs, or leave out `launcher = \"slurm\"`"
                .to_owned(),
        )
}

/// What a program complains of, without its name.
fn complaint(program: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let prefix = format!("{program}: error: ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines
        .map(|line| line.strip_prefix(&prefix).unwrap_or(line))
        .collect();
    if lines.is_empty() {
        output.status.to_string()
    } else {
        lines.join("; ")
    }
}

/// Cancels jobs; those that have ended are left as they are.
///
/// # Errors
/// Slurm does not answer.
pub(crate) async fn cancel(job_ids: &[u64]) -> Result<(), CliError> {
    if job_ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = job_ids.iter().map(ToString::to_string).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    match output_of("scancel", &ids).await {
        Ok(_) => Ok(()),
        Err(Silence::Refused(why)) if why.contains("Invalid job id") => Ok(()),
        Err(silence) => Err(silence.into_error("scancel")),
    }
}
