//! What trackers are given: the jobs of a sweep as runs, and the points of their curves.

use crate::error::{StoreError, Trouble};
use crate::job::JobStatus;
use crate::open::{Store, int};
use crate::{evaluation, sweep};
use plan::{N_TOKENS, TrackedPoint, TrackedRun, TrackedSoFar, TrainConfig, digest_json, short};
use sqlx::{FromRow, SqliteConnection};

/// A job that was begun, as trackers have it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackedJob {
    /// The run.
    pub run: TrackedRun,
    /// The status of the job.
    pub status: JobStatus,
    /// Whether no more points are to come: it is done, and evaluated if that is wanted, or has failed.
    pub is_settled: bool,
    /// Its SAEs.
    n_saes: u64,
}

#[derive(FromRow)]
struct JobRow {
    job: String,
    job_id: String,
    status: JobStatus,
    config: String,
    n_saes: u64,
    started_ms: i64,
}

/// By the sweep. What a job did before it was reset has no attempts any more.
const JOBS: &str = "
SELECT sweep_listing.job, job_id, job.status, job.config,
    (SELECT count(*) FROM sae WHERE sae.job_id = job.job_id) AS n_saes,
    (
        SELECT min(attempt.started_ms) FROM attempt_job JOIN attempt USING (attempt_id)
        WHERE attempt_job.job_id = job.job_id
    ) AS started_ms
FROM sweep_listing JOIN job USING (job_id)
WHERE sweep = ? AND is_current AND started_ms IS NOT NULL
ORDER BY revision, ordinal";

/// By the job, the last step that is known, and a number of steps: the step that comes that number of steps later.
const BOUND: &str = "
SELECT step FROM metric
WHERE sae_id = (SELECT min(sae_id) FROM sae WHERE job_id = ?) AND step > ?
ORDER BY step LIMIT 1 OFFSET ?";

/// By the job, the last step that is known, and the one before which it ends.
const CURVE: &str = "
SELECT sae.name AS sae, sae_curve.*
FROM sae JOIN sae_curve USING (sae_id)
WHERE sae.job_id = ? AND sae_curve.step > ? AND sae_curve.step < ?
ORDER BY sae_curve.step, sae_id";

#[derive(FromRow)]
struct CurveRow {
    sae: String,
    step: u64,
    time_ms: i64,
    n_tokens: i64,
    fvu: Option<f64>,
    l0: Option<f64>,
    dead_pct: Option<f64>,
    auxk: Option<f64>,
    multi_topk_fvu: Option<f64>,
    output_loss: Option<f64>,
    sparsity: Option<f64>,
}

impl CurveRow {
    fn values(&self) -> impl Iterator<Item = (String, f64)> {
        named(
            &self.sae,
            [
                ("fvu", self.fvu),
                ("l0", self.l0),
                ("dead_pct", self.dead_pct),
                ("auxk", self.auxk),
                ("multi_topk_fvu", self.multi_topk_fvu),
                ("output_loss", self.output_loss),
                ("sparsity", self.sparsity),
            ],
        )
    }
}

/// By the job.
const EVALUATIONS: &str = "
SELECT sae.name AS sae, sae_evaluation.step, evaluation.created_ms,
    sae_calibration.threshold, sae_calibration.l0 AS l0_calibrated, sae_calibration.threshold_ema,
    sae_calibration.l0_ema, sae_evaluation.fvu, sae_evaluation.l0, sae_evaluation.dead_pct,
    sae_evaluation.ce_clean, sae_evaluation.ce_spliced, sae_evaluation.ce_recovered, sae_evaluation.kl
FROM sae
JOIN sae_evaluation USING (sae_id)
JOIN evaluation ON evaluation.sae_id = sae.sae_id AND evaluation.step = sae_evaluation.step
JOIN checkpoint ON checkpoint.job_id = sae.job_id AND checkpoint.step = evaluation.step AND checkpoint.is_final
LEFT JOIN sae_calibration ON sae_calibration.sae_id = sae.sae_id
WHERE sae.job_id = ?
ORDER BY sae.sae_id";

#[derive(FromRow)]
struct EvaluationRow {
    sae: String,
    step: u64,
    created_ms: i64,
    threshold: Option<f64>,
    l0_calibrated: Option<f64>,
    threshold_ema: Option<f64>,
    l0_ema: Option<f64>,
    fvu: Option<f64>,
    l0: Option<f64>,
    dead_pct: Option<f64>,
    ce_clean: Option<f64>,
    ce_spliced: Option<f64>,
    ce_recovered: Option<f64>,
    kl: Option<f64>,
}

