//! What a launcher tells each process: torchrun, or anything that sets RANK and WORLD_SIZE, srun and
//! mpirun.

use fault::Fault;
use serde::{Deserialize, Serialize};
use std::env;
use std::fmt;

/// Where the store is, through which ranks find each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAddress {
    /// Host of rank 0, or of the launcher.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher serves it, as torchrun does; else rank 0.
    pub is_served_by_launcher: bool,
}

impl StoreAddress {
    /// Whether all ranks must be on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host == "::1" || self.host.starts_with("127.")
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The rank of this process in a world of several, and where the ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Number of this process, from 0, over all nodes.
    pub rank: usize,
    /// Processes in all, at least 2.
    pub world_size: usize,
    /// Number of this process on its node: that of its GPU.
    pub local_rank: usize,
    /// Processes on this node.
    pub local_size: usize,
    /// Where the ranks find each other.
    pub store: StoreAddress,
    /// How often the launcher has started the world before.
    pub restart_count: u64,
}

/// Names of variables for rank, number of processes, and both on the node.
type Names = [&'static str; 4];

const TORCH: Names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"];

/// Launchers that know nothing of torch. A shell inside an allocation has some of these too, so they
/// count only if MASTER_ADDR says that a world is wanted.
const OTHERS: [Names; 3] = [
    [
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_LOCALID",
        "SLURM_NTASKS_PER_NODE",
    ],
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
];

impl Environment {
    /// That of this process; `None`: it is the only one.
    ///
    /// # Errors
    /// Variables that are missing or make no sense.
    pub fn of_process() -> Result<Option<Self>, Fault> {
        Self::read(&|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Fault> {
        let Some([rank_name, size_name, local_name, local_size_name]) = names(get) else {
            return Ok(None);
        };
        let world_size = number(get, size_name, rank_name, 1, usize::MAX)?;
        let rank = number(get, rank_name, size_name, 0, world_size - 1)?;
        if world_size == 1 {
            return Ok(None);
        }
        let local_rank = match get(local_name) {
            Some(_) => number(get, local_name, rank_name, 0, world_size - 1)?,
            None => rank,
        };
        let local_size: Option<usize> = get(local_size_name).and_then(|size| size.parse().ok());
        let host = get("MASTER_ADDR").ok_or_else(|| missing_variable("MASTER_ADDR", size_name))?;
        let port = number(get, "MASTER_PORT", size_name, 1, usize::from(u16::MAX))?;
        let is_served = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let restarts = get("TORCHELASTIC_RESTART_COUNT").and_then(|count| count.parse().ok());
        // If all ranks are here, no other machine must be able to reach the store.
        let are_all_here = local_size.is_some_and(|n_here| n_here >= world_size);
        let host = if are_all_here && !is_served {
            "127.0.0.1".to_owned()
        } else {
            host
        };
        let store = StoreAddress {
            host,
            port: u16::try_from(port).expect("it was checked"),
            is_served_by_launcher: is_served,
        };
        let here = if store.is_local() { world_size } else { 1 };
        Ok(Some(Self {
            rank,
            world_size,
            local_rank,
            local_size: local_size.unwrap_or(here),
            store,
            restart_count: restarts.unwrap_or(0),
        }))
    }
}

fn names(get: &dyn Fn(&str) -> Option<String>) -> Option<Names> {
    let [rank, size, ..] = TORCH;
    if get(rank).is_some() || get(size).is_some() {
        return Some(TORCH);
    }
    get("MASTER_ADDR")?;
    let is_set = |names: &&Names| names[..2].iter().all(|name| get(name).is_some());
    OTHERS.iter().find(is_set).copied()
}

/// The number in the variable `name`, which must be there as `present` is.
fn number(
    get: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    present: &'static str,
    least: usize,
    most: usize,
) -> Result<usize, Fault> {
    let value = get(name).ok_or_else(|| missing_variable(name, present))?;
    match value.trim().parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => {
            let expected = match most {
                usize::MAX => format!("a number from {least} on"),
                _ => format!("a number from {least} to {most}"),
            };
            let message = format!("`{name}` in the environment is `{value}`, not {expected}");
            Err(Fault::input(message).with_hint("is the launcher's command right?"))
        }
    }
}

fn missing_variable(missing: &str, present: &str) -> Fault {
    let message = format!("`{present}` is set in the environment, and `{missing}` is not");
    Fault::input(message).with_hint(
        "a launcher sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for every process; for a \
         single one, unset them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::{FailureKind, Remedy};
    use files::testing::any_bytes_of_text;
    use proptest::prelude::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, Fault> {
        Environment::read(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const MASTER: [(&str, &str); 2] = [("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")];

    fn with_master(variables: &[(&'static str, &'static str)]) -> Environment {
        read(&[variables, &MASTER].concat()).unwrap().unwrap()
    }

    #[test]
    fn without_a_launcher_there_is_no_world() {
        assert_eq!(read(&[]).unwrap(), None);
        // A shell in an allocation.
        assert_eq!(
            read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(),
            None
        );
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
    }

    #[test]
    fn torchruns_variables() {
        let world = with_master(&[
            ("RANK", "9"),
            ("WORLD_SIZE", "16"),
            ("LOCAL_RANK", "1"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ]);
        assert_eq!((world.rank, world.world_size, world.local_rank), (9, 16, 1));
        assert!(world.store.is_served_by_launcher);
        assert_eq!((world.store.port, world.restart_count), (29500, 2));
    }

    #[test]
    fn other_launchers() {
        let slurm = with_master(&[
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_LOCALID", "1"),
        ]);
        assert_eq!((slurm.rank, slurm.world_size, slurm.local_rank), (5, 8, 1));
        let mpi = with_master(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        assert_eq!((mpi.rank, mpi.local_rank), (1, 1));
        assert!(!mpi.store.is_served_by_launcher);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = read(&[("WORLD_SIZE", "2")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`WORLD_SIZE` is set in the environment, and `RANK` is not"
        );
        let error = read(&[("RANK", "0")]).unwrap_err();
        assert!(
            error.to_string().ends_with("and `WORLD_SIZE` is not"),
            "{error}"
        );
        let error = read(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert!(
            error.to_string().ends_with("and `MASTER_ADDR` is not"),
            "{error}"
        );
        for (rank, size) in [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0")] {
            let error = read(&[("RANK", rank), ("WORLD_SIZE", size)]).unwrap_err();
            assert!(
                error.to_string().contains("in the environment is"),
                "{error}"
            );
            assert_eq!(error.kind(), FailureKind::Input);
        }
    }

    fn value() -> impl Strategy<Value = Option<String>> {
        prop::option::weighted(
            0.8,
            any_bytes_of_text(&["0", "1", "2", "8", "True", "127.0.0.1"]),
        )
    }

    proptest! {
        #[test]
        fn any_bytes_in_variables_are_an_environment_or_an_error(
            values in prop::collection::vec(value(), 10),
            of_launcher in 0..4_usize,
        ) {
            let others = ["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE",
                          "TORCHELASTIC_RESTART_COUNT"];
            let names = [&TORCH, &OTHERS[0], &OTHERS[1], &OTHERS[2]][of_launcher];
            let get = |name: &str| {
                let mut names = names.iter().chain(&others);
                values[names.position(|of| *of == name)?].clone()
            };
            if let Ok(Some(world)) = Environment::read(&get) {
                prop_assert!(world.world_size > 1 && world.rank < world.world_size);
                prop_assert!(world.local_rank < world.world_size && world.store.port > 0);
            }
        }
    }
}
