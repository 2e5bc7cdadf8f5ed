//! Runs the streams of a plan: on each device one worker after the other, or several at a time.

use crate::error::CliError;
use crate::run::claims::{Claimed, Claims, Held, PAUSE};
use crate::run::event_tail::EventTail;
use crate::run::gpu_room::{GpuRooms, Room};
use crate::run::launch::{ALONE, Launcher, Processes};
use crate::run::queue::Queue;
use crate::run::recording::record;
use crate::run::signals::StopSignals;
use crate::run::watch::{Failure, Watch};
use crate::run::worker_process::WorkerProcess;
use crate::run::worker_program;
use crate::show::progress::Progress;
use crate::show::table;
use crate::sweep::device_memory;
use crate::sweep::expand::Expanded;
use crate::track::Tracking;
use fault::FailureKind;
use futures_util::future::join_all;
use plan::runs_layout;
use plan::runs_layout::{EVENTS, LOG};
use plan::{BaseJob, Order, OrderJob, Told};
use plan::{Job, Launch, Stream};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{JobStatus, Outcome, RecordedJob, RecordedPlan};

/// Before the first retry; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for ranks that have not come.
const LOOK_FOR_RANKS_EVERY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Jobs of another process that are named in one line.
const MOST_NAMES: usize = 3;

/// What is needed to run a plan.
pub(crate) struct Scheduler<'a> {
    pub(crate) claims: Claims<'a>,
    pub(crate) expanded: &'a Expanded,
    /// As it was when the round began.
    pub(crate) recorded: &'a RecordedPlan,
    pub(crate) progress: Progress,
    pub(crate) launcher: &'a dyn Launcher,
    pub(crate) tracking: &'a Tracking,
    /// Whether jobs are trained again that would fail again.
    pub(crate) retry_failed: bool,
    /// Jobs that this process has tried.
    pub(crate) settled: RefCell<BTreeSet<String>>,
    /// What was said of other processes.
    pub(crate) told: RefCell<BTreeSet<Held>>,
}

