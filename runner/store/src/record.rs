//! Recording a plan, and what is left to do.

use crate::error::{StoreError, Trouble};
use crate::failure::{self, JobFailure};
use crate::job::JobStatus;
use crate::open::{Store, now_ms};
use crate::{evaluation, job, round, sae, stream, sweep};
use plan::{Job, Plan, Stream};
use sqlx::SqliteConnection;
use std::collections::HashSet;

/// A plan as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedPlan {
    /// The plan's jobs, in its order.
    pub jobs: Vec<RecordedJob>,
    /// The plan's streams, in its order.
    pub streams: Vec<RecordedStream>,
}

/// How far a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobProgress {
    /// Jobs that are done.
    pub n_done: usize,
    /// All jobs.
    pub n_jobs: usize,
}

/// A job as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedJob {
    /// The job.
    pub job_id: String,
    /// Its folder, relative to the runs folder: where it was first put.
    pub dir: String,
    /// Its status, whichever sweep led to it.
    pub status: JobStatus,
    /// Whether it is done, but its evaluation is wanted and not there.
    pub evaluation_due: bool,
    /// Why it failed, if it did.
    pub failure: Option<JobFailure>,
}

impl RecordedJob {
    /// Whether nothing is left to do for it.
    pub fn is_finished(&self) -> bool {
        self.status == JobStatus::Done && !self.evaluation_due
    }
}

/// A stream as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedStream {
    /// The stream.
    pub stream_id: String,
    /// Its folder, relative to the runs folder: where it was first put. Event numbers continue in the `events.jsonl`
    /// there.
    pub dir: String,
    /// Number of the last event that is folded in; 0 before the first.
    pub last_event_seq: u64,
}

impl RecordedPlan {
    /// Whether every job is done, and evaluated if that is wanted.
    pub fn is_done(&self) -> bool {
        self.jobs.iter().all(RecordedJob::is_finished)
    }

    /// Whether no job can be trained further: each is done, and evaluated if that is wanted, or failed.
    pub fn has_ended(&self) -> bool {
        let has_ended = |job: &RecordedJob| job.is_finished() || job.status == JobStatus::Failed;
        self.jobs.iter().all(has_ended)
    }

    /// How many of the jobs are done, of how many; those that the plan names twice count once.
    pub fn progress(&self) -> JobProgress {
        let is_done = |job: &&RecordedJob| job.status == JobStatus::Done;
        let n_done = self.distinct_jobs().filter(is_done).count();
        JobProgress {
            n_done,
            n_jobs: self.distinct_jobs().count(),
        }
    }

    fn distinct_jobs(&self) -> impl Iterator<Item = &RecordedJob> {
        let mut seen = HashSet::new();
        self.jobs.iter().filter(move |job| seen.insert(&job.job_id))
    }

    /// Whether a job has failed in a way that would come again with the same settings. That a worker refused its input
    /// says so of the same stream only: in another one, another job may have been at fault.
    pub fn is_given_up(&self, job: &RecordedJob) -> bool {
        job.failure.as_ref().is_some_and(|failure| {
            let is_of_job = failure.sae.is_some();
            failure.would_fail_again && (is_of_job || self.stream(&failure.stream_id).is_some())
        })
    }

    /// The state of a job of the plan.
    pub fn job(&self, job_id: &str) -> Option<&RecordedJob> {
        self.jobs.iter().find(|job| job.job_id == job_id)
    }

    /// The state of a stream of the plan.
    pub fn stream(&self, stream_id: &str) -> Option<&RecordedStream> {
        self.streams.iter().find(|s| s.stream_id == stream_id)
    }
}

impl Store {
    /// Records a sweep's plan, in one transaction; recording it again changes nothing.
    ///
    /// `job_dir` and `stream_dir` say where new jobs and streams go, relative to the runs folder;
    /// known ones stay where they are. Jobs that were done in any sweep stay done.
    ///
    /// # Errors
    /// The database cannot be written; then nothing was recorded.
    pub async fn record_plan(
        &self,
        sweep_text: &str,
        plan: &Plan,
        job_dir: impl Fn(&Job) -> String,
        stream_dir: impl Fn(&Stream) -> String,
    ) -> Result<RecordedPlan, StoreError> {
        let job_dirs: Vec<String> = plan.jobs.iter().map(job_dir).collect();
        let stream_dirs: Vec<String> = plan.streams.iter().map(stream_dir).collect();
        self.located(async {
            let mut tx = self.begin().await?;
            let now_ms = now_ms();
            let sweep_id = sweep::record(&mut tx, sweep_text, plan, now_ms).await?;
            round::record(&mut tx, sweep_id, plan, now_ms).await?;
            for (ordinal, (job, dir)) in plan.jobs.iter().zip(&job_dirs).enumerate() {
                job::record(&mut tx, job, dir, now_ms).await?;
                sae::record(&mut tx, job).await?;
                sweep::link(&mut tx, sweep_id, ordinal, job).await?;
            }
            let streams = record_streams(&mut tx, plan, &stream_dirs, now_ms).await?;
            let jobs = recorded_jobs(&mut tx, plan.jobs.iter()).await?;
            tx.commit().await?;
            Ok(RecordedPlan { jobs, streams })
        })
        .await
    }

