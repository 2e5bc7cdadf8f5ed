//! Which stream is next on which device, so that their predicted memory suffices.

use crate::run::claims::PAUSE;
use crate::run::launch::Processes;
use crate::sweep::device_memory;
use plan::{Launch, Stream};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use tokio::sync::Notify;

/// Streams that wait for a worker.
pub(crate) struct Queue<'a> {
    state: RefCell<State<'a>>,
    /// A stream has ended, or the queue was closed.
    changed: Notify,
}

struct State<'a> {
    waiting: VecDeque<&'a Stream>,
    /// Streams with jobs that other processes have; looked at again when nothing else waits.
    held: VecDeque<&'a Stream>,
    /// Bytes that the workers on a device may take together; absent: not known.
    most_bytes: HashMap<String, u64>,
    /// Bytes that those which run are predicted to take.
    taken_bytes: HashMap<String, u64>,
    is_closed: bool,
}

/// What is left to give out.
enum Rest {
    Nothing,
    /// There is no room for it on this device.
    Waiting,
    /// Other processes have its jobs.
    Held,
}

impl<'a> Queue<'a> {
    /// The `streams`, in their order if one worker runs at a time; else those come first that are
    /// expected to take longest, so that no long stream is left for the end. `processes` train each.
    pub(crate) fn new(
        streams: &'a [Stream],
        launch: &Launch,
        (lanes, processes): (&[String], &Processes),
    ) -> Self {
        let mut waiting: Vec<_> = streams.iter().collect();
        if lanes.len() > 1 {
            waiting.sort_by_key(|stream| std::cmp::Reverse(parameters(stream)));
        }
        let known = lanes.iter().filter_map(|device| {
            let most_bytes = device_memory::of_device(launch, device, processes)?;
            Some((device.clone(), most_bytes))
        });
        Self {
            state: RefCell::new(State {
                waiting: waiting.into(),
                held: VecDeque::new(),
                most_bytes: known.collect(),
                taken_bytes: HashMap::new(),
                is_closed: false,
            }),
            changed: Notify::new(),
        }
    }

    /// The next stream for `device`, once there is room for one; `None`: all were given out.
    pub(crate) async fn next(&self, device: &str) -> Option<&'a Stream> {
        loop {
            let changed = self.changed.notified();
            if let Some(stream) = self.state.borrow_mut().take(device) {
                return Some(stream);
            }
            let rest = self.state.borrow().rest();
            match rest {
                Rest::Nothing => return None,
                Rest::Waiting => changed.await,
                Rest::Held => {
                    tokio::time::sleep(PAUSE).await;
                    self.state.borrow_mut().look_again();
                }
            }
        }
    }

    /// Takes a stream back that has jobs which other processes have.
    pub(crate) fn hold(&self, stream: &'a Stream) {
        let mut state = self.state.borrow_mut();
        if !state.is_closed {
            state.held.push_back(stream);
        }
    }

    /// A stream on `device` has ended.
    pub(crate) fn release(&self, device: &str, stream: &Stream) {
        if let Some(taken) = self.state.borrow_mut().taken_bytes.get_mut(device) {
            *taken = taken.saturating_sub(stream.memory.total_bytes());
        }
        self.changed.notify_waiters();
    }

    /// Lets no further stream begin.
    pub(crate) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.waiting.clear();
        state.held.clear();
        state.is_closed = true;
        drop(state);
        self.changed.notify_waiters();
    }
}

impl<'a> State<'a> {
    fn rest(&self) -> Rest {
        match (self.waiting.is_empty(), self.held.is_empty()) {
            (true, true) => Rest::Nothing,
            (true, false) => Rest::Held,
            (false, _) => Rest::Waiting,
        }
    }

    fn look_again(&mut self) {
        self.waiting.append(&mut self.held);
    }

    /// The first stream that fits next to those on `device`; any stream if the device is free.
    fn take(&mut self, device: &str) -> Option<&'a Stream> {
        let most_bytes = self.most_bytes.get(device).copied().unwrap_or(u64::MAX);
        let taken = self.taken_bytes.entry(device.to_owned()).or_default();
        let fits = |stream: &&Stream| {
            let together = taken.saturating_add(stream.memory.total_bytes());
            *taken == 0 || together <= most_bytes
        };
        let index = self.waiting.iter().position(fits)?;
        let stream = self.waiting.remove(index)?;
        *taken = taken.saturating_add(stream.memory.total_bytes());
        Some(stream)
    }
}

/// What a token costs grows with the parameters it meets, and those of an SAE weigh thrice: forward,
/// backward, update.
fn parameters(stream: &Stream) -> u64 {
    let sae_bytes = stream.memory.sae_bytes.saturating_mul(3);
    stream.memory.model_bytes.saturating_add(sae_bytes)
}
