//! Runs the streams of a plan: on each device one worker after the other, or several at a time.

use crate::error::CliError;
use crate::pool::PoolBoard;
use crate::run::claims::{Claimed, Claims, Given, Held, PAUSE};
use crate::run::gpu_room::{GpuRooms, Room};
use crate::run::launch::{ALONE, Launcher, Processes};
use crate::run::orders::{Lane, Orders, Todo};
use crate::run::queue::Queue;
use crate::run::signals::StopSignals;
use crate::run::watch::{Begun, Failure, Watch};
use crate::run::worker::Worker;
use crate::run::worker_process::WorkerProcess;
use crate::show::progress::Progress;
use crate::show::table;
use crate::slurm::{Board, Partition};
use crate::sweep::device_memory;
use crate::sweep::expand::Expanded;
use crate::track::Tracking;
use fault::FailureKind;
use futures_util::future::join_all;
use plan::Told;
use plan::{Fit, Stream};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
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
    /// What is known of jobs of Slurm.
    pub(crate) board: &'a Board,
    /// Where streams go as jobs of Slurm; `None`: they are trained here.
    pub(crate) partition: Option<&'a Partition>,
    /// What is known of streams in the pool.
    pub(crate) pool: &'a PoolBoard,
    /// Whether jobs of Slurm, and streams in the pool, are left alone once they are there.
    pub(crate) detach: bool,
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
    /// Streams that continue without this process, in Slurm or in the pool.
    pub(crate) n_left: usize,
}

/// How one attempt at a stream ended.
#[derive(Default)]
pub(super) struct Attempt {
    /// Ids of the jobs that diverged.
    pub(super) diverged: Vec<String>,
    /// Whether it was stopped.
    pub(super) interrupted: bool,
    /// What went wrong with the worker itself.
    pub(super) failure: Option<Failure>,
    /// Why it ended, if another attempt may end better.
    pub(super) worth_a_retry: Option<String>,
    /// Whether another attempt counts as one: it did not end because of the cluster.
    pub(super) is_counted: bool,
    /// Whether its job of Slurm, or its entry in the pool, was left alone.
    pub(super) is_left: bool,
}

impl Attempt {
    /// One whose job of Slurm continues, and is left alone.
    pub(super) fn left() -> Self {
        Self {
            is_left: true,
            ..Self::default()
        }
    }
}

impl Summary {
    /// Adds how a further round ended.
    pub(crate) fn add(&mut self, other: Self) {
        self.failures.extend(other.failures);
        self.n_failed += other.n_failed;
        self.interrupted |= other.interrupted;
        self.is_cut_off |= other.is_cut_off;
        self.n_left += other.n_left;
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
        let streams = &self.expanded.plan.streams;
        let lanes = match (self.partition, launch.slurm.max_jobs) {
            (None, _) if launch.launcher == plan::Launcher::Pool => {
                vec![launch.device.clone(); streams.len()]
            }
            (None, _) => launch.lanes(),
            (Some(_), 0) => vec![launch.device.clone(); streams.len()],
            (Some(_), most) => vec![launch.device.clone(); streams.len().min(most)],
        };
        let queue = Queue::new(streams, launch, (&lanes, &processes));
        let workers = lanes.iter().map(|device| self.work(device, &queue));
        let mut summary = Summary::default();
        let all = tokio::select! {
            ended = join_all(workers) => ended,
            never = self.tracking.pass_on_remarks(&self.progress) => match never {},
            never = self.board.keep_up() => match never {},
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
        let (mut summary, mut after) = (Summary::default(), None);
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
            let mut lane = Lane {
                stream,
                device,
                after,
            };
            let ended = self.claim_and_run(&mut lane, &mut signals).await;
            after = lane.after;
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
        lane: &mut Lane<'_>,
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
        let recorded = self.recorded_now(stream).await?;
        self.show_done_by_others(&claimed, &recorded);
        let summary = self.run_stream(lane, (&claimed, recorded), signals).await?;
        self.settled.borrow_mut().extend(claimed.job_ids);
        Ok((summary, left))
    }

    /// What workers are asked to do.
    pub(super) fn orders(&self) -> Orders<'_> {
        Orders {
            store: self.claims.store,
            runs_dir: self.claims.folder.path(),
            expanded: self.expanded,
            retry_failed: self.retry_failed,
        }
    }

