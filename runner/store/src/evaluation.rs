//! Table `evaluation`: sums over held-out sequences.

use crate::error::{StoreError, Trouble};
use crate::metric::finite;
use crate::open::{Store, int, now_ms};
use plan::EvalStats;
use sqlx::SqliteConnection;

/// One evaluation of an SAE, outside of any attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationRow {
    /// Name of the SAE in its job.
    pub sae: String,
    /// The sums.
    pub stats: EvalStats,
    /// File with the firing density, relative to the runs folder.
    pub density: String,
}

/// One evaluation, as it is written.
pub(crate) struct Evaluation<'a> {
    pub(crate) sae_id: i64,
    pub(crate) step: u64,
    pub(crate) attempt_id: Option<i64>,
    pub(crate) stats: &'a EvalStats,
    pub(crate) density: &'a str,
    pub(crate) time_ms: i64,
}

impl Store {
    /// Records what an evaluation outside of any attempt found of SAEs of a job, at its checkpoint
    /// after `step` updates; earlier rows of that checkpoint are replaced.
    ///
    /// # Errors
    /// The database cannot be written, or a name that no SAE of the job has; then nothing was
    /// recorded.
    pub async fn record_evaluations(
        &self,
        job_id: &str,
        step: u64,
        rows: &[EvaluationRow],
    ) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            let time_ms = now_ms();
            for row in rows {
                let sql = "SELECT sae_id FROM sae WHERE job_id = ? AND name = ?";
                let sae_id = sqlx::query_scalar(sql).bind(job_id).bind(&row.sae);
                let evaluation = Evaluation {
                    sae_id: sae_id.fetch_one(&mut *tx).await?,
                    step,
                    attempt_id: None,
                    stats: &row.stats,
                    density: &row.density,
                    time_ms,
                };
                put(&mut tx, &evaluation).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// Records an evaluation; an earlier one of the same checkpoint is replaced.
pub(crate) async fn put(
    conn: &mut SqliteConnection,
    evaluation: &Evaluation<'_>,
) -> Result<(), Trouble> {
    let stats = evaluation.stats;
    sqlx::query(
        "INSERT OR REPLACE INTO evaluation (sae_id, step, attempt_id, n_tokens, squared_error,
             total_variance, l0_sum, n_dead, n_predicted, ce_clean_sum, ce_spliced_sum,
             ce_ablated_sum, kl_sum, density, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(evaluation.sae_id)
    .bind(int(evaluation.step))
    .bind(evaluation.attempt_id)
    .bind(int(stats.n_tokens))
    .bind(finite(stats.squared_error))
    .bind(finite(stats.total_variance))
    .bind(finite(stats.l0))
    .bind(int(stats.n_dead))
    .bind(int(stats.n_predicted))
    .bind(finite(stats.ce_clean))
    .bind(finite(stats.ce_spliced))
    .bind(finite(stats.ce_ablated))
    .bind(finite(stats.kl))
    .bind(evaluation.density)
    .bind(evaluation.time_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the final checkpoints of all SAEs of a job are evaluated.
pub(crate) async fn is_complete(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<bool, Trouble> {
    let n_missing: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sae WHERE job_id = ?1 AND NOT EXISTS (
             SELECT 1 FROM evaluation JOIN checkpoint USING (step)
             WHERE evaluation.sae_id = sae.sae_id AND checkpoint.job_id = ?1
                 AND checkpoint.is_final
         )",
    )
    .bind(job_id)
    .fetch_one(conn)
    .await?;
    Ok(n_missing == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::{EventKind, Plan};
    use serde_json::json;

    /// Of 8 tokens, 6 of which predict: FVU 0.25, L0 2.5, recovered 0.75, KL 0.5.
    fn sums() -> EvalStats {
        EvalStats {
            n_tokens: 8,
            squared_error: 3.0,
            total_variance: 12.0,
            l0: 20.0,
            n_dead: 8,
            n_predicted: 6,
            ce_clean: 12.0,
            ce_spliced: 15.0,
            ce_ablated: 24.0,
            kl: 3.0,
        }
    }

    fn evaluation(job_id: &str, step: u64, stats: EvalStats) -> EventKind {
        EventKind::Evaluation {
            job_id: job_id.into(),
            sae: "layers.0".into(),
            step,
            stats,
            density: "s/.eval/layers.0.safetensors".into(),
        }
    }

    /// One job with data to evaluate on, trained by an attempt.
    async fn trained() -> (TestStore, Plan, Script) {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4, "eval_fraction": 0.5})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script
            .start(1, 0)
            .metric(job, 20, stats(2.0))
            .checkpoint(job, 20, true);
        test.store.fold(stream, &script.events).await.unwrap();
        (test, plan, script)
    }

    async fn n_rows(test: &TestStore) -> serde_json::Value {
        test.rows("SELECT count(*) FROM evaluation").await[0][0].clone()
    }

    #[tokio::test]
    async fn an_evaluation_becomes_a_row_and_columns_of_the_result() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        let row = test.store.results("s").await.unwrap().remove(0);
        assert_eq!((row.fvu_eval, row.ce_recovered, row.kl), (None, None, None));
        script.push(evaluation(job, 20, sums()));
        script.push(EventKind::Finished);
        test.store.fold(stream, &script.events).await.unwrap();
        let row = test.store.results("s").await.unwrap().remove(0);
        assert_eq!((row.fvu_eval, row.l0_eval), (Some(0.25), Some(2.5)));
        assert_eq!(row.dead_pct_eval, Some(25.0));
        assert_eq!((row.ce_clean, row.ce_spliced), (Some(2.0), Some(2.5)));
        assert_eq!((row.ce_recovered, row.kl), (Some(0.75), Some(0.5)));
        assert_eq!(row.fvu, Some(0.25), "training's own is still there");
        let sql = "SELECT ce_ablated, n_tokens, density FROM sae_evaluation";
        let expected = json!([[4.0, 8, "s/.eval/layers.0.safetensors"]]);
        assert_eq!(json!(test.rows(sql).await), expected);
        let rows = test.dump().await;
        assert_eq!(test.store.fold(stream, &script.events).await.unwrap(), 0);
        assert_eq!(test.dump().await, rows, "folding twice changes nothing");
    }

    #[tokio::test]
    async fn sums_that_are_not_finite_are_null_and_so_are_their_ratios() {
        let (test, plan, mut script) = trained().await;
        let job = &plan.jobs[0].job_id;
        let broken = EvalStats {
            ce_spliced: f64::NAN,
            kl: f64::INFINITY,
            total_variance: 0.0,
            ..sums()
        };
        script.push(evaluation(job, 20, broken));
        let stream = &plan.streams[0].stream_id;
        test.store.fold(stream, &script.events).await.unwrap();
        let row = test.store.results("s").await.unwrap().remove(0);
        assert_eq!((row.fvu_eval, row.ce_spliced, row.kl), (None, None, None));
        assert_eq!((row.ce_recovered, row.ce_clean), (None, Some(2.0)));
    }

    #[tokio::test]
    async fn a_share_of_next_to_nothing_is_null() {
        // With 3.0 nats by the clean model. Ablation costs 0.4 nats, then 0.004, and 0.4 again.
        for (spliced, ablated, expected) in [
            (3.1, 3.4, Some(0.75)),
            (3.001, 3.004, None),
            (3.0, 3.4, Some(1.0)),
        ] {
            let (test, plan, mut script) = trained().await;
            let stats = EvalStats {
                n_predicted: 10,
                ce_clean: 30.0,
                ce_spliced: 10.0 * spliced,
                ce_ablated: 10.0 * ablated,
                ..sums()
            };
            script.push(evaluation(&plan.jobs[0].job_id, 20, stats));
            let stream = &plan.streams[0].stream_id;
            test.store.fold(stream, &script.events).await.unwrap();
            let result = test.store.results("s").await.unwrap().remove(0);
            let outcome = test.store.outcomes("s").await.unwrap().remove(0);
            for recovered in [result.ce_recovered, outcome.ce_recovered] {
                let shown = recovered.map(|share| (share * 1e9).round() / 1e9);
                assert_eq!(shown, expected, "{spliced}");
            }
        }
    }

    #[tokio::test]
    async fn a_job_that_is_done_but_not_evaluated_is_left_to_do() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(EventKind::Interrupted { step: 20 });
        test.store.fold(stream, &script.events).await.unwrap();
        let recorded = test.record(&plan).await;
        assert_eq!(test.status(job).await, "done");
        assert!(recorded.jobs[0].evaluation_due && !recorded.is_done());
        let off = test.store.begin_attempt(stream, "log").await.unwrap_err();
        assert!(off.to_string().ends_with("are done"), "{off}");
        let jobs = [job.clone()];
        let begin = test.store.begin_attempt_with(stream, "log", &[], &jobs);
        assert_eq!(begin.await.unwrap(), 2);
        assert_eq!(test.status(job).await, "done");
        assert_eq!(test.store.job(job).await.unwrap().attempts.len(), 2);
        script.attempt = 2;
        script.push(evaluation(job, 20, sums()));
        script.push(EventKind::Finished);
        test.store.fold(stream, &script.events).await.unwrap();
        let recorded = test.record(&plan).await;
        assert!(!recorded.jobs[0].evaluation_due && recorded.is_done());
    }

    #[tokio::test]
    async fn a_job_without_data_or_switched_off_needs_no_evaluation() {
        for overrides in [
            json!({"k": 4}),
            json!({"eval_fraction": 0.5, "evaluate": false}),
        ] {
            let test = TestStore::new().await;
            let plan = plan("s", &[overrides]);
            let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
            test.record(&plan).await;
            let mut script = Script::new();
            script.start(1, 0).checkpoint(job, 20, true);
            test.store.fold(stream, &script.events).await.unwrap();
            assert!(test.record(&plan).await.is_done());
        }
    }

    #[tokio::test]
    async fn a_reset_forgets_evaluations_and_late_ones_do_not_count() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(evaluation(job, 20, sums()));
        test.store.fold(stream, &script.events).await.unwrap();
        test.store.reset_jobs(&[job]).await.unwrap();
        assert_eq!(n_rows(&test).await, 0);
        // Before the job has a checkpoint again, and after.
        script.push(evaluation(job, 20, sums()));
        test.store.fold(stream, &script.events).await.unwrap();
        test.store.abandon_dead_attempts(stream).await.unwrap();
        test.store.begin_attempt(stream, "log").await.unwrap();
        script.start(2, 0).checkpoint(job, 20, true);
        script.attempt = 1;
        script.push(evaluation(job, 20, sums()));
        test.store.fold(stream, &script.events).await.unwrap();
        assert_eq!(n_rows(&test).await, 0);
    }

    #[tokio::test]
    async fn an_evaluation_by_hand_is_recorded_and_replaced() {
        let (test, plan, _) = trained().await;
        let job = &plan.jobs[0].job_id;
        let row = |kl| EvaluationRow {
            sae: "layers.0".into(),
            stats: EvalStats { kl, ..sums() },
            density: "d".into(),
        };
        for kl in [1.0, 6.0] {
            let rows = [row(kl)];
            let recorded = test.store.record_evaluations(job, 20, &rows);
            recorded.await.unwrap();
        }
        let sql = "SELECT kl_sum, attempt_id FROM evaluation";
        assert_eq!(json!(test.rows(sql).await), json!([[6.0, null]]));
        assert!(test.record(&plan).await.is_done());
        let unknown = EvaluationRow {
            sae: "layers.9".into(),
            ..row(1.0)
        };
        let rows = [row(2.0), unknown];
        let recorded = test.store.record_evaluations(job, 20, &rows).await;
        assert!(recorded.is_err());
        assert_eq!(
            test.rows("SELECT kl_sum FROM evaluation").await,
            [[json!(6.0)]]
        );
    }

    #[tokio::test]
    async fn a_lost_database_comes_back_with_evaluations() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(EventKind::Interrupted { step: 20 });
        script.attempt = 2;
        script.push(evaluation(job, 20, sums()));
        let found = TestStore::new().await;
        found.record(&plan).await;
        for store in [&test.store, &found.store] {
            store.fold(stream, &script.events).await.unwrap();
        }
        assert_eq!(n_rows(&found).await, 1);
        let results = found.store.results("s").await.unwrap();
        assert_eq!(results, test.store.results("s").await.unwrap());
        assert!(found.record(&plan).await.is_done());
    }

    #[tokio::test]
    async fn an_evaluation_of_something_else_is_refused() {
        let (test, plan, mut script) = trained().await;
        script.push(evaluation("other", 20, sums()));
        let stream = &plan.streams[0].stream_id;
        let error = test.store.fold(stream, &script.events).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::ForeignEvent { what, .. } if what == "other/layers.0")
        );
    }
}
