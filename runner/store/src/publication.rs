//! Tables `publication` and `publication_file`: what was published on the Hub.

use crate::error::{StoreError, Trouble};
use crate::open::{Store, int, now_ms};
use sqlx::{FromRow, SqliteConnection};

/// An upload of SAEs that the Hub has completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Repository, `owner/name`.
    pub repo: String,
    /// Branch.
    pub branch: String,
    /// Commit of the branch that has all the files.
    pub commit: String,
    /// Address of the repository's page.
    pub page: String,
    /// Version of sae-run.
    pub sae_run: String,
    /// The files.
    pub files: Vec<PublishedFile>,
}

/// A file of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedFile {
    /// Path in the repository.
    pub path: String,
    /// Key of the SAE that it is a file of, and how the SAE is stored; `None` for the model card and other files that
    /// are of all.
    pub sae: Option<(i64, &'static str)>,
    /// Length, in bytes.
    pub n_bytes: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Whether it was sent; if not, the Hub had it.
    pub is_new: bool,
}

/// An SAE that a branch has in a layout, by the file that it is found by.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct PublishedSae {
    /// Path of that file: an SAE's `cfg.json`, or in circuit-tracer's layout the only one, or that of the encoder.
    pub path: String,
    /// Key of the SAE.
    pub sae_id: i64,
    /// Name of the layout.
    pub layout: String,
}

/// A publication, as one job has a part in it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct JobPublication {
    /// Repository, `owner/name`.
    pub repo: String,
    /// Branch.
    pub branch: String,
    /// Commit of the branch that has all the files.
    pub commit_id: String,
    /// Address of the repository's page.
    pub page: String,
    /// SAEs of the job in it.
    pub n_saes: u64,
    /// When the upload was first complete on the Hub, ms since the epoch, UTC.
    pub created_ms: i64,
}

impl Store {
    /// Records a publication, in one transaction. A commit is one row, however often it is found: what is new
    /// in it is added.
    ///
    /// # Errors
    /// An SAE that is not known; the database cannot be written. Then nothing was recorded.
    pub async fn record_publication(&self, publication: &Publication) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            // Of all files: they are seen together.
            let seen_ms = now_ms();
            let publication_id = insert(&mut tx, publication, seen_ms).await?;
            for file in &publication.files {
                insert_file(&mut tx, publication_id, file, seen_ms).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// The SAEs that a branch has in the state of training that they have now, in the order in which they were last
    /// seen there. A path that later got another SAE or layout has the later one alone.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn published_in(
        &self,
        repo: &str,
        branch: &str,
    ) -> Result<Vec<PublishedSae>, StoreError> {
        let mut conn = self.acquire().await?;
        let sql = "WITH file AS (
                 SELECT path, sae_id, layout, seen_ms, publication_id, row_number() OVER (
                     PARTITION BY path ORDER BY seen_ms DESC, publication_id DESC
                 ) AS age
                 FROM publication_file JOIN publication USING (publication_id)
                 WHERE repo = ? AND branch = ?
                     AND (path LIKE '%/cfg.json'
                         OR layout = 'circuit-tracer' AND path NOT LIKE '%W_dec_%.safetensors')
             )
             SELECT path, sae_id, layout
             FROM file JOIN sae USING (sae_id) JOIN job USING (job_id)
             WHERE age = 1 AND seen_ms >= coalesce(job.done_ms, 0)
             ORDER BY seen_ms, publication_id, path";
        self.located(async {
            let saes = sqlx::query_as(sql).bind(repo).bind(branch);
            Ok(saes.fetch_all(&mut *conn).await?)
        })
        .await
    }
}

async fn insert(
    conn: &mut SqliteConnection,
    publication: &Publication,
    created_ms: i64,
) -> Result<i64, Trouble> {
    let publication_id = sqlx::query_scalar(
        "INSERT INTO publication (repo, branch, commit_id, page, sae_run, created_ms)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (repo, branch, commit_id) DO UPDATE SET page = excluded.page
         RETURNING publication_id",
    )
    .bind(&publication.repo)
    .bind(&publication.branch)
    .bind(&publication.commit)
    .bind(&publication.page)
    .bind(&publication.sae_run)
    .bind(created_ms)
    .fetch_one(conn)
    .await?;
    Ok(publication_id)
}

