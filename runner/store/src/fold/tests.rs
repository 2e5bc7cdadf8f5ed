//! Events folded once, twice, late and out of order.

use super::*;
use crate::testing::{Script, TestStore, plan, stats};
use fault::FailureKind;
use plan::Plan;
use serde_json::json;
use std::time::Instant;

async fn running() -> (TestStore, Plan) {
    let test = TestStore::new().await;
    let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
    test.record(&plan).await;
    let stream = &plan.streams[0].stream_id;
    test.store.begin_attempt(stream, "log").await.unwrap();
    (test, plan)
}

/// Two jobs over 20 steps; the first ends well, the second not.
fn script(plan: &Plan) -> Script {
    let [a, b] = [&plan.jobs[0].job_id, &plan.jobs[1].job_id];
    let mut script = Script::new();
    script.start(1, 0);
    for step in [10, 20] {
        script
            .metric(a, step, stats(2.0))
            .metric(b, step, stats(4.0));
        script.push(EventKind::Progress {
            step,
            n_tokens: 100,
            elapsed_ms: 50,
        });
    }
    script.checkpoint(a, 20, true);
    script.push(EventKind::Failed {
        kind: FailureKind::Internal,
        message: "no memory".into(),
        hint: Some("get more".into()),
    });
    script
}

#[tokio::test]
async fn folding_twice_changes_nothing() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    let events = script(&plan).events;
    assert_eq!(store.fold(stream, &events).await.unwrap(), events.len());
    let rows = test.dump().await;
    assert_eq!(store.fold(stream, &events).await.unwrap(), 0);
    assert_eq!(store.fold(stream, &[]).await.unwrap(), 0);
    assert_eq!(test.dump().await, rows);
    assert_eq!(
        store.last_event_seq(stream).await.unwrap(),
        events.len() as u64
    );
    let again = test.record(&plan).await;
    assert_eq!(
        again.stream(stream).unwrap().last_event_seq,
        events.len() as u64
    );
}

#[tokio::test]
async fn folding_in_pieces_is_folding_at_once() {
    let (at_once, plan) = running().await;
    let (in_pieces, _) = running().await;
    let stream = &plan.streams[0].stream_id;
    let events = script(&plan).events;
    at_once.store.fold(stream, &events).await.unwrap();
    for end in 1..=events.len() {
        // As a coordinator does that reads the whole file again each time.
        let n_new = in_pieces.store.fold(stream, &events[..end]).await.unwrap();
        assert_eq!(n_new, 1);
    }
    for table in ["metric", "progress", "checkpoint"] {
        let sql = format!("SELECT * FROM {table}");
        assert_eq!(
            at_once.rows(&sql).await,
            in_pieces.rows(&sql).await,
            "{table}"
        );
    }
}

#[tokio::test]
async fn each_event_updates_its_rows() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    store.fold(stream, &script(&plan).events).await.unwrap();
    assert_eq!(test.status(&plan.jobs[0].job_id).await, "done");
    let failed = store.job(&plan.jobs[1].job_id).await.unwrap();
    assert_eq!(failed.status.to_string(), "failed");
    let attempt = &failed.attempts[0];
    assert_eq!(attempt.status, AttemptStatus::Failed);
    assert_eq!(attempt.pid, Some(41));
    assert_eq!(attempt.device.as_deref(), Some("cpu"));
    assert_eq!(attempt.first_step, Some(0));
    assert_eq!(attempt.reason.as_deref(), Some("no memory"));
    assert_eq!(attempt.hint.as_deref(), Some("get more"));
    let length = test
        .rows("SELECT n_steps, tokens_per_step FROM stream")
        .await;
    assert_eq!(json!(length), json!([[20, 10]]));
}

