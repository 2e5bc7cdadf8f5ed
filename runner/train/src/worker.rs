//! The worker process: reads its order, trains the stream, reports through `events.jsonl`.

use crate::events::EventLog;
use crate::job_trainer::JobTrainer;
use crate::libtorch::Libtorch;
use crate::stop::StopFlag;
use crate::stream_trainer::{Outcome, StreamTrainer};
use crate::{TrainError, message_chain};
use data::{BatchSpec, Batches, TokenSpec, Tokens};
use lm::{LanguageModel, LoadOptions, Taps};
use plan::{EventKind, FailureKind, Order};
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};
use tch::{Device, Kind};

/// How long a new worker waits for the last one of its stream, which may still be saving.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Trains the stream that the order in the file `path` describes. With `attached`, the worker saves
/// and ends when its standard input does. Returns the process's exit code: 0 done, 1 failed,
/// 2 bad input, 130 stopped.
///
/// # Errors
/// An order or event file that cannot be used; everything later goes into `events.jsonl`.
pub fn run_worker(path: &Path, attached: bool) -> Result<u8, TrainError> {
    let text = fs::read(path).map_err(TrainError::io("read", path))?;
    let order: Order = serde_json::from_slice(&text).map_err(TrainError::damaged(path))?;
    let stop = StopFlag::on_signals()?;
    if attached {
        stop.follow_parent();
    }
    let _lock = lock(&order)?;
    let mut events = EventLog::open(&order.events, order.attempt)?;
    match train(&order, stop, &mut events) {
        Ok(Outcome::Finished) => Ok(0),
        Ok(Outcome::Interrupted) => Ok(130),
        Err(error) => {
            let (message, hint, kind) = (message_chain(&error), error.hint(), error.kind());
            events.write(EventKind::Failed {
                kind,
                message,
                hint,
            })?;
            Ok(if kind == FailureKind::Input { 2 } else { 1 })
        }
    }
}

pub(crate) fn train(
    order: &Order,
    stop: StopFlag,
    events: &mut EventLog,
) -> Result<Outcome, TrainError> {
    lm::init_backends();
    let device = lm::parse_device(&order.device)?;
    if order.threads > 0 {
        tch::set_num_threads(order.threads as i32);
    }
    events.write(EventKind::Started {
        device: device_name(device),
        libtorch: Libtorch::loaded().version_text(),
        pid: std::process::id(),
        host: host_name(),
    })?;
    let batches = open_batches(order)?;
    // Nothing here is differentiated by libtorch: the gradients are written by hand.
    let _no_grad = tch::no_grad_guard();
    let (model, taps) = open_model(order, device)?;
    let open_job = |job| JobTrainer::open(job, &order.runs_dir, device);
    let jobs = order.jobs.iter().map(open_job).collect::<Result<_, _>>()?;
    let key = order.key.clone();
    StreamTrainer {
        key,
        device,
        model,
        taps,
        batches,
        jobs,
        events,
        stop,
    }
    .fit()
}

fn open_batches(order: &Order) -> Result<Batches, TrainError> {
    let facts = lm::read_facts(&order.model_dir)?;
    let spec = TokenSpec {
        dataset: order.dataset.clone(),
        tokenizer_dir: order.model_dir.clone(),
        text_column: order.text_column.clone(),
        ctx_len: order.key.ctx_len,
        vocab_size: facts.vocab_size,
    };
    let tokens = Tokens::open_or_build(&spec, &order.cache_dir, &mut |_| ())?;
    let spec = BatchSpec {
        batch_size: order.key.batch_size,
        shuffle_seed: order.key.shuffle_seed,
        max_examples: order.key.max_examples,
    };
    Ok(Batches::new(tokens, spec)?)
}

fn open_model(order: &Order, device: Device) -> Result<(LanguageModel, Taps), TrainError> {
    let facts = lm::read_facts(&order.model_dir)?;
    let saes = order.jobs.iter().flat_map(|job| &job.job.saes);
    let hookpoints: Vec<&str> = saes.map(|sae| sae.hookpoint.as_str()).collect();
    let taps = Taps::new(&facts, &hookpoints)?;
    let options = LoadOptions {
        device,
        kind: Kind::Float,
        n_layers: Some(taps.n_layers_needed()),
        with_head: false,
    };
    Ok((LanguageModel::load(&order.model_dir, &options)?, taps))
}

/// Holds the stream's lock for the life of the returned file.
fn lock(order: &Order) -> Result<File, TrainError> {
    let path = order.events.with_file_name("worker.lock");
    let file = File::create(&path).map_err(TrainError::io("create", &path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(TrainError::io("lock", &path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(TrainError::Locked {
                    stream_id: order.stream_id.clone(),
                    path,
                });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Threads that libtorch computes with on the CPU unless told otherwise.
pub fn default_threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}
