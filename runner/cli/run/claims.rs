//! Which jobs of a stream this process may train: those whose locks it has. A job that several sweeps ask for is trained
//! by the process that locks it first; the others take up its result, or continue if that process ends before.
//!
//! A process that trains has the lock of the stream, for its folder, and that of each job. A lock ends with its process, so
//! what is found open in the database under a lock is what a process left that was killed.

use crate::error::CliError;
use crate::pool::{Place, PoolFolder};
use crate::run::event_tail::EventTail;
use crate::run::orphan;
use crate::run::pool_worker;
use crate::run::runs_folder::RunsFolder;
use crate::run::slurm_worker;
use crate::slurm::{self, Known, Looks};
use files::Claim;
use plan::runs_layout::{EVENTS, STREAM_LOCK};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use store::{OpenStream, SlurmAttempt, Store};

/// Between two looks at a lock.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// How long a process may have a lock that it does not work with.
const MOMENT: Duration = Duration::from_millis(20);

/// What locks in a runs folder are taken with.
#[derive(Clone, Copy)]
pub(crate) struct Claims<'a> {
    pub(crate) store: &'a Store,
    pub(crate) folder: &'a RunsFolder,
    /// Whether a worker that a killed `sae-run` left is ended, and not waited for.
    pub(crate) take_over: bool,
    /// What Slurm says of jobs that earlier processes submitted.
    pub(crate) slurm: &'a Looks,
}

/// The locks of a stream and of some of its jobs. No attempt of a killed process is open at them any more.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The jobs.
    pub(crate) job_ids: Vec<String>,
    /// Jobs that other processes have.
    pub(crate) held: Vec<Held>,
    /// What an earlier `sae-run` gave to Slurm or the pool, and that lives.
    pub(crate) given: Option<Given>,
    _locks: Vec<Claim>,
}

/// A job that another process has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    /// The process, for the user.
    pub(crate) holder: String,
    pub(crate) job_id: String,
}

/// An attempt that continues without the `sae-run` that began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// A job of Slurm.
    Slurm(SlurmAttempt),
    /// An entry of the pool.
    Pool {
        /// Which attempt at the stream it is.
        number: u32,
        entry: String,
    },
}

impl Given {
    /// Who has it, for the user.
    pub(crate) fn holder(&self) -> String {
        match self {
            Self::Slurm(attempt) => holder_in_slurm(attempt.job_id),
            Self::Pool { .. } => POOL.to_owned(),
        }
    }
}

/// Who has a stream that is in the pool.
const POOL: &str = "the pool";

fn holder_in_slurm(job_id: Option<u64>) -> String {
    job_id.map_or_else(|| "Slurm".to_owned(), |id| format!("job {id} of Slurm"))
}