async fn insert_file(
    conn: &mut SqliteConnection,
    publication_id: i64,
    file: &PublishedFile,
    seen_ms: i64,
) -> Result<(), Trouble> {
    sqlx::query(
        "INSERT INTO publication_file (publication_id, path, sae_id, layout, n_bytes, sha256, is_new, seen_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (publication_id, path) DO UPDATE SET
             sae_id = excluded.sae_id, layout = excluded.layout, seen_ms = excluded.seen_ms",
    )
    .bind(publication_id)
    .bind(&file.path)
    .bind(file.sae.map(|(sae_id, _)| sae_id))
    .bind(file.sae.map(|(_, layout)| layout))
    .bind(int(file.n_bytes))
    .bind(&file.sha256)
    .bind(file.is_new)
    .bind(seen_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// The repositories that SAEs of a job were published in.
pub(crate) async fn repos_of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<String>, Trouble> {
    let repos = sqlx::query_scalar(
        "SELECT DISTINCT repo FROM publication JOIN publication_file USING (publication_id)
         JOIN sae USING (sae_id) WHERE job_id = ? ORDER BY repo",
    );
    Ok(repos.bind(job_id).fetch_all(conn).await?)
}

/// The publications that a job has a part in, in the order of time.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<JobPublication>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT publication.*, count(DISTINCT sae_id) AS n_saes
         FROM publication JOIN publication_file USING (publication_id) JOIN sae USING (sae_id)
         WHERE job_id = ? GROUP BY publication_id ORDER BY publication_id",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan};
    use plan::EventKind;
    use serde_json::json;

    fn file(path: &str, sae: Option<(i64, &'static str)>) -> PublishedFile {
        PublishedFile {
            path: path.into(),
            sae,
            n_bytes: 10,
            sha256: "00".into(),
            is_new: true,
        }
    }

    fn publication(files: Vec<PublishedFile>) -> Publication {
        Publication {
            repo: "org/saes".into(),
            branch: "main".into(),
            commit: "c0".into(),
            page: "https://hub/org/saes".into(),
            sae_run: "0.1.0".into(),
            files,
        }
    }

    #[tokio::test]
    async fn what_was_published_is_found_and_kept() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).checkpoint(job, 20, true);
        script.push(EventKind::Interrupted { step: 20 });
        test.store.fold(stream, &script.events).await.unwrap();
        let first = publication(vec![
            file("README.md", None),
            file("layers.0/cfg.json", Some((1, "sparsify"))),
            file("layers.0/saelens/cfg.json", Some((1, "saelens"))),
        ]);
        test.store.record_publication(&first).await.unwrap();
        let again = Publication {
            commit: "c1".into(),
            ..publication(vec![
                file("layers.0/cfg.json", Some((1, "saelens"))),
                file("layers.0/sae_weights.safetensors", Some((1, "saelens"))),
                file("layer_0.safetensors", Some((1, "circuit-tracer"))),
                file("v1/W_dec_0.safetensors", Some((1, "circuit-tracer"))),
                file("v1/W_enc_0.safetensors", Some((1, "circuit-tracer"))),
            ])
        };
        test.store.record_publication(&again).await.unwrap();

        let published = test.store.published_in("org/saes", "main").await.unwrap();
        let found = |path: &str, layout: &str| PublishedSae {
            path: path.into(),
            sae_id: 1,
            layout: layout.into(),
        };
        let expected = [
            found("layers.0/saelens/cfg.json", "saelens"),
            found("layer_0.safetensors", "circuit-tracer"),
            found("layers.0/cfg.json", "saelens"),
            found("v1/W_enc_0.safetensors", "circuit-tracer"),
        ];
        assert_eq!(published, expected);
        assert!(
            test.store
                .published_in("org/saes", "v2")
                .await
                .unwrap()
                .is_empty()
        );
        let shown = test.store.job(job).await.unwrap().publications;
        assert_eq!(shown.len(), 2);
        assert_eq!((shown[0].n_saes, shown[0].repo.as_str()), (1, "org/saes"));
        let json = test.store.job_json(job).await.unwrap();
        assert_eq!(json["publications"].as_array().unwrap().len(), 7);

        let removal = test.store.removal(&["s"]).await.unwrap();
        assert_eq!(removal.jobs.len(), 1);
        assert_eq!(removal.kept[0].job_id, *job);
        assert_eq!(removal.kept[0].reason, "published in `org/saes`");
        test.store.remove(&removal).await.unwrap();

        // What is there is no longer what it would be trained to.
        test.store.reset_jobs(&[job]).await.unwrap();
        test.execute("UPDATE publication_file SET seen_ms = 1")
            .await
            .unwrap();
        script.attempt = 2;
        test.store.begin_attempt(stream, "log").await.unwrap();
        script.start(2, 0).checkpoint(job, 20, true);
        test.store.fold(stream, &script.events).await.unwrap();
        assert_eq!(test.status(job).await, "done");
        assert!(
            test.store
                .published_in("org/saes", "main")
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_commit_is_recorded_once_with_all_that_is_found_in_it() {
        let test = TestStore::new().await;
        test.record(&plan("s", &[json!({"k": 4})])).await;
        let card = || file("README.md", None);
        let with = |path| publication(vec![card(), file(path, Some((1, "sparsify")))]);
        for path in ["a/cfg.json", "a/cfg.json", "b/cfg.json"] {
            test.store.record_publication(&with(path)).await.unwrap();
        }
        let commits = test.rows("SELECT count(*) FROM publication").await;
        assert_eq!(commits, [[json!(1)]]);
        let files = "SELECT path, is_new FROM publication_file ORDER BY path";
        let expected = [("README.md", 1), ("a/cfg.json", 1), ("b/cfg.json", 1)];
        let expected = expected.map(|(path, is_new)| [json!(path), json!(is_new)]);
        assert_eq!(test.rows(files).await, expected);
        let elsewhere = Publication {
            branch: "v2".into(),
            ..with("a/cfg.json")
        };
        test.store.record_publication(&elsewhere).await.unwrap();
        let commits = test.rows("SELECT count(*) FROM publication").await;
        assert_eq!(commits, [[json!(2)]]);
    }

    #[tokio::test]
    async fn nothing_is_recorded_of_an_unknown_sae() {
        let test = TestStore::new().await;
        let publication = publication(vec![
            file("README.md", None),
            file("x", Some((7, "sparsify"))),
        ]);
        let error = test
            .store
            .record_publication(&publication)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Constraint { .. }), "{error:?}");
        let left = test.rows("SELECT count(*) FROM publication").await;
        assert_eq!(left, [[json!(0)]]);
    }
}