impl EvaluationRow {
    fn values(&self) -> impl Iterator<Item = (String, f64)> {
        named(
            &self.sae,
            [
                ("threshold", self.threshold),
                ("l0_calibrated", self.l0_calibrated),
                ("threshold_ema", self.threshold_ema),
                ("l0_ema", self.l0_ema),
                ("fvu_eval", self.fvu),
                ("l0_eval", self.l0),
                ("dead_pct_eval", self.dead_pct),
                ("ce_clean", self.ce_clean),
                ("ce_spliced", self.ce_spliced),
                ("ce_recovered", self.ce_recovered),
                ("kl", self.kl),
            ],
        )
    }
}

/// About the number of rows that are read at once.
const MOST_ROWS: u64 = 20_000;

impl Store {
    /// The jobs of the current version of a sweep that were begun, as runs.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn tracked_jobs(&self, sweep: &str) -> Result<Vec<TrackedJob>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            sweep::check_name(&mut conn, sweep).await?;
            let rows: Vec<JobRow> = sqlx::query_as(JOBS)
                .bind(sweep)
                .fetch_all(&mut *conn)
                .await?;
            let mut jobs = Vec::with_capacity(rows.len());
            for row in rows {
                jobs.push(tracked(&mut conn, sweep, row).await?);
            }
            Ok(jobs)
        })
        .await
    }

    /// The next points of a job that a tracker lacks, in the order of their steps: part of them, or nothing if it has all.
    /// A point has all SAEs; one that is not whole yet is left for later.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub async fn tracked_points(
        &self,
        job: &TrackedJob,
        so_far: TrackedSoFar,
    ) -> Result<Vec<TrackedPoint>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let training = training(&mut conn, job, so_far).await?;
            if !training.is_empty() || job.status != JobStatus::Done {
                return Ok(training);
            }
            let evaluation = of_evaluation(&mut conn, job, so_far).await?;
            Ok(evaluation.into_iter().collect())
        })
        .await
    }
}

async fn tracked(
    conn: &mut SqliteConnection,
    sweep: &str,
    row: JobRow,
) -> Result<TrackedJob, Trouble> {
    let wants_evaluation = || {
        let config = serde_json::from_str(&row.config);
        config.is_ok_and(|config: TrainConfig| config.wants_evaluation())
    };
    let is_settled = match row.status {
        JobStatus::Failed => true,
        JobStatus::Done => {
            !wants_evaluation() || evaluation::is_complete(conn, &row.job_id).await?
        }
        _ => false,
    };
    // The same job is another run in another sweep, and after it was reset.
    let generation = digest_json(&(sweep, row.started_ms));
    Ok(TrackedJob {
        run: TrackedRun {
            id: format!("{}-{}", row.job_id, short(&generation)),
            sweep: sweep.to_owned(),
            job: row.job,
            job_id: row.job_id,
            config: serde_json::from_str(&row.config).unwrap_or_default(),
            started_ms: row.started_ms,
        },
        status: row.status,
        is_settled,
        n_saes: row.n_saes,
    })
}

async fn training(
    conn: &mut SqliteConnection,
    job: &TrackedJob,
    so_far: TrackedSoFar,
) -> Result<Vec<TrackedPoint>, Trouble> {
    let (job_id, after) = (&job.run.job_id, int(so_far.step.unwrap_or(0)));
    let n_steps = MOST_ROWS / job.n_saes.max(1);
    let bound: Option<i64> = sqlx::query_scalar(BOUND)
        .bind(job_id)
        .bind(after)
        .bind(int(n_steps.max(1)))
        .fetch_optional(&mut *conn)
        .await?;
    let rows: Vec<CurveRow> = sqlx::query_as(CURVE)
        .bind(job_id)
        .bind(after)
        .bind(bound.unwrap_or(i64::MAX))
        .fetch_all(conn)
        .await?;
    let steps: Vec<&[CurveRow]> = rows.chunk_by(|one, next| one.step == next.step).collect();
    // Of a step before another one no more rows are to come.
    let last_is_whole = steps.last().is_some_and(|rows| {
        let has_all = rows.len() as u64 == job.n_saes;
        has_all || bound.is_some() || job.status == JobStatus::Done
    });
    let n_whole = steps.len() - usize::from(!last_is_whole && !steps.is_empty());
    Ok(steps[..n_whole].iter().map(|rows| point(rows)).collect())
}

/// The rows of one step.
fn point(rows: &[CurveRow]) -> TrackedPoint {
    let mut values: Vec<_> = rows.iter().flat_map(CurveRow::values).collect();
    let n_tokens = rows.iter().map(|row| row.n_tokens).max();
    values.push((N_TOKENS.to_owned(), n_tokens.unwrap_or(0) as f64));
    TrackedPoint {
        step: rows[0].step,
        time_ms: rows.iter().map(|row| row.time_ms).max().unwrap_or(0),
        is_evaluation: false,
        values,
    }
}

