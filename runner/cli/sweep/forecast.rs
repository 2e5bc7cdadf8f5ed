//! How long a plan takes, and how much space: from shapes, from what is known of the data, and from the speed of earlier
//! streams.

use crate::error::CliError;
use crate::run::launch::Processes;
use crate::show::table::count;
use crate::sweep::data_length::Length;
use crate::sweep::device_memory;
use crate::sweep::expand::Expanded;
use crate::sweep::inputs::first_job;
use plan::runs_layout::DATABASE;
use plan::{DiskEstimate, Job, Launch, Launcher, Stream, disk, tokens_bytes};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread::available_parallelism;
use store::{Store, TrainedStream};

/// What a core is taken to compute in a second, in floating-point operations.
const OF_CORE: f64 = 50e9;
/// The same of a GPU.
const OF_GPU: f64 = 60e12;
/// Tokens that a core is taken to make of text in a second.
const TOKENISED_BY_CORE: f64 = 500e3;

/// What is predicted.
#[derive(Debug)]
pub(crate) struct Forecast {
    /// In the order of the plan's streams.
    pub(crate) streams: Vec<StreamForecast>,
    /// Workers at the same time.
    pub(crate) n_lanes: usize,
    /// For text that is not tokenised yet, in seconds.
    pub(crate) tokenising_s: f64,
    pub(crate) speed: Speed,
    pub(crate) disk: DiskEstimate,
    /// Of all data sets, as far as their length is known.
    pub(crate) tokens_bytes: u64,
    /// Space on the disk of the runs folder.
    pub(crate) free_bytes: Option<u64>,
}

/// That of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamForecast {
    /// Seconds for a token that is trained on.
    pub(crate) of_token_s: f64,
    /// `None`: it is not known how many tokens there are.
    pub(crate) length: Option<StreamLength>,
}

/// How much of a stream there is, and how long it takes one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamLength {
    pub(crate) n_updates: u64,
    /// Sequences that are left for training, of which whole updates are made.
    pub(crate) n_sequences: u64,
    /// Tokens that are trained on.
    pub(crate) n_tokens: u64,
    /// Sequences that are evaluated on.
    pub(crate) n_eval_sequences: u64,
    /// Whether the number of tokens is counted.
    pub(crate) is_exact: bool,
    pub(crate) training_s: f64,
    pub(crate) evaluation_s: f64,
}

impl Forecast {
    /// That of all streams, side by side as far as there are workers; `None`: of one it is not known.
    pub(crate) fn in_all(&self) -> Option<StreamLength> {
        let lengths = self.streams.iter().map(|stream| stream.length);
        let lengths = lengths.collect::<Option<Vec<_>>>()?;
        let start = StreamLength {
            is_exact: true,
            ..StreamLength::default()
        };
        let n_lanes = self.n_lanes as f64;
        let add = |sum: StreamLength, own: StreamLength| StreamLength {
            n_updates: sum.n_updates + own.n_updates,
            n_sequences: sum.n_sequences + own.n_sequences,
            n_tokens: sum.n_tokens + own.n_tokens,
            n_eval_sequences: sum.n_eval_sequences + own.n_eval_sequences,
            is_exact: sum.is_exact && own.is_exact,
            training_s: sum.training_s + own.training_s / n_lanes,
            evaluation_s: sum.evaluation_s + own.evaluation_s / n_lanes,
        };
        Some(lengths.into_iter().fold(start, add))
    }

    /// Seconds for a million tokens of each stream.
    pub(crate) fn per_million_s(&self) -> f64 {
        let of_token: f64 = self.streams.iter().map(|stream| stream.of_token_s).sum();
        1e6 * of_token / self.n_lanes as f64
    }
}

/// What is computed in a second.
#[derive(Debug)]
pub(crate) struct Speed {
    /// Floating-point operations of `plan::work`, by all processes of a stream.
    per_s: f64,
    /// Where that is from.
    pub(crate) source: String,
    pub(crate) is_measured: bool,
}

