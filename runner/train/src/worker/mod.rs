//! The worker process: reads its order, trains the stream, reports through `events.jsonl`.

mod calibration;
mod evaluation;
pub(crate) mod prepare;
mod reports;
mod requeued;

use crate::TrainError;
use crate::allocator::keep_freed_memory;
use crate::events::EventLog;
use crate::gpu::choose_kernels;
use crate::process::log;
use crate::ranks::rendezvous::{self, device_name};
use crate::ranks::{ALONE, Ranks};
use crate::stop::{STOPPED, StopFlag, has_lost_parent};
use crate::training::base::Length;
use crate::training::open::{open_jobs, second_taps, taps};
use crate::training::{ActivationStream, Ahead, Outcome, StreamTrainer};
use crate::worker::evaluation::JobEvaluation;
use crate::worker::prepare::{StreamTokens, open_tokens};
use facts::{ModelInputs, read_model};
use fault::{FailureKind, Fault, Remedy, message_chain};
use files::DigestCache;
use files::{bound, host_name};
use lm::Libtorch;
use lm::{LanguageModel, LoadOptions, Taps};
use plan::runs_layout::STREAM_LOCK;
use plan::{Environment, EventKind, Order};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::Device;
use tokens::{Batches, TokensError};

pub use requeued::requeued;

/// How long another worker may take to leave the stream.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Who asks a worker to save and end, besides signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedBy {
    /// Signals alone.
    Signals,
    /// The process that holds the other end of its standard input, by its death.
    Parent,
    /// A cluster, which repeats its signals.
    Cluster,
    /// The process that took it from the pool, as `Parent`.
    Pool,
}

/// Trains the stream that the order in the file `path` describes. Returns the process's exit code: 0 done, 1 failed,
/// 2 bad input, 130 stopped.
///
/// # Errors
/// An order or event file that cannot be used; everything later goes into `events.jsonl`.
pub fn run_worker(path: &Path, asked_by: AskedBy) -> Result<u8, TrainError> {
    run_order(&read_order(path)?, asked_by)
}

/// The same, of what is left of the order after earlier runs of an entry of the pool, while this process has the entry;
/// `device`: another than that of the order.
///
/// # Errors
/// As [`run_worker`]; or the entry is not this process's, or several runs ended without a step.
pub fn run_pool_worker(
    path: &Path,
    claim: PoolClaim<'_>,
    device: Option<&str>,
) -> Result<u8, TrainError> {
    files::keep_lease(claim.path, claim.lease).map_err(TrainError::io("keep", claim.path))?;
    let mut order = read_order(&requeued(path, claim.n_runs)?)?;
    if let Some(device) = device {
        device.clone_into(&mut order.device);
    }
    run_order(&order, AskedBy::Pool)
}

/// An entry of the pool that a member has taken.
#[derive(Clone, Copy, Debug)]
pub struct PoolClaim<'a> {
    /// Its file.
    pub path: &'a Path,
    /// How long it is kept without being renewed.
    pub lease: Duration,
    /// Runs of it before.
    pub n_runs: u32,
}

fn run_order(order: &Order, asked_by: AskedBy) -> Result<u8, TrainError> {
    keep_freed_memory();
    let attached = matches!(asked_by, AskedBy::Parent | AskedBy::Pool);
    let stop = if asked_by == AskedBy::Cluster {
        StopFlag::on_repeated_signals()?
    } else {
        StopFlag::on_signals()?
    };
    if attached {
        stop.follow_parent();
    }
    stop.end_if_stuck();
    let environment = Environment::of_process()?;
    if environment.is_some() {
        dist::tell_waits(log);
    }
    let has_writer = environment
        .as_ref()
        .is_none_or(|environment| environment.rank == 0);
    // In the pool, the lease keeps others out, also where locks do not hold.
    let _lock = if has_writer && asked_by != AskedBy::Pool {
        Some(lock_stream(order)?)
    } else {
        None
    };
    if attached && has_lost_parent() {
        // While this process was loaded. Another `sae-run` may be at the stream's jobs by now.
        return Ok(STOPPED);
    }
    let mut events = if has_writer {
        EventLog::open(&order.events, order.attempt, order.last_event_seq)?
    } else {
        EventLog::silent()
    };
    let outcome = match environment {
        None => train(order, stop.clone(), &mut events),
        Some(environment) => train_with_others(order, environment, stop.clone(), &mut events),
    };
    match outcome {
        Ok(Outcome::Finished) => Ok(0),
        Ok(Outcome::Interrupted) => Ok(STOPPED),
        // All ranks were asked to stop, and another was the first to go.
        Err(TrainError::Dist(error)) if stop.is_set() => {
            log(&message_chain(&error));
            Ok(STOPPED)
        }
        Err(error) => report_failure(&error, &mut events),
    }
}

