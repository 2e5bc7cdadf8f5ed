//! Runs the streams of a plan: on each device one worker after the other, or several at a time.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::run::launch::{ALONE, Launcher, Processes};
use crate::run::queue::Queue;
use crate::run::recording::record;
use crate::run::runs_folder::RunsFolder;
use crate::run::signals::StopSignals;
use crate::run::watch::{Failure, Watch};
use crate::run::worker_process::WorkerProcess;
use crate::run::worker_program;
use crate::show::progress::Progress;
use crate::sweep::expand::Expanded;
use fault::FailureKind;
use futures_util::future::join_all;
use plan::runs_layout;
use plan::runs_layout::{EVENTS, LOG};
use plan::{Job, Launch, Stream};
use plan::{Order, OrderJob, Told};
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{JobStatus, Outcome, RecordedJob, RecordedPlan, Store};

/// Before the first retry; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for ranks that have not come.
const LOOK_FOR_RANKS_EVERY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is needed to run a plan.
pub(crate) struct Scheduler<'a> {
    pub(crate) store: &'a Store,
    pub(crate) folder: &'a RunsFolder,
    pub(crate) expanded: &'a Expanded,
    pub(crate) progress: Progress,
    pub(crate) launcher: &'a dyn Launcher,
    /// Whether jobs are trained again that would fail again.
    pub(crate) retry_failed: bool,
}

/// How a plan's run ended.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) failures: Vec<Failure>,
    /// Jobs that were trained no further, or left out since they would fail again.
    pub(crate) n_failed: usize,
    pub(crate) interrupted: bool,
    /// Whether jobs were left unfinished because their worker died or could not continue.
    pub(crate) is_cut_off: bool,
}

/// How one attempt at a stream ended.
struct Attempt {
    /// Ids of the jobs that diverged.
    diverged: Vec<String>,
    /// Whether it was stopped.
    interrupted: bool,
    /// What went wrong with the worker itself.
    failure: Option<Failure>,
    /// Why it ended, if another attempt may end better.
    worth_a_retry: Option<String>,
}

/// A stream and the device that it is trained on.
struct Lane<'a> {
    stream: &'a Stream,
    device: &'a str,
}

/// Threads of a worker; 0: the number that libtorch takes.
fn threads(launch: &Launch) -> Result<usize, CliError> {
    let n_lanes = launch.lanes().len();
    if launch.threads > 0 || n_lanes < 2 {
        return Ok(launch.threads);
    }
    Ok((worker_program::machine()?.n_threads / n_lanes).max(1))
}

/// What is left to do of a stream.
#[derive(Debug)]
struct Todo {
    /// Jobs that are not done.
    train: Vec<OrderJob>,
    /// Jobs that are done and must still be evaluated.
    evaluate: Vec<OrderJob>,
}

impl Todo {
    fn is_empty(&self) -> bool {
        self.train.is_empty() && self.evaluate.is_empty()
    }
}

impl Summary {
    /// Adds how a further round ended.
    pub(crate) fn add(&mut self, other: Self) {
        self.failures.extend(other.failures);
        self.n_failed += other.n_failed;
        self.interrupted |= other.interrupted;
        self.is_cut_off |= other.is_cut_off;
    }

    pub(crate) fn exit_code(&self) -> u8 {
        let at_fault = |kind: FailureKind| {
            let mut codes = self.failures.iter().map(Failure::exit_code);
            codes.any(|code| code == kind.exit_code())
        };
        match () {
            () if self.n_failed > 0 => FailureKind::Internal.exit_code(),
            () if at_fault(FailureKind::Internal) => FailureKind::Internal.exit_code(),
            () if at_fault(FailureKind::Input) => FailureKind::Input.exit_code(),
            () if self.interrupted => 130,
            () => 0,
        }
    }
}

