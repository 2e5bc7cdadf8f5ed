//! The view `job_failure`: why a job has failed.

use crate::error::Trouble;
use sqlx::{FromRow, SqliteConnection};

/// Why a job has failed; the view `job_failure` defines each column.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct JobFailure {
    /// The stream whose worker it failed in.
    pub stream_id: String,
    /// Name of the SAE that something was wrong with; `None` if the worker itself failed.
    pub sae: Option<String>,
    /// Why, in one line: with the SAE and the update, if they are known.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether the same settings would fail again.
    pub would_fail_again: bool,
}

/// Why a job has failed; `None` if it has not.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Option<JobFailure>, Trouble> {
    let row = sqlx::query_as("SELECT * FROM job_failure WHERE job_id = ?");
    Ok(row.bind(job_id).fetch_optional(conn).await?)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan};
    use crate::{AttemptEnd, JobStatus, Outcome};
    use fault::FailureKind;
    use plan::EventKind;
    use serde_json::json;

    #[tokio::test]
    async fn a_verdict_and_refused_input_would_come_again_and_a_crash_would_not() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, jobs) = (&plan.streams[0].stream_id, &plan.jobs);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).push(EventKind::Unhealthy {
            job_id: jobs[0].job_id.clone(),
            sae: "layers.0".into(),
            step: 3,
            reason: "the loss is NaN or infinite".into(),
            is_fatal: true,
            hint: Some("lower `lr`".into()),
        });
        test.store.fold(stream, &script.events).await.unwrap();
        let crash = AttemptEnd {
            outcome: Outcome::Crashed,
            exit_code: None,
            reason: Some("signal 9".into()),
        };
        test.store.end_attempt(stream, 1, &crash).await.unwrap();
        let recorded = test.record(&plan).await;
        assert!(
            recorded
                .jobs
                .iter()
                .all(|job| job.status == JobStatus::Failed)
        );
        let failure = |index: usize| recorded.jobs[index].failure.clone().unwrap();
        let nan = "`layers.0` at step 3: the loss is NaN or infinite";
        assert_eq!(failure(0).text, nan);
        assert_eq!(failure(0).hint.as_deref(), Some("lower `lr`"));
        assert_eq!(failure(1).text, "signal 9");
        let is_given_up = |index: usize| recorded.is_given_up(&recorded.jobs[index]);
        assert_eq!((is_given_up(0), is_given_up(1)), (true, false));

        let train = [jobs[1].job_id.clone()];
        let begun = test.store.begin_attempt_with(stream, "log", &train, &[]);
        assert_eq!(begun.await.unwrap(), 2);
        assert_eq!(
            test.status(&jobs[0].job_id).await,
            "failed",
            "it is left alone"
        );
        script.start(2, 0).push(EventKind::Failed {
            kind: FailureKind::Input,
            message: "no column `texts`".into(),
            hint: None,
        });
        test.store.fold(stream, &script.events).await.unwrap();
        let recorded = test.record(&plan).await;
        let failure = recorded.jobs[1].failure.clone().unwrap();
        assert_eq!(failure.text, "no column `texts`");
        assert!(recorded.jobs.iter().all(|job| recorded.is_given_up(job)));
        let verdicts = "SELECT sweep, job, hookpoint, step FROM sae_verdict";
        let expected = json!([["s", r#"{"k":4}"#, "layers.0", 3]]);
        assert_eq!(json!(test.rows(verdicts).await), expected);
    }
}
