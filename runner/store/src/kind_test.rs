//! The kinds of SAEs: what the schema calls them, and how it compares them.

use crate::testing::{Script, TestStore, plan};
use plan::{Plan, SaeStats};
use serde_json::{Value, json};

/// Jobs with these overrides, whose settings then get these changes, as JSON.
async fn with_settings(changes: &[Value]) -> (TestStore, Plan) {
    let test = TestStore::new().await;
    let overrides: Vec<_> = (1..=changes.len()).map(|k| json!({"k": k})).collect();
    let plan = plan("s", &overrides);
    test.record(&plan).await;
    for (job, change) in plan.jobs.iter().zip(changes) {
        let sql = format!(
            "UPDATE job SET config = json_patch(config, '{change}') WHERE job_id = '{}'",
            job.job_id
        );
        test.execute(&sql).await.unwrap();
    }
    (test, plan)
}

#[tokio::test]
async fn a_kind_is_the_activation_and_the_nesting() {
    let changes = [
        json!({}),
        json!({"activation": "batchtopk", "matryoshka_widths": [], "matryoshka_prefixes": 0}),
        json!({"activation": "batchtopk", "matryoshka_widths": [0.25, 1]}),
        json!({"activation": "jumprelu", "matryoshka_prefixes": 10}),
        json!({"hierarchical_topk": true}),
        json!({"activation": "gated", "hierarchical_topk": false}),
        json!({"transcode": true}),
        json!({"crosscoder": true, "activation": "batchtopk"}),
        json!({"transcode": true, "cross_layer": true, "matryoshka_prefixes": 3}),
    ];
    let (test, _) = with_settings(&changes).await;
    let sql = "SELECT kind FROM job JOIN sweep_job USING (job_id) ORDER BY ordinal";
    let kinds = [
        ["topk"],
        ["batchtopk"],
        ["matryoshka batchtopk"],
        ["matryoshka jumprelu"],
        ["hierarchical topk"],
        ["gated"],
        ["transcoder topk"],
        ["crosscoder batchtopk"],
        ["cross-layer matryoshka topk"],
    ];
    assert_eq!(json!(test.rows(sql).await), json!(kinds));
    let listed = test.store.report(None, 3).await.unwrap();
    assert_eq!(listed.saes[2].kind, "matryoshka batchtopk");
}

#[tokio::test]
async fn k_is_an_integer_or_has_a_fraction() {
    let jobs = [
        json!({"k": 4}),
        json!({"k": 4.5, "activation": "batchtopk"}),
        // More than there are latents: it has no effect.
        json!({"k": 999, "activation": "relu"}),
    ];
    let test = TestStore::new().await;
    let plan = plan("s", &jobs);
    test.record(&plan).await;
    let rows = test
        .rows("SELECT k, typeof(k) FROM sae ORDER BY sae_id")
        .await;
    let expected = json!([[4, "integer"], [4.5, "real"], [999, "integer"]]);
    assert_eq!(json!(rows), expected);
    let shown = test.store.job(&plan.jobs[1].job_id).await.unwrap();
    assert_eq!(shown.saes[0].k, 4.5.into());
    let text = "UPDATE sae SET k = 'four'";
    assert!(test.execute(text).await.is_err());
}

/// Trains the jobs to these values of L0 and FVU.
async fn trained(points: &[(&str, f64, f64)]) -> TestStore {
    let changes: Vec<_> = points
        .iter()
        .map(|(kind, ..)| json!({"activation": kind}))
        .collect();
    let (test, plan) = with_settings(&changes).await;
    let mut script = Script::new();
    script.start(1, 0);
    for (job, &(_, l0, fvu)) in plan.jobs.iter().zip(points) {
        let stats = SaeStats {
            n_tokens: 10,
            squared_error: fvu,
            total_variance: 1.0,
            l0: 10.0 * l0,
            ..SaeStats::default()
        };
        script.metric(&job.job_id, 20, stats);
    }
    let stream = &plan.streams[0].stream_id;
    test.store.fold(stream, &script.events).await.unwrap();
    test
}

async fn compared(test: &TestStore) -> Value {
    let sql = "SELECT kind, l0, fvu, other_kind, round(other_fvu, 4) FROM kind_comparison";
    json!(test.rows(sql).await)
}