    /// What the database has by now of one stream of a plan that was recorded: the jobs are those of the stream alone.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn recorded_stream(
        &self,
        plan: &Plan,
        (stream, before): (&Stream, &RecordedPlan),
    ) -> Result<RecordedPlan, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let jobs = stream.job_ids.iter().filter_map(|job_id| plan.job(job_id));
            let jobs = recorded_jobs(&mut conn, jobs).await?;
            let position = stream::position(&mut conn, &stream.stream_id).await?;
            let mut streams = before.streams.clone();
            let own = streams
                .iter_mut()
                .filter(|known| known.stream_id == stream.stream_id);
            own.for_each(|known| known.last_event_seq = position.seq);
            Ok(RecordedPlan { jobs, streams })
        })
        .await
    }
}

async fn record_streams(
    conn: &mut SqliteConnection,
    plan: &Plan,
    dirs: &[String],
    now_ms: i64,
) -> Result<Vec<RecordedStream>, Trouble> {
    let mut recorded = Vec::with_capacity(plan.streams.len());
    for (stream, dir) in plan.streams.iter().zip(dirs) {
        let (dir, last_event_seq) = stream::record(conn, stream, dir, now_ms).await?;
        recorded.push(RecordedStream {
            stream_id: stream.stream_id.clone(),
            dir,
            last_event_seq,
        });
    }
    Ok(recorded)
}

