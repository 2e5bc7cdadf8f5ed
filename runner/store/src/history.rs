//! What happened to a job: how training went, what workers found and remarked, what evaluation gave.

use crate::error::{StoreError, Trouble};
use crate::job_name::resolve;
use crate::open::Store;
use crate::query::to_json;
use serde_json::{Map, Value};
use sqlx::{Column, FromRow, Row, SqliteConnection};

/// One point of an SAE's curve.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct JobCurvePoint {
    /// Name of the SAE.
    pub sae: String,
    /// Optimizer updates done.
    pub step: u64,
    /// Fraction of variance unexplained; `None` if it was not finite.
    pub fvu: Option<f64>,
}

/// What a worker found wrong with an SAE.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct VerdictRow {
    /// Name of the SAE.
    pub sae: String,
    /// Optimizer updates done.
    pub step: u64,
    /// What is wrong.
    pub reason: String,
    /// True if the job was trained no further.
    pub is_fatal: bool,
}

/// What a worker remarked.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct NoteRow {
    /// The remark.
    pub message: String,
    /// When it was made, ms since the epoch, UTC.
    pub time_ms: i64,
}

/// What held-out sequences say of an SAE; the view `sae_evaluation` defines each number.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct EvaluatedSae {
    /// Name of the SAE.
    pub sae: String,
    /// Optimizer updates up to the checkpoint.
    pub step: u64,
    /// Fraction of variance unexplained.
    pub fvu: Option<f64>,
    /// Mean number of active latents a token.
    pub l0: Option<f64>,
    /// Latents that never fired, in percent.
    pub dead_pct: Option<f64>,
    /// Cross-entropy of the next token by the model as it is, in nats.
    pub ce_clean: Option<f64>,
    /// The same with the SAE's output in place of the hookpoint's.
    pub ce_spliced: Option<f64>,
    /// Share of what ablation costs that the SAE recovers.
    pub ce_recovered: Option<f64>,
    /// Divergence of the spliced model's predictions from the clean one's, in nats.
    pub kl: Option<f64>,
}

pub(crate) async fn curve_of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<JobCurvePoint>, Trouble> {
    // Not by the view `curve`, which has a row for each sweep that asks for the job.
    let rows = sqlx::query_as(
        "SELECT sae.name AS sae, step, fvu FROM sae JOIN sae_curve USING (sae_id)
         WHERE job_id = ? ORDER BY sae_id, step",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

pub(crate) async fn verdicts_of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<VerdictRow>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT sae.name AS sae, step, reason, is_fatal FROM verdict JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY verdict_id",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

pub(crate) async fn notes_of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<NoteRow>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT message, time_ms FROM attempt_note JOIN attempt_job USING (attempt_id)
         WHERE job_id = ? ORDER BY attempt_id, event_seq",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

pub(crate) async fn evaluations_of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<EvaluatedSae>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT sae.name AS sae, sae_evaluation.* FROM sae_evaluation JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY sae_id",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

/// What [`Store::job_json`] has besides the job itself: names and the rows under them.
const PARTS: [(&str, &str); 14] = [
    (
        "names",
        "SELECT sweep, job, is_current FROM sweep_listing WHERE job_id = ? ORDER BY sweep, ordinal",
    ),
    (
        "saes",
        "SELECT sae.name AS sae, sae.*, sae_result.* FROM sae LEFT JOIN sae_result USING (sae_id)
         WHERE job_id = ? ORDER BY sae_id",
    ),
    (
        "attempts",
        "SELECT attempt.* FROM attempt JOIN attempt_job USING (attempt_id) WHERE job_id = ?
         ORDER BY attempt_id",
    ),
    (
        "checkpoints",
        "SELECT * FROM checkpoint WHERE job_id = ? ORDER BY step",
    ),
    (
        "curve",
        "SELECT sae.name AS sae, metric.*, sae_curve.fvu
         FROM sae JOIN metric USING (sae_id) JOIN sae_curve USING (sae_id, step)
         WHERE job_id = ? ORDER BY sae_id, step",
    ),
    (
        "calibrations",
        "SELECT sae.name AS sae, sae_calibration.* FROM sae_calibration JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY sae_id",
    ),
    (
        "evaluations",
        "SELECT sae.name AS sae, sae_evaluation.* FROM sae_evaluation JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY sae_id",
    ),
    (
        "verdicts",
        "SELECT sae.name AS sae, verdict.* FROM verdict JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY verdict_id",
    ),
    (
        "notes",
        "SELECT attempt_note.* FROM attempt_note JOIN attempt_job USING (attempt_id)
         WHERE job_id = ? ORDER BY attempt_id, event_seq",
    ),
    ("failure", "SELECT * FROM job_failure WHERE job_id = ?"),
    (
        "extension",
        "SELECT base_job_id, step FROM extension WHERE job_id = ?",
    ),
    (
        "user_notes",
        "SELECT note_id, text, created_ms FROM note WHERE job_id = ? ORDER BY note_id",
    ),
    (
        "tags",
        "SELECT tag, created_ms FROM tag WHERE job_id = ? ORDER BY tag",
    ),
    (
        "publications",
        "SELECT publication.*, publication_file.*, sae.name AS sae
         FROM publication JOIN publication_file USING (publication_id) JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY publication_id, path",
    ),
];

impl Store {
    /// All that is known of the job that `wanted` means (see [`Store::job`]), as JSON: the columns of
    /// its row, and arrays of rows for the rest.
    ///
    /// # Errors
    /// A job that was never planned, or several that fit.
    pub async fn job_json(&self, wanted: &str) -> Result<Value, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let job_id = resolve(&mut conn, wanted).await?;
            let job = objects(&mut conn, "SELECT * FROM job WHERE job_id = ?", &job_id).await?;
            let mut job = job.into_iter().next().unwrap_or_default();
            if let Some(Value::String(config)) = job.get("config") {
                let config = serde_json::from_str(config).unwrap_or_default();
                job.insert("config".into(), config);
            }
            for (name, sql) in PARTS {
                let rows = objects(&mut conn, sql, &job_id).await?;
                job.insert(name.into(), rows.into_iter().map(Value::Object).collect());
            }
            Ok(Value::Object(job))
        })
        .await
    }
}

async fn objects(
    conn: &mut SqliteConnection,
    sql: &'static str,
    job_id: &str,
) -> Result<Vec<Map<String, Value>>, Trouble> {
    let rows = sqlx::query(sql).bind(job_id).fetch_all(conn).await?;
    let object = |row| {
        let values = to_json(row)?;
        let names = row.columns().iter().map(|column| column.name().to_owned());
        Ok(names.zip(values).collect())
    };
    rows.iter().map(object).collect()
}
