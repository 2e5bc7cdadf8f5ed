//! What is said of SAEs of every kind when nothing is active, and how thresholds are found in the end.

use crate::kinds_tests::{assert_same_files, reported, with};
use crate::testing::{Run, interrupt_after};
use plan::{Event, EventKind, TrainConfig};
use sae::Sae;
use serde_json::json;
use std::fs;
use tch::{Device, Kind, Tensor};

/// The verdicts of a run: job, update, reason and what to do.
fn verdicts(run: &Run) -> Vec<(String, u64, String, Option<String>)> {
    let of_event = |event: Event| match event.kind {
        EventKind::Unhealthy {
            job_id,
            step,
            reason,
            is_fatal,
            hint,
            ..
        } => {
            assert!(!is_fatal, "{reason}");
            Some((name_of(run, &job_id), step, reason, hint))
        }
        _ => None,
    };
    run.events().into_iter().filter_map(of_event).collect()
}

fn name_of(run: &Run, job_id: &str) -> String {
    let mut jobs = run.order.jobs.iter().chain(&run.order.evaluate);
    let job = jobs.find(|job| job.job.job_id == job_id);
    job.unwrap().job.name.clone()
}

/// More than 100 short updates with penalties that leave no latent active.
fn silenced() -> Vec<(&'static str, TrainConfig)> {
    let of_all = json!({
        "hookpoints": ["layers.1"], "optimizer": "adam", "lr": 0.1, "lr_warmup_steps": 0, "ctx_len": 8,
        "expansion_factor": 2, "max_examples": 960, "save_every": 60, "log_every": 20,
        "dead_feature_threshold": 500,
    });
    let kinds = [
        (
            "l0",
            json!({"activation": "jumprelu", "l0_coefficient": 1e6, "jumprelu_bandwidth": 50.0,
                   "jumprelu_ste_to_input": true, "jumprelu_init_threshold": 0.1}),
        ),
        ("l1", json!({"activation": "relu", "l1_coefficient": 1e6})),
        (
            "p_anneal",
            json!({"activation": "relu", "l1_coefficient": 1e6, "p_anneal_end": 0.5, "p_anneal_form": "lp"}),
        ),
        (
            "gated",
            json!({"activation": "gated", "l1_coefficient": 1e6}),
        ),
    ];
    kinds
        .map(|(name, kind)| (name, with([&of_all, &kind])))
        .into()
}

#[test]
fn where_a_penalty_leaves_no_latent_active_that_is_said_once() {
    let undisturbed = Run::new(&silenced());
    assert_eq!(undisturbed.run(), 0, "{:?}", undisturbed.events().last());
    let said = verdicts(&undisturbed);
    for (name, setting) in [
        ("l0", "`l0_coefficient`"),
        ("l1", "`l1_coefficient`"),
        ("p_anneal", "`l1_coefficient`"),
        ("gated", "`l1_coefficient`"),
    ] {
        let of_job: Vec<_> = said.iter().filter(|(job, ..)| job == name).collect();
        let is_silent = |(_, step, reason, hint): &&&(_, u64, String, Option<String>)| {
            let is_said = reason.contains("almost no latent is active");
            is_said && *step == 120 && hint.as_ref().is_some_and(|hint| hint.contains(setting))
        };
        assert_eq!(
            of_job.iter().filter(is_silent).count(),
            1,
            "{name}: {said:?}"
        );
    }
    for (at, stats) in reported(&undisturbed) {
        for (name, number) in stats.as_object().unwrap() {
            assert!(number.is_number(), "{at:?}: `{name}` is {number}");
        }
    }
    for (path, sae) in undisturbed.saes() {
        for (name, weight) in sae.named_weights() {
            let sum = weight.sum(Kind::Double).double_value(&[]);
            assert!(sum.is_finite(), "{name} in {}", path.display());
        }
    }
}

#[test]
fn a_resume_does_not_say_it_again() {
    let mut jobs = silenced();
    jobs.truncate(1);
    jobs[0].1.max_examples = Some(2400);
    let mut run = Run::new(&jobs);
    // After update 180.
    interrupt_after(&run, 9);
    run.order.attempt += 1;
    assert_eq!(run.run(), 0);
    assert_eq!(reported(&run).len(), 15);
    let n_said = verdicts(&run)
        .iter()
        .filter(|(_, _, reason, _)| reason.starts_with("L0 is "))
        .count();
    assert_eq!(n_said, 1);
}

