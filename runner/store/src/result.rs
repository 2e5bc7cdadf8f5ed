//! The view `result`: what came out of a sweep.

use crate::error::StoreError;
use crate::job::JobStatus;
use crate::k::StoredK;
use crate::open::Store;
use crate::sweep;
use plan::K;
use sqlx::FromRow;

/// One SAE of one job of a sweep; the view `result` defines each column exactly.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct ResultRow {
    /// Name of the sweep.
    pub sweep: String,
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
    /// Seed of the initial weights.
    pub seed: i64,
    /// Kind of SAE, such as `matryoshka batchtopk`.
    pub kind: String,
    /// Latents a token may use.
    #[sqlx(try_from = "StoredK")]
    pub k: K,
    /// Latents per input dimension.
    pub expansion_factor: f64,
    /// Number of latents.
    pub num_latents: u64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens trained on.
    pub n_tokens: u64,
    /// Optimizer updates done.
    pub step: u64,
    /// Fraction of variance unexplained over the last tenth of the steps; `None` if it diverged.
    pub fvu: Option<f64>,
    /// Mean number of active latents a token, over the same steps.
    pub l0: Option<f64>,
    /// Dead latents, in percent.
    pub dead_pct: Option<f64>,
    /// Calibrated threshold; `None`, as the three that follow, if none was calibrated.
    pub threshold: Option<f64>,
    /// Mean number of active latents a held-out token with it.
    pub l0_calibrated: Option<f64>,
    /// Threshold that training estimated.
    pub threshold_ema: Option<f64>,
    /// Mean number of active latents a held-out token with that one.
    pub l0_ema: Option<f64>,
    /// Fraction of variance unexplained on held-out sequences; `None`, as the six that follow, if
    /// it was not evaluated.
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
    /// Tokens a second through the language model, which the jobs of a stream share.
    pub tokens_per_s: Option<f64>,
    /// Folder of the newest checkpoint, relative to the runs folder.
    pub checkpoint: Option<String>,
}

impl Store {
    /// The results of the current version of a sweep: one row per SAE that has metrics, in the order
    /// of the plan.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn results(&self, sweep: &str) -> Result<Vec<ResultRow>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            sweep::check_name(&mut conn, sweep).await?;
            let sql =
                "SELECT * FROM result WHERE sweep = ? AND is_current ORDER BY ordinal, sae_id";
            Ok(sqlx::query_as(sql)
                .bind(sweep)
                .fetch_all(&mut *conn)
                .await?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan, stats};
    use fault::Remedy;
    use plan::{EventKind, SaeStats};
    use serde_json::json;

    #[tokio::test]
    async fn ratios_are_of_sums_over_the_last_tenth_of_the_steps() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        // The last tenth of 20 steps are 19 and 20; 18 is not in it.
        script
            .metric(job, 18, stats(800.0))
            .metric(job, 19, stats(1.0));
        let last = SaeStats {
            n_tokens: 30,
            squared_error: 5.0,
            total_variance: 16.0,
            l0: 60.0,
            n_dead: 4,
            ..SaeStats::default()
        };
        script.metric(job, 20, last).checkpoint(job, 20, true);
        for (step, n_tokens, elapsed_ms) in [(10, 300, 100), (20, 100, 100)] {
            script.push(EventKind::Progress {
                step,
                n_tokens,
                elapsed_ms,
            });
        }
        test.store.fold(stream, &script.events).await.unwrap();

        let results = test.store.results("s").await.unwrap();
        assert_eq!(results.len(), 1, "only what has metrics");
        let row = &results[0];
        assert_eq!(row.fvu, Some(6.0 / 24.0));
        assert_eq!(row.l0, Some(100.0 / 40.0));
        assert_eq!(row.dead_pct, Some(12.5));
        assert_eq!((row.n_tokens, row.step), (50, 20));
        assert_eq!(row.tokens_per_s, Some(2000.0));
        assert_eq!(
            (row.k, row.num_latents, row.expansion_factor),
            (4.into(), 32, 4.0)
        );
        assert_eq!(row.checkpoint, Some(format!("s/{job}/layers.0")));
        assert_eq!(row.status.to_string(), "done");
        assert_eq!(row.job, r#"{"k":4}"#);

        let curve = test
            .rows("SELECT step, n_tokens, fvu, l0, dead_pct FROM curve")
            .await;
        assert_eq!(
            json!(curve),
            json!([
                [18, 10, 100.0, 4.0, 25.0],
                [19, 20, 0.125, 4.0, 25.0],
                [20, 50, 0.3125, 2.0, 12.5]
            ])
        );
    }

    #[tokio::test]
    async fn nothing_divides_by_zero() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        let mut script = Script::new();
        script.start(1, 0).metric(job, 1, SaeStats::default());
        script.push(EventKind::Progress {
            step: 1,
            n_tokens: 0,
            elapsed_ms: 0,
        });
        test.store.fold(stream, &script.events).await.unwrap();
        let row = &test.store.results("s").await.unwrap()[0];
        assert_eq!((row.fvu, row.l0, row.tokens_per_s), (None, None, None));
        assert_eq!(row.dead_pct, Some(0.0));
        assert_eq!(row.checkpoint, None);
        let curve = test.rows("SELECT fvu, l0 FROM curve").await;
        assert_eq!(json!(curve), json!([[null, null]]));
    }

    #[tokio::test]
    async fn an_unknown_sweep_is_told_with_the_nearest() {
        let test = TestStore::new().await;
        test.record(&plan("llama_k", &[json!({"k": 4})])).await;
        assert_eq!(test.store.results("llama_k").await.unwrap(), []);
        let error = test.store.results("lama_k").await.unwrap_err();
        assert_eq!(error.to_string(), "no sweep is called `lama_k`");
        assert_eq!(error.hint().unwrap(), "did you mean `llama_k`?");
    }
}
