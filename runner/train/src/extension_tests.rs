//! A job that continues from another's state is bit-identical to one that was trained from the start.

use crate::kinds_tests::with;
use crate::ranks_tests::run_ranks;
use crate::testing::{HOOKPOINTS, Run, assert_same, interrupt_after};
use plan::{BaseJob, EventKind, TrainConfig};
use serde_json::{Value, json};

const SHORT: u64 = 96;
const LONG: u64 = 160;

/// A constant learning rate and other settings, for a number of sequences.
fn settings(more: &Value, max_examples: u64) -> TrainConfig {
    let constant = json!({"optimizer": "adam", "lr_scheduler": "constant", "lr_warmup_steps": 3, "log_every": 3});
    TrainConfig {
        max_examples: Some(max_examples),
        ..with([&constant, more])
    }
}

/// A run whose job may continue from those of `shorter`.
fn extending(run: &mut Run, shorter: &Run) {
    run.order.jobs[0].bases = vec![BaseJob {
        job_id: shorter.order.jobs[0].job.job_id.clone(),
        kept_dir: shorter.dir.path().join(".state/a/kept"),
    }];
}

/// The update that a run says it continued from.
fn extended_at(run: &Run) -> Option<u64> {
    let at = |event: plan::Event| match event.kind {
        EventKind::Extended { step, .. } => Some(step),
        _ => None,
    };
    run.events().into_iter().filter_map(at).next_back()
}

/// Trains with the settings for a short and a longer time, and for the longer time from the start; gives the update
/// from which the second continued.
fn extend(more: &Value) -> Option<u64> {
    let shorter = Run::new(&[("a", settings(more, SHORT))]);
    assert_eq!(shorter.run(), 0, "{more}");
    let from_start = Run::new(&[("a", settings(more, LONG))]);
    assert_eq!(from_start.run(), 0, "{more}");
    let mut run = Run::new(&[("a", settings(more, LONG))]);
    extending(&mut run, &shorter);
    let jobs = [&shorter, &run].map(|run| &run.order.jobs[0].job);
    assert_eq!(jobs[0].course_id, jobs[1].course_id, "{more}");
    assert_ne!(jobs[0].job_id, jobs[1].job_id, "{more}");
    assert_eq!(run.run(), 0, "{more}");
    for hookpoint in HOOKPOINTS {
        assert_same(&run.sae("a", hookpoint), &from_start.sae("a", hookpoint));
    }
    extended_at(&run)
}

#[test]
fn a_longer_training_continues_from_a_shorter_one_to_the_bit() {
    for more in [
        json!({}),
        json!({"auxk_alpha": 0.03, "multi_topk": true, "dead_feature_threshold": 1000}),
        json!({"activation": "batchtopk", "matryoshka_widths": [0.25, 0.5], "k_decay_steps": 15}),
        json!({"activation": "jumprelu", "l0_coefficient": 0.01, "l0_warm_up_steps": 4}),
        json!({"activation": "relu", "l1_coefficient": 0.02, "loss_fn": "mse"}),
        json!({"activation": "gated", "l1_coefficient": 0.02, "loss_fn": "mse"}),
    ] {
        assert_eq!(extend(&more), Some(SHORT / 8), "{more}");
    }
}

/// The same in epochs over `max_examples` sequences.
fn in_epochs(epochs: u64, max_examples: u64) -> Run {
    let more = json!({"auxk_alpha": 0.03, "dead_feature_threshold": 1000, "epochs": epochs});
    Run::new(&[("a", settings(&more, max_examples))])
}

/// From which update a training in `longer` epochs continues if there is one in `shorter` epochs before it; each with
/// its number of sequences.
fn extend_epochs(shorter: (u64, u64), longer: (u64, u64)) -> Option<u64> {
    let [shorter, from_start, mut run] =
        [shorter, longer, longer].map(|(epochs, n)| in_epochs(epochs, n));
    extending(&mut run, &shorter);
    for run in [&shorter, &from_start, &run] {
        assert_eq!(run.run(), 0);
    }
    for hookpoint in HOOKPOINTS {
        assert_same(&run.sae("a", hookpoint), &from_start.sae("a", hookpoint));
    }
    extended_at(&run)
}

