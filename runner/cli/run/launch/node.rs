//! The ranks of one node, for launchers that start one process on each: this process is the first of them and starts the
//! others, with the variables of torch's launchers.

use crate::error::CliError;
use crate::run::launch::torchrun::n_gpus;
use crate::run::worker_program;
use futures_util::future::select_all;
use plan::{CudaStatus, Environment, Launch, Launched, Launcher, NodeLaunch, Nproc, PerNode};
use std::env;
use std::future;
use std::os::unix::process::parent_id;
use std::process::ExitStatus;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Which process has started this one as another rank of its node: its process id.
const FIRST_OF_NODE: &str = "SAE_RUN_NODE_PROCESS";

/// How long the other ranks of a node may take to end after the first.
const GRACE: Duration = Duration::from_secs(10);
/// How long the first may need to hear what made another end.
const DELAY: Duration = Duration::from_secs(5);

/// This process among others.
pub(super) struct Placed {
    /// Its rank.
    pub(super) environment: Environment,
    /// Whether it is the first of its node and starts the others there.
    pub(super) is_of_node: bool,
}

impl Placed {
    /// That of this process; `None`: it is the only one. `launch`: settings, which matter if the launcher does not say
    /// how many ranks a node has.
    ///
    /// # Errors
    /// A launcher's variables that make no sense, or settings that cannot be read.
    pub(super) fn of_process(
        launch: impl FnOnce() -> Result<Launch, CliError>,
    ) -> Result<Option<Self>, CliError> {
        Ok(match Launched::of_process()? {
            Launched::Alone => None,
            Launched::Rank(environment) => Some(Self {
                environment,
                is_of_node: false,
            }),
            Launched::Node(node) => {
                let n_here = n_here(&node, launch)?;
                node.rank(0, n_here).map(|environment| Self {
                    environment,
                    is_of_node: true,
                })
            }
        })
    }

    /// Starts the ranks of this node that this process has to start.
    ///
    /// # Errors
    /// This program cannot be started.
    pub(super) fn start_others(&self) -> Result<LocalRanks, CliError> {
        let first = &self.environment;
        let n_others = if self.is_of_node {
            first.local_size - 1
        } else {
            0
        };
        let ranks = (1..=n_others).map(|local_rank| {
            let of_rank = Environment {
                rank: first.rank + local_rank,
                local_rank,
                ..first.clone()
            };
            Ok((of_rank.rank, start(&of_rank)?))
        });
        let ranks = ranks.collect::<Result<_, CliError>>()?;
        Ok(LocalRanks { ranks })
    }
}

/// Ranks on each node.
fn n_here(
    node: &NodeLaunch,
    launch: impl FnOnce() -> Result<Launch, CliError>,
) -> Result<usize, CliError> {
    let cuda = || worker_program::machine().map(|machine| &machine.cuda);
    match node.per_node {
        PerNode::Count(count) => Ok(count),
        PerNode::Cpu => Ok(available_parallelism().map_or(1, usize::from)),
        PerNode::Auto => Ok(match cuda()? {
            CudaStatus::Available { n_devices } => *n_devices,
            CudaStatus::Unavailable { .. } => 1,
        }),
        PerNode::Gpu => match cuda()? {
            CudaStatus::Available { n_devices } => Ok(*n_devices),
            CudaStatus::Unavailable { reason } => {
                let launcher = node.launcher;
                let message = format!(
                    "the variables of {launcher} ask for a process for each GPU, but there is no GPU: {reason}"
                );
                Err(CliError::input(message).with_hint("give a number of processes".to_owned()))
            }
        },
        PerNode::Unknown => {
            let launch = launch()?;
            match launch.nproc_per_node {
                _ if launch.launcher != Launcher::Torchrun => Ok(1),
                Nproc::Count(count) => Ok(count),
                Nproc::Gpu => n_gpus(cuda()?),
            }
        }
    }
}

/// The same command again as another rank.
fn start(environment: &Environment) -> Result<Child, CliError> {
    let program = env::current_exe();
    let failed = |error| CliError::environment(format!("cannot start another rank: {error}"));
    let mut command = Command::new(program.map_err(failed)?);
    command
        .args(env::args_os().skip(1))
        .envs(environment.variables())
        .env(FIRST_OF_NODE, std::process::id().to_string())
        .kill_on_drop(true);
    command.spawn().map_err(failed)
}

/// Whether the process that started this one as a rank of its node has ended.
pub(super) fn has_lost_first() -> bool {
    let first = env::var(FIRST_OF_NODE).ok();
    let first: Option<u32> = first.and_then(|pid| pid.parse().ok());
    first.is_some_and(|pid| pid != parent_id())
}

/// The ranks of this node besides this process. Dropped, they are killed; their workers then save and end.
pub(super) struct LocalRanks {
    ranks: Vec<(usize, Child)>,
}

impl LocalRanks {
    /// Returns if one is killed, or ends and this process continues for some seconds; gives what happened to it.
    pub(super) async fn lost(&mut self) -> String {
        if self.ranks.is_empty() {
            return future::pending().await;
        }
        let ends = self.ranks.iter_mut().map(|(rank, child)| {
            Box::pin(async {
                let status = child.wait().await;
                (*rank, status.ok())
            })
        });
        let ((rank, status), ..) = select_all(ends).await;
        // One that was killed has not ended with the others.
        if status.is_none_or(|status| status.code().is_some()) {
            tokio::time::sleep(DELAY).await;
        }
        let how = status.as_ref().map(ExitStatus::to_string);
        format!(
            "rank {rank}, which this process started, has ended: {}",
            how.as_deref().unwrap_or("it cannot be waited for")
        )
    }

    /// Waits for them, but not long.
    pub(super) async fn finish(mut self) {
        let wait = async {
            for (_, child) in &mut self.ranks {
                let _ = child.wait().await;
            }
        };
        let _ = tokio::time::timeout(GRACE, wait).await;
    }
}
