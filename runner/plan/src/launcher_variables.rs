//! The variables by which launchers say to a process that it is one of several: one table, and the forms of their values.

/// How a launcher says it.
pub(crate) struct LauncherVariables {
    /// Its name, for messages.
    pub(crate) name: &'static str,
    pub(crate) starts: Starts,
    /// When these variables count at all.
    pub(crate) sign: Sign,
    /// With this one, a launcher below has started this very rank.
    pub(crate) yields_to: Option<&'static str>,
    /// Number of the process, or of the node: the first that is set.
    pub(crate) rank: &'static [&'static str],
    /// How many processes, or nodes.
    pub(crate) size: &'static str,
    /// Of nodes: their number if `size` is not set.
    pub(crate) default_size: Option<usize>,
    /// Number of the process on its node.
    pub(crate) local_rank: Option<&'static str>,
    /// Processes on this node.
    pub(crate) n_here: (&'static str, CountForm),
    /// The host of rank 0: the first that is set.
    pub(crate) host: &'static [(&'static str, HostForm)],
    /// The port there: the first that is set.
    pub(crate) port: &'static [&'static str],
    pub(crate) default_port: DefaultPort,
}

/// What a launcher starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starts {
    /// Each rank.
    Ranks,
    /// One process on each node, which starts the other ranks there.
    Nodes,
    /// The same; on a single node the variables say what there is, and not what is wanted.
    NodesOfSeveral,
}

/// Which variables must be set.
pub(crate) enum Sign {
    Any(&'static [&'static str]),
    All(&'static [&'static str]),
}

/// How a number of processes is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountForm {
    Number,
    /// A number, or `gpu`, `cpu` or `auto`, as torchrun reads it.
    NumberOrWord,
    /// GPUs; 0 says nothing about processes.
    Gpus,
    /// Slurm's `2(x3),1`: that of the node of this number.
    OfNode(&'static str),
}

/// How hosts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostForm {
    /// One.
    Plain,
    /// One a line: the first.
    Lines,
    /// Slurm's `gpu[01-04],gpu07`: the first.
    Hostlist,
}

/// The port if no variable names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultPort {
    /// A launcher always sets it.
    Required,
    /// That of torchrun; in a job of Slurm one by the job's number, so that jobs on one host do not meet.
    Usual,
}

/// As torchrun has it.
pub(crate) const USUAL_PORT: u16 = 29500;

const MASTER: &[(&str, HostForm)] = &[("MASTER_ADDR", HostForm::Plain)];