pub(crate) fn read_order(path: &Path) -> Result<Order, TrainError> {
    let text = files::read(path, bound::OWN).map_err(TrainError::io("read", path))?;
    serde_json::from_slice(&text).map_err(TrainError::damaged(path))
}

/// Says what went wrong: to the runner by an event, to people in the log, to torchrun in its file.
fn report_failure(error: &TrainError, events: &mut EventLog) -> Result<u8, TrainError> {
    let (message, hint, kind) = (message_chain(error), error.hint(), error.kind());
    log(&format!("error: {message}"));
    if let Err(error) = dist::write_error_file(&message) {
        log(&message_chain(&error));
    }
    events.write(EventKind::Failed {
        kind,
        message,
        hint,
    })?;
    Ok(kind.exit_code())
}

/// Trains as one of several processes.
fn train_with_others(
    order: &Order,
    environment: Environment,
    stop: StopFlag,
    events: &mut EventLog,
) -> Result<Outcome, TrainError> {
    lm::init_backends();
    let device = rendezvous::device(&order.device, Some(&environment))?;
    let digests = DigestCache::new(&order.cache_dir);
    let world = rendezvous::join(order, environment, device, &digests)?;
    let outcome = train_on(order, device, &world, stop, events);
    if let Err(error) = &outcome
        && !matches!(error, TrainError::Dist(_))
    {
        let is_of_the_input = error.kind() == FailureKind::Input;
        world.fail(&message_chain(error), is_of_the_input)?;
    }
    outcome
}

/// Trains alone.
pub(crate) fn train(
    order: &Order,
    stop: StopFlag,
    events: &mut EventLog,
) -> Result<Outcome, TrainError> {
    lm::init_backends();
    train_on(
        order,
        rendezvous::device(&order.device, None)?,
        ALONE,
        stop,
        events,
    )
}

fn train_on(
    order: &Order,
    device: Device,
    ranks: &dyn Ranks,
    stop: StopFlag,
    events: &mut EventLog,
) -> Result<Outcome, TrainError> {
    let n_threads = match order.threads {
        0 => ranks.n_threads(),
        n_threads => Some(n_threads),
    };
    if let Some(n_threads) = n_threads {
        tch::set_num_threads(i32::try_from(n_threads).unwrap_or(i32::MAX));
    }
    events.write(EventKind::Started {
        device: device_name(device),
        libtorch: Libtorch::loaded().version_text(),
        pid: std::process::id(),
        host: host_name(),
    })?;
    let digests = DigestCache::new(&order.cache_dir);
    let models = OrderModels::read(order, &digests)?;
    let tokens = match open_tokens(order, models.vocab_size(), ranks.shard(), &stop, events) {
        Err(TrainError::Data(TokensError::Stopped)) => None,
        tokens => Some(tokens?),
    };
    let are_ready = ranks.all_have_tokens(tokens.is_some())?;
    let Some(tokens) = tokens.filter(|_| are_ready) else {
        return stop_before_training(events);
    };
    let StreamTokens { batches, held_out } = tokens;
    // Nothing here is differentiated by libtorch: the gradients are written by hand.
    let _no_grad = tch::no_grad_guard();
    let n_steps = n_steps(&batches, order);
    let (mut outcome, mut failed) = (Outcome::Finished, Vec::new());
    if !order.jobs.is_empty() {
        let stream = Stream {
            order,
            models: &models,
            device,
            ranks,
        };
        (outcome, failed) = stream.train(batches, &stop, events)?;
    }
    if outcome == Outcome::Finished {
        let evaluation = JobEvaluation {
            order: &order.without(&failed),
            sequences: held_out,
            step: n_steps,
            vocab_size: models.first.facts.vocab_size,
            device: device_name(device),
            ranks,
        };
        outcome = evaluation.run(&stop, events)?;
    }
    if outcome == Outcome::Finished {
        events.write(EventKind::Finished)?;
    }
    Ok(outcome)
}

/// What an order's jobs are trained on.
struct Stream<'a> {
    order: &'a Order,
    models: &'a OrderModels,
    device: Device,
    ranks: &'a dyn Ranks,
}

