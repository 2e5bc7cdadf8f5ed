//! A worker that is a job of Slurm: submitted, waited for, or found again.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::run::worker_program::WorkerProgram;
use crate::show::table;
use crate::slurm::{
    self, Board, Known, Looks, Partition, Script, SignOfLife, SlurmJob, State, Submission,
};
use plan::runs_layout::{LOG, ORDER};
use plan::{Launch, MemoryEstimate};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{AttemptEnd, OpenStream, Outcome, SlurmAttempt, Store};

/// How long a job that runs may give no sign of life: a folder of the network shows a new file that late.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long Slurm may list a job as ended that it puts back, and one of which a further run is announced already.
const MOMENT: Duration = Duration::from_secs(5);
const LONG_MOMENT: Duration = Duration::from_secs(30);

/// A job of Slurm that trains a stream.
pub(crate) struct SlurmWorker<'a> {
    board: &'a Board,
    /// Its number.
    pub(crate) job_id: u64,
    /// The stream's folder.
    dir: PathBuf,
    /// What was said last of it.
    told: Option<String>,
    /// Its last sign of life.
    seen: Option<SignOfLife>,
    /// Since when it runs without one.
    silent_since: Option<Instant>,
    /// The end that Slurm lists, and since when.
    ending: Option<(SlurmJob, Instant)>,
}

/// How a job of Slurm ended.
#[derive(Clone, Debug)]
pub(crate) enum SlurmEnd {
    /// As Slurm lists it.
    Job(SlurmJob),
    /// Slurm has forgotten it.
    Forgotten(u64),
    /// Its machine does not see the runs folder.
    Blind {
        job_id: u64,
        /// The machine.
        nodes: String,
        /// The stream's folder.
        dir: PathBuf,
    },
}

impl<'a> SlurmWorker<'a> {
    /// The job with this number, which trains the stream whose folder is `dir`.
    pub(crate) fn new(board: &'a Board, job_id: u64, dir: PathBuf) -> Self {
        board.watch(job_id);
        Self {
            board,
            job_id,
            dir,
            told: None,
            seen: None,
            silent_since: None,
            ending: None,
        }
    }

    /// Waits until the job has ended for good, or will do nothing.
    pub(crate) async fn ended(&mut self) -> SlurmEnd {
        loop {
            let job_id = self.job_id;
            match self.board.known(job_id) {
                Some(Known::Gone) => return SlurmEnd::Forgotten(job_id),
                Some(Known::Job(job)) if self.is_blind(&job) => {
                    return SlurmEnd::Blind {
                        job_id,
                        nodes: job.nodes,
                        dir: self.dir.clone(),
                    };
                }
                Some(Known::Job(job)) if self.has_ended(&job) => return SlurmEnd::Job(job),
                _ => self.board.news().await,
            }
        }
    }

    /// Whether a job has ended for good: Slurm lists one that it puts back into the queue as ended for a moment.
    fn has_ended(&mut self, job: &SlurmJob) -> bool {
        if !job.state.has_ended() {
            self.ending = None;
            return false;
        }
        let n_seen = self.seen.as_ref().map_or(0, |sign| sign.n_restarts);
        let moment = match job.state {
            State::Completed | State::Cancelled if n_seen >= job.n_restarts => return true,
            _ if n_seen < job.n_restarts => LONG_MOMENT,
            _ => MOMENT,
        };
        match &self.ending {
            Some((ending, since)) if ending == job => since.elapsed() >= moment,
            _ => {
                self.ending = Some((job.clone(), Instant::now()));
                false
            }
        }
    }

    /// Whether the job runs, or has failed, on a machine that does not see the runs folder.
    fn is_blind(&mut self, job: &SlurmJob) -> bool {
        let seen = SignOfLife::read(&self.dir).filter(|sign| sign.job_id == self.job_id);
        if seen.is_some() {
            self.seen = seen;
            return false;
        }
        match job.state {
            State::Failed => true,
            State::Running => {
                let since = *self.silent_since.get_or_insert_with(Instant::now);
                since.elapsed() > PATIENCE
            }
            _ => {
                self.silent_since = None;
                false
            }
        }
    }

    /// What it prints.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// What is new about it, for the user.
    pub(crate) fn news(&mut self) -> Option<String> {
        let job_id = self.job_id;
        let text = match self.board.known(job_id)? {
            Known::Job(job) => {
                let again = table::begun_again(job.n_restarts);
                format!("job {job_id} of Slurm {}{again}", job.describe())
            }
            Known::Gone => return None,
            Known::Unanswered(why) => format!("{why}; asking again"),
        };
        let skew = self.seen.as_ref().and_then(SignOfLife::skew);
        let text = skew.map_or(text.clone(), |skew| format!("{text}; {skew}"));
        (self.told.as_ref() != Some(&text)).then(|| {
            self.told = Some(text.clone());
            text
        })
    }
}

impl Drop for SlurmWorker<'_> {
    fn drop(&mut self) {
        self.board.forget(self.job_id);
    }
}

