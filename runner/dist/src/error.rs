//! What can go wrong between processes.

use crate::plugin::Failure;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// What can go wrong between processes.
#[derive(Debug, Error)]
pub enum DistError {
    /// A variable of the launcher that is missing beside others.
    #[error("`{present}` is set in the environment, and `{missing}` is not")]
    MissingVariable {
        /// What is there.
        present: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// A variable of the launcher with a value that is none of its.
    #[error("`{name}` in the environment is `{value}`, not {expected}")]
    BadVariable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A plug-in that cannot be loaded.
    #[error("cannot load the plug-in for {backend}: {reason}")]
    PlugIn {
        /// `gloo` or `nccl`.
        backend: &'static str,
        /// Why not.
        reason: String,
    },
    /// The port of the store is another process's.
    #[error("rank 0 cannot listen on port {port}: it is in use")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The store is not to be had.
    #[error("rank {rank} cannot reach the store at `{address}`: {reason}")]
    NoStore {
        /// This rank.
        rank: usize,
        /// Its host and port.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The process that held the store is gone.
    #[error("the store at `{address}` was lost during {during}: {reason}")]
    StoreLost {
        /// Its host and port.
        address: String,
        /// What this rank was doing.
        during: String,
        /// What was said.
        reason: String,
    },
    /// Ranks that did not come.
    #[error("{} of {world_size} did not join within {} s", Ranks(ranks), timeout.as_secs())]
    Missing {
        /// Who did not.
        ranks: Vec<usize>,
        /// Ranks there should be.
        world_size: usize,
        /// How long this rank waited.
        timeout: Duration,
    },
    /// A rank with another program or other work.
    #[error("rank {rank} has {what} `{theirs}`, rank {this_rank} has `{ours}`")]
    Differs {
        /// The other rank.
        rank: usize,
        /// This rank.
        this_rank: usize,
        /// What differs.
        what: String,
        /// That of the other rank.
        theirs: String,
        /// That of this one.
        ours: String,
    },
    /// A group that cannot be made.
    #[error("rank {rank} cannot connect to the others over {backend}: {reason}")]
    Connect {
        /// This rank.
        rank: usize,
        /// `gloo` or `nccl`.
        backend: &'static str,
        /// Why not.
        reason: String,
    },
    /// A rank that said why it ends.
    #[error("rank {rank} failed: {message}")]
    PeerFailed {
        /// Which.
        rank: usize,
        /// What it said.
        message: String,
        /// Whether it blames the user's input.
        is_of_the_input: bool,
    },
    /// Ranks that are gone without a word.
    #[error("lost {} in {collective}: {reason}", Ranks(ranks))]
    PeerLost {
        /// Which.
        ranks: Vec<usize>,
        /// The collective in which that showed.
        collective: String,
        /// What was said.
        reason: String,
    },
    /// Ranks that did not arrive.
    #[error("{} did not arrive at {collective} within {} s", Ranks(ranks), timeout.as_secs())]
    PeerStalled {
        /// Which.
        ranks: Vec<usize>,
        /// The collective that this rank was in.
        collective: String,
        /// How long this rank waited.
        timeout: Duration,
    },
    /// A rank in another collective.
    #[error("rank {rank} is in {theirs}, rank {this_rank} in {ours}")]
    OutOfStep {
        /// The other rank.
        rank: usize,
        /// This rank.
        this_rank: usize,
        /// Where the other is.
        theirs: String,
        /// Where this one is.
        ours: String,
    },
    /// Ranks that made other calls before they met.
    #[error("ranks 0 and {rank} made different calls before {collective}")]
    Astray {
        /// The rank that differs from rank 0.
        rank: usize,
        /// Where that showed.
        collective: String,
    },
    /// Tensors that do not fit each other.
    #[error("rank {rank} has {theirs} for {collective}, rank {this_rank} has {ours}")]
    Shapes {
        /// The collective.
        collective: String,
        /// The other rank.
        rank: usize,
        /// This rank.
        this_rank: usize,
        /// Kind and shape of the other's tensor.
        theirs: String,
        /// Kind and shape of this one's.
        ours: String,
    },
    /// A collective that failed on all ranks alike.
    #[error("{collective} failed: {reason}")]
    Collective {
        /// Which.
        collective: String,
        /// What was said.
        reason: String,
    },
    /// libtorch, mostly for want of memory.
    #[error("libtorch failed")]
    Torch(#[from] tch::TchError),
    /// The file for the launcher.
    #[error("cannot write `{path}`")]
    ErrorFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// `rank 1`, or `ranks 1, 2 and 5`.
struct Ranks<'a>(&'a [usize]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => write!(f, "a rank"),
            [rank] => write!(f, "rank {rank}"),
            [ranks @ .., last] => {
                let ranks: Vec<_> = ranks.iter().map(usize::to_string).collect();
                write!(f, "ranks {} and {last}", ranks.join(", "))
            }
        }
    }
}

impl DistError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::MissingVariable { .. } => {
                "a launcher sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for every \
                 process; for a single one, unset them"
            }
            Self::BadVariable { .. } => "is the launcher's command right?",
            Self::PlugIn {
                backend: "nccl", ..
            } => {
                "it is built where the whole package of PyTorch is there: `SAE_RUN_TORCH=full make \
                 setup`, then `cargo clean -p sae-run-dist` and build again"
            }
            Self::PlugIn { .. } => {
                "it is built with the program and lies beside it or where SAE_RUN_DIST_DIR says"
            }
            Self::PortInUse { .. } => "give MASTER_PORT a free port, on all ranks the same",
            Self::NoStore { .. } => {
                "is MASTER_ADDR the host of rank 0, can it be reached from here, and is rank 0 running?"
            }
            Self::Missing { .. } => {
                "see the logs of those ranks; ranks that need longer to start want a longer \
                 `timeout_minutes`"
            }
            Self::Differs { .. } => {
                "start the same program with the same settings and packages on every node"
            }
            Self::Connect { .. } => {
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface that connects \
                 the nodes"
            }
            Self::PeerStalled { .. } => {
                "see the log of that rank; where it only needs longer, raise `timeout_minutes`"
            }
            Self::PeerLost { .. } | Self::StoreLost { .. } => {
                "was it killed, perhaps for want of memory? See the log of that rank and of its node"
            }
            Self::OutOfStep { .. } | Self::Astray { .. } | Self::Shapes { .. } => {
                "this is an error of the program: please report it"
            }
            Self::PeerFailed { .. }
            | Self::Collective { .. }
            | Self::Torch(_)
            | Self::ErrorFile { .. } => return None,
        };
        Some(hint.into())
    }

    /// Whether another try would fail the same way.
    pub fn is_of_the_input(&self) -> bool {
        match self {
            Self::MissingVariable { .. }
            | Self::BadVariable { .. }
            | Self::PlugIn { .. }
            | Self::Differs { .. } => true,
            Self::PeerFailed {
                is_of_the_input, ..
            } => *is_of_the_input,
            _ => false,
        }
    }

    pub(crate) fn connect(rank: usize, backend: &'static str) -> impl FnOnce(Failure) -> Self {
        move |failure| Self::Connect {
            rank,
            backend,
            reason: failure.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_named_as_people_do() {
        let text = |ranks: &[usize]| Ranks(ranks).to_string();
        assert_eq!(text(&[3]), "rank 3");
        assert_eq!(text(&[1, 2]), "ranks 1 and 2");
        assert_eq!(text(&[1, 2, 5]), "ranks 1, 2 and 5");
    }
}