#[tokio::test]
async fn kinds_are_compared_at_equal_l0() {
    let points = [
        ("topk", 16.0, 0.5),
        ("topk", 32.0, 0.25),
        // Beaten by the one before, so no one is compared with it.
        ("topk", 32.0, 0.75),
        ("batchtopk", 24.0, 0.375),
        ("batchtopk", 32.5, 0.125),
        ("jumprelu", 100.0, 0.0625),
    ];
    let expected = json!([
        // Between 16 and 32; by the logarithms it would be 0.3538.
        ["batchtopk", 24.0, 0.375, "topk", 0.35],
        // Between 24 and 32.5.
        ["topk", 32.0, 0.25, "batchtopk", 0.1376],
        ["topk", 32.0, 0.75, "batchtopk", 0.1376],
        // Within 2 % of the last one.
        ["batchtopk", 32.5, 0.125, "topk", 0.25],
    ]);
    let test = trained(&points).await;
    assert_eq!(compared(&test).await, expected);
    let report = test.store.report(Some("s"), 3).await.unwrap();
    assert_eq!(report.comparisons.len(), 4);
    assert_eq!(report.comparisons[0].other_kind, "topk");
}

#[tokio::test]
async fn what_cannot_be_compared_has_no_row() {
    for points in [
        vec![("topk", 16.0, 0.5), ("topk", 32.0, 0.25)],
        vec![("topk", 0.0, 1.0), ("batchtopk", 0.0, 1.0)],
        vec![("topk", 16.0, f64::NAN), ("batchtopk", 16.0, 0.5)],
        vec![("topk", 16.0, 0.5), ("batchtopk", 15.5, 0.5)],
    ] {
        let test = trained(&points).await;
        assert_eq!(compared(&test).await, json!([]), "{points:?}");
    }
}

#[tokio::test]
async fn the_same_l0_needs_nothing_between() {
    let points = [
        ("topk", 16.0, 0.5),
        ("topk", 16.0, 0.5),
        ("batchtopk", 15.75, 0.375),
    ];
    let test = trained(&points).await;
    let expected = json!([
        ["batchtopk", 15.75, 0.375, "topk", 0.5],
        ["topk", 16.0, 0.5, "batchtopk", 0.375],
        ["topk", 16.0, 0.5, "batchtopk", 0.375],
    ]);
    assert_eq!(compared(&test).await, expected);
}

#[tokio::test]
async fn the_sparsity_penalty_is_a_term_of_the_loss() {
    let (test, plan) = with_settings(&[json!({"activation": "relu"}), json!({})]).await;
    let mut script = Script::new();
    script.start(1, 0);
    for (job, sparsity) in plan.jobs.iter().zip([3.0, 0.0]) {
        let stats = SaeStats {
            sparsity,
            ..crate::testing::stats(4.0)
        };
        script.metric(&job.job_id, 20, stats);
    }
    let stream = &plan.streams[0].stream_id;
    test.store.fold(stream, &script.events).await.unwrap();
    let curve = "SELECT fvu, sparsity, auxk FROM curve ORDER BY sae_id";
    let expected = json!([[0.5, 0.375, null], [0.5, null, null]]);
    assert_eq!(json!(test.rows(curve).await), expected);
    let terms = "SELECT sparsity_sum FROM metric_term";
    assert_eq!(json!(test.rows(terms).await), json!([[3.0]]));
}

#[tokio::test]
async fn saes_of_other_models_are_not_compared() {
    let points = [("topk", 16.0, 0.5), ("batchtopk", 16.0, 0.375)];
    let test = trained(&points).await;
    let on_frontier = "SELECT kind FROM frontier ORDER BY fvu";
    assert_eq!(compared(&test).await.as_array().map(Vec::len), Some(2));
    assert_eq!(test.rows(on_frontier).await.len(), 1);
    let another = "UPDATE job SET second_model_digest = 'm1' WHERE kind = 'topk'";
    test.execute(another).await.unwrap();
    assert_eq!(compared(&test).await, json!([]));
    assert_eq!(test.rows(on_frontier).await.len(), 2);
}
