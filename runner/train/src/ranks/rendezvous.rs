//! Meeting the other processes that train the same stream, or do the same task.

use crate::TrainError;
use crate::ranks::Ranks;
use dist::{Hello, Timeouts, World};
use files::DigestCache;
use lm::Libtorch;
use plan::{Environment, Order, TRAINER_VERSION, digest_json};
use std::path::Path;
use std::time::Duration;
use tch::Device;

/// The device of the name `name` for this process: if `auto` or `cuda` is asked for and there are several processes, each
/// takes the GPU of its number on its node.
pub(crate) fn device(name: &str, environment: Option<&Environment>) -> Result<Device, TrainError> {
    let device = lm::parse_device(name)?;
    Ok(match (device, environment) {
        (Device::Cuda(_), Some(environment)) if !name.contains(':') => {
            lm::parse_device(&format!("cuda:{}", environment.local_rank))?
        }
        _ => device,
    })
}

/// The name of a device.
pub(crate) fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Meets the other ranks. All must be the same program on the same libtorch with the same order.
pub(crate) fn join(
    order: &Order,
    environment: Environment,
    device: Device,
    digests: &DigestCache,
) -> Result<World, TrainError> {
    let hello = hello(digests)?.with("order", &digest_json(order));
    let timeout = Duration::from_secs_f64(order.timeout_minutes.max(0.0) * 60.0);
    let timeouts = Timeouts {
        join: timeout,
        collective: timeout,
    };
    // An agent's store outlives attempts.
    let scope = format!("{}/{}", order.stream_id, order.attempt);
    Ok(World::join(environment, &scope, &hello, device, timeouts)?)
}

/// Meets the other ranks that do the task of the digest `task` on the device `device`, and gives the name of this process's.
/// `scope` is used for nothing else. All must be the same program on the same libtorch.
///
/// # Errors
/// A device that is not there, or ranks that are missing or of another kind.
pub fn meet(
    environment: Environment,
    (scope, task): (&str, &str),
    device_asked: &str,
    digests: &DigestCache,
) -> Result<(World, String), TrainError> {
    lm::init_backends();
    let device = device(device_asked, Some(&environment))?;
    let hello = hello(digests)?.with("task", task);
    let world = World::join(environment, scope, &hello, device, Timeouts::default())?;
    if let Some(n_threads) = Ranks::n_threads(&world) {
        tch::set_num_threads(i32::try_from(n_threads).unwrap_or(i32::MAX));
    }
    Ok((world, device_name(device)))
}

/// What must be the same on all ranks, whatever they do.
fn hello(digests: &DigestCache) -> Result<Hello, TrainError> {
    let program = Path::new("/proc/self/exe").canonicalize();
    let program = program.map_err(TrainError::io("find", Path::new("/proc/self/exe")))?;
    Ok(Hello::default()
        .with("trainer version", &TRAINER_VERSION.to_string())
        .with("program", &digests.file(&program)?)
        .with("libtorch", &Libtorch::loaded().version_text()))
}
