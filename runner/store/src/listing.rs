//! SAEs by what is known of them: the view `result`, and what has no result yet.

use crate::error::{StoreError, Trouble, did_you_mean, message};
use crate::open::Store;
use crate::query::{QueryLimits, QueryTable};
use crate::sweep;
use fault::Fault;
use plan::nearest;
use sqlx::{AssertSqlSafe, Connection, Executor, SqlSafeStr, SqliteConnection};
use std::fmt::Write;

/// Which SAEs to list, and in what order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Only those of this sweep.
    pub sweep: Option<String>,
    /// Only those for which this SQL expression over the columns of `result` is true.
    pub condition: Option<String>,
    /// Columns to sort by, a `-` in front for descending; by default as the sweeps have them.
    pub sort: Vec<String>,
    /// How many at most.
    pub limit: Option<u32>,
    /// Also those that only earlier versions of a sweep asked for.
    pub with_earlier: bool,
}

impl Store {
    /// The SAEs that match, with the columns of the view `result`; values that are not known yet are null.
    ///
    /// # Errors
    /// A sweep that was never run, a column that is not there, a condition that is not one expression
    /// or that SQLite does not understand; and as [`Store::query_within`].
    pub async fn listing(
        &self,
        listing: &Listing,
        limits: &QueryLimits,
    ) -> Result<QueryTable, StoreError> {
        if let Some(name) = &listing.sweep {
            let mut conn = self.acquire().await?;
            self.located(sweep::check_name(&mut conn, name)).await?;
        }
        if let Some(condition) = &listing.condition {
            self.located(check_condition(condition)).await?;
        }
        let columns = self.columns("result").await?;
        let sql = statement(listing, &columns)?;
        self.query_within(&sql, limits).await
    }

    /// The columns of a table or view; empty if there is no such thing.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn columns(&self, table: &str) -> Result<Vec<String>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let names = sqlx::query_scalar("SELECT name FROM pragma_table_info(?)");
            Ok(names.bind(table).fetch_all(&mut *conn).await?)
        })
        .await
    }
}

/// Checks that a condition is one expression: SQLite must parse it both alone and between parentheses.
/// `1) OR (1` does not parse alone, `1 LIMIT 1` does not parse between them.
async fn check_condition(condition: &str) -> Result<(), Trouble> {
    let refused = |reason: &str| {
        Fault::input(format!("`{condition}` is not one SQL expression: {reason}"))
            .with_hint("such as `k <= 64 AND fvu < 0.1`")
    };
    if condition.contains('\0') {
        return Err(refused("it has a zero byte").into());
    }
    // A separate database, in memory. SQLite does not look up the names in a view that is not yet made.
    let mut parser = SqliteConnection::connect("sqlite::memory:").await?;
    for text in [condition, &format!("({condition}\n)")] {
        let view = format!("CREATE VIEW parsed AS SELECT 1 WHERE {text}");
        let parsed = parser.prepare(AssertSqlSafe(view).into_sql_str()).await;
        parsed.map_err(|error| refused(&message(&error)))?;
    }
    Ok(parser.close().await?)
}

fn statement(listing: &Listing, columns: &[String]) -> Result<String, Fault> {
    let mut sql = format!("SELECT * FROM ({})", everything(columns));
    let mut conditions = Vec::new();
    if let Some(sweep) = &listing.sweep {
        conditions.push(format!("sweep = '{}'", sweep.replace('\'', "''")));
    }
    if !listing.with_earlier {
        conditions.push("is_current".to_owned());
    }
    if let Some(condition) = &listing.condition {
        // On a separate line: the condition may end in a comment.
        conditions.push(format!("({condition}\n)"));
    }
    if !conditions.is_empty() {
        let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
    }
    let _ = write!(sql, " ORDER BY {}", order(&listing.sort, columns)?);
    if let Some(limit) = listing.limit {
        let _ = write!(sql, " LIMIT {limit}");
    }
    Ok(sql)
}

fn order(sort: &[String], columns: &[String]) -> Result<String, Fault> {
    let mut terms = Vec::new();
    for key in sort {
        let (column, direction) = match key.strip_prefix('-') {
            Some(column) => (column, "DESC"),
            None => (key.as_str(), "ASC"),
        };
        if !columns.iter().any(|known| known == column) {
            let nearest = nearest(column, columns.iter().map(String::as_str), 3);
            let all = || "`SELECT name FROM pragma_table_info('result')` lists the columns".into();
            return Err(Fault::input(format!("there is no column `{column}`"))
                .with_hint(did_you_mean(&nearest).unwrap_or_else(all)));
        }
        terms.push(format!("\"{column}\" {direction} NULLS LAST"));
    }
    terms.push("sweep, ordinal, sae_id".to_owned());
    Ok(terms.join(", "))
}