/// What is left of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Jobs that other processes have.
    ToOthers,
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
    pub(crate) async fn run(&self) -> Result<Summary, CliError> {
        let launch = &self.expanded.sweep.sweep.launch;
        let processes = Processes::of(launch)?;
        let queue = Queue::new(&self.expanded.plan.streams, launch, &processes);
        let lanes = launch.lanes();
        let workers = lanes.iter().map(|device| self.work(device, &queue));
        let mut summary = Summary::default();
        let all = tokio::select! {
            ended = join_all(workers) => ended,
            never = self.tracking.pass_on_remarks(&self.progress) => match never {},
        };
        for ended in all {
            summary.add(ended?);
        }
        self.progress.finish();
        Ok(summary)
    }

    /// Runs one stream after the other on `device`, as long as there are any.
    async fn work(&self, device: &str, queue: &Queue<'_>) -> Result<Summary, CliError> {
        let mut signals = StopSignals::new()?;
        let mut summary = Summary::default();
        loop {
            let stream = tokio::select! {
                next = queue.next(device) => match next {
                    Some(stream) => stream,
                    None => return Ok(summary),
                },
                () = signals.recv() => {
                    queue.close();
                    summary.interrupted = true;
                    return Ok(summary);
                }
            };
            let lane = Lane { stream, device };
            let ended = self.claim_and_run(&lane, &mut signals).await;
            match &ended {
                Ok((ended, _)) if ended.interrupted => queue.close(),
                Ok((_, Left::ToOthers)) => queue.hold(stream),
                Ok((_, Left::Nothing)) => {}
                Err(_) => queue.close(),
            }
            queue.release(device, stream);
            summary.add(ended?.0);
        }
    }

    /// Trains those jobs of a stream that are not done and that no other process has; gives whether it has some.
    async fn claim_and_run(
        &self,
        lane: &Lane<'_>,
        signals: &mut StopSignals,
    ) -> Result<(Summary, Left), CliError> {
        let stream = lane.stream;
        let claimed = tokio::select! {
            claimed = self.claim(stream) => claimed?,
            () = signals.recv() => {
                let interrupted = Summary { interrupted: true, ..Summary::default() };
                return Ok((interrupted, Left::Nothing));
            }
        };
        self.tell_who_has(&claimed.held);
        let left = if claimed.held.is_empty() {
            Left::Nothing
        } else {
            Left::ToOthers
        };
        if claimed.job_ids.is_empty() {
            return Ok((Summary::default(), left));
        }
        let recorded = record(self.claims.store, self.expanded).await?;
        self.show_done_by_others(&claimed, &recorded);
        let summary = self.run_stream(lane, (&claimed, recorded), signals).await?;
        self.settled.borrow_mut().extend(claimed.job_ids);
        Ok((summary, left))
    }

    /// Takes the locks of the jobs of a stream that are left.
    async fn claim(&self, stream: &Stream) -> Result<Claimed, CliError> {
        let is_left = |id: &&String| {
            let is_finished = self.recorded.job(id).is_some_and(RecordedJob::is_finished);
            !is_finished && !self.settled.borrow().contains(*id)
        };
        let job_ids: Vec<_> = stream.job_ids.iter().filter(is_left).cloned().collect();
        let known = self.recorded.stream(&stream.stream_id);
        let known = known.expect("every stream is recorded");
        let ids = (known.stream_id.as_str(), known.dir.as_str());
        self.claims.of_stream(ids, &job_ids).await
    }

    /// Says which processes have jobs, once for each process and job.
    fn tell_who_has(&self, held: &[Held]) {
        let mut told = self.told.borrow_mut();
        let new = held.iter().filter(|held| told.insert((*held).clone()));
        let mut by_holder: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for held in new {
            let jobs = by_holder.entry(&held.holder).or_default();
            let job = self.expanded.plan.job(&held.job_id);
            jobs.push(job.map_or(&held.job_id, |job| &job.name));
        }
        for (holder, jobs) in by_holder {
            let more = match jobs.len().saturating_sub(MOST_NAMES) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let whose = if jobs.len() == 1 {
                "its result"
            } else {
                "their results"
            };
            let jobs = &jobs[..jobs.len().min(MOST_NAMES)].join("`, `");
            self.progress.say(&format!(
                "{holder} trains `{jobs}`{more}; waiting for {whose}"
            ));
        }
    }

    /// Shows which jobs other processes have done since they were looked at.
    fn show_done_by_others(&self, claimed: &Claimed, recorded: &RecordedPlan) {
        let is_done = |recorded: &RecordedPlan, id: &str| {
            let job = recorded.job(id);
            job.is_some_and(|job| job.status == JobStatus::Done)
        };
        for id in &claimed.job_ids {
            if is_done(recorded, id) && !is_done(self.recorded, id) {
                self.progress.job_done(id);
            }
        }
    }

    /// Attempts at the jobs of a stream that are locked, until one ends well or another is not worth it.
    async fn run_stream(
        &self,
        lane: &Lane<'_>,
        (claimed, mut recorded): (&Claimed, RecordedPlan),
        signals: &mut StopSignals,
    ) -> Result<Summary, CliError> {
        let stream = lane.stream;
        let retries = self.expanded.sweep.sweep.launch.retries;
        let (mut diverged, mut summary) = (Vec::new(), Summary::default());
        for retry in 0.. {
            let todo = self.todo(claimed, &recorded, &diverged)?;
            if todo.is_empty() {
                break;
            }
            let Some(_room) = self.wait_for_room(lane, signals).await? else {
                summary.interrupted = true;
                break;
            };
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
                    recorded = record(self.claims.store, self.expanded).await?;
                }
                Some(_) => {
                    summary.interrupted = true;
                    break;
                }
            }
        }
        Ok(summary)
    }

    /// Waits until the GPUs of a lane have room for its stream. `None`: a stop was asked for meanwhile.
    async fn wait_for_room(
        &self,
        lane: &Lane<'_>,
        signals: &mut StopSignals,
    ) -> Result<Option<Room>, CliError> {
        let launch = &self.expanded.sweep.sweep.launch;
        let processes = Processes::of(launch)?;
        let gpus = device_memory::gpus(lane.device, &processes);
        let most_bytes = device_memory::of_device(launch, lane.device, &processes);
        let n_bytes = lane.stream.memory.total_bytes();
        let bytes = (n_bytes, most_bytes.unwrap_or(u64::MAX));
        let mut is_told = false;
        loop {
            let taken = match GpuRooms::of_machine().take(&gpus, bytes) {
                Ok(Ok(room)) => return Ok(Some(room)),
                Ok(Err(taken)) => taken,
                Err(error) => {
                    // Then it is as if this were the only process.
                    self.progress.say(&format!("GPUs are not shared: {error}"));
                    return Ok(Some(Room::default()));
                }
            };
            if !std::mem::replace(&mut is_told, true) {
                let (holder, taken) = (taken.holder, table::bytes(taken.n_bytes));
                self.progress.say(&format!(
                    "{holder} and others have {taken} of `{}`; waiting for {} of it",
                    lane.device,
                    table::bytes(n_bytes)
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = signals.recv() => return Ok(None),
            }
        }
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

    /// What is left to do of the jobs of a stream that are locked, without those that diverged in this run, and those that
    /// would fail again.
    fn todo(
        &self,
        claimed: &Claimed,
        recorded: &RecordedPlan,
        diverged: &[String],
    ) -> Result<Todo, CliError> {
        let is_left_out = |known: &RecordedJob| !self.retry_failed && recorded.is_given_up(known);
        let jobs = |is_wanted: fn(&RecordedJob) -> bool| {
            let not_diverged = claimed.job_ids.iter().filter(|id| !diverged.contains(id));
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
            bases: Vec::new(),
        })
    }

    /// The jobs whose kept state a job may continue from.
    async fn bases(&self, job_id: &str) -> Result<Vec<BaseJob>, CliError> {
        let alike = self.claims.store.alike(job_id).await?.into_iter();
        let bases = alike.map(|(job_id, dir)| BaseJob {
            job_id,
            kept_dir: runs_layout::kept_state_dir(dir),
        });
        let runs_dir = self.claims.folder.path();
        Ok(bases
            .filter(|base| runs_dir.join(&base.kept_dir).is_dir())
            .collect())
    }

    /// Opens an attempt at a stream and says what its worker has to do.
    async fn order(
        &self,
        lane: &Lane<'_>,
        mut todo: Todo,
        recorded: &RecordedPlan,
    ) -> Result<Order, CliError> {
        let stream = lane.stream;
        for order in &mut todo.train {
            order.bases = self.bases(&order.job.job_id).await?;
        }
        let known = recorded
            .stream(&stream.stream_id)
            .expect("every stream is recorded");
        let dir = self.claims.folder.path().join(&known.dir);
        fs::create_dir_all(&dir).map_err(|error| CliError::io("create", &dir, &error))?;
        let log = format!("{}/{LOG}", known.dir);
        let ids = |jobs: &'_ [OrderJob]| -> Vec<String> {
            jobs.iter().map(|job| job.job.job_id.clone()).collect()
        };
        let (train, evaluate) = (ids(&todo.train), ids(&todo.evaluate));
        let store = self.claims.store;
        let begun = store.begin_attempt_with(&stream.stream_id, &log, &train, &evaluate);
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
            runs_dir: self.claims.folder.path().into(),
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
            store: self.claims.store,
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
        self.claims
            .store
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
