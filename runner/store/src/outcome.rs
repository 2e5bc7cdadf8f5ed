//! What came of each SAE of a sweep, also of those that have no result.

use crate::error::StoreError;
use crate::job::JobStatus;
use crate::k::StoredK;
use crate::listing::everything;
use crate::open::Store;
use crate::sweep;
use plan::K;
use sqlx::{AssertSqlSafe, FromRow};

/// One SAE of the current version of a sweep; the view `result` defines each column.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct SaeOutcome {
    /// Name of the job in the sweep.
    pub job: String,
    /// The job.
    pub job_id: String,
    /// The status of the job.
    pub status: JobStatus,
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
    /// Fraction of variance unexplained; `None`, as the others, if it is not known.
    pub fvu: Option<f64>,
    /// Mean number of active latents a token.
    pub l0: Option<f64>,
    /// Dead latents, in percent.
    pub dead_pct: Option<f64>,
    /// Fraction of variance unexplained on held-out sequences.
    pub fvu_eval: Option<f64>,
    /// Cross-entropy of the next token on held-out sequences with the SAE's output in place of the hookpoint's, in nats a
    /// token.
    pub ce_spliced: Option<f64>,
    /// Share of the cross-entropy that mean ablation costs which the SAE recovers; `None` also where it costs next to
    /// nothing.
    pub ce_recovered: Option<f64>,
    /// Tokens a second through the language model.
    pub tokens_per_s: Option<f64>,
    /// Folder of the newest checkpoint, relative to the runs folder.
    pub checkpoint: Option<String>,
}

impl SaeOutcome {
    /// How well it reconstructs: on held-out sequences, or in training.
    pub fn best_known_fvu(&self) -> Option<f64> {
        self.fvu_eval.or(self.fvu)
    }
}

impl Store {
    /// What came of the current version of a sweep: one row per SAE, in the order of the plan.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn outcomes(&self, sweep: &str) -> Result<Vec<SaeOutcome>, StoreError> {
        let columns = self.columns("result").await?;
        let mut conn = self.acquire().await?;
        self.located(async {
            sweep::check_name(&mut conn, sweep).await?;
            let all = everything(&columns);
            let sql = format!(
                "SELECT * FROM ({all}) WHERE sweep = ? AND is_current ORDER BY ordinal, sae_id"
            );
            let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(sweep);
            Ok(rows.fetch_all(&mut *conn).await?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan, stats};
    use serde_json::json;

    #[tokio::test]
    async fn saes_without_a_result_have_an_outcome_too() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).metric(job, 20, stats(2.0));
        test.store.fold(stream, &script.events).await.unwrap();
        let rows = test.store.outcomes("s").await.unwrap();
        let fvus: Vec<_> = rows.iter().map(SaeOutcome::best_known_fvu).collect();
        assert_eq!(fvus, [Some(0.25), None]);
    }
}
