//! What a worker is asked to do: the jobs of a stream that are left, and where everything is.

use crate::error::CliError;
use crate::run::worker_program;
use crate::sweep::expand::Expanded;
use plan::runs_layout::{self, EVENTS, LOG};
use plan::{BaseJob, Job, Launch, Order, OrderJob, Stream};
use std::fs;
use std::path::{Path, PathBuf};
use store::{GivenTo, JobStatus, RecordedJob, RecordedPlan, Store};

/// What is left to do of a stream.
#[derive(Debug)]
pub(super) struct Todo {
    /// Jobs that are not done.
    pub(super) train: Vec<OrderJob>,
    /// Jobs that are done and must still be evaluated.
    pub(super) evaluate: Vec<OrderJob>,
}

impl Todo {
    pub(super) fn is_empty(&self) -> bool {
        self.train.is_empty() && self.evaluate.is_empty()
    }
}

/// Threads of a worker; 0: the number that libtorch takes.
fn threads(launch: &Launch) -> Result<usize, CliError> {
    let n_lanes = launch.lanes().len();
    if launch.threads > 0 || n_lanes < 2 {
        return Ok(launch.threads);
    }
    Ok((worker_program::machine()?.n_threads / n_lanes).max(1))
}

/// A stream and the device that it is trained on.
pub(super) struct Lane<'a> {
    pub(super) stream: &'a Stream,
    pub(super) device: &'a str,
    /// The job of Slurm that the next one of this lane waits for, if no process does.
    pub(super) after: Option<u64>,
}

/// What workers are asked to do is made of this.
pub(super) struct Orders<'a> {
    pub(super) store: &'a Store,
    /// The runs folder.
    pub(super) runs_dir: &'a Path,
    pub(super) expanded: &'a Expanded,
    /// Whether jobs are trained again that would fail again.
    pub(super) retry_failed: bool,
}

impl Orders<'_> {
    /// What is left to do of the jobs of a stream that are locked, without those that diverged in this run, and those that
    /// would fail again.
    pub(super) fn todo(
        &self,
        claimed: &[String],
        recorded: &RecordedPlan,
        diverged: &[String],
    ) -> Result<Todo, CliError> {
        let is_left_out = |known: &RecordedJob| !self.retry_failed && recorded.is_given_up(known);
        let jobs = |is_wanted: fn(&RecordedJob) -> bool| {
            let not_diverged = claimed.iter().filter(|id| !diverged.contains(id));
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
        let alike = self.store.alike(job_id).await?.into_iter();
        let bases = alike.map(|(job_id, dir)| BaseJob {
            job_id,
            kept_dir: runs_layout::kept_state_dir(dir),
        });
        let runs_dir = self.runs_dir;
        Ok(bases
            .filter(|base| runs_dir.join(&base.kept_dir).is_dir())
            .collect())
    }

    /// Opens an attempt at a stream and says what its worker has to do; `given_to`: what does it, if no process that is started here.
    pub(super) async fn order(
        &self,
        (lane, given_to): (&Lane<'_>, Option<GivenTo<'_>>),
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
        let dir = self.runs_dir.join(&known.dir);
        fs::create_dir_all(&dir).map_err(|error| CliError::io("create", &dir, &error))?;
        let log = format!("{}/{LOG}", known.dir);
        let ids = |jobs: &'_ [OrderJob]| -> Vec<String> {
            jobs.iter().map(|job| job.job.job_id.clone()).collect()
        };
        let (train, evaluate) = (ids(&todo.train), ids(&todo.evaluate));
        let (store, stream_id) = (self.store, stream.stream_id.as_str());
        let attempt = match given_to {
            None => {
                let begun = store.begin_attempt_with(stream_id, &log, &train, &evaluate);
                begun.await?
            }
            Some(given_to) => {
                let begun =
                    store.begin_given_attempt((stream_id, given_to), &log, &train, &evaluate);
                begun.await?
            }
        };
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
            runs_dir: self.runs_dir.into(),
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
}
