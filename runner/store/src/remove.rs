//! Forgetting jobs and sweeps.

use crate::error::{StoreError, Trouble};
use crate::job_name::resolve;
use crate::open::Store;
use crate::publication;
use crate::sweep;
use sqlx::{FromRow, SqliteConnection};
use std::collections::BTreeSet;

/// What forgetting would take along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Sweeps that are forgotten, with all their versions.
    pub sweeps: Vec<String>,
    /// Jobs that are forgotten.
    pub jobs: Vec<RemovedJob>,
    /// Jobs that stay, because they are still wanted.
    pub kept: Vec<KeptJob>,
    /// Folders of streams that no other job is in, relative to the runs folder.
    pub stream_dirs: Vec<String>,
    /// Folders of all streams of these jobs, relative to the runs folder: a worker may be at them.
    pub all_stream_dirs: Vec<String>,
    /// Rows that go, over all tables.
    pub n_rows: u64,
}

/// A job that is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct RemovedJob {
    /// The job.
    pub job_id: String,
    /// Its name in some sweep.
    pub name: String,
    /// Its folder, relative to the runs folder.
    pub dir: String,
}

/// A job that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptJob {
    /// The job.
    pub job_id: String,
    /// Its name in some sweep.
    pub name: String,
    /// Why, as text.
    pub reason: String,
}

impl Store {
    /// What would go if each of `wanted`, a sweep by its name or a job as in [`Store::job`], were
    /// forgotten. A job stays while another current sweep asks for it, or if it was published.
    ///
    /// # Errors
    /// A name that nothing has, or several jobs.
    pub async fn removal(&self, wanted: &[impl AsRef<str>]) -> Result<Removal, StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            let removal = plan_removal(&mut tx, wanted).await?;
            // The rows are counted by deleting them.
            tx.rollback().await?;
            Ok(removal)
        })
        .await
    }

    /// Forgets what `removal` lists, in one transaction; the folders are the caller's to delete.
    ///
    /// # Errors
    /// The database cannot be written; then nothing was forgotten.
    pub async fn remove(&self, removal: &Removal) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            delete(&mut tx, removal).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// What the user named.
#[derive(Default)]
pub(crate) struct Targets {
    sweeps: BTreeSet<String>,
    /// Jobs that were named themselves.
    jobs: BTreeSet<String>,
}

async fn plan_removal(
    conn: &mut SqliteConnection,
    wanted: &[impl AsRef<str>],
) -> Result<Removal, Trouble> {
    let targets = targets(conn, wanted).await?;
    let mut removal = Removal {
        sweeps: targets.sweeps.iter().cloned().collect(),
        ..Removal::default()
    };
    for job_id in all_jobs(conn, &targets).await? {
        let sql = "SELECT job_id, dir, coalesce((
                       SELECT sweep || '/' || job FROM sweep_listing
                       WHERE sweep_listing.job_id = job.job_id ORDER BY is_current DESC LIMIT 1
                   ), job_id) AS name
                   FROM job WHERE job_id = ?";
        let job: RemovedJob = sqlx::query_as(sql)
            .bind(&job_id)
            .fetch_one(&mut *conn)
            .await?;
        match reason_to_keep(conn, &job_id, &targets).await? {
            Some(reason) => removal.kept.push(KeptJob {
                job_id,
                name: job.name,
                reason,
            }),
            None => removal.jobs.push(job),
        }
    }
    keep_sweeps_of_published(conn, &mut removal).await?;
    removal.all_stream_dirs = stream_dirs(conn, &removal, "").await?;
    removal.stream_dirs = stream_dirs(conn, &removal, LEFT_ALONE).await?;
    removal.n_rows = delete(conn, &removal).await?;
    Ok(removal)
}

pub(crate) async fn targets(
    conn: &mut SqliteConnection,
    wanted: &[impl AsRef<str>],
) -> Result<Targets, Trouble> {
    let names = sweep::names(conn).await?;
    let mut targets = Targets::default();
    for wanted in wanted {
        let wanted = wanted.as_ref();
        if names.iter().any(|name| name == wanted) {
            targets.sweeps.insert(wanted.to_owned());
        } else {
            targets.jobs.insert(resolve(conn, wanted).await?);
        }
    }
    Ok(targets)
}

pub(crate) async fn all_jobs(
    conn: &mut SqliteConnection,
    targets: &Targets,
) -> Result<BTreeSet<String>, Trouble> {
    let mut jobs = targets.jobs.clone();
    for sweep in &targets.sweeps {
        let sql = "SELECT job_id FROM sweep_listing WHERE sweep = ?";
        let of_sweep = sqlx::query_scalar(sql).bind(sweep).fetch_all(&mut *conn);
        jobs.extend(of_sweep.await?);
    }
    Ok(jobs)
}

