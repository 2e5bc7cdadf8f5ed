//! Fifty updates of every kind of job against sparsify 1.3.3, mended where it is wrong; see
//! `tests/fixtures/README.md`.

use crate::testing::{Run, config, fixtures};
use plan::{EventKind, TrainConfig};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

fn golden() -> Value {
    let text = fs::read_to_string(fixtures().join("golden/training.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The settings of a variant.
fn config_of(variant: &Value) -> TrainConfig {
    let mut settings = serde_json::to_value(config()).unwrap();
    for (key, value) in variant["config"].as_object().unwrap() {
        settings[key] = value.clone();
    }
    if let Some(path) = settings["finetune"].as_str() {
        settings["finetune"] = fixtures().join(path).to_str().unwrap().into();
    }
    serde_json::from_value(settings).unwrap()
}

/// Variants where the sign of rounding noise decides from the beginning, and with it the direction of
/// signum: the first gradient of a transcoder's `b_dec`, which starts at the mean, is 0 but for
/// rounding; that of a KL divergence is a difference of nearly equal numbers.
const NOISY: [&str; 3] = ["transcode", "transcode_skip", "kl"];

/// Checks a curve against the golden one: closely for the first updates, and then as far as a sign
/// that rounding has turned lets two runs drift apart.
fn assert_close(what: &str, is_noisy: bool, ours: &[f64], theirs: &Value) {
    let theirs: Vec<f64> = serde_json::from_value(theirs.clone()).unwrap();
    assert_eq!(ours.len(), theirs.len());
    let (n_early, of_early, of_all, of_mean) = match is_noisy {
        false => (10, 5e-3, 0.05, 0.01),
        true => (1, 1e-5, 0.15, 0.03),
    };
    let each = ours.iter().zip(&theirs);
    let differences: Vec<_> = each.map(|(a, b)| (a / b - 1.0).abs()).collect();
    let largest = |differences: &[f64]| differences.iter().copied().fold(0.0, f64::max);
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let early = largest(&differences[..n_early]);
    assert!(
        early < of_early,
        "{what}: {early} among the first {n_early}"
    );
    let all = largest(&differences);
    assert!(
        all < of_all && mean < of_mean,
        "{what}: {all}, {mean} in the mean"
    );
}

/// The mean loss on the model's output at every update.
fn output_losses(run: &Run) -> Vec<f64> {
    let loss = |event: plan::Event| match event.kind {
        EventKind::Metric { stats, .. } => Some(stats.output_loss / stats.n_output as f64),
        _ => None,
    };
    run.events().into_iter().filter_map(loss).collect()
}

fn assert_golden(name: &str, variant: &Value) {
    let run = Run::new(&[(name, config_of(variant))]);
    assert_eq!(run.run(), 0, "{name}: {:?}", run.events().last());
    let curves: BTreeMap<String, Vec<f64>> = run.curve(0);
    let theirs: BTreeMap<String, Value> = serde_json::from_value(variant["fvu"].clone()).unwrap();
    assert!(
        curves.keys().eq(theirs.keys()),
        "{name}: {:?}",
        curves.keys()
    );
    let is_noisy = NOISY.contains(&name);
    for (sae, ours) in &curves {
        let what = format!("FVU of {name} {sae}");
        assert_close(&what, is_noisy, ours, &theirs[sae]);
    }
    if variant["loss"].is_array() {
        let what = format!("loss of {name}");
        assert_close(&what, is_noisy, &output_losses(&run), &variant["loss"]);
    }
}

#[test]
fn curves_are_sparsifys() {
    let golden = golden();
    let variants = golden["variants"].as_object().unwrap();
    assert!(variants.len() >= 14);
    std::thread::scope(|scope| {
        for (name, variant) in variants {
            scope.spawn(|| assert_golden(name, variant));
        }
    });
}
