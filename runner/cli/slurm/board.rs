//! All jobs that are waited for, asked for at once: a cluster's controller is asked a few times a minute, however many
//! streams there are.

use super::programs::{Silence, output_of};
use super::state::{COLUMNS, SlurmJob};
use crate::error::CliError;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::Notify;

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
            let answer = ask(&ids).await;
            let mut known = self.known.borrow_mut();
            match answer {
                Ok(jobs) => {
                    for id in &ids {
                        let job = jobs.get(id).cloned().map_or(Known::Gone, Known::Job);
                        known.insert(*id, job);
                    }
                }
                Err(why) => {
                    for id in &ids {
                        known.insert(*id, Known::Unanswered(why.clone()));
                    }
                }
            }
            drop(known);
            self.news.notify_waiters();
            tokio::time::sleep(self.poll).await;
        }
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

/// The error for a job of which Slurm says nothing.
pub(crate) fn unanswered(id: Option<u64>, why: &str) -> CliError {
    let which = id.map_or_else(|| "a job".to_owned(), |id| format!("job {id}"));
    CliError::environment(format!("whether {which} of Slurm still runs is not known: {why}"))
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
