use super::rows::TABLES;
use super::*;
use crate::testing::{Script, TestStore, plan, stats};
use plan::Plan;
use serde_json::{Value, json};

/// A database with a sweep whose jobs at `done` are done.
async fn with_sweep(sweep: &str, k: &[u64], done: &[usize]) -> (TestStore, Plan) {
    let test = TestStore::new().await;
    let overrides: Vec<Value> = k.iter().map(|k| json!({"k": k})).collect();
    let plan = plan(sweep, &overrides);
    test.record(&plan).await;
    train(&test, &plan, done).await;
    (test, plan)
}

/// Trains all jobs of the plan a little, and those at `done` to their end.
async fn train(test: &TestStore, plan: &Plan, done: &[usize]) {
    let stream = &plan.streams[0].stream_id;
    test.store.begin_attempt(stream, "log").await.unwrap();
    let mut script = Script::new();
    script.start(1, 0);
    for (index, job) in plan.jobs.iter().enumerate() {
        script.metric(&job.job_id, 10, stats(4.0));
        if done.contains(&index) {
            script.metric(&job.job_id, 20, stats(2.0));
            script.checkpoint(&job.job_id, 20, true);
        }
    }
    test.store.fold(stream, &script.events).await.unwrap();
    test.store.abandon_dead_attempts(stream).await.unwrap();
}

async fn merge(test: &TestStore, other: &TestStore, prefix: &str) -> Merged {
    let path = &other.path();
    let other = OtherDatabase { path, prefix };
    let planned = test.store.merge_plan(other).await.unwrap();
    let merged = test.store.merge(other).await.unwrap();
    assert_eq!(planned, merged);
    let broken = test.rows("SELECT * FROM pragma_foreign_key_check").await;
    assert!(broken.is_empty(), "{broken:?}");
    merged
}

async fn results(test: &TestStore) -> Vec<Vec<Value>> {
    test.rows(
        "SELECT sweep, job, sae, status, step, n_tokens, fvu FROM result WHERE is_current
         ORDER BY sweep, ordinal, sae",
    )
    .await
}

#[tokio::test]
async fn every_table_is_merged() {
    let test = TestStore::new().await;
    let tables = test
        .rows(
            "SELECT name FROM sqlite_schema
             WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name <> '_sqlx_migrations' ORDER BY name",
        )
        .await;
    let mut merged: Vec<_> = TABLES.iter().map(|table| [json!(table.name)]).collect();
    merged.sort_by_key(|row| row[0].to_string());
    assert_eq!(json!(tables), json!(merged));
}

#[tokio::test]
async fn what_another_database_has_comes_once() {
    let (ours, _) = with_sweep("ours", &[4, 2], &[0, 1]).await;
    let (theirs, plan) = with_sweep("theirs", &[4, 8], &[0, 1]).await;
    let expected = [results(&ours).await, results(&theirs).await].concat();
    let merged = merge(&ours, &theirs, "").await;
    let jobs: Vec<_> = merged.jobs.iter().map(|job| &job.job_id).collect();
    assert_eq!((jobs, merged.n_known), (vec![&plan.jobs[1].job_id], 1));
    assert_eq!(merged.streams[0].0, plan.streams[0].stream_id);
    assert!(merged.renamed.is_empty());
    assert_eq!(json!(results(&ours).await), json!(expected));
    let before = ours.dump().await;
    assert_eq!(merge(&ours, &theirs, "").await.jobs, []);
    assert_eq!(ours.dump().await, before, "merging again changes nothing");
    // It is trained no more, and what is left of its stream can be.
    let error = ours.store.begin_attempt(&plan.streams[0].stream_id, "log");
    assert!(error.await.unwrap_err().to_string().ends_with("are done"));
}

#[tokio::test]
async fn a_job_that_is_done_there_alone_replaces_the_one_here() {
    let (ours, _) = with_sweep("ours", &[4, 2], &[1]).await;
    let (theirs, plan) = with_sweep("theirs", &[4, 2], &[0]).await;
    let merged = merge(&ours, &theirs, "").await;
    let dir = |sweep: &str| format!("{sweep}/{}", plan.jobs[0].folder());
    let expected = MergedJob {
        job_id: plan.jobs[0].job_id.clone(),
        dir: dir("theirs"),
        replaced: Some(dir("ours")),
    };
    assert_eq!(merged.jobs, [expected]);
    let statuses = ours
        .rows("SELECT status, dir FROM job ORDER BY status, dir")
        .await;
    let other = format!("ours/{}", plan.jobs[1].folder());
    let mut expected = json!([["done", other], ["done", dir("theirs")]]);
    expected
        .as_array_mut()
        .unwrap()
        .sort_by_key(Value::to_string);
    assert_eq!(json!(statuses), expected);
    let steps = ours
        .rows("SELECT count(*), sum(n_tokens) FROM metric")
        .await;
    let of_two = theirs
        .rows("SELECT 2 * count(*), 2 * sum(n_tokens) FROM metric JOIN sae USING (sae_id) JOIN job USING (job_id) WHERE status = 'done'")
        .await;
    assert_eq!(steps, of_two, "each update once");
}

