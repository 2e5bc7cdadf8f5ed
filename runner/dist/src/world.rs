//! All processes that train together.

use crate::diagnosis::Peers;
use crate::error::of_the_program;
use crate::member::Member;
use crate::plugin::{PlugIn, RawStore};
use crate::{DistError, Group, Hello, Store};
use plan::Environment;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;
use tch::Device;

/// How long ranks wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To find each other.
    pub join: Duration,
    /// For a rank to arrive at a collective.
    pub collective: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            join: Duration::from_secs(5 * 60),
            collective: Duration::from_secs(10 * 60),
        }
    }
}

/// What a rank does besides computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rank 0: it writes what is kept.
    Writer,
    /// The others.
    Helper,
}

/// All processes that train together, connected.
#[derive(Debug)]
pub struct World {
    environment: Environment,
    peers: Rc<Peers>,
    control: Rc<Group>,
    /// `None`: that of control, on the CPU.
    data: Option<Group>,
}

/// How long a store is there after a failure, for ranks that ask about it.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Between the number of the launcher's attempt and the keys of what a world does.
const PREFIX: &str = "sae-run";

impl World {
    /// Finds the other ranks, compares `hello` with theirs, and connects groups for numbers on the CPU
    /// and for tensors on `device`. `scope`: what this world is for, the same on all ranks and not used
    /// before on the same store.
    ///
    /// # Errors
    /// A store that cannot be reached, ranks that are missing or of another kind, or no connection.
    pub fn join(
        environment: Environment,
        scope: &str,
        hello: &Hello,
        device: Device,
        timeouts: Timeouts,
    ) -> Result<Self, DistError> {
        let Environment {
            rank,
            world_size,
            ref store,
            restart_count,
            ..
        } = environment;
        let open = |what: &str| {
            let is_server = rank == 0 && !store.is_served_by_launcher && what == "talk";
            let prefix = format!("{PREFIX}/{restart_count}/{scope}/{what}");
            Store::open(store, is_server, &prefix, (rank, timeouts.join))
        };
        let talk = Rc::new(open("talk")?);
        let member = Member { rank, world_size };
        let met = hello.exchange(&talk, member, timeouts.join);
        if met.is_err() && rank == 0 {
            // The store ends with rank 0, and the others must first see for themselves what is wrong.
            sleep(SHUTDOWN_GRACE);
        }
        met?;
        let peers = Rc::new(Peers {
            member,
            store: talk,
        });
        let interface = interface(store.is_local());
        let connect = |plugin: PlugIn, store: &RawStore, control: Option<Rc<Group>>| {
            let how = (interface.as_str(), timeouts.collective);
            Group::connect(plugin, store, Rc::clone(&peers), how, control)
        };
        let of_control = open("control")?;
        let control = Rc::new(connect(PlugIn::gloo()?, of_control.raw(), None)?);
        let data = match device {
            Device::Cuda(_) => {
                let of_data = open("data")?;
                let plugin = PlugIn::of_device(device)?;
                Some(connect(plugin, of_data.raw(), Some(Rc::clone(&control)))?)
            }
            _ => None,
        };
        Ok(Self {
            environment,
            peers,
            control,
            data,
        })
    }

    /// Number of this process, from 0, over all nodes.
    pub fn rank(&self) -> usize {
        self.environment.rank
    }

    /// Processes in all.
    pub fn size(&self) -> usize {
        self.environment.world_size
    }

    /// Processes on this node.
    pub fn local_size(&self) -> usize {
        self.environment.local_size
    }

    /// What this rank does besides computing.
    pub fn role(&self) -> Role {
        match self.rank() {
            0 => Role::Writer,
            _ => Role::Helper,
        }
    }

    /// The group for numbers and tensors on the CPU.
    pub fn control(&self) -> &Group {
        &self.control
    }

    /// The group for tensors on the device.
    pub fn data(&self) -> &Group {
        self.data.as_ref().unwrap_or(&self.control)
    }

    /// The numbers of every rank, by rank; as many on each. Checks that all made the same calls before.
    ///
    /// # Errors
    /// A rank that is gone, stalled, or made other calls.
    pub fn agree(&self, name: &str, numbers: &[i64]) -> Result<Vec<Vec<i64>>, DistError> {
        let mut ours = numbers.to_vec();
        ours.extend([self.control().course(), self.data().course()].map(u64::cast_signed));
        let mut gathered = self.control().gather_numbers(name, &ours)?;
        let courses: Vec<_> = gathered
            .iter_mut()
            .map(|of_rank| of_rank.split_off(numbers.len()))
            .collect();
        match courses.iter().position(|course| *course != courses[0]) {
            None => Ok(gathered),
            Some(rank) => {
                let message = format!("ranks 0 and {rank} made different calls before `{name}`");
                Err(of_the_program(message))
            }
        }
    }

    /// Ends this rank's part because of a failure that only it knows, and tells the others, so that
    /// their errors repeat it.
    ///
    /// # Errors
    /// The store is lost.
    pub fn fail(self, message: &str, is_of_the_input: bool) -> Result<(), DistError> {
        let Self {
            environment,
            peers,
            control,
            data,
        } = self;
        peers.tell_failure(message, is_of_the_input)?;
        drop((data, control));
        let serves = environment.rank == 0 && !environment.store.is_served_by_launcher;
        if serves {
            peers.wait_for_others()?;
            sleep(SHUTDOWN_GRACE);
        }
        Ok(())
    }
}

/// The network interface for Gloo: that of the variable which PyTorch reads too; else this machine's
/// loopback if all ranks are on it, else the one that the host's name resolves to.
fn interface(is_local: bool) -> String {
    match std::env::var("GLOO_SOCKET_IFNAME") {
        Ok(name) if !name.is_empty() => name.split(',').next().unwrap_or_default().to_owned(),
        _ if is_local => "lo".into(),
        _ => String::new(),
    }
}
