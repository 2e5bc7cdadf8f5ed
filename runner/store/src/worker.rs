//! What a worker reports of its attempt, and for which jobs that counts.

use crate::attempt::{AttemptStatus, find, job_status_after, start_jobs, take_jobs};
use crate::error::Trouble;
use crate::job;
use crate::open::int;
use fault::FailureKind;
use plan::Event;
use sqlx::SqliteConnection;

/// The attempt that wrote `event`. One that the database does not know is that of a job of Slurm, or an entry of the pool, which
/// was begun again, or it is adopted with the stream's jobs: so the events alone restore a database that was lost.
pub(crate) async fn of_event(
    conn: &mut SqliteConnection,
    stream_id: &str,
    event: &Event,
) -> Result<i64, Trouble> {
    if let Some(attempt_id) = find(conn, stream_id, event.attempt).await? {
        return Ok(attempt_id);
    }
    if let Some(attempt_id) = requeued(conn, stream_id, event).await? {
        return Ok(attempt_id);
    }
    let attempt_id = sqlx::query_scalar(
        "INSERT INTO attempt (stream_id, number, status, started_ms, ended_ms)
         VALUES (?, ?, 'crashed', ?, ?) RETURNING attempt_id",
    )
    .bind(stream_id)
    .bind(event.attempt)
    .bind(event.time_ms)
    .bind(event.time_ms)
    .fetch_one(&mut *conn)
    .await?;
    take_jobs(conn, attempt_id, (stream_id, None)).await?;
    Ok(attempt_id)
}

/// Opens the attempt that wrote `event` as the next run of the job of Slurm, or of the entry of the pool, that had the
/// stream last, with what that left undone. `None`: neither had it.
async fn requeued(
    conn: &mut SqliteConnection,
    stream_id: &str,
    event: &Event,
) -> Result<Option<i64>, Trouble> {
    let sql = "SELECT attempt_id FROM attempt
         WHERE stream_id = ?1 AND (slurm_name IS NOT NULL OR pool_entry IS NOT NULL) AND number < ?2
             AND number = (SELECT max(number) FROM attempt WHERE stream_id = ?1)";
    let before: Option<i64> = sqlx::query_scalar(sql)
        .bind(stream_id)
        .bind(event.attempt)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(before) = before else {
        return Ok(None);
    };
    sqlx::query(
        "UPDATE attempt SET status = 'interrupted', ended_ms = ?, 
             reason = iif(pool_entry IS NULL, 'Slurm began its job again', 'the pool continued it')
         WHERE attempt_id = ? AND status = 'running'",
    )
    .bind(event.time_ms)
    .bind(before)
    .execute(&mut *conn)
    .await?;
    let attempt_id = sqlx::query_scalar(
        "INSERT INTO attempt (stream_id, number, status, log, slurm_name, slurm_job_id, pool_entry, started_ms)
         SELECT stream_id, ?, 'running', log, slurm_name, slurm_job_id, pool_entry, ? FROM attempt WHERE attempt_id = ?
         RETURNING attempt_id",
    )
    .bind(event.attempt)
    .bind(event.time_ms)
    .bind(before)
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO attempt_job (attempt_id, job_id)
         SELECT ?, job_id FROM attempt_job JOIN job USING (job_id) WHERE attempt_id = ? AND status <> 'failed'",
    )
    .bind(attempt_id)
    .bind(before)
    .execute(&mut *conn)
    .await?;
    start_jobs(conn, attempt_id).await?;
    Ok(Some(attempt_id))
}

/// Whether the attempt is the last one that trains the job, so that its events count.
pub(crate) async fn speaks_for(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    job_id: &str,
) -> Result<bool, Trouble> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT max(attempt_id) FROM attempt_job WHERE job_id = ?")
            .bind(job_id)
            .fetch_one(conn)
            .await?;
    Ok(last == Some(attempt_id))
}

/// Who the worker of an attempt is, as it reports.
pub(crate) struct Worker<'a> {
    pub(crate) host: &'a str,
    pub(crate) pid: u32,
    pub(crate) device: &'a str,
    pub(crate) libtorch: &'a str,
}