#[tokio::test]
async fn what_a_resumed_attempt_does_again_counts_once() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    let job = &plan.jobs[0].job_id;
    let mut script = Script::new();
    script
        .start(1, 0)
        .metric(job, 4, stats(8.0))
        .metric(job, 8, stats(8.0));
    script
        .checkpoint(job, 8, false)
        .metric(job, 12, stats(8.0))
        .metric(job, 16, stats(8.0));
    store.fold(stream, &script.events).await.unwrap();
    store.abandon_dead_attempts(stream).await.unwrap();
    store.begin_attempt(stream, "log").await.unwrap();

    // From the checkpoint, and with another interval between metrics.
    script
        .start(2, 8)
        .metric(job, 13, stats(2.0))
        .metric(job, 16, stats(1.0));
    store.fold(stream, &script.events).await.unwrap();
    let rows = test
        .rows("SELECT step, squared_error, number FROM metric JOIN attempt USING (attempt_id)")
        .await;
    assert_eq!(
        json!(rows),
        json!([[4, 8.0, 1], [8, 8.0, 1], [13, 2.0, 2], [16, 1.0, 2]])
    );
}

#[tokio::test]
async fn a_job_ahead_of_its_stream_keeps_its_metrics() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    let job = &plan.jobs[0].job_id;
    let mut script = Script::new();
    script
        .start(1, 0)
        .metric(job, 8, stats(8.0))
        .checkpoint(job, 8, false);
    script.metric(job, 12, stats(8.0));
    script.start(2, 0);
    store.fold(stream, &script.events).await.unwrap();
    assert_eq!(test.rows("SELECT step FROM metric").await, [[json!(8)]]);
}

#[tokio::test]
async fn restarted_and_foreign_events_are_refused_whole() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    let all = script(&plan).events;
    store.fold(stream, &all[..3]).await.unwrap();
    let rows = test.dump().await;

    let mut anew = Script::new();
    anew.start(2, 0);
    let error = store.fold(stream, &anew.events).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::EventsRestarted {
                attempt: 2,
                expected: 4,
                got: 1,
                ..
            }
        ),
        "{error:?}"
    );

    for foreign in ["metric", "checkpoint"] {
        let mut script = Script::new();
        script.events = all[..5].to_vec();
        match foreign {
            "metric" => script.metric("other", 5, stats(1.0)),
            _ => script.checkpoint("other", 5, true),
        };
        let error = store.fold(stream, &script.events).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::ForeignEvent { seq: 6, what, .. }
            if what.starts_with("other"))
        );
    }
    let error = store.fold("none", &all).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no stream `none`");
    assert_eq!(test.dump().await, rows, "nothing was taken in");
}

#[tokio::test]
async fn lines_that_were_lost_are_left_out() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    let mut with_hole = script(&plan).events;
    // The first metrics of the first job.
    with_hole.remove(2);
    assert_eq!(store.fold(stream, &with_hole).await.unwrap(), 9);
    assert_eq!(store.fold(stream, &script(&plan).events).await.unwrap(), 0);
    assert_eq!(test.rows("SELECT count(*) FROM metric").await, [[json!(3)]]);
    assert_eq!(test.status(&plan.jobs[0].job_id).await, "done");
}

#[tokio::test]
async fn what_does_not_fit_is_left_out_and_all_else_is_taken_in() {
    let (undisturbed, plan) = running().await;
    let stream = &plan.streams[0].stream_id;
    let events = script(&plan).events;
    undisturbed.store.fold(stream, &events).await.unwrap();
    // Of another stream's job; an interval that no schema takes; an old number of a new attempt.
    let mut foreign = Script::new();
    foreign.metric("other", 5, stats(1.0));
    let mut impossible = Script::new();
    impossible.metric(&plan.jobs[0].job_id, 0, stats(1.0));
    let mut restarted = Script::new();
    restarted.start(2, 0);
    for bad in [
        &foreign.events[0],
        &impossible.events[0],
        &restarted.events[0],
    ] {
        for at in 2..=events.len() {
            let (test, _) = running().await;
            let mut all = events.clone();
            let mut bad = bad.clone();
            bad.seq = if bad.attempt == 2 { 1 } else { at as u64 + 1 };
            all.insert(at, bad);
            for later in &mut all[at + 1..] {
                later.seq += 1;
            }
            let refused = test.store.fold_what_fits(stream, &all).await.unwrap();
            let refused: Vec<_> = refused.iter().map(|(index, _)| *index).collect();
            assert_eq!(refused, [at]);
            let sql = "SELECT sae_id, step, n_tokens, n_tokens_so_far, squared_error FROM metric";
            assert_eq!(test.rows(sql).await, undisturbed.rows(sql).await);
            assert_eq!(test.status(&plan.jobs[0].job_id).await, "done");
            assert_eq!(test.rows("SELECT * FROM progress").await.len(), 2);
        }
    }
}

