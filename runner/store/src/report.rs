//! What a report shows of sweeps: their SAEs, curves, inputs and attempts.

use crate::attempt::AttemptStatus;
use crate::error::{StoreError, Trouble};
use crate::job::JobStatus;
use crate::k::StoredK;
use crate::open::Store;
use crate::sweep;
use plan::K;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, FromRow, SqliteConnection};

/// What a report shows of the current versions of sweeps, all as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The sweeps, by name.
    pub sweeps: Vec<ReportSweep>,
    /// Their SAEs, in the order of the plans; one that several sweeps or names ask for is there each time.
    pub saes: Vec<ReportSae>,
    /// Their kinds at equal L0, by sweep, hookpoint, number of latents and L0.
    pub comparisons: Vec<KindComparison>,
    /// How training of the SAEs went, in the order of `sae_id` and step.
    pub curves: Vec<CurvePoint>,
    /// What the sweeps were trained on.
    pub inputs: Vec<ReportInput>,
    /// Attempts at their jobs, in the order of their start.
    pub attempts: Vec<ReportAttempt>,
}

/// A version of a sweep file, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ReportSweep {
    /// Name of the sweep.
    pub sweep: String,
    /// Counts its versions from 1.
    pub revision: u32,
    /// The file as the user wrote it.
    pub text: String,
    /// Name or path of the recipe.
    pub recipe: String,
    /// Digest of the file.
    pub text_digest: String,
    /// Digest of the recipe's source or component.
    pub recipe_digest: String,
    /// Digest of what the recipe was asked.
    pub request_digest: String,
    /// Digest of the ids and names of the jobs.
    pub jobs_digest: String,
    /// What the recipe's run cost, in wasmtime's fuel.
    pub fuel: i64,
    /// When this version was first run, ms since the epoch, UTC.
    pub created_ms: i64,
}

/// One SAE of one job of a sweep, whether it was begun or not. The views `sae_result` and
/// `sae_evaluation` define the numbers.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct ReportSae {
    /// Name of the sweep.
    pub sweep: String,
    /// Name of the job in the sweep.
    pub job: String,
    /// The job.
    pub job_id: String,
    /// The status of the job.
    pub status: JobStatus,
    /// Name or folder of the language model.
    pub model: String,
    /// Digest of the model's files, or both of a crosscoder's models.
    pub model_digest: String,
    /// Key of the SAE.
    pub sae_id: i64,
    /// Submodule of the model.
    pub hookpoint: String,
    /// Name of the SAE: the hookpoint, and the seed if the job has several.
    pub sae: String,
    /// Kind of SAE, such as `matryoshka batchtopk`.
    pub kind: String,
    /// Latents a token may use.
    #[sqlx(try_from = "StoredK")]
    pub k: K,
    /// Number of latents.
    pub num_latents: u64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens of an optimizer update, of all processes together; `None` for a job of an earlier version.
    pub tokens_per_update: Option<u64>,
    /// Tokens trained on; `None`, as what follows, before the first report.
    pub n_tokens: Option<u64>,
    /// Fraction of variance unexplained over the last tenth of the steps.
    pub fvu: Option<f64>,
    /// Mean number of active latents a token, over the same steps.
    pub l0: Option<f64>,
    /// Dead latents, in percent.
    pub dead_pct: Option<f64>,
    /// Tokens a second through the language model.
    pub tokens_per_s: Option<f64>,
    /// Wall time of the updates of all attempts that trained the job; jobs of one stream share it.
    pub training_seconds: Option<f64>,
    /// Calibrated threshold; `None`, as the three that follow, if none was calibrated.
    pub threshold: Option<f64>,
    /// Mean number of active latents a held-out token with it.
    pub l0_calibrated: Option<f64>,
    /// Threshold that training estimated.
    pub threshold_ema: Option<f64>,
    /// Mean number of active latents a held-out token with that one.
    pub l0_ema: Option<f64>,
    /// Fraction of variance unexplained on held-out sequences; `None`, as what follows, if it was
    /// not evaluated.
    pub fvu_eval: Option<f64>,
    /// Mean number of active latents a token on held-out sequences.
    pub l0_eval: Option<f64>,
    /// Latents that fired on no held-out token, in percent.
    pub dead_pct_eval: Option<f64>,
    /// Cross-entropy of the next token by the model as it is, in nats a token.
    pub ce_clean: Option<f64>,
    /// The same with the SAE's output in place of the hookpoint's.
    pub ce_spliced: Option<f64>,
    /// Share of the cross-entropy that mean ablation costs which the SAE recovers.
    pub ce_recovered: Option<f64>,
    /// Divergence of the spliced model's predictions from the clean one's, in nats a token.
    pub kl: Option<f64>,
    /// File with the firing density, relative to the runs folder.
    pub density: Option<String>,
}