async fn recorded_jobs<'a>(
    conn: &mut SqliteConnection,
    jobs: impl Iterator<Item = &'a Job>,
) -> Result<Vec<RecordedJob>, Trouble> {
    let mut recorded = Vec::new();
    for job in jobs {
        let (dir, status) = job::dir_and_status(conn, &job.job_id).await?;
        let is_wanted = status == JobStatus::Done && job.config.wants_evaluation();
        let evaluation_due = is_wanted && !evaluation::is_complete(conn, &job.job_id).await?;
        recorded.push(RecordedJob {
            failure: failure::of_job(conn, &job.job_id).await?,
            job_id: job.job_id.clone(),
            dir,
            status,
            evaluation_due,
        });
    }
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan};
    use crate::{JobStatus, StoreError};
    use plan::Job;
    use serde_json::json;

    #[tokio::test]
    async fn recording_a_plan_again_changes_nothing() {
        let test = TestStore::new().await;
        let plan = plan(
            "s",
            &[
                json!({"k": 4}),
                json!({"k": 2, "layers": [1], "hookpoints": []}),
            ],
        );
        let first = test.record(&plan).await;
        let rows = test.dump().await;
        assert_eq!(test.record(&plan).await, first);
        assert_eq!(test.dump().await, rows);
        assert_eq!(first.streams.len(), 1);
        assert_eq!(first.jobs[0].job_id, plan.jobs[0].job_id);
        assert_eq!(first.jobs[0].status, JobStatus::Queued);
        assert_eq!(first.jobs[0].dir, format!("s/{}", plan.jobs[0].folder()));
        assert!(!first.is_done());
        let saes = test
            .rows("SELECT hookpoint, d_in, num_latents, k FROM sae ORDER BY sae_id")
            .await;
        assert_eq!(
            json!(saes),
            json!([["layers.0", 8, 32, 4], ["layers.1", 8, 32, 2]])
        );
        let jobs = test
            .rows("SELECT name, overrides, config ->> 'ctx_len' FROM sweep_job JOIN job USING (job_id) ORDER BY ordinal")
            .await;
        assert_eq!(json!(jobs[0]), json!([r#"{"k":4}"#, r#"{"k":4}"#, 8]));
    }

    #[tokio::test]
    async fn a_stream_alone_is_as_in_the_whole_plan() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2, "batch_size": 2})]);
        let before = test.record(&plan).await;
        assert_eq!(plan.streams.len(), 2);
        let stream = &plan.streams[1];
        test.store
            .begin_attempt(&stream.stream_id, "log")
            .await
            .unwrap();
        let mut script = Script::new();
        script.start(1, 0).checkpoint(&stream.job_ids[0], 20, true);
        test.store
            .fold(&stream.stream_id, &script.events)
            .await
            .unwrap();
        let alone = test
            .store
            .recorded_stream(&plan, (stream, &before))
            .await
            .unwrap();
        let whole = test.record(&plan).await;
        assert_eq!(alone.streams, whole.streams);
        assert_eq!(alone.jobs, whole.jobs[1..]);
        assert_eq!(alone.jobs[0].status, JobStatus::Done);
    }

    #[tokio::test]
    async fn a_job_of_two_sweeps_is_one_job_and_stays_done() {
        let test = TestStore::new().await;
        let a = plan("a", &[json!({"k": 4}), json!({"k": 2})]);
        let shared = &a.jobs[0].job_id;
        let of_a = test.record(&a).await;
        let stream_id = &a.streams[0].stream_id;
        test.store.begin_attempt(stream_id, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).checkpoint(shared, 20, true);
        test.store.fold(stream_id, &script.events).await.unwrap();

        let b = plan("b", &[json!({"k": 8}), json!({"k": 4})]);
        let of_b = test.record(&b).await;
        assert_eq!(of_b.job(shared).unwrap().status, JobStatus::Done);
        assert_eq!(
            of_b.job(shared).unwrap().dir,
            of_a.jobs[0].dir,
            "stays where it is"
        );
        assert_eq!(of_b.jobs[0].status, JobStatus::Queued);
        assert_eq!(test.rows("SELECT count(*) FROM job").await, [[json!(3)]]);
        assert_eq!(
            test.rows("SELECT count(*) FROM sweep_job").await,
            [[json!(4)]]
        );

        let stream_id = &b.streams[0].stream_id;
        test.store.begin_attempt(stream_id, "log").await.unwrap();
        assert_eq!(
            test.status(shared).await,
            "done",
            "an attempt leaves it alone"
        );
        assert_eq!(test.status(&of_b.jobs[0].job_id).await, "running");
        let names = test.store.job(shared).await.unwrap().names;
        let sweeps: Vec<_> = names.iter().map(|name| name.sweep.as_str()).collect();
        assert_eq!(sweeps, ["a", "b"]);
    }

    #[tokio::test]
    async fn an_edited_sweep_keeps_what_it_no_longer_asks_for() {
        let test = TestStore::new().await;
        let listing = "SELECT job, revision, is_current FROM sweep_listing ORDER BY job";
        let (k2, k4, k8) = (json!({"k": 2}), json!({"k": 4}), json!({"k": 8}));
        let first = plan("s", &[k2.clone(), k4.clone()]);
        test.record_text("one", &first).await.unwrap();
        let second = plan("s", &[k4, k8]);
        test.record_text("two", &second).await.unwrap();
        let expected = json!([
            [r#"{"k":2}"#, 1, 0],
            [r#"{"k":4}"#, 2, 1],
            [r#"{"k":8}"#, 2, 1]
        ]);
        assert_eq!(json!(test.rows(listing).await), expected);
        assert_eq!(test.store.sweeps().await.unwrap()[0].n_jobs, 2);

        test.record_text("one", &first).await.unwrap();
        let expected = json!([
            [r#"{"k":2}"#, 3, 1],
            [r#"{"k":4}"#, 3, 1],
            [r#"{"k":8}"#, 2, 0]
        ]);
        assert_eq!(json!(test.rows(listing).await), expected, "gone back");
    }

    #[tokio::test]
    async fn a_plan_that_breaks_a_rule_is_recorded_not_at_all() {
        let test = TestStore::new().await;
        let mut plan = plan("s", &[json!({"k": 4})]);
        plan.jobs[0].saes[0].k = 0.into();
        let error = test.record_text("text", &plan).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Constraint { rule, .. } if rule.contains("sae_k")),
            "{error:?}"
        );
        assert_eq!(test.rows("SELECT count(*) FROM sweep").await, [[json!(0)]]);
    }

    /// A caller may spawn these on a runtime of many threads.
    #[tokio::test]
    async fn futures_can_cross_threads() {
        fn is_send<T: Send>(future: T) -> T {
            future
        }
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
        let record = test
            .store
            .record_plan("text", &plan, Job::folder, |s| s.stream_id.clone());
        is_send(record).await.unwrap();
        is_send(test.store.fold(&plan.streams[0].stream_id, &[]))
            .await
            .unwrap();
        is_send(test.store.query("SELECT 1")).await.unwrap();
        is_send(test.store.job(&plan.jobs[0].job_id)).await.unwrap();
    }
}
