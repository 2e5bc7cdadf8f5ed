//! A damaged file and a full disk: named, and nothing made worse.

use crate::Store;
use crate::testing::{Script, TestStore, plan, stats};
use fault::Remedy;
use plan::Plan;
use serde_json::json;
use std::fs;

/// A database with 2 000 metric rows.
async fn filled() -> (TestStore, Plan) {
    let test = TestStore::new().await;
    let plan = plan("s", &[json!({"k": 4})]);
    test.record(&plan).await;
    let stream = &plan.streams[0].stream_id;
    test.store.begin_attempt(stream, "log").await.unwrap();
    test.store
        .fold(stream, &script(&plan, 2_000).events)
        .await
        .unwrap();
    (test, plan)
}

fn script(plan: &Plan, n_steps: u64) -> Script {
    let mut script = Script::new();
    script.start(1, 0);
    for step in 1..=n_steps {
        script.metric(&plan.jobs[0].job_id, step, stats(4.0));
    }
    script
}

#[tokio::test]
async fn a_damaged_database_is_named_and_left_as_it_is() {
    let (test, plan) = filled().await;
    test.store.clone().close().await;
    let whole = fs::read(test.path()).unwrap();
    // The page sizes and the list of tables are on the first page; all others are lost.
    let mut damaged = whole.clone();
    damaged[4096..].fill(0x5a);
    // The list of tables is lost, the header is whole.
    let mut headless = whole.clone();
    headless[100..4096].fill(0x5a);
    for bytes in [damaged, headless] {
        fs::write(test.path(), &bytes).unwrap();
        let error = match Store::open(&test.path()).await {
            Err(error) => error,
            Ok(store) => {
                let more = script(&plan, 2_001);
                let folded = store.fold(&plan.streams[0].stream_id, &more.events);
                folded.await.unwrap_err()
            }
        };
        assert!(error.to_string().ends_with("is damaged"), "{error}");
        assert!(error.to_string().contains("runs.db"), "{error}");
        assert!(error.hint().unwrap().contains(".recover"));
        let error = match Store::open_read_only(&test.path()).await {
            Err(error) => error,
            Ok(store) => store.query("SELECT * FROM result").await.unwrap_err(),
        };
        assert!(error.to_string().ends_with("is damaged"), "{error}");
        assert_eq!(fs::read(test.path()).unwrap(), bytes, "not overwritten");
    }
}

#[tokio::test]
async fn a_half_database_is_named_and_left_as_it_is() {
    let (test, _) = filled().await;
    test.store.clone().close().await;
    let whole = fs::read(test.path()).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(test.path(), half).unwrap();
    let error = match Store::open(&test.path()).await {
        Err(error) => error,
        Ok(store) => store.abandon_dead_attempts("any").await.unwrap_err(),
    };
    assert!(error.to_string().ends_with("is damaged"), "{error}");
    assert_eq!(fs::read(test.path()).unwrap(), half);
}

#[tokio::test]
async fn a_full_disk_loses_and_doubles_nothing() {
    let (test, plan) = filled().await;
    let stream = &plan.streams[0].stream_id;
    let more = script(&plan, 40_000);
    // SQLite takes this limit for a full disk.
    test.rows("SELECT * FROM pragma_page_count").await;
    test.execute("PRAGMA max_page_count = 100").await.unwrap();
    let error = test.store.fold(stream, &more.events).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no space is left for the database"),
        "{error}"
    );
    let n_rows = "SELECT count(*), sum(n_tokens), max(n_tokens_so_far) FROM metric";
    assert_eq!(
        test.rows(n_rows).await,
        [[json!(2_000), json!(20_000), json!(20_000)]]
    );
    assert_eq!(
        test.rows("SELECT * FROM pragma_integrity_check").await,
        [["ok"]]
    );

    test.execute("PRAGMA max_page_count = 1000000")
        .await
        .unwrap();
    assert_eq!(test.store.fold(stream, &more.events).await.unwrap(), 38_000);
    let expected = [[json!(40_000), json!(400_000), json!(400_000)]];
    assert_eq!(test.rows(n_rows).await, expected);
}
