//! What a launcher tells each process: torchrun, srun, mpirun, Kubeflow, SkyPilot, or anything that sets the variables of
//! one of them (`launcher_variables.rs`).

use crate::launcher_variables::{
    CountForm, DefaultPort, LAUNCHERS, LauncherVariables, Starts, USUAL_PORT, count_of_node,
};
use fault::Fault;
use serde::{Deserialize, Serialize};
use std::env;
use std::fmt;

/// Most processes or nodes that any launcher may name.
const MOST: usize = 1 << 20;

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

/// What launchers say of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launched {
    /// Nothing: it is the only one.
    Alone,
    /// It is one rank.
    Rank(Environment),
    /// It is the only one on its node, and starts the other ranks there.
    Node(NodeLaunch),
}

/// One of several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLaunch {
    /// What started this process, for the user.
    pub launcher: &'static str,
    /// Number of this node, from 0.
    pub node_rank: usize,
    /// How many there are.
    pub n_nodes: usize,
    /// Ranks on each.
    pub per_node: PerNode,
    host: String,
    port: u16,
}

/// Ranks on each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerNode {
    /// This number, at least 1.
    Count(usize),
    /// One for each GPU.
    Gpu,
    /// One for each core.
    Cpu,
    /// One for each GPU, or one if there is no GPU.
    Auto,
    /// The launcher does not say.
    Unknown,
}

/// How a variable is looked up; one that is empty is not set.
type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Environment {
    /// That of this process if a launcher started it as one rank of several; `None`: it is the only one.
    ///
    /// # Errors
    /// Variables that are missing or make no sense.
    pub fn of_process() -> Result<Option<Self>, Fault> {
        Ok(match Launched::of_process()? {
            Launched::Rank(environment) => Some(environment),
            Launched::Alone | Launched::Node(_) => None,
        })
    }

    /// The variables of torch's launchers that say the same.
    pub fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("RANK", self.rank.to_string()),
            ("WORLD_SIZE", self.world_size.to_string()),
            ("LOCAL_RANK", self.local_rank.to_string()),
            ("LOCAL_WORLD_SIZE", self.local_size.to_string()),
            ("MASTER_ADDR", self.store.host.clone()),
            ("MASTER_PORT", self.store.port.to_string()),
        ]
    }
}

impl NodeLaunch {
    /// The rank of number `local_rank` of the `n_here` on this node; `None`: it is the only one of all.
    pub fn rank(&self, local_rank: usize, n_here: usize) -> Option<Environment> {
        let world_size = self.n_nodes * n_here;
        let store = StoreAddress {
            host: self.host.clone(),
            port: self.port,
            is_served_by_launcher: false,
        };
        (world_size > 1).then(|| Environment {
            rank: self.node_rank * n_here + local_rank,
            world_size,
            local_rank,
            local_size: n_here,
            store,
            restart_count: 0,
        })
    }
}

impl Launched {
    /// What they say of this process.
    ///
    /// # Errors
    /// Variables that are missing or make no sense.
    pub fn of_process() -> Result<Self, Fault> {
        Self::read(&|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    pub(crate) fn read(get: Get<'_>) -> Result<Self, Fault> {
        for launcher in LAUNCHERS {
            let yields = launcher.yields_to.is_some_and(|name| get(name).is_some());
            if yields || !launcher.sign.is_in(get) {
                continue;
            }
            let reader = Reader { launcher, get };
            match launcher.starts {
                Starts::Ranks => return reader.rank(),
                Starts::Nodes | Starts::NodesOfSeveral => {
                    let node = reader.node()?;
                    let is_wanted = node.n_nodes > 1 || launcher.starts == Starts::Nodes;
                    if is_wanted && (node.n_nodes > 1 || node.per_node.may_be_several()) {
                        return Ok(Self::Node(node));
                    }
                }
            }
        }
        Ok(Self::Alone)
    }
}

impl PerNode {
    fn may_be_several(self) -> bool {
        !matches!(self, Self::Count(1) | Self::Unknown)
    }
}

/// Reads the variables of one launcher.
struct Reader<'a> {
    launcher: &'a LauncherVariables,
    get: Get<'a>,
}

impl Reader<'_> {
    /// This process as one rank.
    fn rank(&self) -> Result<Launched, Fault> {
        let LauncherVariables { rank, size, .. } = *self.launcher;
        let world_size = self.number(size, 1, MOST)?;
        let rank = self.number(rank[0], 0, world_size - 1)?;
        if world_size == 1 {
            return Ok(Launched::Alone);
        }
        let local_rank = match self.launcher.local_rank {
            Some(name) if self.is_set(name) => self.number(name, 0, world_size - 1)?,
            _ => rank,
        };
        let local_size = self.local_size();
        let is_served = (self.get)("TORCHELASTIC_USE_AGENT_STORE");
        let is_served = is_served.is_some_and(|value| value == "True");
        let restarts = (self.get)("TORCHELASTIC_RESTART_COUNT");
        let restarts = restarts.and_then(|count| count.parse().ok());
        // If all ranks are here, no other machine must be able to reach the store.
        let are_all_here = local_size.is_some_and(|n_here| n_here >= world_size);
        let store = StoreAddress {
            host: self.host(are_all_here, are_all_here && !is_served)?,
            port: self.port()?,
            is_served_by_launcher: is_served,
        };
        let here = if store.is_local() { world_size } else { 1 };
        Ok(Launched::Rank(Environment {
            rank,
            world_size,
            local_rank,
            local_size: local_size.unwrap_or(here),
            store,
            restart_count: restarts.unwrap_or(0),
        }))
    }

