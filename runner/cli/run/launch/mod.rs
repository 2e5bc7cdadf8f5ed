//! What starts the processes of a worker.

mod company;
mod company_store;
mod node;
mod processes;
mod seal;
mod torchrun;

use crate::error::CliError;
use crate::run::worker_program::WorkerProgram;
use plan::{Fit, Launch, Launcher as Kind};
use std::path::Path;
use tokio::process::Command;

pub(crate) use company::{Leader, OwnSettings, run_task, with_ranks, with_ranks_for_task};
pub(crate) use processes::Processes;

/// For those who did not mean to start one of several processes.
pub(crate) const ALONE: &str = "variables of a launcher are set, such as RANK and WORLD_SIZE, or PET_NNODES: unset them to run alone";

/// What starts the processes of a worker.
pub(crate) trait Launcher {
    /// The command that trains the order in a file, on this machine, until its standard input ends.
    ///
    /// # Errors
    /// What it takes is not there.
    fn command(&self, program: &WorkerProgram, order: &Path) -> Result<Command, CliError>;

    /// Looks before an attempt whether there can still be as many processes as before, after a failure (`is_retry`) or if
    /// they are already fewer; what to say if there are fewer now. `fit` tells of a number of them what each takes.
    ///
    /// # Errors
    /// There are fewer, and the stream does not fit.
    fn adapt(
        &self,
        _is_retry: bool,
        _fit: &dyn Fn(usize) -> Fit,
    ) -> Result<Option<String>, CliError> {
        Ok(None)
    }

    /// Whether a stop was asked for at another process than this one.
    fn is_stopped(&self) -> bool {
        false
    }

    /// The ranks that have not come yet, for the user.
    fn missing(&self) -> Option<String> {
        None
    }
}

/// One child process on this machine.
#[derive(Debug)]
pub(crate) struct Local;

impl Launcher for Local {
    fn command(&self, program: &WorkerProgram, order: &Path) -> Result<Command, CliError> {
        let mut command = Command::from(program.command());
        command.args(worker_args(order));
        Ok(command)
    }
}

/// The launcher that settings ask for, or the leader if this process was itself launched with others.
///
/// # Errors
/// Settings that contradict each other, or torchrun is missing.
pub(crate) fn launcher<'a>(
    launch: &Launch,
    leader: Option<&'a Leader>,
) -> Result<Box<dyn Launcher + 'a>, CliError> {
    if leader.is_some() && launch.launcher == Kind::Slurm {
        return Err(CliError::input(
            "with `launcher = \"slurm\"`, `sae-run` submits jobs itself, and is itself one process",
        )
        .with_hint("start it without `srun` or torchrun; or leave out `launcher`".to_owned())
        .about("launch.launcher".to_owned()));
    }
    if launch.launcher == Kind::Slurm && launch.lanes().len() > 1 {
        return Err(CliError::input(
            "with `launcher = \"slurm\"`, each stream is a job; `launch.jobs` and `launch.devices` are for one machine",
        )
        .with_hint("`launch.slurm.max_jobs` says how many jobs there are at a time".to_owned())
        .about("launch.jobs".to_owned()));
    }
    if launch.launcher == Kind::Pool && (leader.is_some() || launch.lanes().len() > 1) {
        return Err(CliError::input(
            "with `launcher = \"pool\"`, machines take streams themselves, and each of their workers is one process",
        )
        .with_hint("run `sae-run worker-pool` once for each device, and leave `launch.jobs` and torchrun out".to_owned())
        .about("launch.launcher".to_owned()));
    }
    let are_several = leader.is_some() || !matches!(launch.launcher, Kind::Local | Kind::Pool);
    if are_several && launch.lanes().len() > 1 {
        return Err(CliError::input(
            "several processes train one stream at a time; `launch.jobs` or `launch.devices` ask for more",
        )
        .with_hint("leave them out".to_owned())
        .about("launch.jobs".to_owned()));
    }
    Ok(match (leader, launch.launcher) {
        (Some(leader), _) => Box::new(leader),
        // Jobs of Slurm and entries of the pool are not started from here: `slurm_attempt.rs`, `pool_attempt.rs`.
        (None, Kind::Local | Kind::Slurm | Kind::Pool) => Box::new(Local),
        (None, Kind::Torchrun) => Box::new(torchrun::Torchrun::find(launch.nproc_per_node)?),
    })
}

/// The arguments of the worker program.
fn worker_args(order: &Path) -> [&std::ffi::OsStr; 3] {
    ["order".as_ref(), order.as_os_str(), "--attached".as_ref()]
}