/// A sweep stays with its published jobs: they would be listed nowhere else.
async fn keep_sweeps_of_published(
    conn: &mut SqliteConnection,
    removal: &mut Removal,
) -> Result<(), Trouble> {
    let published: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT sweep FROM sweep_listing JOIN sae USING (job_id)
         JOIN publication_file USING (sae_id)",
    )
    .fetch_all(conn)
    .await?;
    removal.sweeps.retain(|sweep| !published.contains(sweep));
    Ok(())
}

/// Why a job must stay: the one place that checks who may still want it.
async fn reason_to_keep(
    conn: &mut SqliteConnection,
    job_id: &str,
    targets: &Targets,
) -> Result<Option<String>, Trouble> {
    let sql =
        "SELECT DISTINCT sweep FROM sweep_listing WHERE job_id = ? AND is_current ORDER BY sweep";
    let mut sweeps: Vec<String> = sqlx::query_scalar(sql)
        .bind(job_id)
        .fetch_all(&mut *conn)
        .await?;
    sweeps.retain(|sweep| !targets.sweeps.contains(sweep));
    // Naming a job means the job in its own sweep; there it is trained again when it is asked for again.
    let n_own = usize::from(targets.jobs.contains(job_id));
    if sweeps.len() > n_own {
        return Ok(Some(format!("part of `{}`", sweeps.join("`, `"))));
    }
    let repos = publication::repos_of_job(conn, job_id).await?;
    Ok((!repos.is_empty()).then(|| format!("published in `{}`", repos.join("`, `"))))
}

/// Streams of the removed jobs in which no other job is.
const LEFT_ALONE: &str = "
AND NOT EXISTS (
    SELECT 1 FROM stream_job AS other WHERE other.stream_id = stream.stream_id
        AND other.job_id NOT IN (SELECT value FROM json_each(?1))
)";

async fn stream_dirs(
    conn: &mut SqliteConnection,
    removal: &Removal,
    condition: &'static str,
) -> Result<Vec<String>, Trouble> {
    let sql = format!(
        "SELECT DISTINCT stream.dir FROM stream JOIN stream_job USING (stream_id)
         WHERE stream_job.job_id IN (SELECT value FROM json_each(?1)) {condition}
         ORDER BY stream.dir"
    );
    let dirs = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(job_ids(removal));
    Ok(dirs.fetch_all(conn).await?)
}

fn job_ids(removal: &Removal) -> String {
    let ids: Vec<_> = removal.jobs.iter().map(|job| &job.job_id).collect();
    serde_json::to_string(&ids).expect("strings serialise to JSON")
}