impl Claims<'_> {
    /// Says which streams will be looked at one after the other, so that Slurm is asked once.
    pub(crate) fn expect(&self, open: &[OpenStream]) {
        let jobs = open.iter().filter_map(|open| open.slurm.as_ref()?.job_id);
        self.slurm.expect(jobs);
    }

    /// Takes the locks of a stream, and of those of the jobs that no other process has.
    ///
    /// # Errors
    /// The database or the folder cannot be written, or a worker that a killed process left does not end.
    pub(crate) async fn of_stream(
        &self,
        stream_id: &str,
        job_ids: &[String],
    ) -> Result<Claimed, CliError> {
        let mut claimed = Claimed {
            job_ids: Vec::new(),
            held: Vec::new(),
            given: None,
            _locks: Vec::new(),
        };
        let lock = self.lock(stream_id).await?;
        let elsewhere = self.given_elsewhere(stream_id, job_ids).await?;
        for job_id in job_ids {
            let holder = match (elsewhere.get(job_id), &lock) {
                (Some(holder), _) => Some(holder.clone()),
                (None, None) => Some(self.folder.holder(stream_id)),
                (None, Some(_)) => match self.lock(job_id).await? {
                    None => Some(self.folder.holder(job_id)),
                    Some(lock) => {
                        claimed._locks.push(lock);
                        None
                    }
                },
            };
            let job_id = job_id.clone();
            match holder {
                None => claimed.job_ids.push(job_id),
                Some(holder) => claimed.held.push(Held { holder, job_id }),
            }
        }
        if !claimed.job_ids.is_empty() {
            // First: others may need this of a stream that is locked here, while they have one that is needed here.
            claimed.given = self.close_stream(stream_id).await?;
            self.close_others(stream_id, &claimed.job_ids).await?;
            claimed._locks.extend(lock);
        }
        Ok(claimed)
    }

    /// Takes a lock. What looks whether there is anything to do has one for a moment only.
    async fn lock(&self, id: &str) -> Result<Option<Claim>, CliError> {
        match self.folder.claim(id)? {
            None => {
                tokio::time::sleep(MOMENT).await;
                self.folder.claim(id)
            }
            lock => Ok(lock),
        }
    }

    /// Takes in what a killed process left of a stream, if no process has it now; of others than `own` only if no
    /// worker is left there either.
    ///
    /// # Errors
    /// As [`Claims::of_stream`].
    pub(crate) async fn recover_stream(
        &self,
        (stream_id, dir): (&str, &str),
        is_own: bool,
    ) -> Result<(), CliError> {
        let Some(_lock) = self.folder.claim(stream_id)? else {
            return Ok(());
        };
        let open = self.store.open_stream(stream_id).await?;
        let is_given = open.as_ref().is_some_and(OpenStream::is_given);
        let path = self.folder.path().join(dir);
        if !is_own && !is_given && path.is_dir() && orphan::lock_stream(&path)?.is_none() {
            return Ok(());
        }
        match open {
            // Of others, what Slurm does not answer is not for this process to know.
            Some(open) if is_given && !is_own => drop(self.close(&open).await),
            Some(open) => drop(self.close(&open).await?),
            // The database may have been lost.
            None => self.folder.tail(dir).take_in(self.store, stream_id).await?,
        }
        Ok(())
    }

    /// Takes in what was written in Slurm or in the pool, and closes the attempt if it has ended. `Some`: it lives.
    async fn settle(&self, open: &OpenStream) -> Result<Option<Given>, CliError> {
        let tail = self.folder.tail(&open.dir);
        let Some(entry) = &open.pool_entry else {
            let dir = self.folder.path().join(&open.dir);
            let lives = slurm_worker::settle(self.store, (&dir, tail), (open, self.slurm)).await?;
            return Ok(lives.map(Given::Slurm));
        };
        let pool = PoolFolder::of(self.folder.path());
        let open = pool_worker::settle(self.store, tail, (open, entry, &pool)).await?;
        Ok(open.map(|number| Given::Pool {
            number,
            entry: entry.clone(),
        }))
    }

    /// Closes the attempt at a stream that is locked, if one is open. `Some`: Slurm or the pool has it, and it lives.
    async fn close_stream(&self, stream_id: &str) -> Result<Option<Given>, CliError> {
        match self.store.open_stream(stream_id).await? {
            Some(open) => self.close(&open).await,
            None => Ok(None),
        }
    }

    /// Takes in what was written about a stream that is locked and has an open attempt, and closes that. A worker that a
    /// killed process left is waited for. `Some`: Slurm or the pool has it, and it lives; it is left alone.
    async fn close(&self, open: &OpenStream) -> Result<Option<Given>, CliError> {
        if open.is_given() {
            return self.settle(open).await;
        }
        orphan::wait_for_worker(&self.folder.path().join(&open.dir), self.take_over).await?;
        let mut tail = self.folder.tail(&open.dir);
        tail.take_in(self.store, &open.stream_id).await?;
        self.store.abandon_dead_attempts(&open.stream_id).await?;
        Ok(None)
    }

    /// Which of the jobs Slurm or the pool trains in another stream, and who, for the user.
    async fn given_elsewhere(
        &self,
        stream_id: &str,
        job_ids: &[String],
    ) -> Result<HashMap<String, String>, CliError> {
        let mut held = HashMap::new();
        for open in self.store.open_elsewhere(stream_id, job_ids).await? {
            let shared = open.job_ids.iter().filter(|id| job_ids.contains(id));
            if !open.is_given() {
                continue;
            }
            // Else the process that has its lock waits for it.
            if let Some(_lock) = self.folder.claim(&open.stream_id)?
                && self.settle(&open).await?.is_none()
            {
                continue;
            }
            let holder = match &open.slurm {
                Some(slurm) => holder_in_slurm(slurm.job_id),
                None => POOL.to_owned(),
            };
            held.extend(shared.map(|id| (id.clone(), holder.clone())));
        }
        Ok(held)
    }

    /// Closes what killed processes left open of these jobs, which are locked, in other streams.
    async fn close_others(&self, own: &str, job_ids: &[String]) -> Result<(), CliError> {
        loop {
            let open = self.store.open_elsewhere(own, job_ids).await?;
            let Some(open) = open.into_iter().next() else {
                return Ok(());
            };
            match self.folder.claim(&open.stream_id)? {
                Some(_lock) => drop(self.close_stream(&open.stream_id).await?),
                // Another process closes it.
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Takes what killed processes left in the folder `runs_dir`, of which nothing is changed, into a copy of its database.
///
/// # Errors
/// A worker is still there, or the copy cannot be written.
pub(crate) async fn take_in(copy: &Store, runs_dir: &Path) -> Result<(), CliError> {
    for open in copy.open_streams().await? {
        let dir = runs_dir.join(&open.dir);
        if let Some(slurm) = &open.slurm {
            let lives = match slurm::look(slurm.job_id, &slurm.name).await {
                Known::Job(job) => !job.state.has_ended(),
                Known::Gone => false,
                Known::Unanswered(why) => return Err(slurm::unanswered(slurm.job_id, &why)),
            };
            if lives {
                let message = format!("a job of Slurm still trains in `{}`", dir.display());
                return Err(CliError::environment(message).with_hint(
                    "wait for it to end, or cancel it with `sae-run cancel`".to_owned(),
                ));
            }
        }
        let in_pool = match &open.pool_entry {
            Some(entry) => PoolFolder::of(runs_dir).place(entry)?,
            None => None,
        };
        if matches!(in_pool, Some(Place::Waiting { .. } | Place::Claimed { .. })) {
            let message = format!(
                "a stream of the pool is not finished in `{}`",
                dir.display()
            );
            return Err(CliError::environment(message)
                .with_hint("wait for its end, or withdraw it with `sae-run cancel`".to_owned()));
        }
        if Claim::is_held(&dir.join(STREAM_LOCK)) {
            let message = format!("a worker still runs in `{}`", dir.display());
            return Err(CliError::environment(message).with_hint("wait for it to end".to_owned()));
        }
        let mut tail = EventTail::new(dir.join(EVENTS));
        while tail.fold_next(copy, &open.stream_id).await?.is_some() {}
        tail.end_unchanged(copy, &open.stream_id).await?;
        copy.abandon_dead_attempts(&open.stream_id).await?;
    }
    Ok(())
}