    /// What the database has of a stream by now.
    async fn recorded_now(&self, stream: &Stream) -> Result<RecordedPlan, CliError> {
        let plan = &self.expanded.plan;
        let recorded = self
            .claims
            .store
            .recorded_stream(plan, (stream, self.recorded));
        Ok(recorded.await?)
    }

    /// Takes the locks of the jobs of a stream that are left.
    async fn claim(&self, stream: &Stream) -> Result<Claimed, CliError> {
        let is_left = |id: &&String| {
            let is_finished = self.recorded.job(id).is_some_and(RecordedJob::is_finished);
            !is_finished && !self.settled.borrow().contains(*id)
        };
        let job_ids: Vec<_> = stream.job_ids.iter().filter(is_left).cloned().collect();
        self.claims.of_stream(&stream.stream_id, &job_ids).await
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
        lane: &mut Lane<'_>,
        (claimed, mut recorded): (&Claimed, RecordedPlan),
        signals: &mut StopSignals,
    ) -> Result<Summary, CliError> {
        let retries = self.expanded.sweep.sweep.launch.retries;
        let (mut diverged, mut summary) = (Vec::new(), Summary::default());
        let mut given = claimed.given.clone();
        let (mut n_counted, mut n_attempts) = (0, 0);
        loop {
            let is_found = given.is_some();
            let attempt = match given.take() {
                Some(Given::Slurm(found)) => self.join(lane, &found, signals).await?,
                Some(Given::Pool { number, entry }) => {
                    self.watch_in_pool(lane, (number, &entry), signals).await?
                }
                None => {
                    let todo = self.orders().todo(&claimed.job_ids, &recorded, &diverged)?;
                    if todo.is_empty() {
                        break;
                    }
                    self.adapt(lane, n_attempts > 0)?;
                    match self.attempt(lane, (todo, &recorded), signals).await? {
                        Some(attempt) => attempt,
                        None => {
                            summary.interrupted = true;
                            break;
                        }
                    }
                }
            };
            summary.n_failed += attempt.diverged.len();
            diverged.extend(attempt.diverged);
            summary.n_left += usize::from(attempt.is_left);
            let is_done = attempt.failure.is_none() && !attempt.interrupted && !attempt.is_left;
            if is_found && is_done && attempt.worth_a_retry.is_none() {
                // There may be jobs that it did not have.
                recorded = self.recorded_now(lane.stream).await?;
                continue;
            }
            // Its worker was stopped, though not by this process.
            let is_unfinished = attempt.worth_a_retry.is_some() && attempt.failure.is_none();
            match attempt
                .worth_a_retry
                .filter(|_| n_counted < retries || !attempt.is_counted)
            {
                None => {
                    let failure = attempt.failure.as_ref();
                    summary.is_cut_off =
                        failure.is_some_and(|failure| failure.kind != FailureKind::Input);
                    summary.failures.extend(attempt.failure);
                    summary.interrupted = attempt.interrupted || is_unfinished;
                    break;
                }
                Some(why)
                    if self
                        .wait_to_retry(lane.stream, n_attempts, &why, signals)
                        .await =>
                {
                    recorded = self.recorded_now(lane.stream).await?;
                }
                Some(_) => {
                    summary.interrupted = true;
                    break;
                }
            }
            n_counted += u32::from(attempt.is_counted);
            n_attempts += 1;
        }
        Ok(summary)
    }

