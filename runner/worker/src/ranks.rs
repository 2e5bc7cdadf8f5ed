//! A task that several processes share.

use eval::{Alone, EvalError, Ranks};
use fault::{FailureKind, Fault, Remedy, message_chain};
use files::DigestCache;
use plan::{Environment, Task, digest_json};
use std::path::Path;

/// Does `work` with the ranks that do the task in the file `path`; `work` gets the name of this process's device too, for
/// that of the name `device`. The other ranks hear of a failure, and end with the same message.
///
/// # Errors
/// Those of `work`, or ranks that do not come.
pub(crate) fn with_ranks<T>(
    (path, task): (&Path, &Task),
    device: &str,
    work: impl FnOnce(&dyn Ranks, String) -> Result<T, EvalError>,
) -> Result<T, Fault> {
    let Some(environment) = Environment::of_process()? else {
        return Ok(work(&Alone, device.to_owned())?);
    };
    // Nowhere else: a file of the same name is of another task.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let scope = format!("task/{name}");
    let digests = DigestCache::new(path.parent().unwrap_or(Path::new(".")));
    let meant = (scope.as_str(), &*digest_json(task));
    let met = train::meet(environment, meant, device, &digests);
    let (world, device) = met.map_err(|error| Fault::of(&error))?;
    let outcome = work(&world, device);
    if let Err(EvalError::Fault(fault)) = &outcome {
        let is_of_the_input = fault.kind() == FailureKind::Input;
        world.fail(&message_chain(fault), is_of_the_input)?;
    }
    Ok(outcome?)
}
