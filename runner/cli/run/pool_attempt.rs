//! Attempts at streams by machines of the pool.

use crate::error::CliError;
use crate::pool::new_entry;
use crate::run::orders::{Lane, Todo};
use crate::run::pool_worker::PoolWorker;
use crate::run::schedule::{Attempt, Scheduler};
use crate::run::signals::StopSignals;
use crate::run::watch::Begun;
use crate::run::worker::Worker;
use crate::run::worker_process::write_order;
use plan::PoolOffer;
use plan::runs_layout::{EVENTS, ORDER};
use std::path::Path;
use store::{AttemptEnd, GivenTo, Outcome, RecordedPlan};

impl Scheduler<'_> {
    /// Offers what is left of a stream, and watches it unless it is left alone.
    pub(super) async fn attempt_in_pool(
        &self,
        lane: &mut Lane<'_>,
        (todo, recorded): (Todo, &RecordedPlan),
        signals: &mut StopSignals,
    ) -> Result<Attempt, CliError> {
        let entry = new_entry(&lane.stream.stream_id);
        let order = self.orders();
        let order = order.order((lane, Some(GivenTo::Pool(&entry))), todo, recorded);
        let order = order.await?;
        let dir = order.events.parent().unwrap_or(Path::new("."));
        let stream_id = lane.stream.stream_id.as_str();
        let known = recorded.stream(stream_id);
        let offer = PoolOffer {
            runs_dir: self.claims.folder.path().into(),
            stream_id: stream_id.to_owned(),
            dir: known.expect("every stream is recorded").dir.clone(),
            lease_s: self.expanded.sweep.sweep.launch.pool.lease_s,
        };
        let offered = write_order(&order, &dir.join(ORDER))
            .and_then(|()| self.pool.folder.offer(&entry, &offer));
        if let Err(error) = offered {
            let end = AttemptEnd {
                outcome: Outcome::Interrupted,
                exit_code: None,
                reason: Some(format!("it was not offered: {error}")),
            };
            self.claims
                .store
                .end_attempt(stream_id, order.attempt, &end)
                .await?;
            return Err(error);
        }
        self.watch_in_pool(lane, (order.attempt, &entry), signals)
            .await
    }

    /// Watches a stream that is in the pool, unless it is left alone.
    pub(super) async fn watch_in_pool(
        &self,
        lane: &mut Lane<'_>,
        (number, entry): (u32, &str),
        signals: &mut StopSignals,
    ) -> Result<Attempt, CliError> {
        if self.detach {
            return Ok(Attempt {
                is_left: true,
                ..Attempt::default()
            });
        }
        let stream_id = &lane.stream.stream_id;
        let known = self.recorded.stream(stream_id);
        let known = known.expect("every stream is recorded");
        let dir = self.claims.folder.path().join(&known.dir);
        let begun = Begun {
            stream_id: stream_id.clone(),
            number,
            events: dir.join(EVENTS),
            n_jobs: lane.stream.job_ids.len(),
        };
        let worker = PoolWorker::new(self.pool, entry.to_owned(), dir);
        self.watch(begun, Worker::Pool(worker), signals).await
    }
}
