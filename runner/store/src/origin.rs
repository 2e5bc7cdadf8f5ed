//! Tables `recipe` and `sweep_origin`: what a sweep was planned and run with.

use crate::error::StoreError;
use crate::open::Store;
use crate::sweep;
use plan::Plan;

/// Where a version of a sweep comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepOrigin {
    /// Version of sae-run.
    pub sae_run: String,
    /// Commit of the checkout that the sweep file is in; `None` outside of one.
    pub git_commit: Option<String>,
    /// Text of the recipe; `None` for a component.
    pub recipe_source: Option<String>,
    /// Folder of the sweep file, which its paths are relative to.
    pub folder: Option<String>,
    /// The current folder, from which they are looked for next.
    pub current_folder: Option<String>,
}

impl Store {
    /// Records where a sweep that is recorded comes from; the first time counts, and of folders the last.
    ///
    /// # Errors
    /// The database cannot be written; then nothing was recorded.
    pub async fn record_origin(
        &self,
        sweep_text: &str,
        plan: &Plan,
        origin: &SweepOrigin,
    ) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            if let Some(version) = sweep::find(&mut tx, sweep_text, plan).await? {
                sqlx::query("INSERT INTO recipe VALUES (?, ?) ON CONFLICT DO NOTHING")
                    .bind(&plan.recipe.recipe_digest)
                    .bind(&origin.recipe_source)
                    .execute(&mut *tx)
                    .await?;
                sqlx::query(PUT)
                    .bind(version.sweep_id)
                    .bind(&origin.sae_run)
                    .bind(&origin.git_commit)
                    .bind(&origin.folder)
                    .bind(&origin.current_folder)
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// The folder of the sweep that last asked for a job, and the folder that was current then.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn folders_of_job(&self, job_id: &str) -> Result<[Option<String>; 2], StoreError> {
        self.located(async {
            let mut conn = self.acquire().await?;
            let row = sqlx::query_as(FOLDERS).bind(job_id);
            let row: Option<(Option<String>, Option<String>)> =
                row.fetch_optional(&mut *conn).await?;
            let (folder, current) = row.unwrap_or_default();
            Ok([folder, current])
        })
        .await
    }
}

const PUT: &str = "
INSERT INTO sweep_origin (sweep_id, sae_run, git_commit, folder, current_folder) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET folder = excluded.folder, current_folder = excluded.current_folder";

const FOLDERS: &str = "
SELECT folder, current_folder FROM sweep_origin JOIN sweep_job USING (sweep_id)
WHERE job_id = ? ORDER BY sweep_id DESC LIMIT 1";

#[cfg(test)]
mod tests {
    use super::SweepOrigin;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::SaeStats;
    use serde_json::json;

    fn origin(sae_run: &str) -> SweepOrigin {
        SweepOrigin {
            sae_run: sae_run.into(),
            git_commit: Some("c0ffee-dirty".into()),
            recipe_source: Some("def plan".into()),
            folder: Some(format!("/sweeps/{sae_run}")),
            current_folder: Some("/".into()),
        }
    }

    #[tokio::test]
    async fn the_first_origin_counts() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4})]);
        test.record_text("text", &plan).await.unwrap();
        for sae_run in ["0.1.0", "0.2.0"] {
            test.store
                .record_origin("text", &plan, &origin(sae_run))
                .await
                .unwrap();
        }
        let rows = test
            .rows("SELECT sae_run, git_commit, recipe_source, sweep_text, libtorch FROM provenance")
            .await;
        let expected = json!([["0.1.0", "c0ffee-dirty", "def plan", "text", null]]);
        assert_eq!(json!(rows), expected);
        let folders = test.store.folders_of_job(&plan.jobs[0].job_id).await;
        let expected = ["/sweeps/0.2.0", "/"].map(|dir| Some(dir.to_owned()));
        assert_eq!(folders.unwrap(), expected, "it was moved");
    }

    #[tokio::test]
    async fn the_frontier_has_what_nothing_beats_and_the_timeline_every_attempt() {
        let test = TestStore::new().await;
        let plan = plan(
            "s",
            &[
                json!({"k": 1}),
                json!({"k": 2}),
                json!({"k": 4}),
                json!({"k": 8}),
            ],
        );
        test.record(&plan).await;
        let stream = &plan.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        // By k: the third is beaten by the second in both, the others by no job.
        let points = [(9.0, 10.0), (5.0, 20.0), (6.0, 30.0), (1.0, 40.0)];
        for (job, (squared_error, l0)) in plan.jobs.iter().zip(points) {
            let stats = SaeStats {
                squared_error,
                l0,
                n_tokens: 10,
                total_variance: 10.0,
                ..stats(1.0)
            };
            script.metric(&job.job_id, 20, stats);
        }
        test.store.fold(stream, &script.events).await.unwrap();
        let frontier = test.rows("SELECT k, l0, fvu FROM frontier").await;
        assert_eq!(
            json!(frontier),
            json!([[1, 1.0, 0.9], [2, 2.0, 0.5], [8, 4.0, 0.1]])
        );
        let timeline = test
            .rows("SELECT number, status, n_jobs, seconds FROM timeline")
            .await;
        assert_eq!(json!(timeline), json!([[1, "running", 4, null]]));
    }
}
