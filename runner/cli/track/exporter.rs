//! What trackers lack of a sweep's runs, from the database.

use crate::track::places::Places;
use fault::Fault;
use plan::{RunEnd, TrackedSoFar, TrackerKind};
use std::collections::HashMap;
use store::{JobStatus, Store, StoreError, TrackedJob};
use trackers::Tracker;

/// Times that a tracker may take nothing of what it was given: at first, Weights & Biases only says what it has.
const MOST_REFUSALS: usize = 3;

/// Writes the runs of a sweep to trackers.
pub(crate) struct Exporter {
    sweep: String,
    trackers: Vec<OneTracker>,
}

/// What a tracker has got.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    pub(crate) n_runs: usize,
    pub(crate) n_points: usize,
}

/// A tracker that has failed is left out from then on.
pub(crate) type Failed = (TrackerKind, Fault);

struct OneTracker {
    kind: TrackerKind,
    tracker: Box<dyn Tracker>,
    runs: HashMap<String, Run>,
    exported: Exported,
}

/// A run that was begun.
struct Run {
    job: TrackedJob,
    so_far: TrackedSoFar,
    has_ended: bool,
}

/// A failure of a tracker, or of the database.
enum Trouble {
    Tracker(Fault),
    Store(StoreError),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Tracker(fault)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Exporter {
    /// Opens the trackers; gives those that cannot be opened, too.
    pub(crate) fn open(places: &Places, kinds: &[TrackerKind]) -> (Self, Vec<Failed>) {
        let (mut trackers, mut failed) = (Vec::new(), Vec::new());
        for &kind in kinds {
            if trackers.iter().any(|known: &OneTracker| known.kind == kind) {
                continue;
            }
            match places.open(kind) {
                Ok(tracker) => trackers.push(OneTracker {
                    kind,
                    tracker,
                    runs: HashMap::new(),
                    exported: Exported::default(),
                }),
                Err(fault) => failed.push((kind, fault)),
            }
        }
        let sweep = places.sweep.clone();
        (Self { sweep, trackers }, failed)
    }

    /// Gives each tracker what it lacks by now. Those that failed are left out from now on.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub(crate) async fn pass(&mut self, store: &Store) -> Result<Vec<Failed>, StoreError> {
        let jobs = store.tracked_jobs(&self.sweep).await?;
        let mut failed = Vec::new();
        for mut one in std::mem::take(&mut self.trackers) {
            match one.pass(store, &jobs).await {
                Ok(()) => self.trackers.push(one),
                Err(Trouble::Tracker(fault)) => failed.push((one.kind, fault)),
                Err(Trouble::Store(error)) => {
                    self.trackers.push(one);
                    return Err(error);
                }
            }
        }
        Ok(failed)
    }

    /// Closes all runs; gives what each tracker has got, or how it failed.
    pub(crate) fn finish(self) -> Vec<(TrackerKind, Result<Exported, Fault>)> {
        let trackers = self.trackers.into_iter();
        trackers.map(|one| (one.kind, one.finish())).collect()
    }
}

impl OneTracker {
    async fn pass(&mut self, store: &Store, jobs: &[TrackedJob]) -> Result<(), Trouble> {
        for job in jobs {
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
            self.log(store, job).await?;
        }
        Ok(())
    }

    /// Gives the tracker what it lacks of a run.
    async fn log(&mut self, store: &Store, job: &TrackedJob) -> Result<(), Trouble> {
        let run = self.runs.get_mut(&job.run.id).expect("it was begun");
        run.job = job.clone();
        let mut n_refusals = 0;
        loop {
            let points = store.tracked_points(job, run.so_far).await?;
            if points.is_empty() {
                break;
            }
            let before = std::mem::replace(&mut run.so_far, self.tracker.log(&job.run, &points)?);
            let is_taken = points.iter().all(|point| !run.so_far.lacks(point));
            if is_taken {
                self.exported.n_points += points.len();
            } else if before == run.so_far {
                n_refusals += 1;
            }
            if n_refusals > MOST_REFUSALS {
                let job = &job.run.job;
                let message = format!("it does not take the points of `{job}`");
                return Err(Fault::internal(message).into());
            }
            run.has_ended = false;
        }
        if job.is_settled && !run.has_ended {
            run.end(self.tracker.as_mut())?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Exported, Fault> {
        for run in self.runs.values_mut().filter(|run| !run.has_ended) {
            run.end(self.tracker.as_mut())?;
        }
        // Dropping it waits until all is written.
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