#[tokio::test]
async fn an_older_attempt_no_longer_speaks_for_a_job() {
    let (test, a) = running().await;
    let (store, old) = (&test.store, &a.streams[0].stream_id);
    let job = &a.jobs[0].job_id;
    store.abandon_dead_attempts(old).await.unwrap();
    // The same job, in another stream.
    let b = plan("b", &[json!({"k": 4}), json!({"k": 8})]);
    test.record(&b).await;
    let new = &b.streams[0].stream_id;
    store.begin_attempt(new, "log").await.unwrap();
    let mut late = Script::new();
    late.start(1, 0)
        .metric(job, 10, stats(8.0))
        .checkpoint(job, 20, true);
    assert_eq!(store.fold(old, &late.events).await.unwrap(), 4);
    assert_eq!(test.rows("SELECT count(*) FROM metric").await, [[json!(0)]]);
    assert_eq!(test.status(job).await, "running");
}

#[tokio::test]
async fn a_lost_database_comes_back_from_the_events() {
    let (lost, plan) = running().await;
    let stream = &plan.streams[0].stream_id;
    let events = script(&plan).events;
    lost.store.fold(stream, &events).await.unwrap();
    let test = TestStore::new().await;
    test.record(&plan).await;
    test.store.fold(stream, &events).await.unwrap();
    let results = test.store.results("s").await.unwrap();
    assert_eq!(results.len(), 2);
    let before = lost.store.results("s").await.unwrap();
    assert_eq!(results[0], before[0], "done, with the same numbers");
    assert_eq!(test.status(&plan.jobs[1].job_id).await, "queued");
    let attempts = test.rows("SELECT number, status, pid FROM attempt").await;
    assert_eq!(json!(attempts), json!([[1, "failed", 41]]));
}

#[tokio::test]
async fn a_diverged_run_is_null_and_not_flattered() {
    let (test, plan) = running().await;
    let (store, stream) = (&test.store, &plan.streams[0].stream_id);
    let [a, b] = [&plan.jobs[0].job_id, &plan.jobs[1].job_id];
    let mut script = Script::new();
    script
        .start(1, 0)
        .metric(a, 19, stats(2.0))
        .metric(a, 20, stats(f64::NAN));
    script.metric(b, 20, stats(f64::INFINITY));
    store.fold(stream, &script.events).await.unwrap();
    let results = store.results("s").await.unwrap();
    assert_eq!([results[0].fvu, results[1].fvu], [None, None]);
    assert_eq!(results[0].l0, Some(4.0));
    let curve = test
        .rows("SELECT step, fvu FROM curve ORDER BY step, fvu")
        .await;
    assert_eq!(json!(curve), json!([[19, 0.25], [20, null], [20, null]]));
}

/// What a round costs if each of many streams has news: SAE_RUN_SIMULATED="1000 0" takes a thousand.
#[tokio::test]
async fn the_news_of_many_streams_are_taken_in_at_once() {
    let given = std::env::var("SAE_RUN_SIMULATED").unwrap_or_default();
    let n_streams = given
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    let n_streams: u32 = n_streams.unwrap_or(100);
    let test = TestStore::new().await;
    let seeds: Vec<_> = (0..n_streams)
        .map(|seed| json!({"shuffle_seed": seed}))
        .collect();
    let plan = plan("s", &seeds);
    test.record(&plan).await;
    assert_eq!(plan.streams.len(), n_streams as usize);
    for stream in &plan.streams {
        test.store
            .begin_attempt(&stream.stream_id, "log")
            .await
            .unwrap();
    }
    let begun = Instant::now();
    for stream in &plan.streams {
        let mut script = Script::new();
        script.start(1, 0);
        for step in 1..=5 {
            script.metric(&stream.job_ids[0], step, stats(8.0));
        }
        let n_new = test
            .store
            .fold(&stream.stream_id, &script.events)
            .await
            .unwrap();
        assert_eq!(n_new, script.events.len());
    }
    let took = begun.elapsed();
    println!("events of {n_streams} streams in {took:?}");
    // On an idle machine, a thousand take some tenths of a second.
    assert!(took.as_secs_f64() < 0.01 * f64::from(n_streams), "{took:?}");
}
