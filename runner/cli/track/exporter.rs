//! What a tracker lacks of a sweep's runs, from the database.

use crate::track::places::Places;
use fault::Fault;
use plan::{RunEnd, TrackedSoFar, TrackerKind};
use std::collections::HashMap;
use store::{JobStatus, Store, TrackedJob};
use trackers::Tracker;

/// Times that a tracker may take nothing of what it was given: at first, Weights & Biases only says what it has.
const MOST_REFUSALS: usize = 3;

/// Writes the runs of a sweep to a tracker.
pub(crate) struct Exporter {
    sweep: String,
    tracker: Box<dyn Tracker>,
    runs: HashMap<String, Run>,
    exported: Exported,
}

/// What a tracker has got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exported {
    pub(crate) n_runs: usize,
    pub(crate) n_points: usize,
}

/// A run that was begun.
struct Run {
    job: TrackedJob,
    so_far: TrackedSoFar,
    has_ended: bool,
}

impl Exporter {
    /// # Errors
    /// A tracker that cannot be opened.
    pub(crate) fn open(places: &Places, kind: TrackerKind) -> Result<Self, Fault> {
        Ok(Self {
            sweep: places.sweep.clone(),
            tracker: places.open(kind)?,
            runs: HashMap::new(),
            exported: Exported::default(),
        })
    }

    /// Gives the tracker what it lacks by now.
    ///
    /// # Errors
    /// A database that cannot be read, or a tracker that cannot be written.
    pub(crate) async fn pass(&mut self, store: &Store) -> Result<(), Fault> {
        let jobs = store.tracked_jobs(&self.sweep).await;
        for job in jobs.map_err(|error| Fault::of(&error))? {
            let known = self.runs.get(&job.run.id);
            if known.is_some_and(|known| known.has_ended && known.job.status == job.status) {
                continue;
            }
            if known.is_none() {
                let so_far = self.tracker.begin(&job.run)?;
                self.exported.n_runs += 1;
                let run = Run {
                    job: job.clone(),
                    so_far,
                    has_ended: false,
                };
                self.runs.insert(job.run.id.clone(), run);
            }
            self.log(store, &job).await?;
        }
        Ok(())
    }

    /// Gives the tracker what it lacks of a run.
    async fn log(&mut self, store: &Store, job: &TrackedJob) -> Result<(), Fault> {
        let run = self.runs.get_mut(&job.run.id).expect("it was begun");
        run.job = job.clone();
        let mut n_refusals = 0;
        loop {
            let points = store.tracked_points(job, run.so_far).await;
            let points = points.map_err(|error| Fault::of(&error))?;
            if points.is_empty() {
                break;
            }
            let now = self.tracker.log(&job.run, &points)?;
            if points.iter().all(|point| !now.lacks(point)) {
                self.exported.n_points += points.len();
            } else if now == run.so_far {
                n_refusals += 1;
            }
            if n_refusals > MOST_REFUSALS {
                let job = &job.run.job;
                let message = format!("it does not take the points of `{job}`");
                return Err(Fault::internal(message));
            }
            run.so_far = now;
            run.has_ended = false;
        }
        if job.is_settled && !run.has_ended {
            run.end(self.tracker.as_mut())?;
        }
        Ok(())
    }

    /// Closes all runs, and waits until all is written.
    ///
    /// # Errors
    /// A tracker that cannot be written.
    pub(crate) fn finish(mut self) -> Result<Exported, Fault> {
        for run in self.runs.values_mut().filter(|run| !run.has_ended) {
            run.end(self.tracker.as_mut())?;
        }
        drop(self.tracker);
        Ok(self.exported)
    }
}

impl Run {
    fn end(&mut self, tracker: &mut dyn Tracker) -> Result<(), Fault> {
        self.has_ended = true;
        let end = match self.job.status {
            JobStatus::Done => RunEnd::Done,
            JobStatus::Failed => RunEnd::Failed,
            _ => RunEnd::Stopped,
        };
        tracker.end(&self.job.run, end)
    }
}