/// Notes who the worker of an attempt is.
pub(crate) async fn set_worker(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    worker: Worker<'_>,
) -> Result<(), Trouble> {
    sqlx::query(
        "UPDATE attempt SET host = ?, pid = ?, device = ?, libtorch = ? WHERE attempt_id = ?",
    )
    .bind(worker.host)
    .bind(worker.pid)
    .bind(worker.device)
    .bind(worker.libtorch)
    .bind(attempt_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes the step that an attempt continues from.
pub(crate) async fn set_first_step(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    first_step: u64,
) -> Result<(), Trouble> {
    sqlx::query("UPDATE attempt SET first_step = ? WHERE attempt_id = ?")
        .bind(int(first_step))
        .bind(attempt_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// What a worker said last.
#[derive(Default)]
pub(crate) struct LastReport<'a> {
    pub(crate) failure: Option<FailureKind>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) hint: Option<&'a str>,
}

/// Closes an attempt as its worker said; that counts more than a `crashed` guessed from outside. One that another machine
/// may continue stays open: of Slurm while it was asked to stop, as its job may be in the queue again, until Slurm says
/// that the job has ended; of the pool until its entry has ended.
pub(crate) async fn close_by_event(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    status: AttemptStatus,
    last: LastReport<'_>,
    time_ms: i64,
) -> Result<(), Trouble> {
    if status == AttemptStatus::Interrupted && is_in_slurm(conn, attempt_id).await? {
        return Ok(());
    }
    let failure = last.failure.map(|kind| match kind {
        FailureKind::Input => "input",
        FailureKind::Internal => "internal",
    });
    let is_of_pool: Option<bool> = sqlx::query_scalar(
        "UPDATE attempt SET status = iif(pool_entry IS NULL, ?, status), ended_ms = iif(pool_entry IS NULL, ?, ended_ms),
             failure = ?, reason = ?, hint = ?
         WHERE attempt_id = ? AND status IN ('running', 'crashed') RETURNING pool_entry IS NOT NULL",
    )
    .bind(status)
    .bind(time_ms)
    .bind(failure)
    .bind(last.reason)
    .bind(last.hint)
    .bind(attempt_id)
    .fetch_optional(&mut *conn)
    .await?;
    if is_of_pool == Some(true) {
        return Ok(());
    }
    job::leave_running(conn, attempt_id, job_status_after(status)).await
}

async fn is_in_slurm(conn: &mut SqliteConnection, attempt_id: i64) -> Result<bool, Trouble> {
    let sql = "SELECT slurm_name IS NOT NULL FROM attempt WHERE attempt_id = ?";
    Ok(sqlx::query_scalar(sql)
        .bind(attempt_id)
        .fetch_one(conn)
        .await?)
}

#[cfg(test)]
mod tests {
    use crate::attempt::{AttemptEnd, GivenTo, Outcome};
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::EventKind;
    use serde_json::json;

    const ATTEMPTS: &str =
        "SELECT number, status, slurm_job_id, reason FROM attempt ORDER BY number";

    #[tokio::test]
    async fn each_run_of_a_job_of_slurm_is_an_attempt() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let [first, second] = [0, 1].map(|index: usize| plan.jobs[index].job_id.clone());
        let both = [first.clone(), second.clone()];
        let begun = store.begin_given_attempt((stream, GivenTo::Slurm("name")), "log", &both, &[]);
        assert_eq!(begun.await.unwrap(), 1);
        let open = store.open_streams().await.unwrap().remove(0).slurm.unwrap();
        assert_eq!((open.number, open.job_id), (1, None));
        store.set_slurm_job(stream, 1, 77).await.unwrap();

        let mut script = Script::new();
        script.start(1, 0).metric(&first, 4, stats(8.0));
        // It was killed, and begun again; then it was asked to stop, and begun again.
        script.start(2, 0).metric(&first, 5, stats(4.0));
        script.push(EventKind::Interrupted { step: 5 });
        store.fold(stream, &script.events).await.unwrap();
        let open = store.open_stream(stream).await.unwrap().unwrap();
        assert_eq!(open.slurm.unwrap().number, 2, "its job may be in the queue");
        script.start(3, 5).metric(&first, 6, stats(2.0));
        store.fold(stream, &script.events).await.unwrap();
        let rows = test.rows(ATTEMPTS).await;
        let requeued = "Slurm began its job again";
        assert_eq!(
            json!(rows),
            json!([
                [1, "interrupted", 77, requeued],
                [2, "interrupted", 77, requeued],
                [3, "running", 77, null]
            ])
        );
        for job in &both {
            assert_eq!(test.status(job).await, "running");
        }
        let open = store.open_streams().await.unwrap().remove(0);
        assert_eq!(open.job_ids.len(), 2);
        assert_eq!(open.slurm.unwrap().number, 3);

        script.checkpoint(&first, 8, true);
        store.fold(stream, &script.events).await.unwrap();
        let end = AttemptEnd {
            outcome: Outcome::Interrupted,
            exit_code: None,
            reason: Some("preempted".into()),
        };
        store.end_attempt(stream, 3, &end).await.unwrap();
        assert_eq!(test.status(&first).await, "done");
        assert_eq!(test.status(&second).await, "interrupted");
    }

    #[tokio::test]
    async fn an_attempt_in_the_pool_is_open_until_its_entry_has_ended() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
        test.record(&plan).await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let jobs = [plan.jobs[0].job_id.clone()];
        let begun = store.begin_given_attempt((stream, GivenTo::Pool("entry")), "log", &jobs, &[]);
        begun.await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).push(EventKind::Interrupted { step: 0 });
        store.fold(stream, &script.events).await.unwrap();
        let open = store.open_stream(stream).await.unwrap().unwrap();
        assert_eq!(
            (open.number, open.pool_entry.as_deref()),
            (1, Some("entry"))
        );
        assert!(open.is_given());
        assert_eq!(test.status(&jobs[0]).await, "running");
        script.start(2, 0).checkpoint(&jobs[0], 8, true);
        script.push(EventKind::Finished);
        store.fold(stream, &script.events).await.unwrap();
        let open = store.open_stream(stream).await.unwrap().unwrap();
        assert_eq!(
            (open.number, open.pool_entry.as_deref()),
            (2, Some("entry"))
        );
        let end = AttemptEnd {
            outcome: Outcome::Done,
            exit_code: Some(0),
            reason: None,
        };
        store.end_attempt(stream, 2, &end).await.unwrap();
        let rows = test
            .rows("SELECT number, status, reason FROM attempt ORDER BY number")
            .await;
        let continued = "the pool continued it";
        assert_eq!(
            json!(rows),
            json!([[1, "interrupted", continued], [2, "done", null]])
        );
        assert_eq!(test.status(&jobs[0]).await, "done");
    }

    #[tokio::test]
    async fn a_worker_of_this_machine_has_no_further_runs() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
        test.record(&plan).await;
        let stream = &plan.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).start(2, 0);
        test.store.fold(stream, &script.events).await.unwrap();
        let rows = test.rows(ATTEMPTS).await;
        assert_eq!(
            json!(rows),
            json!([[1, "running", null, null], [2, "crashed", null, null]])
        );
    }
}
