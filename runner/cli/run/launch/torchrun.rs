//! torchrun, which comes with PyTorch: several processes on this machine.

use super::{Launcher, worker_args};
use crate::error::CliError;
use crate::run::worker_program::{self, WorkerProgram};
use crate::sweep::paths::Folders;
use plan::{CudaStatus, Fit, Nproc, fewer_ranks};
use std::cell::Cell;
use std::env;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// torchrun, and how many processes it starts.
#[derive(Debug)]
pub(crate) struct Torchrun {
    path: PathBuf,
    nproc: Nproc,
    /// How many were planned.
    n_planned: usize,
    /// How many there are now: fewer if a GPU was lost.
    n_processes: Cell<usize>,
}

impl Torchrun {
    /// The one that `SAE_RUN_TORCHRUN` names, that on PATH, or that of `make setup`.
    ///
    /// # Errors
    /// torchrun was not found, or one process for each GPU is asked for and there is no GPU.
    pub(crate) fn find(nproc: Nproc) -> Result<Self, CliError> {
        let n_planned = n_processes(nproc, || Ok(&worker_program::machine()?.cuda))?;
        Ok(Self {
            path: find()?,
            nproc,
            n_planned,
            n_processes: Cell::new(n_planned),
        })
    }

    /// As [`Launcher::adapt`], if there are `n_gpus` now.
    fn adapt_to(
        &self,
        n_gpus: usize,
        fit: &dyn Fn(usize) -> Fit,
    ) -> Result<Option<String>, CliError> {
        let (before, now) = (
            self.n_processes.get(),
            fewer_ranks(self.n_planned, n_gpus, fit)?,
        );
        self.n_processes.set(now);
        let n_planned = self.n_planned;
        Ok((now != before).then(|| {
            format!(
                "{now} of {n_planned} GPUs are there: continuing with a process for each, on the same jobs"
            )
        }))
    }
}

impl Launcher for Torchrun {
    fn command(&self, program: &WorkerProgram, order: &Path) -> Result<Command, CliError> {
        let mut command = Command::new(&self.path);
        command
            .args(["--standalone", "--no-python", "--nproc-per-node"])
            .arg(self.n_processes.get().to_string())
            .args(program.words())
            .args(worker_args(order));
        Ok(command)
    }

    fn adapt(
        &self,
        is_retry: bool,
        fit: &dyn Fn(usize) -> Fit,
    ) -> Result<Option<String>, CliError> {
        let has_lost = self.n_processes.get() < self.n_planned;
        if self.nproc != Nproc::Gpu || !is_retry && !has_lost {
            return Ok(None);
        }
        let n_gpus = match worker_program::machine_now()?.cuda {
            CudaStatus::Available { n_devices } => n_devices,
            CudaStatus::Unavailable { .. } => 0,
        };
        self.adapt_to(n_gpus, fit)
    }
}

fn n_processes(
    nproc: Nproc,
    cuda: impl FnOnce() -> Result<&'static CudaStatus, CliError>,
) -> Result<usize, CliError> {
    match nproc {
        Nproc::Count(count) => Ok(count),
        Nproc::Gpu => n_gpus(cuda()?),
    }
}

/// The number of processes if each takes a GPU.
///
/// # Errors
/// There is no GPU.
pub(super) fn n_gpus(cuda: &CudaStatus) -> Result<usize, CliError> {
    match cuda {
        CudaStatus::Available { n_devices } => Ok(*n_devices),
        CudaStatus::Unavailable { reason } => Err(CliError::input(format!(
            "`nproc_per_node` is `gpu`, but there is no GPU: {reason}"
        ))
        .with_hint("on the CPU, give a number: `nproc_per_node = 2`".to_owned())
        .about("launch.nproc_per_node".to_owned())),
    }
}

fn find() -> Result<PathBuf, CliError> {
    let given = env::var_os("SAE_RUN_TORCHRUN").filter(|path| !path.is_empty());
    if let Some(given) = given.map(PathBuf::from) {
        return if given.is_file() {
            Ok(given)
        } else {
            Err(missing(&format!("`{}` is not a file", given.display())))
        };
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&folders).collect();
    folders.push(Folders::of_this_machine()?.cache.join("venv/bin"));
    let found = folders.into_iter().map(|folder| folder.join("torchrun"));
    let found = found.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| missing("it is not on PATH"))
}

fn missing(why: &str) -> CliError {
    CliError::environment(format!("there is no torchrun: {why}"))
        .with_hint("install the whole of PyTorch (`SAE_RUN_TORCH=full make setup`), or name it in SAE_RUN_TORCHRUN".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_attempt_has_a_process_for_each_gpu_that_is_left() {
        let torchrun = Torchrun {
            path: "torchrun".into(),
            nproc: Nproc::Gpu,
            n_planned: 4,
            n_processes: Cell::new(4),
        };
        let fit = |n_ranks: usize| Fit {
            predicted: 12 / n_ranks as u64,
            most: Some(4),
        };
        let adapted = |n_gpus| torchrun.adapt_to(n_gpus, &fit);
        assert_eq!(adapted(4).unwrap(), None);
        let said = adapted(3).unwrap().unwrap();
        assert_eq!(
            said,
            "3 of 4 GPUs are there: continuing with a process for each, on the same jobs"
        );
        assert_eq!(adapted(3).unwrap(), None, "said once");
        let program = WorkerProgram::at("/worker".into());
        let command = torchrun.command(&program, Path::new("order.json")).unwrap();
        let args: Vec<_> = command.as_std().get_args().collect();
        assert_eq!(args[2..4], ["--nproc-per-node", "3"]);
        let error = adapted(2).unwrap_err().to_string();
        assert!(error.contains("of 4 GPUs 2 are left"), "{error}");
        assert!(adapted(4).unwrap().unwrap().contains("4 of 4 GPUs"), "back");
    }

    #[test]
    fn one_process_for_each_gpu_or_so_many() {
        let none = || {
            let reason = "no driver".into();
            Ok(&*Box::leak(Box::new(CudaStatus::Unavailable { reason })))
        };
        let four = || Ok(&CudaStatus::Available { n_devices: 4 });
        assert_eq!(n_processes(Nproc::Count(2), none).unwrap(), 2);
        assert_eq!(n_processes(Nproc::Gpu, four).unwrap(), 4);
        let error = n_processes(Nproc::Gpu, none).unwrap_err();
        assert!(error.to_string().contains("there is no GPU: no driver"));
    }
}