/// All launchers that are known. The first whose sign is there counts: what a user sets by hand, and what was started
/// last, is above what surrounds it.
pub(crate) const LAUNCHERS: &[LauncherVariables] = &[
    LauncherVariables {
        name: "Kubeflow or JobSet",
        starts: Starts::Nodes,
        sign: Sign::Any(&["PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK"]),
        yields_to: Some("LOCAL_RANK"),
        rank: &["PET_NODE_RANK", "JOB_COMPLETION_INDEX"],
        size: "PET_NNODES",
        default_size: Some(1),
        local_rank: None,
        n_here: ("PET_NPROC_PER_NODE", CountForm::NumberOrWord),
        host: &[
            ("PET_MASTER_ADDR", HostForm::Plain),
            ("MASTER_ADDR", HostForm::Plain),
        ],
        port: &["PET_MASTER_PORT", "MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
    LauncherVariables {
        name: "torchrun",
        starts: Starts::Ranks,
        sign: Sign::Any(&["RANK", "WORLD_SIZE"]),
        yields_to: None,
        rank: &["RANK"],
        size: "WORLD_SIZE",
        default_size: None,
        local_rank: Some("LOCAL_RANK"),
        n_here: ("LOCAL_WORLD_SIZE", CountForm::Number),
        host: MASTER,
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Required,
    },
    LauncherVariables {
        name: "Open MPI",
        starts: Starts::Ranks,
        sign: Sign::Any(&["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"]),
        yields_to: None,
        rank: &["OMPI_COMM_WORLD_RANK"],
        size: "OMPI_COMM_WORLD_SIZE",
        default_size: None,
        local_rank: Some("OMPI_COMM_WORLD_LOCAL_RANK"),
        n_here: ("OMPI_COMM_WORLD_LOCAL_SIZE", CountForm::Number),
        host: &[
            ("MASTER_ADDR", HostForm::Plain),
            ("SLURM_JOB_NODELIST", HostForm::Hostlist),
        ],
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
    LauncherVariables {
        name: "MPICH",
        starts: Starts::Ranks,
        sign: Sign::All(&["PMI_RANK", "PMI_SIZE"]),
        yields_to: None,
        rank: &["PMI_RANK"],
        size: "PMI_SIZE",
        default_size: None,
        local_rank: Some("MPI_LOCALRANKID"),
        n_here: ("MPI_LOCALNRANKS", CountForm::Number),
        host: &[
            ("MASTER_ADDR", HostForm::Plain),
            ("SLURM_STEP_NODELIST", HostForm::Hostlist),
        ],
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
    LauncherVariables {
        name: "plain variables",
        starts: Starts::Nodes,
        sign: Sign::All(&["NNODES", "NODE_RANK", "MASTER_ADDR"]),
        yields_to: None,
        rank: &["NODE_RANK"],
        size: "NNODES",
        default_size: None,
        local_rank: None,
        n_here: ("NPROC_PER_NODE", CountForm::NumberOrWord),
        host: MASTER,
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
    LauncherVariables {
        name: "SkyPilot",
        starts: Starts::NodesOfSeveral,
        sign: Sign::Any(&["SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK"]),
        yields_to: None,
        rank: &["SKYPILOT_NODE_RANK"],
        size: "SKYPILOT_NUM_NODES",
        default_size: None,
        local_rank: None,
        n_here: ("SKYPILOT_NUM_GPUS_PER_NODE", CountForm::Gpus),
        host: &[("SKYPILOT_NODE_IPS", HostForm::Lines)],
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
    // Only srun sets the variables of a step: a shell in an allocation has the others too.
    LauncherVariables {
        name: "srun",
        starts: Starts::Ranks,
        sign: Sign::Any(&["SLURM_STEP_NUM_TASKS"]),
        yields_to: None,
        rank: &["SLURM_PROCID"],
        size: "SLURM_STEP_NUM_TASKS",
        default_size: None,
        local_rank: Some("SLURM_LOCALID"),
        n_here: (
            "SLURM_STEP_TASKS_PER_NODE",
            CountForm::OfNode("SLURM_NODEID"),
        ),
        host: &[
            ("MASTER_ADDR", HostForm::Plain),
            ("SLURM_STEP_NODELIST", HostForm::Hostlist),
        ],
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
    LauncherVariables {
        name: "Slurm",
        starts: Starts::Ranks,
        sign: Sign::All(&["SLURM_PROCID", "SLURM_NTASKS", "MASTER_ADDR"]),
        yields_to: None,
        rank: &["SLURM_PROCID"],
        size: "SLURM_NTASKS",
        default_size: None,
        local_rank: Some("SLURM_LOCALID"),
        n_here: ("SLURM_NTASKS_PER_NODE", CountForm::Number),
        host: MASTER,
        port: &["MASTER_PORT"],
        default_port: DefaultPort::Usual,
    },
];

impl Sign {
    /// Whether it is there.
    pub(crate) fn is_in(&self, get: &dyn Fn(&str) -> Option<String>) -> bool {
        let is_set = |name: &&str| get(name).is_some();
        match self {
            Self::Any(names) => names.iter().any(is_set),
            Self::All(names) => names.iter().all(is_set),
        }
    }

    /// A variable of it that is there.
    pub(crate) fn first_set(&self, get: &dyn Fn(&str) -> Option<String>) -> &'static str {
        let (Self::Any(names) | Self::All(names)) = self;
        let found = names.iter().find(|name| get(name).is_some());
        found.unwrap_or(&names[0])
    }
}

impl HostForm {
    /// The first host of a value; `None`: it has no host.
    pub(crate) fn first(self, value: &str) -> Option<String> {
        let first = match self {
            Self::Plain => value.trim().to_owned(),
            Self::Lines => value.split_whitespace().next()?.to_owned(),
            Self::Hostlist => first_of_hostlist(value.trim()),
        };
        (!first.is_empty()).then_some(first)
    }
}

/// `rack[1-2]n[03,05],other` is `rack1n03`, and others.
fn first_of_hostlist(list: &str) -> String {
    let (mut host, mut rest) = (String::new(), list);
    while let Some(at) = rest.find(['[', ',']) {
        host.push_str(&rest[..at]);
        if rest[at..].starts_with(',') {
            return host;
        }
        let (numbers, after) = rest[at + 1..]
            .split_once(']')
            .unwrap_or((&rest[at + 1..], ""));
        host.push_str(numbers.split(['-', ',']).next().unwrap_or_default());
        rest = after;
    }
    host + rest
}

/// The count of the node `node_idx` in Slurm's `2(x3),1`.
pub(crate) fn count_of_node(counts: &str, node_idx: usize) -> Option<usize> {
    let mut before = 0_usize;
    for part in counts.trim().split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1_usize),
        };
        before = before.checked_add(times)?;
        if node_idx < before {
            return count.parse().ok().filter(|&count| count > 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_every_form() {
        for (form, value, first) in [
            (HostForm::Plain, " node0 ", Some("node0")),
            (HostForm::Lines, "10.0.0.7\n10.0.0.8\n", Some("10.0.0.7")),
            (HostForm::Lines, "\n", None),
            (HostForm::Hostlist, "n1", Some("n1")),
            (HostForm::Hostlist, "n[1-2]", Some("n1")),
            (
                HostForm::Hostlist,
                "gpu[007,009-012],login1",
                Some("gpu007"),
            ),
            (HostForm::Hostlist, "login1,gpu[1-2]", Some("login1")),
            (
                HostForm::Hostlist,
                "rack[1-2]n[03,05].site",
                Some("rack1n03.site"),
            ),
            (HostForm::Hostlist, "n[1-2", Some("n1")),
            (HostForm::Hostlist, "", None),
        ] {
            assert_eq!(form.first(value).as_deref(), first, "{value}");
        }
    }

    #[test]
    fn slurms_counts_by_node() {
        let of_nodes = |counts| [0, 1, 3].map(|node_idx| count_of_node(counts, node_idx));
        assert_eq!(of_nodes("2(x3),1"), [Some(2), Some(2), Some(1)]);
        assert_eq!(of_nodes("4"), [Some(4), None, None]);
        assert_eq!(of_nodes("x,2(x,0"), [None, None, None]);
    }
}
