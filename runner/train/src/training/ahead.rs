//! The next forward pass next to the SAEs' updates, on a second stream of a GPU. The bits stay the same.

use super::activation_stream::{ActivationStream, Forward, PassIdx};
use crate::TrainError;
use crate::process::log;
use crate::ranks::Ranks;
use crate::sae_trainer::memory::is_out_of_memory;
use lm::{DeviceMemory, SideStream, device_memory, forget_peak, used_here};
use plan::Order;
use tch::Device;

/// How much of a GPU's memory may be used: the allocator loses some between tensors.
const MOST_OF_MEMORY: f64 = 0.9;

/// Makes forward passes, and begins the next one early if `launch.overlap_forward` asks for it.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Option<Overlap>);

#[derive(Debug)]
struct Overlap {
    side: SideStream,
    device: Device,
    phase: Phase,
    begun: Option<(PassIdx, Option<Forward>)>,
}

/// Whether there is memory for a forward pass next to an update.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The first pass is still to come.
    First,
    /// Its memory is known, and the first update is still to come.
    Measured { forward_bytes: i64 },
    /// There is.
    On,
}

impl Ahead {
    /// For `order`'s jobs. Says in the log why a wish for it is not fulfilled.
    pub(crate) fn open(
        order: &Order,
        device: Device,
        ranks: &dyn Ranks,
    ) -> Result<Self, TrainError> {
        if !order.overlap_forward {
            return Ok(Self::default());
        }
        if let Some(obstacle) = obstacle(order, ranks) {
            say_why_not(obstacle);
            return Ok(Self::default());
        }
        let Some(side) = SideStream::new(device)? else {
            say_why_not("the CPU has no streams");
            return Ok(Self::default());
        };
        Ok(Self(Some(Overlap {
            side,
            device,
            phase: Phase::First,
            begun: None,
        })))
    }

    /// The forward pass that was begun, or one that is made now.
    pub(super) fn forward(
        &mut self,
        stream: &ActivationStream,
        pass: PassIdx,
    ) -> Result<Option<Forward>, TrainError> {
        let Some(overlap) = &mut self.0 else {
            return stream.forward(pass);
        };
        if let Some((begun, forward)) = overlap.begun.take()
            && begun == pass
        {
            overlap.side.join()?;
            for tensor in forward.iter().flat_map(Forward::tensors) {
                used_here(tensor)?;
            }
            return Ok(forward);
        }
        match overlap.phase {
            Phase::First => overlap.measure(stream, pass),
            Phase::Measured { forward_bytes } => {
                if overlap.has_room(forward_bytes)? {
                    overlap.phase = Phase::On;
                } else {
                    self.end("memory would not suffice");
                }
                stream.forward(pass)
            }
            Phase::On => stream.forward(pass),
        }
    }

    /// Begins the next pass, whose work on the GPU runs next to what is started from now on.
    pub(super) fn begin(
        &mut self,
        stream: &ActivationStream,
        next: Option<PassIdx>,
    ) -> Result<(), TrainError> {
        let (Some(overlap), Some(next)) = (&mut self.0, next) else {
            return Ok(());
        };
        if !matches!(overlap.phase, Phase::On) {
            return Ok(());
        }
        match overlap.side.run(|| stream.forward(next))? {
            Ok(forward) => overlap.begun = Some((next, forward)),
            Err(error) if is_out_of_memory(&error) => self.end("memory ran out"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn end(&mut self, reason: &str) {
        say_why_not(reason);
        self.0 = None;
    }
}

impl Overlap {
    fn measure(
        &mut self,
        stream: &ActivationStream,
        pass: PassIdx,
    ) -> Result<Option<Forward>, TrainError> {
        forget_peak(self.device)?;
        let before = self.memory()?.most;
        let forward = stream.forward(pass)?;
        let forward_bytes = self.memory()?.most - before;
        self.phase = Phase::Measured { forward_bytes };
        Ok(forward)
    }

    /// After the first update.
    fn has_room(&self, forward_bytes: i64) -> Result<bool, TrainError> {
        let memory = self.memory()?;
        Ok((memory.most + forward_bytes) as f64 <= MOST_OF_MEMORY * memory.total as f64)
    }

    fn memory(&self) -> Result<DeviceMemory, TrainError> {
        Ok(device_memory(self.device)?.unwrap_or_default())
    }
}

impl Drop for Overlap {
    fn drop(&mut self) {
        // The model must outlive a pass that is not used. A failure shows in the next call of libtorch.
        let _ = self.side.join();
    }
}

/// Why the passes of `order` do not overlap updates on any device.
fn obstacle(order: &Order, ranks: &dyn Ranks) -> Option<&'static str> {
    if order.key.loss_fn.is_end_to_end() {
        Some("SAEs that train on the model's output are in its forward pass")
    } else if order.key.load_in_8bit {
        Some("the host waits within an 8-bit forward pass")
    } else if !ranks.sums_are_complete() {
        Some("several processes train together")
    } else {
        None
    }
}

fn say_why_not(reason: &str) {
    log(&format!("forward passes do not overlap updates: {reason}"));
}