#[test]
fn more_epochs_continue_from_fewer_to_the_bit() {
    assert_eq!(extend_epochs((1, 96), (2, 96)), Some(12));
    // The last 4 sequences of the shorter one are in the first update of the second epoch.
    assert_eq!(extend_epochs((1, 100), (3, 100)), Some(12));
    assert_eq!(extend_epochs((2, 50), (3, 50)), Some(12));
    assert_eq!(extend_epochs((1, 96), (2, 160)), Some(12));
}

#[test]
fn other_sequences_after_the_first_epoch_are_not_continued_from() {
    assert_eq!(extend_epochs((2, 40), (1, 160)), None);
    assert_eq!(extend_epochs((2, 40), (3, 48)), None);
}

#[test]
fn what_is_interrupted_in_a_later_epoch_is_resumed_to_the_bit() {
    let undisturbed = in_epochs(3, 50);
    assert_eq!(undisturbed.run(), 0);
    let mut run = in_epochs(3, 50);
    for attempt in 1..4 {
        run.order.attempt = attempt;
        interrupt_after(&run, 4);
    }
    run.order.attempt = 4;
    assert_eq!(run.run(), 0);
    for hookpoint in HOOKPOINTS {
        assert_same(&run.sae("a", hookpoint), &undisturbed.sae("a", hookpoint));
    }
}

#[test]
fn if_the_end_matters_it_continues_from_before() {
    let decay = |more: Value| {
        let mut settings = json!({"lr_decay_steps": 0.25, "keep_state": true});
        settings
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        settings
    };
    assert_eq!(
        extend(&decay(json!({}))),
        Some(10),
        "the last 3 of 12 updates are less"
    );
    let nothing_kept = [
        decay(json!({"keep_state": null})),
        json!({"keep_state": false}),
        decay(
            json!({"activation": "relu", "l1_coefficient": 0.02, "l1_warm_up_steps": 0.5, "loss_fn": "mse"}),
        ),
    ];
    for more in nothing_kept {
        assert_eq!(extend(&more), None, "{more}");
    }
}

#[test]
fn a_state_of_other_settings_or_batches_is_not_used() {
    let shorter = Run::new(&[("a", settings(&json!({}), SHORT))]);
    assert_eq!(shorter.run(), 0);
    let mut longer_schedule = Run::new(&[("a", settings(&json!({"lr_decay_steps": 18}), LONG))]);
    extending(&mut longer_schedule, &shorter);
    let jobs = [&shorter, &longer_schedule].map(|run| &run.order.jobs[0].job.course_id);
    assert_ne!(jobs[0], jobs[1]);
    assert_eq!(longer_schedule.run(), 0);
    assert_eq!(
        extended_at(&longer_schedule),
        None,
        "its rate falls from update 2 on"
    );
}

#[test]
fn what_continued_is_resumed_like_others() {
    let shorter = Run::new(&[("a", settings(&json!({}), SHORT))]);
    assert_eq!(shorter.run(), 0);
    let from_start = Run::new(&[("a", settings(&json!({}), LONG))]);
    assert_eq!(from_start.run(), 0);
    let mut run = Run::new(&[("a", settings(&json!({}), LONG))]);
    extending(&mut run, &shorter);
    interrupt_after(&run, 1);
    run.order.attempt = 2;
    run.order.jobs[0].bases.clear();
    assert_eq!(run.run(), 0);
    assert_eq!(extended_at(&run), Some(12));
    for hookpoint in HOOKPOINTS {
        assert_same(&run.sae("a", hookpoint), &from_start.sae("a", hookpoint));
    }
}

#[test]
fn ranks_with_saes_of_their_own_continue_too() {
    let of_ranks = |max_examples| {
        let more = json!({"distribute_modules": true, "batch_size": 4});
        Run::of_ranks(2, &[("a", settings(&more, max_examples))])
    };
    let (shorter, from_start, mut run) = (of_ranks(SHORT), of_ranks(LONG), of_ranks(LONG));
    run_ranks(&shorter, 2);
    run_ranks(&from_start, 2);
    extending(&mut run, &shorter);
    run_ranks(&run, 2);
    assert_eq!(extended_at(&run), Some(12));
    for hookpoint in HOOKPOINTS {
        assert_same(&run.sae("a", hookpoint), &from_start.sae("a", hookpoint));
    }
}