/// That of a job's last checkpoint, once all its SAEs were evaluated.
async fn of_evaluation(
    conn: &mut SqliteConnection,
    job: &TrackedJob,
    so_far: TrackedSoFar,
) -> Result<Option<TrackedPoint>, Trouble> {
    let rows: Vec<EvaluationRow> = sqlx::query_as(EVALUATIONS)
        .bind(&job.run.job_id)
        .fetch_all(conn)
        .await?;
    let step = rows.iter().map(|row| row.step).max();
    let Some(step) = step.filter(|_| rows.len() as u64 == job.n_saes) else {
        return Ok(None);
    };
    let point = TrackedPoint {
        // After all steps of training.
        step: step.max(so_far.step.unwrap_or(0)),
        time_ms: rows.iter().map(|row| row.created_ms).max().unwrap_or(0),
        is_evaluation: true,
        values: rows.iter().flat_map(EvaluationRow::values).collect(),
    };
    Ok(Some(point).filter(|point| so_far.lacks(point)))
}

/// `sae/name` for each number that is known.
fn named<const N: usize>(
    sae: &str,
    values: [(&'static str, Option<f64>); N],
) -> impl Iterator<Item = (String, f64)> {
    let known = values
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    known.map(move |(name, value)| (format!("{sae}/{name}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::EventKind;
    use serde_json::json;

    #[tokio::test]
    async fn points_are_whole_and_come_once() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4, "init_seeds": [0, 1]})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        assert_eq!(test.store.tracked_jobs("s").await.unwrap(), []);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        let names: Vec<_> = plan.jobs[0]
            .saes
            .iter()
            .map(|sae| sae.name.clone())
            .collect();
        for (sae, step) in [(0, 10), (1, 10), (0, 20)] {
            script.push(EventKind::Metric {
                job_id: job.clone(),
                sae: names[sae].clone(),
                step,
                stats: stats(1.0),
            });
        }
        test.store.fold(stream, &script.events).await.unwrap();

        let jobs = test.store.tracked_jobs("s").await.unwrap();
        let points = test
            .store
            .tracked_points(&jobs[0], TrackedSoFar::default())
            .await
            .unwrap();
        assert_eq!(points.len(), 1, "step 20 has one of two SAEs");
        let names: Vec<_> = points[0]
            .values
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "layers.0/seed0/fvu",
                "layers.0/seed0/l0",
                "layers.0/seed0/dead_pct",
                "layers.0/seed1/fvu",
                "layers.0/seed1/l0",
                "layers.0/seed1/dead_pct",
                "n_tokens"
            ]
        );
        let so_far = TrackedSoFar::default().with(&points[0]);
        assert_eq!(
            test.store.tracked_points(&jobs[0], so_far).await.unwrap(),
            []
        );
        assert_eq!(
            jobs[0].run.id,
            test.store.tracked_jobs("s").await.unwrap()[0].run.id
        );
    }

    #[tokio::test]
    async fn a_long_curve_comes_in_parts() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4, "init_seeds": [0, 1]})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0]);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        let n_steps = MOST_ROWS * 3 / 5;
        for step in 1..=n_steps {
            for sae in &job.saes {
                script.push(EventKind::Metric {
                    job_id: job.job_id.clone(),
                    sae: sae.name.clone(),
                    step,
                    stats: stats(1.0),
                });
            }
        }
        test.store.fold(stream, &script.events).await.unwrap();
        let jobs = test.store.tracked_jobs("s").await.unwrap();
        let (mut so_far, mut steps, mut n_parts) = (TrackedSoFar::default(), Vec::new(), 0);
        loop {
            let points = test.store.tracked_points(&jobs[0], so_far).await.unwrap();
            if points.is_empty() {
                break;
            }
            n_parts += 1;
            so_far = points.iter().fold(so_far, TrackedSoFar::with);
            steps.extend(points.iter().map(|point| point.step));
        }
        assert_eq!(n_parts, 2);
        assert!(steps.into_iter().eq(1..=n_steps));
    }

    #[tokio::test]
    async fn a_job_that_was_reset_is_another_run() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let first = test.store.tracked_jobs("s").await.unwrap();
        test.execute("UPDATE attempt SET status = 'crashed', ended_ms = 1, started_ms = 1")
            .await
            .unwrap();
        let at_one = test.store.tracked_jobs("s").await.unwrap();
        assert_ne!(first[0].run.id, at_one[0].run.id);
        test.execute("UPDATE job SET status = 'interrupted'")
            .await
            .unwrap();
        test.store.reset_jobs(&[job]).await.unwrap();
        assert_eq!(test.store.tracked_jobs("s").await.unwrap(), []);
    }
}
