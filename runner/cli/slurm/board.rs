//! All jobs that are waited for, asked for at once: a cluster's controller is asked a few times a minute, however many
//! streams there are.

use super::programs::{Silence, output_of};
use super::state::{COLUMNS, SlurmJob};
use crate::error::CliError;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// As Slurm lists it.
    Job(SlurmJob),
    /// Slurm has forgotten it: it ended some time ago, or never was.
    Gone,
    /// Slurm does not answer, for this reason.
    Unanswered(String),
}

/// The jobs that this process waits for, and what is known of them.
pub(crate) struct Board {
    poll: Duration,
    watched: RefCell<BTreeSet<u64>>,
    known: RefCell<BTreeMap<u64, Known>>,
    /// Something new is known.
    news: Notify,
    /// A job was added.
    added: Notify,
    /// Submissions at the same time: what is killed leaves one whose number is not recorded.
    pub(crate) submitting: Semaphore,
}

impl Board {
    /// Asks once in `poll_s` seconds.
    pub(crate) fn new(poll_s: u64) -> Self {
        Self {
            poll: Duration::from_secs(poll_s.max(1)),
            watched: RefCell::default(),
            known: RefCell::default(),
            news: Notify::new(),
            added: Notify::new(),
            submitting: Semaphore::new(1),
        }
    }

    /// Asks Slurm for what is watched, as long as it is polled.
    pub(crate) async fn keep_up(&self) -> Infallible {
        loop {
            let ids = self.watched.borrow().clone();
            if ids.is_empty() {
                self.added.notified().await;
                continue;
            }
            let found = look_at_all(&ids).await;
            self.learn(&ids, found);
            self.news.notify_waiters();
            tokio::time::sleep(self.poll).await;
        }
    }

    fn learn(&self, ids: &BTreeSet<u64>, found: Result<BTreeMap<u64, Known>, String>) {
        let unanswered = |why: String| {
            let each = ids.iter().map(|id| (*id, Known::Unanswered(why.clone())));
            each.collect()
        };
        let found = found.unwrap_or_else(unanswered);
        self.known.borrow_mut().extend(found);
    }

    /// Adds a job to those that are asked for, until [`Board::forget`].
    pub(crate) fn watch(&self, id: u64) {
        if self.watched.borrow_mut().insert(id) {
            self.added.notify_waiters();
        }
    }

    pub(crate) fn forget(&self, id: u64) {
        self.watched.borrow_mut().remove(&id);
        self.known.borrow_mut().remove(&id);
    }

    /// What is known of a watched job; `None`: nothing yet.
    pub(crate) fn known(&self, id: u64) -> Option<Known> {
        self.known.borrow().get(&id).cloned()
    }

    /// Waits until something new is known of any job.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}

/// Asks for jobs by their numbers; those that Slurm has forgotten are left out.
async fn ask(ids: &BTreeSet<u64>) -> Result<BTreeMap<u64, SlurmJob>, String> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    listed(&format!("--jobs={}", ids.join(","))).await
}

async fn listed(which: &str) -> Result<BTreeMap<u64, SlurmJob>, String> {
    let args = [which, "--states=all", "--noheader", "--Format", COLUMNS];
    match output_of("squeue", &args).await {
        Ok(text) => read(&text),
        // Of a single one; of several, the others are listed.
        Err(Silence::Refused(why)) if why.contains("Invalid job id") => Ok(BTreeMap::new()),
        Err(silence) => Err(silence.into_error("squeue").to_string()),
    }
}

fn read(text: &str) -> Result<BTreeMap<u64, SlurmJob>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let job = SlurmJob::read(line);
            let job = job.ok_or_else(|| {
                let line = plan::escaped(line);
                let line = plan::brief(&line);
                format!("`squeue` printed a line that is none of a job: {line}")
            })?;
            Ok((job.id, job))
        })
        .collect()
}

