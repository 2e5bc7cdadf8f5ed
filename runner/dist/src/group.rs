//! Collectives, each with a name that all ranks give alike.

use crate::DistError;
use crate::diagnosis::{Collective, Peers};
use crate::error::of_the_program;
use crate::plugin::{Failure, PlugIn, RawGroup, RawStore, RawWork};
use crate::volume::{Kind, Volume};
use crate::waiting::waiting;
use fault::Fault;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;
use tch::Tensor;

/// Ranks that compute together, for tensors on one kind of device. All make the same calls in the same
/// order.
///
/// The first time that a name is used, ranks compare what they have for it, so that tensors of different
/// shapes are an error and not a hang or nonsense.
#[derive(Debug)]
pub struct Group {
    raw: RawGroup,
    peers: Rc<Peers>,
    /// On the CPU: for what ranks tell each other about tensors. `None`: this group itself.
    control: Option<Rc<Group>>,
    timeout: Duration,
    n_begun: Cell<u64>,
    /// Collectives that were begun and have not ended well, as far as this rank knows.
    n_open: Cell<u64>,
    /// Hash of all collectives so far.
    course: Cell<u64>,
    /// What ranks agreed on for each name.
    known: RefCell<HashMap<String, String>>,
    volume: RefCell<Volume>,
}

/// A collective in progress, with its tensor.
#[derive(Debug)]
pub struct Pending<'a> {
    group: &'a Group,
    collective: Collective,
    /// `None`: there was nothing to do.
    work: Option<RawWork>,
    tensor: Tensor,
}

/// How often a rank that waits looks whether another is in trouble.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Bytes of the texts that ranks compare.
const TEXT_BYTES: usize = 128;

impl Group {
    pub(crate) fn connect(
        plugin: PlugIn,
        store: &RawStore,
        peers: Rc<Peers>,
        (interface, timeout): (&str, Duration),
        control: Option<Rc<Self>>,
    ) -> Result<Self, DistError> {
        let what = format!("{} other ranks to connect", peers.member.world_size - 1);
        let raw = waiting(what, || {
            RawGroup::open(plugin, store, peers.member, timeout, interface)
        })
        .map_err(|failure| {
            let (rank, backend, reason) = (peers.member.rank, plugin.backend(), failure.text);
            let message =
                format!("rank {rank} cannot connect to the others over {backend}: {reason}");
            Fault::internal(message).with_hint(
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface that connects the nodes",
            )
        })?;
        Ok(Self {
            raw,
            peers,
            control,
            timeout,
            n_begun: Cell::new(0),
            n_open: Cell::new(0),
            course: Cell::new(0),
            known: RefCell::default(),
            volume: RefCell::default(),
        })
    }

    /// Number of this process.
    pub fn rank(&self) -> usize {
        self.peers.member.rank
    }

    /// Processes in the group.
    pub fn size(&self) -> usize {
        self.peers.member.world_size
    }

    /// What was sent so far.
    pub fn volume(&self) -> Volume {
        self.volume.borrow().clone()
    }

