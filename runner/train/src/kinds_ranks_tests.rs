//! Every kind of SAE, trained by several real processes: what they make is what one makes. The jobs share a stream.

use crate::kinds_tests::{jobs, reported};
use crate::ranks_tests::run_ranks;
use crate::testing::{Run, relative};
use plan::TrainConfig;
use sae::{Activation, Sae};
use serde_json::{Value, json};

/// What `n_ranks` processes train, in updates that four share, with two sequences of each.
fn trained(settings: &Value, n_ranks: usize) -> Run {
    let mut settings = settings.clone();
    settings["batch_size"] = 2.into();
    let run = Run::of_ranks(4, &jobs_with(&settings));
    match n_ranks {
        1 => assert_eq!(run.run(), 0, "{:?}", run.events().last()),
        _ => run_ranks(&run, n_ranks),
    }
    run
}

/// A job of each kind that can be trained with `settings`.
fn jobs_with(settings: &Value) -> Vec<(&'static str, TrainConfig)> {
    let jobs = jobs(settings).into_iter();
    jobs.filter(|(_, config)| config.validate().is_ok())
        .collect()
}

/// After 12 updates.
const TOLERANCE: f64 = 1e-4;
/// And where rounding may decide on which side of a threshold, or of the window around it, a latent is.
const TOLERANCE_AT_THRESHOLDS: f64 = 1e-3;

fn assert_same_saes(ours: &Run, alone: &Run, what: &str) {
    let (ours, alone) = (ours.saes(), alone.saes());
    assert!(ours.keys().eq(alone.keys()), "{what}: {:?}", ours.keys());
    let mut off: Vec<String> = Vec::new();
    for ((path, ours), alone) in ours.iter().zip(alone.values()) {
        let difference = difference(ours, alone);
        println!("{what}, {}: {difference:.1e}", path.display());
        let tolerance = match ours.cfg.activation {
            Activation::JumpRelu => TOLERANCE_AT_THRESHOLDS,
            _ => TOLERANCE,
        };
        if difference.is_nan() || difference > tolerance {
            off.push(format!("{}: {difference}", path.display()));
        }
    }
    assert!(off.is_empty(), "{what}: {off:?}");
}

/// The largest relative difference between weights.
fn difference(ours: &Sae, alone: &Sae) -> f64 {
    let weights = ours.named_weights().into_iter().zip(alone.named_weights());
    let differences = weights.map(|((_, ours), (_, alone))| {
        if ours.equal(alone) {
            0.0
        } else {
            relative(ours, alone)
        }
    });
    differences.fold(0.0, f64::max)
}

/// The same numbers in each report, up to rounding.
fn assert_same_reports(ours: &Run, alone: &Run, what: &str) {
    let jobs = &alone.order.jobs;
    let (ours, alone) = (reported(ours), reported(alone));
    assert!(ours.keys().eq(alone.keys()), "{what}");
    for ((at, ours), alone) in ours.iter().zip(alone.values()) {
        for (name, ours) in ours.as_object().unwrap() {
            let [ours, alone] = [ours, &alone[name]].map(|number| number.as_f64().unwrap());
            // Of latents that fire rarely.
            let few = if name == "n_dead" { 2.0 } else { 0.0 };
            let is_close = (ours - alone).abs() <= 1e-3 * alone.abs() + few;
            let job = jobs.iter().find(|job| job.job.job_id == at.0).unwrap();
            let at = (&job.job.name, at.2);
            assert!(is_close, "{what}, {at:?}, {name}: {ours}, not {alone}");
        }
    }
}

fn assert_is_one_process(settings: &Value, numbers_of_ranks: &[usize]) {
    let alone = trained(settings, 1);
    for &n_ranks in numbers_of_ranks {
        let ranks = trained(settings, n_ranks);
        let what = format!("{n_ranks} ranks");
        assert_same_reports(&ranks, &alone, &what);
        assert_same_saes(&ranks, &alone, &what);
    }
}

#[test]
fn ranks_train_every_kind_as_one_process_does() {
    // Of three, one makes fewer passes.
    assert_is_one_process(&json!({}), &[2, 3, 4]);
}

#[test]
fn so_they_do_if_each_sae_is_on_one() {
    assert_is_one_process(&json!({"distribute_modules": true}), &[2, 4]);
}

/// Short sequences, of whose tokens few count: a rank has none in many an update.
#[test]
fn so_they_do_if_some_have_no_token_that_counts() {
    let excluded: Vec<u32> = (0..300).filter(|token| token % 25 != 7).collect();
    for distribute_modules in [false, true] {
        let settings = json!({
            "ctx_len": 8, "exclude_tokens": excluded, "distribute_modules": distribute_modules,
            "max_examples": 160,
        });
        assert_is_one_process(&settings, &[4]);
    }
}

/// `n_kinds` of all kinds can be trained with `settings`.
fn assert_crossed_is_one_process(mut settings: Value, n_kinds: usize) {
    assert_eq!(jobs_with(&settings).len(), n_kinds);
    for distribute_modules in [false, true] {
        settings["distribute_modules"] = distribute_modules.into();
        assert_is_one_process(&settings, &[2, 3]);
    }
}

#[test]
fn so_they_do_for_crosscoders() {
    let settings = json!({"crosscoder": true, "hookpoints": ["layers.1", "layers.2"]});
    assert_crossed_is_one_process(settings, 13);
}

#[test]
fn so_they_do_for_cross_layer_transcoders() {
    let settings = json!({
        "cross_layer": true, "transcode": true, "hookpoints": ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"],
    });
    assert_crossed_is_one_process(settings, 6);
}