/// Predicts time and space of a plan.
///
/// # Errors
/// Processes that make no sense.
pub(crate) async fn forecast(expanded: &mut Expanded) -> Result<Forecast, CliError> {
    let launch = expanded.sweep.sweep.launch.clone();
    let processes = Processes::of(&launch)?;
    let runs_dir = Path::new(&expanded.sweep.sweep.runs_dir).to_path_buf();
    let speed = match measured(expanded, &runs_dir).await {
        Some(speed) => speed,
        None => estimated(&launch, &processes),
    };
    let mut texts = BTreeMap::new();
    let mut streams = Vec::new();
    for stream in expanded.plan.streams.clone() {
        let job = first_job(&expanded.plan, &stream).clone();
        let lengths = lengths(expanded, &job);
        let digests = [
            Some(stream.key.token_digest.clone()),
            stream.key.eval_token_digest.clone(),
        ];
        for (length, digest) in lengths.into_iter().zip(digests) {
            if let Some(length) = length {
                texts.insert(digest, (length, stream.key.ctx_len));
            }
        }
        let jobs = expanded.plan.jobs_of(&stream);
        let work = plan::work(&stream, &jobs, expanded.inputs.models_of(&job));
        let of_token_s = work.training / speed.per_s;
        let of_eval_token_s = work.evaluation / speed.per_s;
        let length = sizes(&stream, &job, lengths).map(|sizes| {
            let n_eval_tokens = sizes.n_eval_sequences * stream.key.ctx_len as u64;
            StreamLength {
                training_s: sizes.n_tokens as f64 * of_token_s,
                evaluation_s: n_eval_tokens as f64 * of_eval_token_s,
                ..sizes
            }
        });
        streams.push(StreamForecast { of_token_s, length });
    }
    let groups = expanded.plan.streams.iter();
    let groups: Vec<Vec<&Job>> = groups.map(|own| expanded.plan.jobs_of(own)).collect();
    let n_all = texts
        .values()
        .map(|(length, ctx_len)| length.n_sequences * *ctx_len as u64);
    let facts = expanded.inputs.models_of(&expanded.plan.jobs[0]).first;
    Ok(Forecast {
        n_lanes: launch.lanes().len().clamp(1, streams.len().max(1)),
        streams,
        tokenising_s: texts
            .values()
            .map(|(length, ctx_len)| tokenising(length, *ctx_len))
            .sum(),
        speed,
        disk: disk(&groups),
        tokens_bytes: tokens_bytes(facts, n_all.sum()),
        free_bytes: files::free_bytes(&runs_dir),
    })
}

/// What is known of the data that a job is trained on, and of a separate one that it is evaluated on.
fn lengths(expanded: &mut Expanded, job: &Job) -> [Option<Length>; 2] {
    let config = &job.config;
    let inputs = &mut expanded.inputs;
    let training = inputs.length(config, &config.train_data());
    let eval_data = config.eval_data();
    [
        training,
        eval_data.and_then(|data| inputs.length(config, &data)),
    ]
}

/// Updates and sequences of a stream. `None`: not even a limit is known.
fn sizes(
    stream: &Stream,
    job: &Job,
    [length, held_out]: [Option<Length>; 2],
) -> Option<StreamLength> {
    let (config, ctx_len) = (&job.config, stream.key.ctx_len as u64);
    let n_all = length.map(|length| length.n_sequences);
    let n_kept = n_all.map(|n| (n as f64 * config.eval_fraction) as u64);
    let n_to_train = n_all.zip(n_kept).map(|(n_all, n_kept)| n_all - n_kept);
    let n_training = match (n_to_train, config.max_examples) {
        (Some(n), Some(most)) => n.min(most),
        (n, most) => n.or(most)?,
    };
    let tokens_per_update = config.tokens_per_update.unwrap_or(ctx_len).max(1);
    let n_in_all = n_training.saturating_mul(config.epochs);
    let n_updates = n_in_all.saturating_mul(ctx_len) / tokens_per_update;
    let n_held_out = match held_out {
        Some(held_out) => Some(held_out.n_sequences),
        None => n_kept,
    };
    let most = config.most_eval_sequences(n_training);
    let n_eval_sequences = if config.wants_evaluation() {
        n_held_out.map_or(most, |n| n.min(most))
    } else {
        0
    };
    Some(StreamLength {
        n_updates,
        n_sequences: n_in_all,
        n_tokens: n_updates * tokens_per_update,
        n_eval_sequences,
        is_exact: length.is_some_and(|length| length.is_exact) || is_limit(n_to_train, n_training),
        ..StreamLength::default()
    })
}

