//! SAEs with all that a publication says of them.

use crate::error::{StoreError, Trouble};
use crate::listing::Listing;
use crate::open::Store;
use crate::query::QueryLimits;
use crate::remove;
use crate::result::ResultRow;
use fault::Fault;
use serde_json::Value;
use sqlx::{FromRow, SqliteConnection};
use std::collections::BTreeSet;

/// One SAE with all that a publication says about it.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct PublishableSae {
    /// Its settings and numbers.
    #[sqlx(flatten)]
    pub result: ResultRow,
    /// Where it comes from.
    #[sqlx(flatten)]
    pub provenance: ProvenanceRow,
    /// Key of the SAE.
    pub sae_id: i64,
    /// Width of the activations.
    pub d_in: u64,
    /// What a worker found wrong with it last; `None`: nothing.
    pub verdict: Option<String>,
}

/// Where a job of a sweep comes from; the view `provenance` defines each column exactly.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ProvenanceRow {
    /// Version of the sweep, from 1.
    pub revision: i64,
    /// The sweep file as the user wrote it.
    pub sweep_text: String,
    /// Name or path of the recipe.
    pub recipe: String,
    /// Digest of the recipe.
    pub recipe_digest: String,
    /// Version of sae-run that first ran this version of the sweep.
    pub sae_run: Option<String>,
    /// Commit of the checkout that the sweep file is in.
    pub git_commit: Option<String>,
    /// Version of libtorch of the last attempt that trained the job.
    pub libtorch: Option<String>,
    /// Device of that attempt.
    pub device: Option<String>,
    /// Name or folder of the language model.
    pub model: String,
    /// Digest of the model's files.
    pub model_digest: String,
    /// File, folder or id of the data set.
    pub dataset: String,
    /// Digest of the token data.
    pub token_digest: String,
    /// All settings of the job, resolved; JSON.
    pub config: String,
}

impl Store {
    /// The SAEs of the sweeps and jobs that are named (see [`Store::removal`]), or those for which
    /// `condition` is true (see [`Listing`]), in the order of their sweeps. Each is there once, as the
    /// first sweep that asks for it has it.
    ///
    /// # Errors
    /// A name that nothing has, or several jobs; a condition that SQLite does not understand; a named
    /// job that was never trained.
    pub async fn publishable(
        &self,
        named: &[impl AsRef<str>],
        condition: Option<&str>,
    ) -> Result<Vec<PublishableSae>, StoreError> {
        let mut sae_ids = self.of_condition(condition).await?;
        let mut conn = self.acquire().await?;
        self.located(async {
            let targets = remove::targets(&mut conn, named).await?;
            for job_id in remove::all_jobs(&mut conn, &targets).await? {
                sae_ids.extend(saes_of_job(&mut conn, &job_id).await?);
            }
            of_ids(&mut conn, &sae_ids).await
        })
        .await
    }

    /// The SAEs with these keys, in the order of their sweeps.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn publishable_by_id(
        &self,
        sae_ids: &BTreeSet<i64>,
    ) -> Result<Vec<PublishableSae>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(of_ids(&mut conn, sae_ids)).await
    }

    async fn of_condition(&self, condition: Option<&str>) -> Result<BTreeSet<i64>, StoreError> {
        let Some(condition) = condition else {
            return Ok(BTreeSet::new());
        };
        let listing = Listing {
            condition: Some(condition.to_owned()),
            ..Listing::default()
        };
        let table = self.listing(&listing, &QueryLimits::default()).await?;
        let column = table.columns.iter().position(|name| name == "sae_id");
        let column = column.expect("`result` has the keys of its SAEs");
        let ids = table.rows.iter().filter_map(|row| row[column].as_i64());
        Ok(ids.collect())
    }
}

/// The keys of a job's SAEs; an error if it was never trained, for then nothing is known of them.
async fn saes_of_job(conn: &mut SqliteConnection, job_id: &str) -> Result<Vec<i64>, Trouble> {
    let sql = "SELECT sae_id FROM sae WHERE job_id = ? AND EXISTS (
                   SELECT 1 FROM metric WHERE metric.sae_id = sae.sae_id)";
    let sae_ids: Vec<i64> = sqlx::query_scalar(sql).bind(job_id).fetch_all(conn).await?;
    if sae_ids.is_empty() {
        return Err(Fault::input(format!("job `{job_id}` was never trained"))
            .with_hint("run its sweep first; `--where` chooses among trained SAEs")
            .into());
    }
    Ok(sae_ids)
}

/// One row for each SAE: the newest version of the first sweep that has it.
async fn of_ids(
    conn: &mut SqliteConnection,
    sae_ids: &BTreeSet<i64>,
) -> Result<Vec<PublishableSae>, Trouble> {
    let sae_ids = Value::from_iter(sae_ids.iter().copied()).to_string();
    let rows = sqlx::query_as(
        "SELECT result.*, provenance.*, (
             SELECT reason FROM verdict WHERE verdict.sae_id = result.sae_id
             ORDER BY verdict_id DESC LIMIT 1
         ) AS verdict
         FROM result JOIN provenance USING (sweep, job, job_id)
         WHERE result.sae_id IN (SELECT value FROM json_each(?))
         ORDER BY is_current DESC, sweep, ordinal, sae_id, revision DESC",
    );
    let rows: Vec<PublishableSae> = rows.bind(sae_ids).fetch_all(conn).await?;
    let mut seen = BTreeSet::new();
    let first = rows.into_iter().filter(|sae| seen.insert(sae.sae_id));
    Ok(first.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan, stats};
    use serde_json::json;

    #[tokio::test]
    async fn saes_are_chosen_by_name_and_by_condition() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2}), json!({"k": 1})]);
        test.record(&plan).await;
        test.record_text("edited", &plan).await.unwrap();
        let stream = &plan.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        for job in &plan.jobs[..2] {
            script
                .metric(&job.job_id, 20, stats(4.0))
                .checkpoint(&job.job_id, 20, true);
        }
        test.store.fold(stream, &script.events).await.unwrap();
        let store = &test.store;
        let none: [&str; 0] = [];

        let few = store.publishable(&none, Some("k < 4")).await.unwrap();
        assert_eq!(few.len(), 1, "the third was never trained");
        let PublishableSae {
            result, provenance, ..
        } = &few[0];
        assert_eq!(
            (result.k, result.fvu, provenance.revision),
            (2.into(), Some(0.5), 2)
        );
        assert_eq!(provenance.sweep_text, "edited");
        let job = plan.jobs[0].job_id.as_str();
        let one = store.publishable(&[job], None).await.unwrap();
        assert_eq!((one.len(), one[0].result.k), (1, 4.into()));
        assert_eq!(
            one[0].result.checkpoint.as_deref(),
            Some(&*format!("s/{job}/layers.0"))
        );
        let both = store.publishable(&[job], Some("k < 4")).await.unwrap();
        assert_eq!(both.len(), 2);
        let ids = both.iter().map(|sae| sae.sae_id).collect();
        assert_eq!(store.publishable_by_id(&ids).await.unwrap(), both);

        let error = store.publishable(&["s"], None).await.unwrap_err();
        assert!(error.to_string().ends_with("was never trained"), "{error}");
        let error = store.publishable(&["t"], None).await.unwrap_err();
        assert_eq!(error.to_string(), "no job has the id or name `t`");
    }
}
