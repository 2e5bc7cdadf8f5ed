//! Attempts at streams as jobs of Slurm.

use crate::error::CliError;
use crate::run::orders::{Lane, Todo};
use crate::run::schedule::{Attempt, Scheduler};
use crate::run::signals::StopSignals;
use crate::run::slurm_worker::{Cluster, SlurmWorker, new_name};
use crate::run::watch::Begun;
use crate::run::worker::Worker;
use crate::run::worker_process::write_order;
use crate::slurm::{self, Partition, Submission};
use plan::runs_layout::{EVENTS, ORDER};
use std::path::Path;
use store::{AttemptEnd, GivenTo, Outcome, RecordedPlan, SlurmAttempt};

impl Scheduler<'_> {
    /// Submits what is left of a stream, and watches its job unless it is left alone.
    pub(super) async fn attempt_in_slurm(
        &self,
        lane: &mut Lane<'_>,
        partition: &Partition,
        (todo, recorded): (Todo, &RecordedPlan),
        signals: &mut StopSignals,
    ) -> Result<Attempt, CliError> {
        let one_at_a_time = self.board.submitting.acquire().await;
        let name = new_name(&self.expanded.plan.sweep);
        let order = self
            .orders()
            .order((lane, Some(GivenTo::Slurm(&name))), todo, recorded)
            .await?;
        let dir = order.events.parent().unwrap_or(Path::new("."));
        let cluster = Cluster {
            launch: &self.expanded.sweep.sweep.launch,
            partition,
        };
        let written = write_order(&order, &dir.join(ORDER));
        let submission = match written {
            Ok(()) => {
                cluster
                    .submit((&name, dir), &lane.stream.memory, lane.after)
                    .await
            }
            Err(error) => Err(error),
        };
        let store = self.claims.store;
        let (stream_id, number) = (order.stream_id.as_str(), order.attempt);
        let why = match submission {
            Ok(Submission::Job(job_id)) => {
                store.set_slurm_job(stream_id, number, job_id).await?;
                drop(one_at_a_time);
                self.progress
                    .say(&format!("stream {stream_id}: job {job_id} of Slurm"));
                if self.detach {
                    lane.after = Some(job_id);
                    return Ok(Attempt::left());
                }
                let worker = SlurmWorker::new(self.board, job_id, dir.into());
                let begun = Begun {
                    stream_id: stream_id.to_owned(),
                    number,
                    n_jobs: order.jobs.len(),
                    events: order.events,
                };
                return self.watch(begun, Worker::Slurm(worker), signals).await;
            }
            Ok(Submission::Lost(why)) => Ok(why),
            // The attempt stays open: another run looks for its job by its name.
            Ok(Submission::Unknown(why)) => return Err(slurm::unanswered(None, &why)),
            Err(error) => Err(error),
        };
        let reason = why.as_ref().map_or_else(ToString::to_string, Clone::clone);
        let end = AttemptEnd {
            outcome: Outcome::Interrupted,
            exit_code: None,
            reason: Some(format!("it was not submitted: {reason}")),
        };
        store.end_attempt(stream_id, number, &end).await?;
        Ok(Attempt {
            worth_a_retry: Some(why?),
            is_counted: true,
            ..Attempt::default()
        })
    }

    /// Watches a job that an earlier process submitted, unless it is left alone.
    pub(super) async fn join(
        &self,
        lane: &mut Lane<'_>,
        found: &SlurmAttempt,
        signals: &mut StopSignals,
    ) -> Result<Attempt, CliError> {
        let (stream_id, job_id) = (&lane.stream.stream_id, found.job_id.unwrap_or_default());
        if self.detach {
            lane.after = Some(job_id);
            return Ok(Attempt::left());
        }
        self.progress.say(&format!(
            "stream {stream_id}: watching job {job_id} of Slurm again"
        ));
        let known = self.recorded.stream(stream_id);
        let known = known.expect("every stream is recorded");
        let dir = self.claims.folder.path().join(&known.dir);
        let begun = Begun {
            stream_id: stream_id.clone(),
            number: found.number,
            events: dir.join(EVENTS),
            n_jobs: lane.stream.job_ids.len(),
        };
        let worker = SlurmWorker::new(self.board, job_id, dir);
        self.watch(begun, Worker::Slurm(worker), signals).await
    }
}
