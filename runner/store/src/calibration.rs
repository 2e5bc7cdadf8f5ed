//! Table `calibration`: thresholds found on held-out tokens.

use crate::error::Trouble;
use crate::metric::finite;
use crate::open::int;
use plan::{Event, EventKind, HookpointThreshold};
use serde_json::json;
use sqlx::{FromRow, SqliteConnection};

/// How the threshold of an SAE was calibrated; the view `sae_calibration` defines each number.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct CalibratedSae {
    /// Name of the SAE.
    pub sae: String,
    /// Optimizer updates up to the checkpoint.
    pub step: u64,
    /// Held-out tokens that the threshold was found on.
    pub n_tokens: u64,
    /// Mean number of active latents a token that was wanted.
    pub k: Option<f64>,
    /// The threshold that was found.
    pub threshold: Option<f64>,
    /// Mean number of active latents a token with it.
    pub l0: Option<f64>,
    /// Threshold that training estimated; `None` if it made no estimate.
    pub threshold_ema: Option<f64>,
    /// Mean number of active latents a token with that one.
    pub l0_ema: Option<f64>,
    /// Those of hookpoints, as JSON, if each has its own threshold.
    hookpoint_thresholds: Option<String>,
}

impl CalibratedSae {
    /// Those of hookpoints, if each has its own threshold.
    pub fn hookpoints(&self) -> Vec<HookpointThreshold> {
        let own = self.hookpoint_thresholds.as_deref();
        own.and_then(|own| serde_json::from_str(own).ok())
            .unwrap_or_default()
    }
}

/// One calibration, as it is written.
pub(crate) struct Calibration<'a> {
    /// Job, SAE and step.
    pub(crate) checkpoint: (&'a str, &'a str, u64),
    attempt_id: i64,
    n_tokens: u64,
    /// `k`, then threshold and L0 of training's estimate, then those that were found.
    numbers: [f64; 5],
    /// Thresholds of hookpoints, as JSON, if each has its own.
    hookpoints: Option<String>,
    time_ms: i64,
}

impl<'a> Calibration<'a> {
    /// What an event says; `None` for an event of another kind.
    pub(crate) fn of(attempt_id: i64, event: &'a Event) -> Option<Self> {
        let EventKind::Calibration {
            job_id,
            sae,
            step,
            n_tokens,
            k,
            ema_threshold,
            ema_l0,
            threshold,
            l0,
            hookpoints,
        } = &event.kind
        else {
            return None;
        };
        Some(Self {
            checkpoint: (job_id, sae, *step),
            attempt_id,
            n_tokens: *n_tokens,
            numbers: [*k, *ema_threshold, *ema_l0, *threshold, *l0],
            hookpoints: (!hookpoints.is_empty()).then(|| json!(hookpoints).to_string()),
            time_ms: event.time_ms,
        })
    }
}