/// Whether there is so much more to train on that the limit `n_training` is what counts.
fn is_limit(n_to_train: Option<u64>, n_training: u64) -> bool {
    n_to_train.is_some_and(|n| n > n_training.saturating_mul(2))
}

/// Seconds until a text is tokenised.
fn tokenising(length: &Length, ctx_len: usize) -> f64 {
    let Some(speed) = length.tokenising else {
        return 0.0;
    };
    let n_tokens = length.n_sequences as f64 * ctx_len as f64;
    n_tokens / (speed.unwrap_or(TOKENISED_BY_CORE) * n_cores() as f64)
}

fn n_cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The speed of earlier streams on the same model, if the runs folder has some. A database that cannot be read has none:
/// that is reported when it is used.
async fn measured(expanded: &Expanded, runs_dir: &Path) -> Option<Speed> {
    let path = runs_dir.join(DATABASE);
    if !path.is_file() {
        return None;
    }
    let store = Store::open_read_only(&path).await.ok()?;
    let job = expanded.plan.jobs.first()?;
    let streams = store.trained_streams(&job.config.model).await.ok();
    store.close().await;
    let streams = streams?;
    let facts = expanded.inputs.models_of(job).first;
    let kind = |stream: &TrainedStream| stream.device.split(':').next().map(str::to_owned);
    let newest = streams.first()?;
    let same = streams.iter().filter(|stream| {
        kind(stream) == kind(newest) && stream.host == newest.host && !stream.saes.is_empty()
    });
    let (mut operations, mut seconds, mut n_streams) = (0.0, 0.0, 0);
    for stream in same {
        let ctx_len = stream.saes[0].0.ctx_len;
        let saes = stream
            .saes
            .iter()
            .map(|(config, sae)| plan::sae_work(config, sae));
        let of_token = plan::blocks(facts, stream.n_layers_run, ctx_len) + saes.sum::<f64>();
        operations += of_token * stream.n_tokens as f64;
        seconds += stream.elapsed_ms as f64 / 1e3;
        n_streams += 1;
    }
    (seconds > 0.0 && operations > 0.0).then(|| Speed {
        per_s: operations / seconds,
        source: format!(
            "by the speed of {} on this model, on {} of {}",
            match n_streams {
                1 => "an earlier stream".to_owned(),
                n => format!("{n} earlier streams"),
            },
            newest.device,
            newest.host
        ),
        is_measured: true,
    })
}

/// What the devices of `launch` are taken to compute. Without a GPU here, `torchrun` means GPUs of another machine.
fn estimated(launch: &Launch, processes: &Processes) -> Speed {
    let lanes = launch.lanes();
    let is_cpu = lanes.iter().any(|device| device == "cpu");
    let has_gpu = device_memory::has_gpu_memory();
    let is_elsewhere = launch.launcher == Launcher::Torchrun;
    let is_auto = lanes.iter().all(|device| device == "auto");
    let on_cpu = is_cpu || is_auto && !has_gpu && !is_elsewhere;
    let (per_s, what) = if on_cpu {
        let n = n_cores();
        let cores = count(n, "CPU core");
        (OF_CORE * n as f64, format!("{cores} at 50 GFLOP/s"))
    } else {
        let n = processes.n_ranks;
        (
            OF_GPU * n as f64,
            format!("{} at 60 TFLOP/s", count(n, "GPU")),
        )
    };
    Speed {
        per_s,
        source: format!("estimated for {what}; no earlier stream on this model was found"),
        is_measured: false,
    }
}
