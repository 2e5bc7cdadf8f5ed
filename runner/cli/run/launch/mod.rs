//! What starts the processes of a worker.

mod company;
mod company_store;
mod node;
mod processes;
mod seal;
mod torchrun;

use crate::error::CliError;
use crate::run::worker_program::WorkerProgram;
use plan::{Fit, Launch, Launcher as Kind, Nproc};
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
    check(launch, leader.is_some())?;
    Ok(match (leader, launch.launcher) {
        (Some(leader), _) => Box::new(leader),
        // Jobs of Slurm and entries of the pool are not started from here: `slurm_attempt.rs`, `pool_attempt.rs`.
        (None, Kind::Local | Kind::Slurm | Kind::Pool) => Box::new(Local),
        (None, Kind::Torchrun) => Box::new(torchrun::Torchrun::find(launch.nproc_per_node)?),
    })
}

/// Checks that the settings go together; `is_led`: this process was launched with others.
fn check(launch: &Launch, is_led: bool) -> Result<(), CliError> {
    let kind = launch.launcher;
    let refused = |(message, hint): (&str, &str), key: &str| {
        Err::<(), _>(
            CliError::input(message)
                .with_hint(hint.to_owned())
                .about(format!("launch.{key}")),
        )
    };
    let lanes = launch.lanes().len();
    match kind {
        Kind::Slurm if is_led => {
            let message = "with `launcher = \"slurm\"`, `sae-run` submits jobs itself, and is itself one process";
            let hint = "start it without `srun` or torchrun; or leave out `launcher`";
            return refused((message, hint), "launcher");
        }
        Kind::Slurm if lanes > 1 => {
            let message = "with `launcher = \"slurm\"`, each stream is a job; `launch.jobs` and `launch.devices` are for one machine";
            let hint = "`launch.slurm.max_jobs` says how many jobs there are at a time";
            return refused((message, hint), "jobs");
        }
        Kind::Pool if is_led || lanes > 1 => {
            let message = "with `launcher = \"pool\"`, machines take streams themselves, and each of their workers is one process";
            let hint = "run `sae-run worker-pool` once for each device, and leave `launch.jobs` and torchrun out";
            return refused((message, hint), "launcher");
        }
        _ => {}
    }
    if let (Kind::Local | Kind::Pool, Nproc::Count(n @ 2..), false) =
        (kind, launch.nproc_per_node, is_led)
    {
        let name = if kind == Kind::Pool { "pool" } else { "local" };
        let message = format!(
            "`nproc_per_node` is {n}, but with `launcher = \"{name}\"` a worker is one process"
        );
        let hint = "`launcher = \"torchrun\"` and `launcher = \"slurm\"` start several";
        return refused((&message, hint), "nproc_per_node");
    }
    if (is_led || kind == Kind::Torchrun) && lanes > 1 {
        let message = "several processes train one stream at a time; `launch.jobs` or `launch.devices` ask for more";
        return refused((message, "leave them out"), "jobs");
    }
    Ok(())
}

/// The arguments of the worker program.
fn worker_args(order: &Path) -> [&std::ffi::OsStr; 3] {
    ["order".as_ref(), order.as_os_str(), "--attached".as_ref()]
}
