//! What the tests of this crate share.

use plan::{N_TOKENS, TrackedPoint, TrackedRun};
use serde_json::json;

/// A run of the job `k=4`.
pub(crate) fn run(id: &str) -> TrackedRun {
    TrackedRun {
        id: id.into(),
        sweep: "s".into(),
        job: "k:4".into(),
        job_id: "0123456789ab".into(),
        config: json!({"k": 4, "activation": "topk", "layers": [1, 2], "transcode": false})
            .as_object()
            .unwrap()
            .clone(),
        started_ms: 1_700_000_000_000,
    }
}

/// Points of training at `steps`, and an evaluation.
pub(crate) fn points(steps: &[u64], evaluated: Option<u64>) -> Vec<TrackedPoint> {
    let point = |step: u64, is_evaluation, name: &str, value| TrackedPoint {
        step,
        time_ms: 1_700_000_000_000 + step as i64,
        is_evaluation,
        values: vec![(format!("layers.0/{name}"), value)],
    };
    let training = steps.iter().map(|&step| {
        let mut point = point(step, false, "fvu", 1.0 / step as f64);
        point.values.push((N_TOKENS.into(), 100.0 * step as f64));
        point
    });
    let evaluation = evaluated.map(|step| point(step, true, "fvu_eval", 0.5));
    training.chain(evaluation).collect()
}
