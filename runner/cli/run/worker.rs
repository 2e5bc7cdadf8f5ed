//! What trains a stream, from outside: a process of this machine, a job of Slurm, or one of a machine of the
//! pool.

use crate::error::CliError;
use crate::run::pool_worker::{PoolEnd, PoolWorker};
use crate::run::slurm_worker::{SlurmEnd, SlurmWorker};
use crate::run::worker_process::WorkerProcess;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// How often events are looked for.
const OF_PROCESS: Duration = Duration::from_millis(100);
/// The same in a folder of the network, for any number of streams.
const OF_NETWORK: Duration = Duration::from_secs(1);

/// What trains a stream.
pub(crate) enum Worker<'a> {
    Process(WorkerProcess),
    Slurm(SlurmWorker<'a>),
    Pool(PoolWorker<'a>),
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum WorkerEnd {
    Process(ExitStatus),
    Slurm(SlurmEnd),
    Pool(PoolEnd),
}

impl Worker<'_> {
    /// Waits for its end.
    ///
    /// # Errors
    /// The system does not tell of a process.
    pub(crate) async fn ended(&mut self) -> Result<WorkerEnd, CliError> {
        match self {
            Self::Process(worker) => {
                let status = worker.child.wait().await;
                let unknown =
                    |error| CliError::environment(format!("cannot wait for the worker: {error}"));
                status.map(WorkerEnd::Process).map_err(unknown)
            }
            Self::Slurm(worker) => Ok(WorkerEnd::Slurm(worker.ended().await)),
            Self::Pool(worker) => worker.ended().await.map(WorkerEnd::Pool),
        }
    }

    /// The message and the hint in its log that say most.
    pub(crate) fn last_words(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::Process(worker) => (worker.last_message(), worker.last_hint()),
            // Its log has the runs before as well; what it reports is in its events.
            Self::Slurm(_) | Self::Pool(_) => (None, None),
        }
    }

    /// What it prints.
    pub(crate) fn log(&self) -> PathBuf {
        match self {
            Self::Process(worker) => worker.log.clone(),
            Self::Slurm(worker) => worker.log(),
            Self::Pool(worker) => worker.log(),
        }
    }

    /// What is new about where it is, for the user.
    pub(crate) fn news(&mut self) -> Option<String> {
        match self {
            Self::Process(_) => None,
            Self::Slurm(worker) => worker.news(),
            Self::Pool(worker) => worker.news(),
        }
    }

    pub(crate) fn poll_interval(&self) -> Duration {
        match self {
            Self::Process(_) => OF_PROCESS,
            Self::Slurm(_) | Self::Pool(_) => OF_NETWORK,
        }
    }
}

impl WorkerEnd {
    /// Whether the cluster ended it, for a reason that is not its own.
    pub(crate) fn is_of_the_cluster(&self) -> bool {
        matches!(self, Self::Slurm(end) if end.is_of_the_cluster())
    }

    /// Whether all went well.
    pub(crate) fn is_success(&self) -> bool {
        match self {
            Self::Process(status) => status.success(),
            Self::Slurm(end) => end.attempt(false).outcome == store::Outcome::Done,
            Self::Pool(end) => end.attempt().outcome == store::Outcome::Done,
        }
    }
}