impl Scheduler<'_> {
    /// Trains the jobs that are not done, and evaluates those that are not evaluated; streams that fail do not stop the
    /// others.
    ///
    /// # Errors
    /// The database or the runs folder can no longer be written.
    pub(crate) async fn run(&self, recorded: &RecordedPlan) -> Result<Summary, CliError> {
        let launch = &self.expanded.sweep.sweep.launch;
        let processes = Processes::of(launch)?;
        let queue = Queue::new(&self.expanded.plan.streams, launch, &processes);
        let lanes = launch.lanes();
        let workers = lanes
            .iter()
            .map(|device| self.work(device, &queue, recorded));
        let mut summary = Summary::default();
        for ended in join_all(workers).await {
            summary.add(ended?);
        }
        self.progress.finish();
        Ok(summary)
    }

    /// Runs one stream after the other on `device`, as long as there are any.
    async fn work(
        &self,
        device: &str,
        queue: &Queue<'_>,
        recorded: &RecordedPlan,
    ) -> Result<Summary, CliError> {
        let mut signals = StopSignals::new()?;
        let mut summary = Summary::default();
        while let Some(stream) = queue.next(device).await {
            let lane = Lane { stream, device };
            let ended = self.run_stream(&lane, recorded, &mut signals).await;
            if !matches!(&ended, Ok(ended) if !ended.interrupted) {
                queue.close();
            }
            queue.release(device, stream);
            summary.add(ended?);
        }
        Ok(summary)
    }

    /// Attempts at a stream, until one ends well or another is not worth it.
    async fn run_stream(
        &self,
        lane: &Lane<'_>,
        recorded: &RecordedPlan,
        signals: &mut StopSignals,
    ) -> Result<Summary, CliError> {
        let stream = lane.stream;
        let retries = self.expanded.sweep.sweep.launch.retries;
        let mut recorded = recorded.clone();
        let (mut diverged, mut summary) = (Vec::new(), Summary::default());
        for retry in 0.. {
            let todo = self.todo(stream, &recorded, &diverged)?;
            if todo.is_empty() {
                break;
            }
            let order = self.order(lane, todo, &recorded).await?;
            let attempt = self.attempt(&order, signals).await?;
            summary.n_failed += attempt.diverged.len();
            diverged.extend(attempt.diverged);
            match attempt.worth_a_retry.filter(|_| retry < retries) {
                None => {
                    let failure = attempt.failure.as_ref();
                    summary.is_cut_off =
                        failure.is_some_and(|failure| failure.kind != FailureKind::Input);
                    summary.failures.extend(attempt.failure);
                    summary.interrupted = attempt.interrupted;
                    break;
                }
                Some(why) if self.wait_to_retry(stream, retry, &why, signals).await => {
                    recorded = record(self.store, self.expanded).await?;
                }
                Some(_) => {
                    summary.interrupted = true;
                    break;
                }
            }
        }
        Ok(summary)
    }

    /// Waits longer each time. False: a stop was asked for meanwhile.
    async fn wait_to_retry(
        &self,
        stream: &Stream,
        retry: u32,
        why: &str,
        signals: &mut StopSignals,
    ) -> bool {
        let pause = FIRST_PAUSE * 2u32.saturating_pow(retry);
        let pause = pause.min(LONGEST_PAUSE);
        self.progress.say(&format!(
            "stream {}: {why}; continuing from the last checkpoints in {} s",
            stream.stream_id,
            pause.as_secs()
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = signals.recv() => false,
        }
    }

    /// What is left to do of a stream, without the jobs that diverged in this run, and those that would fail again.
    fn todo(
        &self,
        stream: &Stream,
        recorded: &RecordedPlan,
        diverged: &[String],
    ) -> Result<Todo, CliError> {
        let is_left_out = |known: &RecordedJob| !self.retry_failed && recorded.is_given_up(known);
        let jobs = |is_wanted: fn(&RecordedJob) -> bool| {
            let not_diverged = stream.job_ids.iter().filter(|id| !diverged.contains(id));
            let wanted = not_diverged.filter_map(|job_id| {
                let known = recorded.job(job_id).filter(|known| is_wanted(known))?;
                if is_left_out(known) {
                    return None;
                }
                Some(self.order_job(self.expanded.plan.job(job_id)?, &known.dir))
            });
            wanted.collect::<Result<Vec<_>, _>>()
        };
        Ok(Todo {
            train: jobs(|known| known.status != JobStatus::Done)?,
            evaluate: jobs(|known| known.evaluation_due)?,
        })
    }

    fn order_job(&self, job: &Job, dir: &str) -> Result<OrderJob, CliError> {
        Ok(OrderJob {
            job: job.clone(),
            dir: PathBuf::from(dir),
            state_dir: runs_layout::state_dir(dir),
            best_dir: runs_layout::best_dir(dir),
            finetune_dir: self.expanded.inputs.finetune_dir(&job.config)?,
        })
    }

    /// Opens an attempt at a stream and says what its worker has to do.
    async fn order(
        &self,
        lane: &Lane<'_>,
        todo: Todo,
        recorded: &RecordedPlan,
    ) -> Result<Order, CliError> {
        let stream = lane.stream;
        let known = recorded
            .stream(&stream.stream_id)
            .expect("every stream is recorded");
        let dir = self.folder.path().join(&known.dir);
        fs::create_dir_all(&dir).map_err(|error| CliError::io("create", &dir, &error))?;
        let log = format!("{}/{LOG}", known.dir);
        let ids = |jobs: &'_ [OrderJob]| {
            jobs.iter()
                .map(|job| job.job.job_id.clone())
                .collect::<Vec<_>>()
        };
        let (train, evaluate) = (ids(&todo.train), ids(&todo.evaluate));
        let evaluate: Vec<&str> = evaluate.iter().map(String::as_str).collect();
        let stream_id = &stream.stream_id;
        let begun = self
            .store
            .begin_attempt_on(stream_id, &log, &train, &evaluate);
        let attempt = begun.await?;
        let Expanded {
            sweep,
            inputs,
            folders,
            ..
        } = self.expanded;
        let mut jobs = todo.train.iter().chain(&todo.evaluate);
        let job = &jobs.next().expect("there is something to do").job;
        let (model_dir, model_commit) = inputs.model_dir(job);
        let tokens = inputs.tokens(&job.config, &job.config.train_data());
        let eval_data = job.config.eval_data();
        let eval_tokens = eval_data.map(|data| inputs.tokens(&job.config, &data));
        Ok(Order {
            stream_id: stream.stream_id.clone(),
            attempt,
            key: stream.key.clone(),
            model_dir: model_dir.clone(),
            model_commit: model_commit.map(str::to_owned),
            second_model: inputs.second_model(job),
            dataset: tokens.files,
            eval_dataset: eval_tokens.map(|tokens| tokens.files),
            rows: tokens.rows,
            cache_dir: folders.cache.clone(),
            runs_dir: self.folder.path().into(),
            events: dir.join(EVENTS),
            last_event_seq: known.last_event_seq,
            device: lane.device.to_owned(),
            threads: threads(&sweep.sweep.launch)?,
            timeout_minutes: sweep.sweep.launch.timeout_minutes,
            overlap_forward: sweep.sweep.launch.overlap_forward,
            predicted_bytes: stream.memory.total_bytes(),
            jobs: todo.train,
            evaluate: todo.evaluate,
        })
    }

    /// Tells of ranks that have not come, as long as there are any.
    async fn tell_who_is_missing(&self) -> Infallible {
        let (since, mut told) = (Instant::now(), Told::default());
        loop {
            tokio::time::sleep(LOOK_FOR_RANKS_EVERY).await;
            if let Some(whom) = self.launcher.missing()
                && told.is_due(since)
            {
                self.progress.say(&format!("waiting for {whom}"));
                self.progress.say(&format!("hint: {ALONE}"));
            }
        }
    }

    async fn attempt(&self, order: &Order, signals: &mut StopSignals) -> Result<Attempt, CliError> {
        let dir = order.events.parent().unwrap_or(Path::new("."));
        let mut watch = Watch {
            store: self.store,
            progress: &self.progress,
            order,
            worker: WorkerProcess::start(order, dir, self.launcher)?,
            tail: EventTail::new(order.events.clone()).up_to_attempt(order.attempt),
            last_seq: 0,
            has_begun: false,
            bar: self.progress.stream(&order.stream_id, order.jobs.len()),
            failed: None,
            ended_early: Vec::new(),
            asked_to_stop: false,
        };
        let end = tokio::select! {
            end = watch.until_ended(signals) => end?,
            never = self.tell_who_is_missing() => match never {},
        };
        self.store
            .end_attempt(&order.stream_id, order.attempt, &end)
            .await?;
        let has_failed = matches!(end.outcome, Outcome::Failed | Outcome::Crashed);
        let failure = has_failed.then(|| watch.failure(&end));
        let why = failure
            .as_ref()
            .map_or("its worker was stopped", Failure::message);
        let is_stopped = watch.asked_to_stop || self.launcher.is_stopped();
        let is_worth_a_retry = !is_stopped && watch.is_worth_a_retry(&end);
        Ok(Attempt {
            worth_a_retry: is_worth_a_retry.then(|| why.to_owned()),
            // Asked to stop, no further stream begins, also when the worker was done before it noticed.
            interrupted: is_stopped || end.outcome == Outcome::Interrupted,
            diverged: watch.ended_early,
            failure,
        })
    }
}
