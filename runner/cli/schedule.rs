//! Runs the streams of a plan, one worker after the other.

use crate::error::CliError;
use crate::expand::Expanded;
use crate::progress::Progress;
use crate::runs_folder::RunsFolder;
use crate::signals::StopSignals;
use crate::watch::{Failure, Watch};
use crate::worker_process::{EVENTS, EventTail, LOG, WorkerProcess};
use plan::{FailureKind, Job, Stream};
use std::fs;
use std::path::{Path, PathBuf};
use store::{JobStatus, Outcome, RecordedJob, RecordedPlan, Store};
use train::{Order, OrderJob};

/// What is needed to run a plan.
pub(crate) struct Scheduler<'a> {
    pub(crate) store: &'a Store,
    pub(crate) folder: &'a RunsFolder,
    pub(crate) expanded: &'a Expanded,
    pub(crate) progress: Progress,
}

/// How a plan's run ended.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) failures: Vec<Failure>,
    pub(crate) interrupted: bool,
}

/// What is left to do of a stream.
#[derive(Debug)]
struct Todo {
    /// Jobs that are not done.
    train: Vec<OrderJob>,
    /// Jobs that are done and shall still be evaluated.
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
        self.interrupted |= other.interrupted;
    }

    pub(crate) fn exit_code(&self) -> u8 {
        let at_fault = |kind| self.failures.iter().any(|failure| failure.kind == kind);
        match () {
            () if at_fault(FailureKind::Internal) => 1,
            () if at_fault(FailureKind::Input) => 2,
            () if self.interrupted => 130,
            () => 0,
        }
    }
}

impl Scheduler<'_> {
    /// Trains what is not done, and evaluates what is not evaluated; streams that fail do not stop the others.
    ///
    /// # Errors
    /// The database or the runs folder can no longer be written.
    pub(crate) async fn run(&self, recorded: &RecordedPlan) -> Result<Summary, CliError> {
        let mut signals = StopSignals::new()?;
        let mut summary = Summary::default();
        for stream in &self.expanded.plan.streams {
            let todo = self.todo(stream, recorded)?;
            if !todo.is_empty() && !summary.interrupted {
                let order = self.order(stream, todo, recorded).await?;
                self.run_stream(&order, &mut signals, &mut summary).await?;
            }
        }
        self.progress.finish();
        Ok(summary)
    }

    /// What is left to do of a stream.
    fn todo(&self, stream: &Stream, recorded: &RecordedPlan) -> Result<Todo, CliError> {
        let jobs = |is_wanted: fn(&RecordedJob) -> bool| {
            let wanted = stream.job_ids.iter().filter_map(|job_id| {
                let known = recorded.job(job_id).filter(|known| is_wanted(known))?;
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
            state_dir: self.folder.state_dir(dir),
            best_dir: self.folder.best_dir(dir),
            finetune_dir: self.expanded.inputs.finetune_dir(&job.config)?,
        })
    }

    /// Opens an attempt at a stream and says what its worker has to do.
    async fn order(
        &self,
        stream: &Stream,
        todo: Todo,
        recorded: &RecordedPlan,
    ) -> Result<Order, CliError> {
        let known = recorded
            .stream(&stream.stream_id)
            .expect("every stream is recorded");
        let dir = self.folder.path().join(&known.dir);
        fs::create_dir_all(&dir).map_err(|error| CliError::io("create", &dir, &error))?;
        let log = format!("{}/{LOG}", known.dir);
        let evaluate: Vec<_> = todo.evaluate.iter().map(|job| &job.job.job_id).collect();
        let stream_id = &stream.stream_id;
        let begun = self.store.begin_attempt_with(stream_id, &log, &evaluate);
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
            dataset: tokens.files,
            eval_dataset: eval_tokens.map(|tokens| tokens.files),
            rows: tokens.rows,
            cache_dir: folders.cache.clone(),
            runs_dir: self.folder.path().into(),
            events: dir.join(EVENTS),
            last_event_seq: known.last_event_seq,
            device: sweep.sweep.launch.device.clone(),
            threads: sweep.sweep.launch.threads,
            jobs: todo.train,
            evaluate: todo.evaluate,
        })
    }

    async fn run_stream(
        &self,
        order: &Order,
        signals: &mut StopSignals,
        summary: &mut Summary,
    ) -> Result<(), CliError> {
        let dir = order.events.parent().unwrap_or(Path::new("."));
        let mut watch = Watch {
            store: self.store,
            progress: &self.progress,
            order,
            worker: WorkerProcess::start(order, dir)?,
            tail: EventTail::new(order.events.clone()),
            bar: self.progress.stream(&order.stream_id, order.jobs.len()),
            failed: None,
            diverged: Vec::new(),
            asked_to_stop: false,
        };
        let end = watch.until_ended(signals).await?;
        self.store
            .end_attempt(&order.stream_id, order.attempt, &end)
            .await?;
        // Asked to stop, no further stream begins, also when the worker was done before it noticed.
        summary.interrupted |= watch.asked_to_stop || end.outcome == Outcome::Interrupted;
        if matches!(end.outcome, Outcome::Failed | Outcome::Crashed) {
            summary.failures.push(watch.failure(&end));
        }
        summary.failures.extend(watch.early_ends());
        Ok(())
    }
}
