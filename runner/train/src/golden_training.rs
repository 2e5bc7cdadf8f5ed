//! Fifty updates of every kind of job against sparsify 1.3.3, mended where it is wrong; see
//! `tests/fixtures/README.md`.

use crate::testing::{Run, config, fixtures};
use plan::{EventKind, TrainConfig};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;

fn variants() -> Map<String, Value> {
    let text = fs::read_to_string(fixtures().join("golden/training.json")).unwrap();
    let golden: Map<String, Value> = serde_json::from_str(&text).unwrap();
    golden["variants"].as_object().unwrap().clone()
}

/// How sparsify trained a variant.
pub(crate) fn variant(name: &str) -> Value {
    variants()[name].clone()
}

/// The settings of a variant.
pub(crate) fn config_of(variant: &Value) -> TrainConfig {
    let mut settings = serde_json::to_value(config()).unwrap();
    for (key, value) in variant["config"].as_object().unwrap() {
        settings[key] = value.clone();
    }
    if let Some(path) = settings["finetune"].as_str() {
        settings["finetune"] = fixtures().join(path).to_str().unwrap().into();
    }
    serde_json::from_value(settings).unwrap()
}

/// How far a curve may be from the golden one, relative, besides what noise does to it: sums in another order.
const OF_ROUNDING: f64 = 1e-5;

/// How many times as far as noise moved sparsify's own curve.
const TIMES_SPREAD: f64 = 3.0;

/// Holds a curve to sparsify's: at each update nearer than what noise on the SAEs' input, as much as two
/// processors' models may differ by, has made of sparsify's own curve by then. If rounding decides nothing
/// that is next to nothing. Signum, though, makes much of the sign of a gradient near zero, and a sign that another
/// processor's rounding turns moves a curve by percents; noise has turned it, too.
pub(crate) fn check(what: &str, ours: &[f64], theirs: &Value, spread: &Value) {
    let numbers = |list: &Value| serde_json::from_value::<Vec<f64>>(list.clone()).unwrap();
    let (theirs, spread) = (numbers(theirs), numbers(spread));
    assert_eq!([ours.len(), spread.len()], [theirs.len(); 2], "{what}");
    for (update, ((ours, theirs), spread)) in ours.iter().zip(&theirs).zip(spread).enumerate() {
        let apart = (ours / theirs - 1.0).abs();
        let allowed = OF_ROUNDING + TIMES_SPREAD * spread;
        assert!(
            apart < allowed,
            "{what}: {apart} at update {update}, not {allowed}"
        );
    }
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
    let spread = &variant["spread"];
    for (sae, ours) in &curves {
        check(
            &format!("FVU of {name} {sae}"),
            ours,
            &theirs[sae],
            &spread[sae],
        );
    }
    if variant["loss"].is_array() {
        let (ours, theirs) = (output_losses(&run), &variant["loss"]);
        check(&format!("loss of {name}"), &ours, theirs, &spread["loss"]);
    }
}

#[test]
fn curves_are_sparsifys() {
    let variants = variants();
    assert!(variants.len() >= 19);
    std::thread::scope(|scope| {
        for (name, variant) in &variants {
            scope.spawn(|| assert_golden(name, variant));
        }
    });
}