/// Jobs with a threshold, and sequences to evaluate them on.
fn with_thresholds() -> Run {
    let of_all = json!({
        "hookpoints": ["layers.2"], "optimizer": "adam", "lr": 1e-3, "lr_warmup_steps": 3, "activation": "batchtopk",
        "eval_fraction": 0.05, "max_examples": 96, "topk_threshold_lr": 0.1,
    });
    let kinds = [
        ("plain", json!({})),
        (
            "rescaled",
            json!({"k": 7.25, "normalize_decoder": false, "rescale_acts_by_decoder_norm": true}),
        ),
        (
            "whitened",
            json!({"normalize_activations": "covariance_whitening", "rescale_acts_by_decoder_norm": true,
                   "normalize_decoder": false, "norm_estimate_tokens": 2000}),
        ),
        ("estimated", json!({"calibrate_threshold": false})),
        (
            "topk",
            json!({"activation": "topk", "topk_threshold_lr": 0.01}),
        ),
    ];
    let jobs = kinds.map(|(name, kind)| (name, with([&of_all, &kind])));
    Run::new(&jobs)
}

/// The calibrations of a run: the job, its numbers.
fn calibrations(run: &Run) -> Vec<(String, [f64; 5], u64)> {
    let of_event = |event: Event| match event.kind {
        EventKind::Calibration {
            job_id,
            n_tokens,
            k,
            ema_threshold,
            ema_l0,
            threshold,
            l0,
            ..
        } => Some((
            name_of(run, &job_id),
            [k, ema_threshold, ema_l0, threshold, l0],
            n_tokens,
        )),
        _ => None,
    };
    run.events().into_iter().filter_map(of_event).collect()
}

/// Mean L0 of the last evaluation of a job.
fn evaluated_l0(run: &Run, job: &str) -> f64 {
    let of_event = |event: Event| match event.kind {
        EventKind::Evaluation { job_id, stats, .. } if name_of(run, &job_id) == job => {
            Some(stats.l0 / stats.n_tokens as f64)
        }
        _ => None,
    };
    run.events()
        .into_iter()
        .filter_map(of_event)
        .next_back()
        .unwrap()
}

fn thresholds(run: &Run, job: &str) -> Vec<f32> {
    let threshold = run.sae(job, "layers.2").threshold.unwrap();
    Vec::try_from(threshold).unwrap()
}

fn saved_estimate(run: &Run, job: &str) -> f64 {
    sae_files::threshold_ema(&run.dir.path().join(job).join("layers.2"))[0]
}

fn mean(numbers: &[f32]) -> f64 {
    numbers.iter().map(|number| f64::from(*number)).sum::<f64>() / numbers.len() as f64
}

#[test]
fn held_out_tokens_have_k_latents_with_the_threshold_in_the_file() {
    let run = with_thresholds();
    assert_eq!(run.run(), 0, "{:?}", run.events().last());
    let found = calibrations(&run);
    let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["plain", "rescaled", "whitened"]);
    for (name, [k, ema_threshold, ema_l0, threshold, l0], n_tokens) in &found {
        assert!(
            (l0 - k).abs() <= 1.0 / *n_tokens as f64,
            "{name}: L0 is {l0}"
        );
        assert!((ema_l0 - k).abs() > 0.1, "{name}: {ema_l0} by the estimate");
        let in_file = thresholds(&run, name);
        assert!((mean(&in_file) / threshold - 1.0).abs() < 1e-6, "{name}");
        assert!((saved_estimate(&run, name) / ema_threshold - 1.0).abs() < 1e-6);
        let evaluated = evaluated_l0(&run, name);
        assert!(
            (evaluated - l0).abs() < 2e-3 * l0,
            "{name}: {evaluated}, not {l0}"
        );
        let is_first = |threshold: &f32| (threshold / in_file[0] - 1.0).abs() < 1e-6;
        let are_equal = in_file.iter().all(is_first);
        assert_eq!(are_equal, name != "whitened");
    }
    let estimated = thresholds(&run, "estimated");
    let (_, plain, _) = &found[0];
    // Otherwise it is the same job.
    assert_eq!(f64::from(estimated[0]), plain[1]);
    assert!((evaluated_l0(&run, "estimated") - plain[2]).abs() < 1e-9);
    assert!(run.sae("topk", "layers.2").threshold.is_none());
}

