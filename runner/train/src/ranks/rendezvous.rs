//! Meeting the other processes that train the same stream.

use crate::TrainError;
use dist::{Hello, Timeouts, World};
use files::DigestCache;
use lm::Libtorch;
use plan::{Environment, Order, TRAINER_VERSION, digest_json};
use std::path::Path;
use std::time::Duration;
use tch::Device;

/// The device of this process: if `auto` or `cuda` is asked for and there are several, each takes
/// the GPU of its number on its node.
pub(crate) fn device(
    order: &Order,
    environment: Option<&Environment>,
) -> Result<Device, TrainError> {
    let device = lm::parse_device(&order.device)?;
    Ok(match (device, environment) {
        (Device::Cuda(_), Some(environment)) if !order.device.contains(':') => {
            lm::parse_device(&format!("cuda:{}", environment.local_rank))?
        }
        _ => device,
    })
}

/// Meets the other ranks. All must be the same program on the same libtorch with the same order.
pub(crate) fn join(
    order: &Order,
    environment: Environment,
    device: Device,
    digests: &DigestCache,
) -> Result<World, TrainError> {
    let program = Path::new("/proc/self/exe").canonicalize();
    let program = program.map_err(TrainError::io("find", Path::new("/proc/self/exe")))?;
    let hello = Hello::default()
        .with("trainer version", &TRAINER_VERSION.to_string())
        .with("program", &digests.file(&program)?)
        .with("libtorch", &Libtorch::loaded().version_text())
        .with("order", &digest_json(order));
    let timeout = Duration::from_secs_f64(order.timeout_minutes.max(0.0) * 60.0);
    let timeouts = Timeouts {
        join: timeout,
        collective: timeout,
    };
    // An agent's store outlives attempts.
    let scope = format!("{}/{}", order.stream_id, order.attempt);
    Ok(World::join(environment, &scope, &hello, device, timeouts)?)
}