/// What another kind of SAE reaches at the L0 of an SAE; the view `kind_comparison` defines it.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct KindComparison {
    /// Name of the sweep.
    pub sweep: String,
    /// Name or folder of the language model.
    pub model: String,
    /// Digest of the model's files, or of both models'.
    pub models: String,
    /// Submodule of the model.
    pub hookpoint: String,
    /// Number of latents.
    pub num_latents: u64,
    /// Name of the job in the sweep.
    pub job: String,
    /// Name of the SAE.
    pub sae: String,
    /// Key of the SAE.
    pub sae_id: i64,
    /// Kind of the SAE.
    pub kind: String,
    /// Mean number of active latents a token.
    pub l0: f64,
    /// Fraction of variance unexplained.
    pub fvu: f64,
    /// The other kind.
    pub other_kind: String,
    /// What the other kind leaves unexplained at this L0.
    pub other_fvu: f64,
}

/// One interval of an SAE's training. Ratios are over the interval, `None` if training diverged.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct CurvePoint {
    /// Key of the SAE.
    pub sae_id: i64,
    /// Tokens of the interval.
    pub n_tokens: u64,
    /// Fraction of variance unexplained.
    pub fvu: Option<f64>,
    /// Dead latents at the end of the interval, in percent.
    pub dead_pct: f64,
}

/// What jobs of a sweep were trained on.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ReportInput {
    /// Name of the sweep.
    pub sweep: String,
    /// Name or folder of the language model, or of a crosscoder's two.
    pub model: String,
    /// Digest of the model's files, or of both.
    pub model_digest: String,
    /// File, folder or id of the text.
    pub dataset: String,
    /// Digest of the token data.
    pub token_digest: String,
    /// Version of the trainer's semantics.
    pub trainer_version: i64,
    /// Jobs with these inputs.
    pub n_jobs: u64,
}

/// One try of a worker at jobs of a sweep.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ReportAttempt {
    /// Name of the sweep.
    pub sweep: String,
    /// The stream.
    pub stream_id: String,
    /// Which attempt at it, from 1.
    pub number: u32,
    /// Its status.
    pub status: AttemptStatus,
    /// Host of the worker.
    pub host: Option<String>,
    /// Device it trains on.
    pub device: Option<String>,
    /// Version of libtorch.
    pub libtorch: Option<String>,
    /// When it was started, ms since the epoch, UTC.
    pub started_ms: i64,
    /// When it ended, ms since the epoch, UTC.
    pub ended_ms: Option<i64>,
    /// Why it ended; `None` for a good end.
    pub reason: Option<String>,
    /// Jobs of the sweep that it trained.
    pub n_jobs: u64,
    /// Tokens that went through the language model.
    pub n_tokens: u64,
    /// Time of that, in ms.
    pub elapsed_ms: u64,
}