/// The view `result`, and the SAEs that it lacks because they have no metrics.
pub(crate) fn everything(columns: &[String]) -> String {
    let known = columns.iter().map(|column| match column.as_str() {
        "sweep" | "is_current" | "ordinal" | "job" => format!("sweep_listing.{column}"),
        "job_id" | "status" | "kind" => format!("job.{column}"),
        "sae" => "sae.name".to_owned(),
        "sae_id" | "hookpoint" | "seed" | "d_in" | "k" | "num_latents" | "lr" => {
            format!("sae.{column}")
        }
        "created" | "done" => {
            format!("strftime('%Y-%m-%dT%H:%M:%SZ', job.{column}_ms / 1000, 'unixepoch')")
        }
        "failure" => {
            "(SELECT text FROM job_failure WHERE job_failure.job_id = job.job_id)".to_owned()
        }
        "tags" => "(SELECT group_concat(given.tag, ' ') FROM (SELECT tag.tag FROM tag
             WHERE tag.job_id = job.job_id ORDER BY tag.tag) AS given)"
            .to_owned(),
        "note" => {
            "(SELECT text FROM note WHERE note.job_id = job.job_id ORDER BY note_id DESC LIMIT 1)"
                .to_owned()
        }
        "tokens_per_update" => "json_extract(job.config, '$.tokens_per_update')".to_owned(),
        "expansion_factor" => "1.0 * sae.num_latents / sae.d_in".to_owned(),
        _ => "NULL".to_owned(),
    });
    let known = known.collect::<Vec<_>>().join(", ");
    format!(
        "SELECT * FROM result UNION ALL SELECT {known} FROM sweep_listing
         JOIN job USING (job_id) JOIN sae USING (job_id)
         WHERE NOT EXISTS (SELECT 1 FROM metric WHERE metric.sae_id = sae.sae_id)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan, stats};
    use fault::Remedy;
    use serde_json::{Value, json};

    async fn two_jobs() -> TestStore {
        let test = TestStore::new().await;
        let plan = plan("it's", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).metric(job, 20, stats(2.0));
        test.store.fold(stream, &script.events).await.unwrap();
        test
    }

    async fn ks(test: &TestStore, listing: Listing) -> Result<Vec<Value>, StoreError> {
        let limits = QueryLimits::default();
        let table = test.store.listing(&listing, &limits).await?;
        let k = table.columns.iter().position(|name| name == "k").unwrap();
        Ok(table.rows.into_iter().map(|row| row[k].clone()).collect())
    }

    fn with(condition: &str) -> Listing {
        Listing {
            condition: Some(condition.into()),
            ..Listing::default()
        }
    }

    #[tokio::test]
    async fn what_has_no_result_yet_is_listed_too() {
        let test = two_jobs().await;
        assert_eq!(ks(&test, Listing::default()).await.unwrap(), [4, 2]);
        let columns = test.store.columns("result").await.unwrap();
        let (all, limits) = (Listing::default(), QueryLimits::default());
        let table = test.store.listing(&all, &limits).await.unwrap();
        assert_eq!(table.columns, columns);
        assert_eq!(ks(&test, with("fvu IS NULL -- new")).await.unwrap(), [2]);
        assert_eq!(
            ks(&test, with("job LIKE '%)%' OR k > 3")).await.unwrap(),
            [4]
        );
        let best = "k = (SELECT max(k) FROM result) AND (1, 2) < (1, 3)";
        assert_eq!(ks(&test, with(best)).await.unwrap(), [4]);
        let sorted = Listing {
            sweep: Some("it's".into()),
            sort: vec!["k".into(), "-fvu".into()],
            limit: Some(1),
            ..Listing::default()
        };
        assert_eq!(ks(&test, sorted).await.unwrap(), [2]);
    }

    #[tokio::test]
    async fn what_is_no_condition_is_refused() {
        let test = two_jobs().await;
        for condition in [
            "1) OR (1",
            "1; DELETE FROM job",
            "1; SELECT 1",
            "1); SELECT (1",
            "",
            "-- nothing",
            "k = 4)--",
            "k = 4 /*",
            "'",
            "(1",
            "1, 2",
            "k LIMIT 1",
            "1 UNION SELECT 2",
            "SELECT 1",
            "k = 4\0",
        ] {
            let error = ks(&test, with(condition)).await.unwrap_err();
            assert!(
                error.to_string().contains("is not one SQL expression"),
                "{condition}: {error}"
            );
            assert!(error.hint().is_some());
        }
        let error = ks(&test, with("fvuu < 1")).await.unwrap_err();
        assert_eq!(error.to_string(), "no such column: fvuu");
        let sort = Listing {
            sort: vec!["-fvuu".into()],
            ..Listing::default()
        };
        let error = ks(&test, sort).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no column `fvuu`");
        assert!(error.hint().unwrap().contains("`fvu`"));
    }
}