/// What a worker left that was killed after the files and before the events; another one evaluates.
#[test]
fn a_worker_that_is_killed_after_a_file_finds_the_same_again() {
    let undisturbed = with_thresholds();
    assert_eq!(undisturbed.run(), 0);
    let mut killed = with_thresholds();
    assert_eq!(killed.run(), 0);
    let trained = killed
        .events()
        .into_iter()
        .position(|event| match event.kind {
            EventKind::Note { message } => message.starts_with("calibrating the thresholds"),
            _ => false,
        });
    let text = fs::read_to_string(&killed.order.events).unwrap();
    let kept: String = text.split_inclusive('\n').take(trained.unwrap()).collect();
    fs::write(&killed.order.events, kept).unwrap();
    killed.order.attempt += 1;
    killed.order.evaluate = std::mem::take(&mut killed.order.jobs);
    assert_eq!(killed.run(), 0, "{:?}", killed.events().last());
    killed.order.jobs = undisturbed.order.jobs.clone();
    assert_same_files(&killed, &undisturbed);
    let (ours, theirs) = (calibrations(&killed), calibrations(&undisturbed));
    assert_eq!(ours.len(), 3);
    for ((name, ours, _), (_, theirs, _)) in ours.into_iter().zip(theirs) {
        for (ours, theirs) in ours.iter().zip(theirs) {
            let tolerance = if name == "whitened" { 1e-3 } else { 0.0 };
            assert!(
                (ours - theirs).abs() <= tolerance * theirs,
                "{name}: {ours} {theirs}"
            );
        }
    }
}

/// Changes the saved SAE of a job, whose evaluation is due again.
fn evaluated_again(run: &mut Run, job: &str, change: impl Fn(&mut Sae)) {
    let dir = run.dir.path().join(job).join("layers.2");
    let mut sae = Sae::load_from_disk(&dir, Device::Cpu).unwrap();
    change(&mut sae);
    let metadata = sae::SaeLensMetadata {
        threshold_ema: Some(saved_estimate(run, job)),
        ..sae::SaeLensMetadata::default()
    };
    sae.save(&dir, &metadata).unwrap();
    run.order.attempt += 1;
    run.order.evaluate = run.order.jobs.clone();
    run.order.evaluate.retain(|order| order.job.name == job);
    let trained = std::mem::take(&mut run.order.jobs);
    assert_eq!(run.run(), 0, "{:?}", run.events().last());
    run.order.jobs = trained;
}

#[test]
fn where_nothing_passes_any_threshold_that_is_said() {
    let mut run = with_thresholds();
    assert_eq!(run.run(), 0);
    evaluated_again(&mut run, "plain", |sae| {
        let _ = sae.encoder_bias.fill_(-1000.0);
    });
    let (_, [k, _, ema_l0, threshold, l0], n_tokens) = calibrations(&run).pop().unwrap();
    assert_eq!([k, ema_l0, threshold, l0], [8.0, 0.0, 0.0, 0.0]);
    assert!(n_tokens > 0);
    let said = verdicts(&run);
    let (_, _, reason, _) = said.last().unwrap();
    assert!(reason.contains("nothing passes any threshold"), "{said:?}");
    let text = fs::read_to_string(&run.order.events).unwrap();
    assert!(!text.lines().last().unwrap().contains("null"), "{text}");
    assert_eq!(evaluated_l0(&run, "plain"), 0.0);
    let sae = run.sae("plain", "layers.2");
    let x = Tensor::randn([20, 32], (Kind::Float, Device::Cpu));
    let out = sae.forward(&x).unwrap().sae_out;
    assert!(out.isfinite().all().int64_value(&[]) == 1);
}
