//! Table `round`: what a recipe was asked and answered.

use crate::error::{StoreError, Trouble};
use crate::open::{Store, int};
use crate::sweep;
use fault::Fault;
use plan::{Plan, Round};
use sqlx::{FromRow, SqliteConnection};

#[derive(FromRow)]
struct RoundRow {
    request: String,
    response: String,
    request_digest: String,
    fuel: i64,
}

impl Store {
    /// The rounds after the first of a plan's sweep, in order, as they were recorded; empty if the sweep is new or was
    /// edited since. `plan` is that of round 0.
    ///
    /// # Errors
    /// The database cannot be read, or what it says of a round is not a round.
    pub async fn later_rounds(
        &self,
        sweep_text: &str,
        plan: &Plan,
    ) -> Result<Vec<Round>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let Some(version) = sweep::find(&mut conn, sweep_text, plan).await? else {
                return Ok(Vec::new());
            };
            let sql = "SELECT request, response, request_digest, fuel FROM round
                 WHERE sweep_id = ? AND number > 0 ORDER BY number";
            let rows: Vec<RoundRow> = sqlx::query_as(sql)
                .bind(version.sweep_id)
                .fetch_all(&mut *conn)
                .await?;
            let rounds = rows.into_iter().zip(1u32..);
            rounds
                .map(|(row, number)| round(row, number, &plan.sweep))
                .collect()
        })
        .await
    }

    /// Forgets the rounds after the first of a plan's sweep, and which jobs they asked for (`--fresh`).
    ///
    /// # Errors
    /// The database cannot be written; then nothing was forgotten.
    pub async fn forget_later_rounds(
        &self,
        sweep_text: &str,
        plan: &Plan,
    ) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            if let Some(version) = sweep::find(&mut tx, sweep_text, plan).await? {
                for sql in FORGET {
                    sqlx::query(sql)
                        .bind(version.sweep_id)
                        .execute(&mut *tx)
                        .await?;
                }
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// Which jobs later rounds asked for, then the rounds.
const FORGET: [&str; 2] = [
    "DELETE FROM sweep_job WHERE sweep_id = ?1 AND ordinal >=
         (SELECT min(first_ordinal) FROM round WHERE sweep_id = ?1 AND number > 0)",
    "DELETE FROM round WHERE sweep_id = ?1 AND number > 0",
];

fn round(row: RoundRow, number: u32, sweep: &str) -> Result<Round, Trouble> {
    let damaged = |source: serde_json::Error| {
        Fault::input(format!(
            "round {number} of sweep `{sweep}` is damaged in the database"
        ))
        .because(source)
    };
    Ok(Round {
        request: serde_json::from_str(&row.request).map_err(damaged)?,
        response: serde_json::from_str(&row.response).map_err(damaged)?,
        request_digest: row.request_digest,
        fuel: u64::try_from(row.fuel).unwrap_or(0),
    })
}

/// Records the rounds of a plan; those that are known stay as they are.
pub(crate) async fn record(
    conn: &mut SqliteConnection,
    sweep_id: i64,
    plan: &Plan,
    now_ms: i64,
) -> Result<(), Trouble> {
    let mut first_ordinal = 0;
    for (number, round) in plan.rounds.iter().enumerate() {
        let text = |value: serde_json::Result<String>| value.expect("plain data serialises");
        sqlx::query(
            "INSERT INTO round (sweep_id, number, request, request_digest, response,
                 first_ordinal, fuel, created_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sweep_id, number) DO NOTHING",
        )
        .bind(sweep_id)
        .bind(int(number))
        .bind(text(serde_json::to_string(&round.request)))
        .bind(&round.request_digest)
        .bind(text(serde_json::to_string(&round.response)))
        .bind(int(first_ordinal))
        .bind(int(round.fuel))
        .bind(now_ms)
        .execute(&mut *conn)
        .await?;
        first_ordinal += round.response.jobs.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestStore, plan};
    use plan::{Plan, PlanRequest, PlanResponse, Round};
    use serde_json::json;

    fn round(number: u32, plan: &Plan, done: bool) -> Round {
        let draft = |job: &plan::Job| plan::JobDraft {
            name: Some(job.name.clone()),
            note: None,
            overrides: job.overrides.clone(),
        };
        Round {
            request: PlanRequest {
                sweep: plan.sweep.clone(),
                train: Default::default(),
                vary: Default::default(),
                model: crate::testing::facts(),
                seed: 0,
                round: number,
                results: Vec::new(),
            },
            response: PlanResponse {
                jobs: plan.jobs.iter().map(draft).collect(),
                done,
            },
            request_digest: format!("q{number}"),
            fuel: 5,
        }
    }

    /// A plan of two rounds, and its first alone.
    fn two_rounds() -> (Plan, Plan) {
        let mut first = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        first.rounds = vec![round(0, &first, false)];
        let second = plan("s", &[json!({"k": 3})]);
        let mut both = first.clone();
        both.rounds.push(round(1, &second, true));
        both.jobs.extend(second.jobs);
        both.streams.extend(second.streams);
        (first, both)
    }

    #[tokio::test]
    async fn later_rounds_belong_to_the_same_version_and_are_read_back() {
        let test = TestStore::new().await;
        let (first, both) = two_rounds();
        assert_eq!(test.store.later_rounds("text", &first).await.unwrap(), []);
        for plan in [&first, &both, &both] {
            test.record_text("text", plan).await.unwrap();
        }
        let versions = test.rows("SELECT count(*) FROM sweep").await;
        assert_eq!(versions, [[json!(1)]], "results make no new version");
        let stored = test.store.later_rounds("text", &first).await.unwrap();
        assert_eq!(stored, both.rounds[1..]);
        let rows = test
            .rows("SELECT number, first_ordinal, request_digest, fuel FROM round ORDER BY number")
            .await;
        assert_eq!(json!(rows), json!([[0, 0, "q0", 5], [1, 2, "q1", 5]]));
        let other = test.store.later_rounds("other text", &first).await.unwrap();
        assert_eq!(other, []);
    }

    #[tokio::test]
    async fn a_fresh_start_forgets_later_rounds_and_their_jobs_names() {
        let test = TestStore::new().await;
        let (first, both) = two_rounds();
        test.record_text("text", &both).await.unwrap();
        test.store
            .forget_later_rounds("text", &first)
            .await
            .unwrap();
        assert_eq!(test.store.later_rounds("text", &first).await.unwrap(), []);
        let names = test.rows("SELECT count(*) FROM sweep_job").await;
        assert_eq!(names, [[json!(2)]]);
        let jobs = test.rows("SELECT count(*) FROM job").await;
        assert_eq!(jobs, [[json!(3)]], "what was trained stays");
    }

    #[tokio::test]
    async fn a_damaged_round_is_named() {
        let test = TestStore::new().await;
        let (first, both) = two_rounds();
        test.record_text("text", &both).await.unwrap();
        test.execute("UPDATE round SET response = '{}' WHERE number = 1")
            .await
            .unwrap();
        let error = test.store.later_rounds("text", &first).await.unwrap_err();
        assert!(
            error.to_string().contains("round 1 of sweep `s`"),
            "{error}"
        );
    }
}