impl Stream<'_> {
    /// Trains the order's jobs; their memory and the model's is free again afterwards. Gives also the
    /// ids of those that failed.
    fn train(
        &self,
        batches: Batches,
        stop: &StopFlag,
        events: &mut EventLog,
    ) -> Result<(Outcome, Vec<String>), TrainError> {
        let (order, device, ranks) = (self.order, self.device, self.ranks);
        let jobs = || order.jobs.iter().map(|job| &job.job);
        let OrderModels { first, second } = self.models;
        let taps = taps(jobs(), &first.facts)?;
        let model = open_model(order, first, &taps, device)?;
        let second = second.as_ref().map(|second| {
            let taps = second_taps(jobs(), &second.facts)?;
            Ok::<_, TrainError>((open_model(order, second, &taps, device)?, taps))
        });
        let second = second.transpose()?;
        log_rounding(order, device);
        let length = Length {
            n_steps: n_steps(&batches, order),
            n_examples: batches.n_selected() as u64,
        };
        let mut jobs = open_jobs(order, length, device, ranks)?;
        choose_kernels(&mut jobs, order, device, ranks)?;
        let ahead = Ahead::open(order, device, ranks)?;
        let mut trainer = StreamTrainer {
            ahead,
            stream: ActivationStream {
                key: order.key.clone(),
                model,
                taps,
                second,
                batches,
            },
            jobs,
            events,
            stop: stop.clone(),
            ranks,
        };
        let outcome = stop.while_training(|| trainer.fit())?;
        log_memory(order, device)?;
        let failed = trainer.jobs.iter().filter(|job| job.has_failed());
        Ok((outcome, failed.map(|job| job.job.job_id.clone()).collect()))
    }
}

/// Optimizer updates of an order.
fn n_steps(batches: &Batches, order: &Order) -> u64 {
    (batches.n_batches() / order.key.grad_acc_steps) as u64
}

/// Nothing is lost: what earlier attempts saved is still there.
fn stop_before_training(events: &mut EventLog) -> Result<Outcome, TrainError> {
    events.write(EventKind::Interrupted { step: 0 })?;
    Ok(Outcome::Interrupted)
}

/// The models of an order.
struct OrderModels {
    first: ModelInputs,
    /// That of crosscoders on two.
    second: Option<ModelInputs>,
}

impl OrderModels {
    fn read(order: &Order, digests: &DigestCache) -> Result<Self, TrainError> {
        let read = |dir: &Path, commit: Option<&str>, expected: &str| {
            let model = read_model(dir, commit, digests)?;
            if model.digest == expected {
                Ok(model)
            } else {
                Err(TrainError::from(plan::changed("model", dir)))
            }
        };
        let key = &order.key;
        let commit = order.model_commit.as_deref();
        let second = order
            .second_model
            .as_ref()
            .zip(key.second_model_digest.as_ref());
        let second = second.map(|(own, digest)| read(&own.dir, own.commit.as_deref(), digest));
        Ok(Self {
            first: read(&order.model_dir, commit, &key.model_digest)?,
            second: second.transpose()?,
        })
    }

    /// Ids of tokens are below it.
    fn vocab_size(&self) -> usize {
        let first = self.first.facts.vocab_size;
        let second = self.second.as_ref().map(|second| second.facts.vocab_size);
        second.map_or(first, |second| first.min(second))
    }
}

fn open_model(
    order: &Order,
    model: &ModelInputs,
    taps: &Taps,
    device: Device,
) -> Result<LanguageModel, TrainError> {
    let is_end_to_end = order.key.loss_fn.is_end_to_end();
    let options = LoadOptions {
        device,
        dtype: order.key.dtype,
        load_in_8bit: order.key.load_in_8bit,
        n_layers: (!is_end_to_end).then(|| taps.n_layers_needed()),
        with_head: is_end_to_end,
    };
    let model = LanguageModel::load(&model.dir, &options)?;
    log(&format!(
        "model: {} of {} blocks in {:?}, linear weights of {} bytes",
        model.n_layers(),
        model.facts().n_layers,
        model.kind(),
        model.linear_bytes()
    ));
    Ok(model)
}

fn log_rounding(order: &Order, device: Device) {
    for job in &order.jobs {
        if job.job.config.encoder_dtype.rounds(device.is_cuda()) {
            let name = &job.job.name;
            log(&format!(
                "job `{name}`: pre-activations in bfloat16 find its latents"
            ));
        }
    }
}

/// What was predicted, and what came true.
fn log_memory(order: &Order, device: Device) -> Result<(), TrainError> {
    if let Some(memory) = lm::device_memory(device)? {
        let gigabytes = |bytes: f64| bytes / 1e9;
        let [most, predicted] = [memory.most as f64, order.predicted_bytes as f64].map(gigabytes);
        log(&format!(
            "memory: at most {most:.2} GB in tensors at a time, {predicted:.2} GB predicted"
        ));
    }
    Ok(())
}

/// Keeps other workers from the stream. One that has lost its parent may still be about to end.
fn lock_stream(order: &Order) -> Result<File, TrainError> {
    let dir = order.events.parent().unwrap_or(Path::new("."));
    let path = dir.join(STREAM_LOCK);
    let begun = Instant::now();
    loop {
        let lock = files::lock(&path).map_err(TrainError::io("lock", &path))?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        if begun.elapsed() > LOCK_PATIENCE {
            let (stream_id, dir) = (&order.stream_id, dir.display());
            let message = format!("another worker trains stream `{stream_id}` in `{dir}`");
            return Err(Fault::internal(message)
                .with_hint("it ends by itself after a checkpoint when its `sae-run` is gone")
                .into());
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}