    /// This process as the one of its node.
    fn node(&self) -> Result<NodeLaunch, Fault> {
        let LauncherVariables { rank, size, .. } = *self.launcher;
        let n_nodes = match self.launcher.default_size {
            Some(n_nodes) if !self.is_set(size) => n_nodes,
            _ => self.number(size, 1, MOST)?,
        };
        let set = rank.iter().find(|name| self.is_set(name)).copied();
        let node_rank = match (set, n_nodes) {
            (None, 1) => 0,
            (name, _) => self.number(name.unwrap_or(rank[0]), 0, n_nodes - 1)?,
        };
        Ok(NodeLaunch {
            launcher: self.launcher.name,
            node_rank,
            n_nodes,
            per_node: self.per_node()?,
            host: self.host(n_nodes == 1, n_nodes == 1)?,
            port: self.port()?,
        })
    }

    fn per_node(&self) -> Result<PerNode, Fault> {
        let (name, form) = self.launcher.n_here;
        let Some(value) = (self.get)(name) else {
            return Ok(PerNode::Unknown);
        };
        Ok(match (form, value.trim()) {
            (CountForm::NumberOrWord, "gpu") => PerNode::Gpu,
            (CountForm::NumberOrWord, "cpu") => PerNode::Cpu,
            (CountForm::NumberOrWord, "auto") => PerNode::Auto,
            (CountForm::Gpus, "0") => PerNode::Unknown,
            (CountForm::NumberOrWord, _) => {
                PerNode::Count(self.number_or(name, (1, MOST), "`gpu`, `cpu` or `auto`")?)
            }
            _ => PerNode::Count(self.number(name, 1, MOST)?),
        })
    }

    /// Ranks on this node, if the launcher says.
    fn local_size(&self) -> Option<usize> {
        let (name, form) = self.launcher.n_here;
        let value = (self.get)(name)?;
        match form {
            CountForm::OfNode(node) => count_of_node(&value, (self.get)(node)?.parse().ok()?),
            _ => value.parse().ok(),
        }
    }

    /// The host of rank 0. `are_all_here`: it need not be set. `is_local`: and it is this machine, whatever is set.
    fn host(&self, are_all_here: bool, is_local: bool) -> Result<String, Fault> {
        let host = self.launcher.host.iter().find_map(|(name, form)| {
            let value = (self.get)(name)?;
            form.first(&value)
        });
        let may_lack = are_all_here && self.launcher.default_port == DefaultPort::Usual;
        match host {
            Some(_) if is_local => Ok(LOOPBACK.to_owned()),
            Some(host) => Ok(host),
            None if may_lack => Ok(LOOPBACK.to_owned()),
            None => Err(self.missing(self.launcher.host[0].0)),
        }
    }

    fn port(&self) -> Result<u16, Fault> {
        let port = self.launcher.port;
        let set = port.iter().find(|name| self.is_set(name));
        match (set, self.launcher.default_port) {
            (None, DefaultPort::Usual) => Ok(self.usual_port()),
            (name, _) => {
                let port = self.number(name.unwrap_or(&port[0]), 1, usize::from(u16::MAX))?;
                Ok(u16::try_from(port).expect("it was checked"))
            }
        }
    }

    fn usual_port(&self) -> u16 {
        let job = (self.get)("SLURM_JOB_ID").and_then(|id| id.trim().parse::<u64>().ok());
        let of_job = |id: u64| FIRST_OF_JOBS + (id % u64::from(PORTS_OF_JOBS)) as u16;
        job.map_or(USUAL_PORT, of_job)
    }

    fn is_set(&self, name: &str) -> bool {
        (self.get)(name).is_some()
    }

    fn number(&self, name: &'static str, least: usize, most: usize) -> Result<usize, Fault> {
        self.number_or(name, (least, most), "")
    }

    /// The number in the variable `name`; `or`: what it may be besides.
    fn number_or(
        &self,
        name: &'static str,
        (least, most): (usize, usize),
        or: &str,
    ) -> Result<usize, Fault> {
        let value = (self.get)(name).ok_or_else(|| self.missing(name))?;
        match value.trim().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => {
                let expected = match most {
                    MOST => format!("a number from {least} on"),
                    _ => format!("a number from {least} to {most}"),
                };
                let or = if or.is_empty() {
                    String::new()
                } else {
                    format!(", {or}")
                };
                let message =
                    format!("`{name}` in the environment is `{value}`, not {expected}{or}");
                let launcher = self.launcher.name;
                Err(Fault::input(message).with_hint(format!(
                    "is the command that started this right? It was read as a variable of {launcher}"
                )))
            }
        }
    }

    fn missing(&self, missing: &str) -> Fault {
        let present = self.launcher.sign.first_set(self.get);
        let message = format!("`{present}` is set in the environment, and `{missing}` is not");
        let launcher = self.launcher.name;
        Fault::input(message).with_hint(format!(
            "some variables of {launcher} are set, but not all that are needed (docs/distributed.md lists them); to \
             run a single process, unset them"
        ))
    }
}

/// This machine, for itself alone.
const LOOPBACK: &str = "127.0.0.1";

/// Ports of jobs of Slurm: below those that Linux gives to connections.
const FIRST_OF_JOBS: u16 = 20000;
const PORTS_OF_JOBS: u16 = 10000;