    /// `gloo` or `nccl`.
    pub fn backend(&self) -> &'static str {
        self.raw.backend()
    }

    /// Sums `tensor` over all ranks, in place; every rank has the same bits then.
    ///
    /// # Errors
    /// A rank that is gone, stalled or in another collective, or different tensors.
    pub fn all_reduce(&self, name: &str, tensor: &mut Tensor) -> Result<(), DistError> {
        *tensor = self
            .begin_all_reduce(name, tensor.shallow_clone())?
            .wait()?;
        Ok(())
    }

    /// Begins to sum `tensor` over all ranks. [`Pending::wait`] gives it back.
    ///
    /// # Errors
    /// Different tensors, or a rank that is gone.
    pub fn begin_all_reduce(&self, name: &str, tensor: Tensor) -> Result<Pending<'_>, DistError> {
        let tensor = tensor.f_contiguous()?;
        self.check(Kind::AllReduce, name, &tensor)?;
        self.begin(Kind::AllReduce, name, tensor, |raw, tensor| {
            raw.all_reduce(tensor, None)
        })
    }

    /// Gives `tensor` of rank `root` to all, in place.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn broadcast(&self, name: &str, tensor: &mut Tensor, root: usize) -> Result<(), DistError> {
        let contiguous = tensor.f_contiguous()?;
        self.check(Kind::Broadcast, name, &contiguous)?;
        let pending = self.begin(Kind::Broadcast, name, contiguous, |raw, tensor| {
            raw.broadcast(tensor, root, None)
        })?;
        *tensor = pending.wait()?;
        Ok(())
    }

    /// The `tensor` of every rank, by rank.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn all_gather(&self, name: &str, tensor: &Tensor) -> Result<Vec<Tensor>, DistError> {
        self.check(Kind::AllGather, name, tensor)?;
        self.gather(Kind::AllGather, name, tensor, None)
    }

    /// Rows of every rank to every rank. `rows`: `[n_rows, ...]`, of which the first `n_to[0]` are for
    /// rank 0 and so on; `n_from`: how many come from each. Gives the rows for this rank by the ranks they
    /// came from.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    ///
    /// # Panics
    /// There is not one number for each rank, or those of `n_to` do not add up to the number of rows.
    pub fn all_to_all(
        &self,
        name: &str,
        rows: &Tensor,
        (n_to, n_from): (&[usize], &[usize]),
    ) -> Result<Tensor, DistError> {
        let rows = rows.f_contiguous()?;
        let mut shape = rows.size();
        let n_rows = shape[0] as usize;
        assert_eq!(n_to.len(), self.size(), "one number for each rank");
        assert_eq!(
            n_to.iter().sum::<usize>(),
            n_rows,
            "every row goes somewhere"
        );
        self.compare(Kind::AllToAll, name, describe(&rows, &shape[1..]))?;
        shape[0] = n_from.iter().sum::<usize>() as i64;
        let output = Tensor::f_empty(shape, (rows.kind(), rows.device()))?;
        let collective = self.next_collective(Kind::AllToAll, name);
        let [to, from] = [n_to, n_from].map(|n| n.iter().map(|&n| n as i64).collect::<Vec<_>>());
        let work = self.raw.all_to_all((&output, &from), (&rows, &to), None);
        let row_bytes = n_bytes(&rows) / n_rows.max(1) as u64;
        let n_sent = n_rows - n_to[self.rank()];
        self.count(Kind::AllToAll, n_sent as u64 * row_bytes);
        self.pending(collective, work, output)?.wait()
    }

    /// The numbers of every rank, by rank; the same number of them on each.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn gather_numbers(&self, name: &str, numbers: &[i64]) -> Result<Vec<Vec<i64>>, DistError> {
        self.gather_numbers_within(name, numbers, None)
    }

    /// As [`Group::gather_numbers`], with a separate timeout for ranks that need long to arrive.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn gather_numbers_within(
        &self,
        name: &str,
        numbers: &[i64],
        timeout: Option<Duration>,
    ) -> Result<Vec<Vec<i64>>, DistError> {
        let group = self.control.as_deref().unwrap_or(self);
        let tensor = Tensor::f_from_slice(numbers)?;
        let gathered = group.gather(Kind::AllGather, name, &tensor, timeout)?;
        let to_numbers = |tensor| Ok(Vec::try_from(tensor)?);
        gathered.into_iter().map(to_numbers).collect()
    }

    /// Whether `value` is true on any rank.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn any(&self, name: &str, value: bool) -> Result<bool, DistError> {
        let values = self.gather_numbers(name, &[i64::from(value)])?;
        Ok(values.iter().flatten().any(|&value| value != 0))
    }

    /// Returns when all ranks are here.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn barrier(&self, name: &str) -> Result<(), DistError> {
        self.any(name, false).map(|_| ())
    }

    fn gather(
        &self,
        kind: Kind,
        name: &str,
        tensor: &Tensor,
        timeout: Option<Duration>,
    ) -> Result<Vec<Tensor>, DistError> {
        let input = tensor.f_contiguous()?.f_flatten(0, -1)?;
        let shape = [self.size() as i64, input.size()[0]];
        let output = Tensor::f_empty(shape, (input.kind(), input.device()))?;
        let mut collective = self.next_collective(kind, name);
        collective.timeout = timeout.unwrap_or(self.timeout);
        let flat = output.f_flatten(0, -1)?;
        let work = self.raw.all_gather(&flat, &input, timeout);
        self.count(kind, n_bytes(&input));
        let output = self.pending(collective, work, output)?.wait()?;
        let of_rank = |rank| Ok(output.f_get(rank)?.f_view(&tensor.size()[..])?);
        (0..shape[0]).map(of_rank).collect()
    }

    fn begin(
        &self,
        kind: Kind,
        name: &str,
        tensor: Tensor,
        call: impl FnOnce(&RawGroup, &Tensor) -> Result<RawWork, Failure>,
    ) -> Result<Pending<'_>, DistError> {
        let collective = self.next_collective(kind, name);
        if tensor.numel() == 0 {
            return Ok(Pending {
                group: self,
                collective,
                work: None,
                tensor,
            });
        }
        let work = call(&self.raw, &tensor);
        self.count(kind, n_bytes(&tensor));
        self.pending(collective, work, tensor)
    }

    fn pending(
        &self,
        collective: Collective,
        work: Result<RawWork, Failure>,
        tensor: Tensor,
    ) -> Result<Pending<'_>, DistError> {
        self.n_open.update(|n| n + 1);
        let work = work.map_err(|failure| self.peers.explain(&collective, failure))?;
        Ok(Pending {
            group: self,
            collective,
            work: Some(work),
            tensor,
        })
    }

    /// Waits for `work`. With Gloo, also until another rank is in trouble: this one's connections may be
    /// to other ranks than that one's, and then they say nothing.
    fn await_end(&self, work: &RawWork) -> Result<(), Failure> {
        if !self.is_of_gloo() {
            return work.wait();
        }
        while !work.wait_for(BETWEEN_LOOKS)? {
            if let Some(failure) = self.peers.trouble() {
                return Err(failure);
            }
        }
        Ok(())
    }

    fn is_of_gloo(&self) -> bool {
        self.backend() == "gloo"
    }

    fn next_collective(&self, kind: Kind, name: &str) -> Collective {
        let number = self.n_begun.get() + 1;
        self.n_begun.set(number);
        let mut hasher = DefaultHasher::new();
        (self.course.get(), kind, name).hash(&mut hasher);
        self.course.set(hasher.finish());
        Collective {
            number,
            what: format!("the {} `{name}`", kind.name()),
            timeout: self.timeout,
        }
    }

    /// A number that is the same on ranks which made the same calls.
    pub(crate) fn course(&self) -> u64 {
        self.course.get()
    }

    fn count(&self, kind: Kind, n_bytes: u64) {
        self.volume.borrow_mut().add(kind, n_bytes);
    }

    fn check(&self, kind: Kind, name: &str, tensor: &Tensor) -> Result<(), DistError> {
        self.compare(kind, name, describe(tensor, &tensor.size()))
    }

    /// Compares what ranks have for `name`: with each other the first time, later with that.
    fn compare(&self, kind: Kind, name: &str, ours: String) -> Result<(), DistError> {
        let differs = |rank: usize, theirs: String| {
            of_the_program(format!(
                "rank {rank} has {theirs} for the {} `{name}`, rank {} has {ours}",
                kind.name(),
                self.rank()
            ))
        };
        if let Some(first) = self.known.borrow().get(name) {
            return if *first == ours {
                Ok(())
            } else {
                Err(differs(self.rank(), format!("had {first}")))
            };
        }
        let of_ranks = self.gather_text(&format!("shape of {name}"), &ours)?;
        for (rank, theirs) in of_ranks.into_iter().enumerate() {
            if theirs != ours {
                return Err(differs(rank, theirs));
            }
        }
        self.known.borrow_mut().insert(name.into(), ours);
        Ok(())
    }

    /// The text of every rank, by rank, as far as it fits.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn gather_text(&self, name: &str, text: &str) -> Result<Vec<String>, DistError> {
        let group = self.control.as_deref().unwrap_or(self);
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(TEXT_BYTES, b' ');
        let gathered = group.gather(Kind::AllGather, name, &Tensor::f_from_slice(&bytes)?, None)?;
        let to_text = |tensor| {
            let bytes = Vec::<u8>::try_from(tensor)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        gathered.into_iter().map(to_text).collect()
    }
}

impl Drop for Group {
    /// Gloo closes a group only after all its collectives, which would keep this rank waiting for others,
    /// and them for this one, up to the timeout. Unless all have ended, the end of the process closes it.
    fn drop(&mut self) {
        if self.n_open.get() > 0 && self.is_of_gloo() {
            self.raw.leave_open();
        }
    }
}

/// Kind of a tensor, and some of its shape.
fn describe(tensor: &Tensor, shape: &[i64]) -> String {
    format!("{:?} {shape:?}", tensor.kind())
}

fn n_bytes(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

impl Pending<'_> {
    /// Waits for the collective and gives the tensor. On a GPU, the device's queue waits and not this
    /// thread.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn wait(self) -> Result<Tensor, DistError> {
        let Self {
            group,
            collective,
            work,
            tensor,
        } = self;
        let Some(work) = work else {
            return Ok(tensor);
        };
        let what = format!("other ranks to join in {}", collective.what);
        waiting(what, || group.await_end(&work))
            .map_err(|failure| group.peers.explain(&collective, failure))?;
        group.n_open.update(|n| n - 1);
        Ok(tensor)
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.work.as_ref().is_none_or(RawWork::is_done)
    }
}