    /// Has the launcher look whether all GPUs are still there.
    fn adapt(&self, lane: &Lane<'_>, is_retry: bool) -> Result<(), CliError> {
        let plan = &self.expanded.plan;
        let fit = |n_ranks| {
            let jobs = plan.jobs_of(lane.stream);
            let models = self.expanded.inputs.models_of(jobs[0]);
            let launch = &self.expanded.sweep.sweep.launch;
            let processes = Processes::here(n_ranks);
            Fit {
                predicted: plan::memory_of(&jobs, models, n_ranks).total_bytes(),
                most: device_memory::of_device(launch, lane.device, &processes),
            }
        };
        if let Some(said) = self.launcher.adapt(is_retry, &fit)? {
            let stream_id = &lane.stream.stream_id;
            self.progress.say(&format!("stream {stream_id}: {said}"));
        }
        Ok(())
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

    /// One attempt at what is left of a stream. `None`: a stop was asked for before it began.
    async fn attempt(
        &self,
        lane: &mut Lane<'_>,
        (todo, recorded): (Todo, &RecordedPlan),
        signals: &mut StopSignals,
    ) -> Result<Option<Attempt>, CliError> {
        if let Some(partition) = self.partition {
            let submitted = self.attempt_in_slurm(lane, partition, (todo, recorded), signals);
            return submitted.await.map(Some);
        }
        if self.expanded.sweep.sweep.launch.launcher == plan::Launcher::Pool {
            let offered = self.attempt_in_pool(lane, (todo, recorded), signals);
            return offered.await.map(Some);
        }
        let Some(_room) = self.wait_for_room(lane, signals).await? else {
            return Ok(None);
        };
        let order = self.orders().order((lane, None), todo, recorded).await?;
        let dir = order.events.parent().unwrap_or(Path::new("."));
        let worker = WorkerProcess::start(&order, dir, self.launcher)?;
        let begun = Begun {
            stream_id: order.stream_id,
            number: order.attempt,
            events: order.events,
            n_jobs: order.jobs.len(),
        };
        tokio::select! {
            ended = self.watch(begun, Worker::Process(worker), signals) => ended.map(Some),
            never = self.tell_who_is_missing() => match never {},
        }
    }

    /// Watches an attempt to its end, and closes it.
    pub(super) async fn watch(
        &self,
        begun: Begun,
        worker: Worker<'_>,
        signals: &mut StopSignals,
    ) -> Result<Attempt, CliError> {
        let store = self.claims.store;
        let mut watch = Watch::new((store, &self.progress, &self.expanded.plan), &begun, worker);
        let Some(end) = watch.until_ended(signals).await? else {
            return Ok(Attempt {
                diverged: watch.ended_early,
                interrupted: true,
                ..Attempt::left()
            });
        };
        // It may have been begun again: then it is a later one.
        let open = store.open_stream(&begun.stream_id).await?;
        let number = open.map_or(begun.number, |open| open.number);
        store.end_attempt(&begun.stream_id, number, &end).await?;
        if let Worker::Pool(worker) = &watch.worker {
            worker.forget()?;
        }
        let has_failed = matches!(end.outcome, Outcome::Failed | Outcome::Crashed);
        let failure = has_failed.then(|| watch.failure(&end));
        let why = match &failure {
            Some(failure) => failure.message().to_owned(),
            None => end
                .reason
                .clone()
                .unwrap_or_else(|| "its worker was stopped".to_owned()),
        };
        let is_stopped = watch.asked_to_stop || self.launcher.is_stopped();
        let is_worth_a_retry = !is_stopped && watch.is_worth_a_retry(&end);
        Ok(Attempt {
            worth_a_retry: is_worth_a_retry.then_some(why),
            // Asked to stop, no further stream begins, also when the worker was done before it noticed.
            interrupted: is_stopped
                || end.outcome == Outcome::Stopped
                || (end.outcome == Outcome::Interrupted && !is_worth_a_retry),
            is_counted: !watch.is_ended_by_the_cluster(),
            diverged: watch.ended_early,
            failure,
            is_left: false,
        })
    }
}