/// Records a calibration; an earlier one of the same checkpoint is replaced.
pub(crate) async fn put(
    conn: &mut SqliteConnection,
    sae_id: i64,
    calibration: &Calibration<'_>,
) -> Result<(), Trouble> {
    let (_, _, step) = calibration.checkpoint;
    let mut insert = sqlx::query(
        "INSERT OR REPLACE INTO calibration (sae_id, step, attempt_id, n_tokens, k, threshold_ema,
             l0_ema, threshold, l0, hookpoint_thresholds, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(sae_id)
    .bind(int(step))
    .bind(calibration.attempt_id)
    .bind(int(calibration.n_tokens));
    for number in calibration.numbers {
        insert = insert.bind(finite(number));
    }
    insert = insert.bind(&calibration.hookpoints);
    insert.bind(calibration.time_ms).execute(conn).await?;
    Ok(())
}

/// How the thresholds of a job's SAEs were calibrated, in the order of its plan.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<CalibratedSae>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT sae.name AS sae, sae_calibration.* FROM sae_calibration JOIN sae USING (sae_id)
         WHERE job_id = ? ORDER BY sae_id",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

#[cfg(test)]
mod tests {
    use crate::StoreError;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::{EventKind, Plan};
    use serde_json::{Value, json};

    fn calibration(job_id: &str, step: u64, ema_threshold: f64) -> EventKind {
        EventKind::Calibration {
            job_id: job_id.into(),
            sae: "layers.0".into(),
            step,
            n_tokens: 64,
            k: 4.0,
            ema_threshold,
            ema_l0: if ema_threshold.is_finite() { 5.5 } else { 0.0 },
            threshold: 0.75,
            l0: 4.0625,
            hookpoints: Vec::new(),
        }
    }

    /// One job of the kind, trained by an attempt.
    async fn trained() -> (TestStore, Plan, Script) {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
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

    async fn rows(test: &TestStore) -> Value {
        json!(
            test.rows(
                "SELECT step, n_tokens, k, threshold_ema, l0_ema, threshold, l0 FROM calibration"
            )
            .await
        )
    }

    #[tokio::test]
    async fn a_calibration_becomes_a_row_and_columns_of_the_result() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        let row = test.store.results("s").await.unwrap().remove(0);
        assert_eq!((row.threshold, row.threshold_ema), (None, None));
        assert!(test.store.job(job).await.unwrap().calibrations.is_empty());
        script.push(calibration(job, 20, 0.5));
        test.store.fold(stream, &script.events).await.unwrap();
        assert_eq!(
            rows(&test).await,
            json!([[20, 64, 4.0, 0.5, 5.5, 0.75, 4.0625]])
        );
        let row = test.store.results("s").await.unwrap().remove(0);
        assert_eq!(
            (row.threshold, row.l0_calibrated),
            (Some(0.75), Some(4.0625))
        );
        assert_eq!((row.threshold_ema, row.l0_ema), (Some(0.5), Some(5.5)));
        assert_eq!(row.kind, "topk");
        let shown = test.store.job(job).await.unwrap().calibrations.remove(0);
        assert_eq!((shown.step, shown.n_tokens, shown.k), (20, 64, Some(4.0)));
        let before = test.dump().await;
        assert_eq!(test.store.fold(stream, &script.events).await.unwrap(), 0);
        assert_eq!(test.dump().await, before, "folding twice changes nothing");
    }

    #[tokio::test]
    async fn thresholds_of_hookpoints_are_kept() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        let own = |hookpoint: &str, threshold_ema| plan::HookpointThreshold {
            hookpoint: hookpoint.into(),
            threshold_ema,
            l0_ema: 5.0,
            threshold: 0.25,
            l0: 4.0,
        };
        let mut event = calibration(job, 20, 0.5);
        let EventKind::Calibration { hookpoints, .. } = &mut event else {
            panic!("it is one");
        };
        *hookpoints = vec![own("layers.0", 0.5), own("layers.1", f64::NAN)];
        script.push(event);
        test.store.fold(stream, &script.events).await.unwrap();
        let found = test.store.job(job).await.unwrap().calibrations;
        let found = found[0].hookpoints();
        assert_eq!(found[0], own("layers.0", 0.5));
        assert!(found[1].threshold_ema.is_nan() && found[1].hookpoint == "layers.1");
    }

    #[tokio::test]
    async fn a_threshold_that_is_not_finite_is_null() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(calibration(job, 20, f64::INFINITY));
        test.store.fold(stream, &script.events).await.unwrap();
        assert_eq!(
            rows(&test).await,
            json!([[20, 64, 4.0, null, 0.0, 0.75, 4.0625]])
        );
    }

    #[tokio::test]
    async fn the_newest_calibration_of_the_newest_checkpoint_counts() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(calibration(job, 19, 0.25));
        script.push(calibration(job, 20, 0.5));
        script.push(calibration(job, 20, 0.625));
        test.store.fold(stream, &script.events).await.unwrap();
        let sql = "SELECT step, threshold_ema FROM sae_calibration";
        assert_eq!(json!(test.rows(sql).await), json!([[20, 0.625]]));
        let all = "SELECT count(*) FROM calibration";
        assert_eq!(
            test.rows(all).await,
            [[json!(1)]],
            "step 19 has no checkpoint"
        );
    }

    #[tokio::test]
    async fn a_reset_forgets_calibrations_and_late_ones_do_not_count() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(calibration(job, 20, 0.5));
        test.store.fold(stream, &script.events).await.unwrap();
        test.store.reset_jobs(&[job]).await.unwrap();
        assert_eq!(rows(&test).await, json!([]));
        script.push(calibration(job, 20, 0.5));
        test.store.fold(stream, &script.events).await.unwrap();
        test.store.abandon_dead_attempts(stream).await.unwrap();
        test.store.begin_attempt(stream, "log").await.unwrap();
        script.start(2, 0).checkpoint(job, 20, true);
        script.attempt = 1;
        script.push(calibration(job, 20, 0.5));
        test.store.fold(stream, &script.events).await.unwrap();
        assert_eq!(rows(&test).await, json!([]));
    }

    #[tokio::test]
    async fn a_lost_database_comes_back_with_calibrations() {
        let (test, plan, mut script) = trained().await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        script.push(EventKind::Interrupted { step: 20 });
        script.attempt = 2;
        script.push(calibration(job, 20, 0.5));
        let found = TestStore::new().await;
        found.record(&plan).await;
        for store in [&test.store, &found.store] {
            store.fold(stream, &script.events).await.unwrap();
        }
        assert_eq!(rows(&found).await, rows(&test).await);
        let results = found.store.results("s").await.unwrap();
        assert_eq!(results, test.store.results("s").await.unwrap());
        assert_eq!(results[0].threshold, Some(0.75));
    }

    #[tokio::test]
    async fn a_calibration_of_something_else_is_refused() {
        let (test, plan, mut script) = trained().await;
        script.push(calibration("other", 20, 0.5));
        let stream = &plan.streams[0].stream_id;
        let error = test.store.fold(stream, &script.events).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::ForeignEvent { what, .. } if what == "other/layers.0")
        );
    }
}