#[tokio::test]
async fn an_unfinished_job_continues_here() {
    let (ours, _) = with_sweep("ours", &[4], &[0]).await;
    let (theirs, plan) = with_sweep("theirs", &[8], &[]).await;
    merge(&ours, &theirs, "").await;
    let (job, stream) = (&plan.jobs[0].job_id, &plan.streams[0].stream_id);
    assert_eq!(ours.status(job).await, "interrupted");
    let recorded = ours.record(&plan).await;
    let known = theirs.record(&plan).await;
    assert_eq!(recorded.streams, known.streams, "events are numbered on");
    assert_eq!(ours.store.begin_attempt(stream, "log").await.unwrap(), 2);
}

#[tokio::test]
async fn another_sweep_of_the_same_name_gets_another_name() {
    let (ours, _) = with_sweep("s", &[4], &[0]).await;
    let (theirs, _) = with_sweep("s", &[8], &[0]).await;
    let merged = merge(&ours, &theirs, "").await;
    assert_eq!(merged.renamed, [("s".to_owned(), "s-2".to_owned())]);
    let sweeps = ours
        .rows("SELECT name, revision FROM sweep ORDER BY name")
        .await;
    assert_eq!(json!(sweeps), json!([["s", 1], ["s-2", 1]]));
    let (third, _) = with_sweep("s", &[16], &[0]).await;
    let merged = merge(&ours, &third, "").await;
    assert_eq!(merged.renamed, [("s".to_owned(), "s-3".to_owned())]);
}

#[tokio::test]
async fn versions_of_one_sweep_are_put_in_order() {
    let versions = async |test: &TestStore| {
        let rows = test.rows("SELECT job, revision, is_current FROM sweep_listing ORDER BY job");
        json!(rows.await)
    };
    let (old, new) = (plan("s", &[json!({"k": 2})]), plan("s", &[json!({"k": 4})]));
    let [ours, theirs] = [TestStore::new().await, TestStore::new().await];
    for test in [&ours, &theirs] {
        test.record_text("old", &old).await.unwrap();
    }
    theirs.record_text("new", &new).await.unwrap();
    theirs
        .execute("UPDATE sweep SET created_ms = created_ms + 1000 WHERE revision = 2")
        .await
        .unwrap();
    merge(&ours, &theirs, "").await;
    let expected = json!([[r#"{"k":2}"#, 1, 0], [r#"{"k":4}"#, 2, 1]]);
    assert_eq!(versions(&ours).await, expected, "a newer one");

    let ours = TestStore::new().await;
    ours.record_text("old", &old).await.unwrap();
    ours.execute("UPDATE sweep SET created_ms = created_ms + 5000")
        .await
        .unwrap();
    merge(&ours, &theirs, "").await;
    let expected = json!([[r#"{"k":2}"#, 2, 1], [r#"{"k":4}"#, 1, 0]]);
    assert_eq!(versions(&ours).await, expected, "an earlier one");
}

#[tokio::test]
async fn paths_may_begin_with_the_folder_that_they_are_in() {
    let (ours, [theirs, more]) = (
        TestStore::new().await,
        [
            with_sweep("theirs", &[4], &[0]).await.0,
            with_sweep("more", &[8], &[0]).await.0,
        ],
    );
    merge(&ours, &theirs, "/a/").await;
    merge(&ours, &more, "/b/").await;
    let paths = ours
        .rows(
            "SELECT substr(job.dir, 1, 3), substr(path, 1, 3), substr(log, 1, 3) FROM job
             JOIN checkpoint USING (job_id) JOIN attempt USING (attempt_id) ORDER BY 1",
        )
        .await;
    assert_eq!(
        json!(paths),
        json!([["/a/", "/a/", "/a/"], ["/b/", "/b/", "/b/"]])
    );
}