impl SlurmEnd {
    /// How the attempt ended. `is_finished`: its events say that all is done.
    pub(crate) fn attempt(&self, is_finished: bool) -> AttemptEnd {
        let outcome = |outcome, reason: String| AttemptEnd {
            outcome,
            exit_code: None,
            reason: Some(reason),
        };
        match self {
            Self::Forgotten(_) if is_finished => AttemptEnd {
                outcome: Outcome::Done,
                exit_code: None,
                reason: None,
            },
            Self::Forgotten(id) => outcome(
                Outcome::Crashed,
                format!("Slurm no longer knows its job {id}"),
            ),
            Self::Job(job) => job.end(),
            Self::Blind { job_id, nodes, dir } => {
                let where_ = if nodes.is_empty() {
                    "its machine"
                } else {
                    nodes
                };
                let dir = dir.display();
                outcome(
                    Outcome::Failed,
                    format!("job {job_id} of Slurm did not begin: {where_} does not see `{dir}`"),
                )
            }
        }
    }

    /// Whether another job would do no better, and what to do then.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Blind { .. } => Some(
                "name a runs folder that all machines of the cluster see, with `--runs-dir`; worker.log may say more",
            ),
            Self::Job(job) => match job.state {
                State::OutOfMemory => Some("set a larger `launch.slurm.mem`"),
                State::Cancelled => Some("run the same command again to submit it again"),
                _ => None,
            },
            Self::Forgotten(_) => None,
        }
    }

    /// Whether it ended for a reason of the cluster: such ends are not counted.
    pub(crate) fn is_of_the_cluster(&self) -> bool {
        let Self::Job(job) = self else { return false };
        match job.state {
            State::Preempted | State::TimedOut => true,
            State::Failed => job.exit_code == Some(130),
            _ => false,
        }
    }
}

/// Where jobs of a sweep go.
pub(crate) struct Cluster<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) partition: &'a Partition,
}

impl Cluster<'_> {
    /// Submits the job of an attempt whose order is in the stream's folder `dir`; `after`: a job that it waits for.
    ///
    /// # Errors
    /// A folder that cannot be written, or Slurm refuses the job.
    pub(crate) async fn submit(
        &self,
        (name, dir): (&str, &Path),
        memory: &MemoryEstimate,
        after: Option<u64>,
    ) -> Result<Submission, CliError> {
        let text = Script {
            name,
            dir,
            order: &dir.join(ORDER),
            log: &dir.join(LOG),
            launch: self.launch,
            partition: self.partition,
            memory,
            program: &WorkerProgram::find()?,
        }
        .text();
        let path = dir.join(slurm::SCRIPT);
        fs::write(&path, text).map_err(|error| CliError::io("write", &path, &error))?;
        slurm::submit(&path, name, after).await
    }
}

/// A name for a job that no other has.
pub(crate) fn new_name(sweep: &str) -> String {
    format!("sae-run.{sweep}.{:08x}", fastrand::u32(..))
}

/// Takes in what a job of Slurm wrote of a stream that is locked, and closes its attempt if it has ended. `Some`: it lives.
///
/// # Errors
/// Slurm does not answer, or the database cannot be written.
pub(crate) async fn settle(
    store: &Store,
    (dir, mut tail): (&Path, EventTail),
    (open, looks): (&OpenStream, &Looks),
) -> Result<Option<SlurmAttempt>, CliError> {
    let Some(slurm) = &open.slurm else {
        return Ok(None);
    };
    let known = looks.look(slurm.job_id, &slurm.name).await;
    while tail.fold_next(store, &open.stream_id).await?.is_some() {}
    // Its events may be of a later run.
    let Some(number) = store.open_number(&open.stream_id).await? else {
        return Ok(None);
    };
    let end = match known {
        Known::Unanswered(why) => return Err(slurm::unanswered(slurm.job_id, &why)),
        Known::Job(job) if !job.state.has_ended() || is_put_back(&job, dir) => {
            store.set_slurm_job(&open.stream_id, number, job.id).await?;
            return Ok(Some(SlurmAttempt {
                number,
                name: slurm.name.clone(),
                job_id: Some(job.id),
            }));
        }
        Known::Job(job) => SlurmEnd::Job(job),
        Known::Gone => SlurmEnd::Forgotten(slurm.job_id.unwrap_or_default()),
    };
    tail.take_in(store, &open.stream_id).await?;
    if let Some(number) = store.open_number(&open.stream_id).await? {
        let end = end.attempt(false);
        store.end_attempt(&open.stream_id, number, &end).await?;
    }
    Ok(None)
}

/// Whether a job that has failed has a further run: Slurm counts it before it lists the job as waiting.
fn is_put_back(job: &SlurmJob, dir: &Path) -> bool {
    let seen = SignOfLife::read(dir).filter(|sign| sign.job_id == job.id);
    job.state == State::Failed && seen.is_some_and(|sign| sign.n_restarts < job.n_restarts)
}
