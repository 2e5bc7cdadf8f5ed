//! torchrun, which comes with PyTorch: several processes on this machine.

use super::{Launcher, worker_args};
use crate::error::CliError;
use crate::run::worker_program::{self, WorkerProgram};
use crate::sweep::paths::Folders;
use plan::{CudaStatus, Nproc};
use std::env;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// torchrun, and how many processes it starts.
#[derive(Debug)]
pub(crate) struct Torchrun {
    path: PathBuf,
    n_processes: usize,
}

impl Torchrun {
    /// The one that `SAE_RUN_TORCHRUN` names, that on PATH, or that of `make setup`.
    ///
    /// # Errors
    /// torchrun was not found, or one process for each GPU is asked for and there is no GPU.
    pub(crate) fn find(nproc: Nproc) -> Result<Self, CliError> {
        Ok(Self {
            n_processes: n_processes(nproc, || Ok(&worker_program::machine()?.cuda))?,
            path: find()?,
        })
    }
}

impl Launcher for Torchrun {
    fn command(&self, program: &WorkerProgram, order: &Path) -> Result<Command, CliError> {
        let mut command = Command::new(&self.path);
        command
            .args(["--standalone", "--no-python", "--nproc-per-node"])
            .arg(self.n_processes.to_string())
            .args(program.words())
            .args(worker_args(order));
        Ok(command)
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