impl Store {
    /// What a report shows of the current version of a sweep, or of all sweeps. Each curve has at most
    /// `n_points` intervals: neighbours are put together, with the ratio of their sums.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn report(&self, sweep: Option<&str>, n_points: u32) -> Result<Report, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            if let Some(sweep) = sweep {
                sweep::check_name(&mut conn, sweep).await?;
            }
            // One moment, though workers may be folded in meanwhile.
            let mut tx = conn.begin().await?;
            let report = Report {
                sweeps: rows(&mut tx, SWEEPS, sweep).await?,
                saes: rows(&mut tx, SAES, sweep).await?,
                comparisons: rows(&mut tx, COMPARISONS, sweep).await?,
                curves: curves(&mut tx, sweep, n_points).await?,
                inputs: rows(&mut tx, INPUTS, sweep).await?,
                attempts: rows(&mut tx, ATTEMPTS, sweep).await?,
            };
            tx.rollback().await?;
            Ok(report)
        })
        .await
    }
}

async fn rows<T>(
    conn: &mut SqliteConnection,
    sql: &'static str,
    sweep: Option<&str>,
) -> Result<Vec<T>, Trouble>
where
    T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
{
    Ok(sqlx::query_as(sql).bind(sweep).fetch_all(conn).await?)
}

async fn curves(
    conn: &mut SqliteConnection,
    sweep: Option<&str>,
    n_points: u32,
) -> Result<Vec<CurvePoint>, Trouble> {
    let curves = sqlx::query_as(CURVES).bind(sweep).bind(n_points);
    Ok(curves.fetch_all(conn).await?)
}

const SWEEPS: &str = "
SELECT name AS sweep, sweep.* FROM sweep
WHERE (?1 IS NULL OR name = ?1)
    AND sweep_id IN (SELECT sweep_id FROM current_sweep)
ORDER BY name";

const SAES: &str = "
SELECT
    sweep_listing.sweep,
    sweep_listing.job,
    job.job_id,
    job.status,
    job.model,
    job.models AS model_digest,
    job.kind,
    sae.*,
    sae.name AS sae,
    json_extract(job.config, '$.tokens_per_update') AS tokens_per_update,
    sae_result.n_tokens,
    sae_result.fvu,
    sae_result.l0,
    sae_result.dead_pct,
    sae_result.tokens_per_s,
    sae_result.training_seconds,
    sae_calibration.threshold,
    sae_calibration.l0 AS l0_calibrated,
    sae_calibration.threshold_ema,
    sae_calibration.l0_ema,
    sae_evaluation.fvu AS fvu_eval,
    sae_evaluation.l0 AS l0_eval,
    sae_evaluation.dead_pct AS dead_pct_eval,
    sae_evaluation.ce_clean,
    sae_evaluation.ce_spliced,
    sae_evaluation.ce_recovered,
    sae_evaluation.kl,
    sae_evaluation.density
FROM sweep_listing
JOIN job USING (job_id)
JOIN sae USING (job_id)
LEFT JOIN sae_result USING (sae_id)
LEFT JOIN sae_calibration USING (sae_id)
LEFT JOIN sae_evaluation USING (sae_id)
WHERE sweep_listing.is_current AND (?1 IS NULL OR sweep_listing.sweep = ?1)
ORDER BY sweep_listing.sweep, sweep_listing.ordinal, sae.sae_id";

const COMPARISONS: &str = "SELECT * FROM kind_comparison WHERE ?1 IS NULL OR sweep = ?1";

const CURVES: &str = "
WITH wanted AS (
    SELECT DISTINCT sae.sae_id, sae.num_latents FROM sweep_listing JOIN sae USING (job_id)
    WHERE sweep_listing.is_current AND (?1 IS NULL OR sweep_listing.sweep = ?1)
),
part AS (
    SELECT metric.*, ntile(?2) OVER (PARTITION BY sae_id ORDER BY step) AS part
    FROM metric
    WHERE sae_id IN (SELECT sae_id FROM wanted)
)
SELECT
    part.sae_id,
    sum(part.n_tokens) AS n_tokens,
    -- sum() skips NULL, which would hide that training diverged.
    CASE WHEN count(squared_error) = count(*) AND count(total_variance) = count(*)
        THEN sum(squared_error) / nullif(sum(total_variance), 0.0) END AS fvu,
    -- Of the row with the greatest step: so SQLite defines it beside max().
    100.0 * n_dead / wanted.num_latents AS dead_pct,
    max(part.step) AS step