/// Looks at jobs that are not waited for, many of them with one question.
pub(crate) struct Looks {
    /// How often Slurm is asked before it is taken for silent.
    n_tries: u32,
    /// Jobs that will be looked at.
    expected: RefCell<BTreeSet<u64>>,
    known: RefCell<Option<(Instant, BTreeMap<u64, Known>)>>,
}

/// How long what Slurm said of many jobs counts.
const FRESH: Duration = Duration::from_secs(5);

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(3);

impl Looks {
    /// Asks up to `n_tries` times.
    pub(crate) fn new(n_tries: u32) -> Self {
        Self {
            n_tries,
            expected: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// Says which jobs will be looked at one after the other.
    pub(crate) fn expect(&self, ids: impl IntoIterator<Item = u64>) {
        self.expected.borrow_mut().extend(ids);
    }

    /// What is known of a job: by its number, or by its name where Slurm's answer to its submission was lost.
    pub(crate) async fn look(&self, id: Option<u64>, name: &str) -> Known {
        for _ in 1..self.n_tries {
            match self.look_once(id, name).await {
                Known::Unanswered(_) => tokio::time::sleep(PAUSE).await,
                known => return known,
            }
        }
        self.look_once(id, name).await
    }

    async fn look_once(&self, id: Option<u64>, name: &str) -> Known {
        let Some(id) = id else {
            return look(None, name).await;
        };
        let fresh = |known: &Option<(Instant, BTreeMap<u64, Known>)>| {
            let (asked, known) = known.as_ref()?;
            known.get(&id).filter(|_| asked.elapsed() < FRESH).cloned()
        };
        if let Some(known) = fresh(&self.known.borrow()) {
            return known;
        }
        self.expect([id]);
        let ids = self.expected.borrow().clone();
        match look_at_all(&ids).await {
            Ok(known) => {
                let of_job = known.get(&id).cloned().unwrap_or(Known::Gone);
                *self.known.borrow_mut() = Some((Instant::now(), known));
                of_job
            }
            Err(why) => Known::Unanswered(why),
        }
    }
}

/// What is known now of a job that is not waited for: by its number, or by its name where Slurm's answer to its
/// submission was lost.
pub(crate) async fn look(id: Option<u64>, name: &str) -> Known {
    let jobs = match id {
        Some(id) => ask(&[id].into()).await,
        None => listed(&format!("--name={name}")).await,
    };
    match jobs {
        Ok(jobs) => jobs.into_values().next().map_or(Known::Gone, Known::Job),
        Err(why) => Known::Unanswered(why),
    }
}

/// What is known now of several jobs.
///
/// # Errors
/// Slurm does not answer, for this reason.
pub(crate) async fn look_at_all(ids: &BTreeSet<u64>) -> Result<BTreeMap<u64, Known>, String> {
    let mut jobs = ask(ids).await?;
    let known = ids
        .iter()
        .map(|id| (*id, jobs.remove(id).map_or(Known::Gone, Known::Job)));
    Ok(known.collect())
}

/// The error for a job of which Slurm says nothing.
pub(crate) fn unanswered(id: Option<u64>, why: &str) -> CliError {
    let which = id.map_or_else(|| "a job".to_owned(), |id| format!("job {id}"));
    CliError::environment(format!(
        "whether {which} of Slurm still runs is not known: {why}"
    ))
    .with_hint("run this again where Slurm answers; `scontrol ping` asks it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbled_answers_are_no_answers() {
        let text = "1|a|RUNNING|0|0|n1|None|\n\n2|b|PENDING|0|0||Priority|\n";
        assert_eq!(read(text).unwrap().len(), 2);
        assert_eq!(read("").unwrap().len(), 0);
        let error = read("1|a|RUNNING|0|0|n1|None|\nslurm: \u{1b}[2Jwait\n").unwrap_err();
        assert!(error.contains("none of a job: slurm: "), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}