/// Deletes by job id, `?1` being a JSON array of them; children go before their parents.
const DELETE_JOBS: [&str; 18] = [
    "DELETE FROM verdict WHERE sae_id IN
         (SELECT sae_id FROM sae WHERE job_id IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM metric_term WHERE sae_id IN
         (SELECT sae_id FROM sae WHERE job_id IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM metric WHERE sae_id IN
         (SELECT sae_id FROM sae WHERE job_id IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM calibration WHERE sae_id IN
         (SELECT sae_id FROM sae WHERE job_id IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM evaluation WHERE sae_id IN
         (SELECT sae_id FROM sae WHERE job_id IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM checkpoint WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM extension WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM attempt_job WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM note WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM tag WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM sae WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM stream_job WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM sweep_job WHERE job_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM job WHERE job_id IN (SELECT value FROM json_each(?1))",
    // Streams that have no job any more.
    "DELETE FROM attempt_note WHERE attempt_id IN (SELECT attempt_id FROM attempt
         WHERE stream_id NOT IN (SELECT stream_id FROM stream_job))",
    "DELETE FROM progress WHERE attempt_id IN (SELECT attempt_id FROM attempt
         WHERE stream_id NOT IN (SELECT stream_id FROM stream_job))",
    "DELETE FROM attempt WHERE stream_id NOT IN (SELECT stream_id FROM stream_job)",
    "DELETE FROM stream WHERE stream_id NOT IN (SELECT stream_id FROM stream_job)",
];

/// Deletes sweeps, `?1` being a JSON array of their names; and those that have no job any more. A
/// version without jobs stays while another has some: it is still the current one.
const DELETE_SWEEPS: [&str; 6] = [
    "DELETE FROM sweep_job WHERE sweep_id IN
         (SELECT sweep_id FROM sweep WHERE name IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM round WHERE sweep_id IN (SELECT sweep_id FROM sweep WHERE name NOT IN
         (SELECT sweep.name FROM sweep JOIN sweep_job USING (sweep_id)))",
    "DELETE FROM sweep_origin WHERE sweep_id IN (SELECT sweep_id FROM sweep WHERE name NOT IN
         (SELECT sweep.name FROM sweep JOIN sweep_job USING (sweep_id)))",
    "DELETE FROM sweep WHERE name NOT IN
         (SELECT sweep.name FROM sweep JOIN sweep_job USING (sweep_id))",
    "DELETE FROM note WHERE sweep NOT IN (SELECT name FROM sweep)",
    "DELETE FROM tag WHERE sweep NOT IN (SELECT name FROM sweep)",
];

async fn delete(conn: &mut SqliteConnection, removal: &Removal) -> Result<u64, Trouble> {
    let jobs = job_ids(removal);
    let sweeps = serde_json::to_string(&removal.sweeps).expect("strings serialise to JSON");
    let by_job = DELETE_JOBS.iter().map(|sql| (*sql, &jobs));
    let by_sweep = DELETE_SWEEPS.iter().map(|sql| (*sql, &sweeps));
    let mut n_rows = 0;
    for (sql, names) in by_job.chain(by_sweep) {
        let done = sqlx::query(sql).bind(names).execute(&mut *conn).await?;
        n_rows += done.rows_affected();
    }
    Ok(n_rows)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::EventKind;
    use serde_json::{Value, json};

    /// Two jobs in one stream of `s`, one of them also asked for by `t`, both trained a little.
    async fn two_sweeps() -> (TestStore, Vec<String>) {
        let test = TestStore::new().await;
        let plan_s = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record_text("text", &plan_s).await.unwrap();
        let origin = crate::SweepOrigin::default();
        let recorded = test.store.record_origin("text", &plan_s, &origin);
        recorded.await.unwrap();
        test.record(&plan("t", &[json!({"k": 2})])).await;
        let stream = &plan_s.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        for job in &plan_s.jobs {
            script.metric(&job.job_id, 20, stats(2.0));
            script.checkpoint(&job.job_id, 20, true);
            script.push(EventKind::Calibration {
                job_id: job.job_id.clone(),
                sae: "layers.0".into(),
                step: 20,
                n_tokens: 64,
                k: 4.0,
                ema_threshold: 0.5,
                ema_l0: 5.0,
                threshold: 0.75,
                l0: 4.0,
                hookpoints: Vec::new(),
            });
        }
        test.store.fold(stream, &script.events).await.unwrap();
        let ids = plan_s.jobs.iter().map(|job| job.job_id.clone());
        (test, ids.collect())
    }

    async fn count(test: &TestStore, table: &str) -> Value {
        let sql = format!("SELECT count(*) FROM {table}");
        test.rows(&sql).await[0][0].clone()
    }

    #[tokio::test]
    async fn what_another_sweep_asks_for_stays() {
        let (test, ids) = two_sweeps().await;
        let before = test.dump().await;
        let removal = test.store.removal(&["s"]).await.unwrap();
        assert_eq!(test.dump().await, before, "to ask deletes nothing");
        assert_eq!(removal.jobs.len(), 1);
        assert_eq!(removal.jobs[0].job_id, ids[0]);
        assert_eq!(removal.kept[0].job_id, ids[1]);
        assert_eq!(removal.kept[0].reason, "part of `t`");
        assert!(removal.stream_dirs.is_empty(), "the other job is in it");
        test.store.remove(&removal).await.unwrap();
        assert_eq!(count(&test, "job").await, 1);
        assert_eq!(test.rows("SELECT sweep FROM result").await, [["t"]]);
        assert_eq!(test.rows("SELECT DISTINCT name FROM sweep").await, [["t"]]);
    }

    #[tokio::test]
    async fn nothing_is_left_of_all_sweeps() {
        let (test, _) = two_sweeps().await;
        let removal = test.store.removal(&["s", "t"]).await.unwrap();
        assert_eq!((removal.jobs.len(), removal.kept.len()), (2, 0));
        assert_eq!(removal.stream_dirs.len(), 2);
        test.store.remove(&removal).await.unwrap();
        assert!(test.dump().await.iter().all(Vec::is_empty));
        let broken = "SELECT * FROM pragma_foreign_key_check";
        assert!(test.rows(broken).await.is_empty());
    }

    #[tokio::test]
    async fn a_job_is_forgotten_in_its_own_sweep_and_may_come_back() {
        let (test, ids) = two_sweeps().await;
        let removal = test.store.removal(&[&ids[1]]).await.unwrap();
        assert_eq!(removal.kept.len(), 1, "two sweeps ask for it");
        let removal = test.store.removal(&[&ids[0]]).await.unwrap();
        test.store.remove(&removal).await.unwrap();
        assert_eq!(count(&test, "job").await, 1);
        test.record(&plan("s", &[json!({"k": 4}), json!({"k": 2})]))
            .await;
        assert_eq!(test.status(&ids[0]).await, "queued");
        assert_eq!(count(&test, "sweep").await, 2);
    }

    #[tokio::test]
    async fn an_unknown_name_is_told() {
        let (test, _) = two_sweeps().await;
        let error = test.store.removal(&["nothing"]).await.unwrap_err();
        assert_eq!(error.to_string(), "no job has the id or name `nothing`");
    }
}