FROM part
JOIN wanted USING (sae_id)
GROUP BY part.sae_id, part.part
ORDER BY part.sae_id, step";

const INPUTS: &str = "
SELECT
    sweep,
    model || coalesce(' and ' || json_extract(config, '$.crosscoder_model'), '') AS model,
    models AS model_digest,
    dataset, token_digest, trainer_version, count(DISTINCT job_id) AS n_jobs
FROM sweep_listing
JOIN job USING (job_id)
WHERE is_current AND (?1 IS NULL OR sweep = ?1)
GROUP BY 1, 2, models, dataset, token_digest, trainer_version
ORDER BY sweep, min(ordinal)";

const ATTEMPTS: &str = "
SELECT
    sweep_listing.sweep,
    attempt.*,
    count(DISTINCT sweep_listing.job_id) AS n_jobs,
    coalesce(
        (SELECT sum(n_tokens) FROM progress WHERE progress.attempt_id = attempt.attempt_id), 0
    ) AS n_tokens,
    coalesce(
        (SELECT sum(elapsed_ms) FROM progress WHERE progress.attempt_id = attempt.attempt_id), 0
    ) AS elapsed_ms
FROM sweep_listing
JOIN attempt_job USING (job_id)
JOIN attempt USING (attempt_id)
WHERE sweep_listing.is_current AND (?1 IS NULL OR sweep_listing.sweep = ?1)
GROUP BY sweep_listing.sweep, attempt.attempt_id
ORDER BY sweep_listing.sweep, attempt.attempt_id";

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::EventKind;
    use serde_json::json;

    #[tokio::test]
    async fn a_report_has_all_of_the_current_sweeps() {
        let test = TestStore::new().await;
        let edited = plan("s", &[json!({"k": 1})]);
        test.record_text("first text", &edited).await.unwrap();
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        for step in 1..=7 {
            script.metric(job, step, stats(step as f64));
        }
        script.push(EventKind::Progress {
            step: 7,
            n_tokens: 300,
            elapsed_ms: 100,
        });
        test.store.fold(stream, &script.events).await.unwrap();

        let report = test.store.report(None, 3).await.unwrap();
        assert_eq!(report, test.store.report(Some("s"), 3).await.unwrap());
        let [sweep] = &report.sweeps[..] else {
            panic!("{:?}", report.sweeps);
        };
        assert_eq!((sweep.revision, sweep.text.as_str()), (2, "text"));
        let names: Vec<_> = report.saes.iter().map(|sae| sae.job.as_str()).collect();
        assert_eq!(
            names,
            [r#"{"k":4}"#, r#"{"k":2}"#],
            "also what was not begun"
        );
        assert_eq!(report.saes[0].training_seconds, Some(0.1));
        assert_eq!(
            (report.saes[0].fvu, report.saes[1].fvu),
            (Some(0.875), None)
        );
        // Seven intervals in three parts: 1 to 3, 4 and 5, 6 and 7.
        let fvu: Vec<_> = report.curves.iter().map(|point| point.fvu).collect();
        assert_eq!(fvu, [Some(0.25), Some(0.5625), Some(0.8125)]);
        let n_tokens: Vec<_> = report.curves.iter().map(|point| point.n_tokens).collect();
        assert_eq!(n_tokens, [30, 20, 20]);
        assert_eq!(report.inputs.len(), 1);
        assert_eq!(
            (report.inputs[0].model.as_str(), report.inputs[0].n_jobs),
            ("m", 2)
        );
        let attempt = &report.attempts[0];
        assert_eq!(
            (attempt.number, attempt.n_jobs, attempt.n_tokens),
            (1, 2, 300)
        );

        let error = test.store.report(Some("t"), 3).await.unwrap_err();
        assert_eq!(error.to_string(), "no sweep is called `t`");
    }
}
