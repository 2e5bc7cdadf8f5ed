//! Meeting the other processes that train the same stream.

use crate::TrainError;
use crate::libtorch::Libtorch;
use crate::ranks::Ranks;
use crate::ranks::owners::Owners;
use crate::training::job_trainer::JobTrainer;
use data::DigestCache;
use dist::{Environment, Hello, Timeouts, World};
use plan::Order;
use plan::{Job, TRAINER_VERSION, digest_json};
use std::path::Path;
use std::time::Duration;
use tch::Device;

/// How long ranks wait for the one that tokenises, which may have days of work.
const PATIENCE_FOR_TOKENS: Duration = Duration::from_secs(7 * 24 * 3600);

/// The device of this process: where `auto` or `cuda` is asked for and there are several, each takes
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

/// Waits until no rank prepares its tokens any more; whether they are ready on all. A rank may have been
/// stopped before.
pub(crate) fn all_have_tokens(world: Option<&World>, has_tokens: bool) -> Result<bool, TrainError> {
    let Some(world) = world else {
        return Ok(has_tokens);
    };
    let is_stopped = [i64::from(!has_tokens)];
    let patience = Some(PATIENCE_FOR_TOKENS);
    let of_ranks = world
        .control()
        .gather_numbers_within("tokens", &is_stopped, patience)?;
    Ok(of_ranks.iter().flatten().all(|&is_stopped| is_stopped == 0))
}

/// The jobs of the order as their states left them, the same on all ranks.
pub(crate) fn open_jobs(
    order: &Order,
    device: Device,
    ranks: Ranks<'_>,
) -> Result<Vec<JobTrainer>, TrainError> {
    if !ranks.has_writer() {
        ranks.wait_for_all("states in order")?;
    }
    let of_order: Vec<&Job> = order.jobs.iter().map(|job| &job.job).collect();
    let owners = plan::owners(&of_order, ranks.number()).into_iter();
    let owners = owners.map(|by_sae| Owners::new(by_sae, ranks.rank()));
    let open = |(job, owners)| JobTrainer::open(job, &order.runs_dir, device, owners);
    let jobs = order.jobs.iter().zip(owners).map(open);
    let jobs: Vec<JobTrainer> = jobs.collect::<Result<_, _>>()?;
    if ranks.has_writer() {
        // It puts damaged states aside: the others look when that is done.
        ranks.wait_for_all("states in order")?;
    }
    let steps: Vec<i64> = jobs.iter().map(|job| job.step as i64).collect();
    ranks.must_agree("set of checkpoints", &steps)?;
    // What is left of a stream that was begun may have fewer SAEs.
    let is_fresh = steps.iter().all(|step| *step == 0);
    match plan::too_few_saes(&of_order, ranks.number()).filter(|_| is_fresh) {
        None => Ok(jobs),
        Some(n_saes) => Err(TrainError::MoreRanksThanSaes {
            n_ranks: ranks.number(),
            n_saes,
        }),
    }
}
