//! How many processes train a stream together.

use super::node::Placed;
use super::torchrun;
use crate::error::CliError;
use crate::run::worker_program;
use crate::show::table;
use plan::{CudaStatus, Launch, Launcher, Nproc};

/// The processes that train a stream together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processes {
    /// All ranks.
    pub(crate) n_ranks: usize,
    /// The ranks on one machine: this one, or one of Slurm's.
    pub(crate) n_here: usize,
    /// Why their number is not known, if it is not; one process is then assumed.
    unknown: Option<String>,
}

impl Processes {
    /// Those that this process was launched with, else those that `launch` asks for.
    ///
    /// # Errors
    /// A launcher's variables that make no sense.
    pub(crate) fn of(launch: &Launch) -> Result<Self, CliError> {
        Ok(match Placed::of_process(|| Ok(launch.clone()))? {
            Some(Placed { environment, .. }) => Self {
                n_ranks: environment.world_size,
                n_here: environment.local_size.clamp(1, environment.world_size),
                unknown: None,
            },
            None => Self::asked_for(launch, || Ok(&worker_program::machine()?.cuda))?,
        })
    }

    fn asked_for(
        launch: &Launch,
        cuda: impl FnOnce() -> Result<&'static CudaStatus, CliError>,
    ) -> Result<Self, CliError> {
        let here = match (launch.launcher, launch.nproc_per_node) {
            (Launcher::Local | Launcher::Pool, _) => Self::here(1),
            (Launcher::Slurm, nproc) => {
                let n_here = launch.slurm.n_processes(nproc);
                Self {
                    n_ranks: n_here * launch.slurm.nnodes,
                    ..Self::here(n_here)
                }
            }
            (Launcher::Torchrun, Nproc::Count(count)) => Self::here(count),
            (Launcher::Torchrun, Nproc::Gpu) => match torchrun::n_gpus(cuda()?) {
                Ok(n_gpus) => Self::here(n_gpus),
                Err(why) => Self {
                    unknown: Some(why.to_string()),
                    ..Self::here(1)
                },
            },
        };
        Ok(Self {
            n_ranks: here.n_ranks * launch.n_nodes,
            ..here
        })
    }

    /// `n_processes`, all on this machine.
    pub(crate) fn here(n_processes: usize) -> Self {
        Self {
            n_ranks: n_processes,
            n_here: n_processes,
            unknown: None,
        }
    }

    /// Says of a plan that it was made for another number of processes than will train.
    pub(crate) fn note(&self) {
        if let Some(why) = &self.unknown {
            table::note_with_hint(
                &format!("{why}; planned as for one process"),
                "`--set launch.nproc_per_node=8` plans for eight",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(launcher: Launcher, nproc_per_node: Nproc, cuda: CudaStatus) -> Processes {
        let launch = Launch {
            launcher,
            nproc_per_node,
            ..Launch::default()
        };
        Processes::asked_for(&launch, || Ok(Box::leak(Box::new(cuda)))).unwrap()
    }

    #[test]
    fn torchrun_starts_several() {
        let four = || CudaStatus::Available { n_devices: 4 };
        let number = |launcher, nproc| {
            let processes = asked_for(launcher, nproc, four());
            assert_eq!(processes.unknown, None);
            assert_eq!(processes.n_here, processes.n_ranks);
            processes.n_ranks
        };
        assert_eq!(number(Launcher::Local, Nproc::Count(8)), 1);
        assert_eq!(number(Launcher::Torchrun, Nproc::Count(8)), 8);
        assert_eq!(number(Launcher::Torchrun, Nproc::Gpu), 4);
    }

    #[test]
    fn each_machine_of_a_job_of_slurm_has_as_many() {
        let mut launch = Launch {
            launcher: Launcher::Slurm,
            nproc_per_node: Nproc::Count(4),
            ..Launch::default()
        };
        launch.slurm.nnodes = 2;
        let none = || unreachable!("it is not this machine's GPUs that count");
        let processes = Processes::asked_for(&launch, none).unwrap();
        assert_eq!((processes.n_ranks, processes.n_here), (8, 4));
    }

    #[test]
    fn without_a_gpu_one_process_for_each_is_planned_as_one() {
        let none = CudaStatus::Unavailable {
            reason: "no driver".into(),
        };
        let processes = asked_for(Launcher::Torchrun, Nproc::Gpu, none);
        assert_eq!(processes.n_ranks, 1);
        assert!(processes.unknown.unwrap().contains("no driver"));
    }
}
