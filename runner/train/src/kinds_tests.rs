//! What training promises, for every kind of SAE: a resume is bit-identical, and how an update is cut changes
//! nothing but rounding.

use crate::events::EventLog;
use crate::ranks::ALONE;
use crate::ranks::owners::Owners;
use crate::sae_trainer::SaeTrainer;
use crate::stop::StopFlag;
use crate::testing::{Run, assert_close, assert_same, at, config, interrupt_after, relative};
use crate::training::Outcome;
use crate::training::job_trainer::JobTrainer;
use crate::worker::train;
use plan::{EventKind, NormalizeActivations, TrainConfig};
use sae::{Losses, Moments};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Name and settings of a job of each kind.
fn kinds() -> Vec<(&'static str, Value)> {
    vec![
        (
            "rescaled",
            json!({"activation": "batchtopk", "normalize_decoder": false, "rescale_acts_by_decoder_norm": true,
                   "auxk_alpha": 0.03125, "auxk_norm": "residual", "loss_fn": "mse"}),
        ),
        (
            "decoupled",
            json!({"crosscoder": true, "crosscoder_norm": "decoupled", "activation": "batchtopk",
                   "hookpoints": ["layers.1", "layers.2"],
                   "normalize_decoder": false, "rescale_acts_by_decoder_norm": true, "loss_fn": "mse",
                   "auxk_alpha": 0.03125, "auxk_norm": "residual", "matryoshka_widths": [0.25, 0.5],
                   "threshold_ema": "dictionary_learning", "threshold_start_step": 2}),
        ),
        (
            "matryoshka",
            json!({"activation": "batchtopk", "k": 7.5, "matryoshka_widths": [0.25, 0.5], "k_decay_steps": 9,
                   "auxk_alpha": 0.03125}),
        ),
        (
            "prefixes",
            json!({"matryoshka_prefixes": 5, "save_best": true}),
        ),
        (
            "step",
            json!({"activation": "jumprelu", "l0_coefficient": 0.01, "l0_warm_up_steps": 4,
                   "jumprelu_init_threshold": 0.1, "jumprelu_bandwidth": 0.2, "save_best": true}),
        ),
        (
            "tanh",
            json!({"activation": "jumprelu", "jumprelu_sparsity_loss_mode": "tanh", "l0_coefficient": 0.01,
                   "pre_act_loss_coefficient": 0.01, "normalize_decoder": false}),
        ),
        (
            "mean_quadratic",
            json!({"activation": "jumprelu", "jumprelu_sparsity_loss_mode": "mean_quadratic", "target_l0": 16,
                   "jumprelu_ste_to_input": true, "loss_fn": "mse", "auxk_alpha": 0.03125,
                   "auxk_norm": "residual"}),
        ),
        (
            "p_anneal",
            json!({"activation": "relu", "l1_coefficient": 0.02, "p_anneal_end": 0.4, "p_anneal_start": 1,
                   "p_anneal_until": 9, "p_anneal_updates": 4, "loss_fn": "mse"}),
        ),
        (
            "gated",
            json!({"activation": "gated", "l1_coefficient": 0.02, "l1_warm_up_steps": 0.25}),
        ),
        (
            "residual",
            json!({"auxk_alpha": 0.03125, "auxk_norm": "residual", "loss_fn": "mse"}),
        ),
        (
            "expected_norm",
            json!({"activation": "batchtopk", "normalize_activations": "expected_average_only_in",
                   "norm_estimate_tokens": 1500, "threshold_ema": "dictionary_learning",
                   "threshold_start_step": 2}),
        ),
        (
            "whitened",
            json!({"activation": "batchtopk", "normalize_activations": "covariance_whitening",
                   "norm_estimate_tokens": 2000}),
        ),
        ("median", json!({"b_dec_init_method": "geometric_median"})),
        (
            "init_l0",
            json!({"activation": "jumprelu", "init_l0": 12, "normalize_decoder": false,
                   "decoder_init_norm": 0.1, "max_grad_norm": 1.0}),
        ),
    ]
}

/// A job of each kind, all of one stream with `settings`.
pub(crate) fn jobs(settings: &Value) -> Vec<(&'static str, TrainConfig)> {
    let of_all = json!({
        "hookpoints": ["layers.2"], "optimizer": "adam", "lr": 1e-3, "lr_warmup_steps": 3,
        "dead_feature_threshold": 1000, "max_examples": 96, "save_every": 4, "log_every": 2,
    });
    let job = |(name, kind)| (name, with([&of_all, &kind, settings]));
    kinds().into_iter().map(job).collect()
}

/// The settings of all tests, under others.
pub(crate) fn with<'a>(settings: impl IntoIterator<Item = &'a Value>) -> TrainConfig {
    let mut all = config().to_map();
    for settings in settings {
        all.extend(settings.as_object().unwrap().clone());
    }
    serde_json::from_value(Value::Object(all)).unwrap()
}

/// What was reported in each interval, by job, SAE and step.
pub(crate) fn reported(run: &Run) -> BTreeMap<(String, String, u64), Value> {
    let of_event = |event: plan::Event| match event.kind {
        EventKind::Metric {
            job_id,
            sae,
            step,
            stats,
        } => Some(((job_id, sae, step), serde_json::to_value(stats).unwrap())),
        _ => None,
    };
    run.events().into_iter().filter_map(of_event).collect()
}

/// The files of jobs, and the best SAEs, by path.
pub(crate) fn files(run: &Run) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let jobs = run.order.jobs.iter();
    let mut folders: Vec<_> = jobs
        .flat_map(|job| [&job.dir, &job.best_dir])
        .cloned()
        .collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = run.dir.path().join(&folder).read_dir() else {
            continue;
        };
        for entry in entries {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else {
                drop(files.insert(path, fs::read(entry.path()).unwrap()));
            }
        }
    }
    files
}

pub(crate) fn assert_same_files(a: &Run, b: &Run) {
    let (a, b) = (files(a), files(b));
    assert!(a.keys().eq(b.keys()), "{:?} {:?}", a.keys(), b.keys());
    let other: Vec<&Path> = a
        .iter()
        .filter(|(path, bytes)| b[*path] != **bytes)
        .map(|(path, _)| path.as_path())
        .collect();
    assert!(other.is_empty(), "other bytes: {other:?}");
}

/// Makes events those of a worker that was killed when the last states were written, and no event about them.
fn forget_last_checkpoints(run: &Run) {
    let last = run
        .events()
        .into_iter()
        .rev()
        .find_map(|event| match event.kind {
            EventKind::Interrupted { step } => Some(step),
            _ => None,
        });
    let is_about_it = |event: &plan::Event| match event.kind {
        EventKind::Checkpoint { step, .. } => Some(step) == last,
        _ => false,
    };
    let n_kept = run.events().iter().position(is_about_it).unwrap();
    let text = fs::read_to_string(&run.order.events).unwrap();
    let kept: String = text.split_inclusive('\n').take(n_kept).collect();
    fs::write(&run.order.events, kept + "{\"seq\": 9").unwrap();
}

#[test]
fn every_kind_resumes_to_the_bit() {
    let configs = jobs(&json!({}));
    let undisturbed = Run::new(&configs);
    assert_eq!(undisturbed.run(), 0, "{:?}", undisturbed.events().last());
    let mut run = Run::new(&configs);
    for n_reports in [2, 4] {
        interrupt_after(&run, n_reports);
        forget_last_checkpoints(&run);
        run.order.attempt += 1;
    }
    assert_eq!(run.run(), 0, "{:?}", run.events().last());
    assert_same_files(&run, &undisturbed);
    assert_eq!(reported(&run), reported(&undisturbed));
    for (name, _) in configs {
        let job = run.order.jobs.iter().find(|job| job.job.name == name);
        let final_ones = run.events().into_iter().filter(|event| match &event.kind {
            EventKind::Checkpoint {
                job_id, is_final, ..
            } => *is_final && *job_id == job.unwrap().job.job_id,
            _ => false,
        });
        assert_eq!(final_ones.count(), 1, "{name}");
    }
}

#[test]
fn a_scaling_does_not_depend_on_other_jobs() {
    let mut jobs = jobs(&json!({}));
    jobs.retain(|(_, config)| config.normalize_activations != NormalizeActivations::None);
    let together = Run::new(&jobs);
    assert_eq!(together.run(), 0);
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        let name = job.0;
        let alone = Run::new(&[job]);
        assert_eq!(alone.run(), 0);
        assert_same(
            &alone.sae(name, "layers.2"),
            &together.sae(name, "layers.2"),
        );
    }
}

/// Milliseconds from the first update's beginning to the first event that `is_it`.
fn time_until(run: &Run, is_it: impl Fn(&EventKind) -> bool) -> i64 {
    let events = run.events();
    let time_of = |event: Option<&plan::Event>| event.unwrap().time_ms;
    let ready = |event: &&plan::Event| matches!(event.kind, EventKind::Ready { .. });
    let begun = time_of(events.iter().find(ready));
    time_of(events.iter().find(|event| is_it(&event.kind))) - begun
}

#[test]
fn a_stop_does_not_wait_for_the_estimate_of_a_scaling() {
    let mut jobs = jobs(&json!({"norm_estimate_tokens": 1_000_000, "max_examples": 1000}));
    jobs.retain(|(name, _)| *name == "whitened");
    let whole = Run::new(&jobs);
    interrupt_after(&whole, 1);
    let run = Run::new(&jobs);
    let stop = StopFlag::default();
    let mut events = EventLog::open(&run.order.events, 1, 0).unwrap();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| train(&run.order, stop.clone(), &mut events).unwrap());
        let is_ready = |event: &plan::Event| matches!(event.kind, EventKind::Ready { .. });
        while !run.events().iter().any(is_ready) {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.set();
        assert_eq!(worker.join().unwrap(), Outcome::Interrupted);
    });
    let whole = time_until(&whole, |kind| matches!(kind, EventKind::Metric { .. }));
    let stopped = time_until(&run, |kind| {
        matches!(kind, EventKind::Interrupted { step: 0 })
    });
    println!("{stopped} ms of {whole}");
    assert!(stopped * 2 < whole, "{stopped} ms of {whole}");
}

/// The SAEs of a run's jobs before the first update, with some latents that have not fired for long.
fn fresh(run: &Run) -> Vec<SaeTrainer> {
    let open = |order| {
        let job = JobTrainer::open(order, run.dir.path(), Device::Cpu, Owners::default());
        let sae = job.unwrap().saes.remove(0);
        let _ = sae.tokens_since_fired.narrow(0, 100, 100).fill_(5000);
        sae
    };
    run.order.jobs.iter().map(open).collect()
}

/// Tokens for an SAE: those of one hookpoint, for each that it has.
fn tokens_for(sae: &SaeTrainer, x: &Tensor) -> Tensor {
    x.repeat([1, sae.sae.cfg.d_in as i64 / x.size()[1]])
}

/// Gradients, terms of the loss and fire counts of the first update on `parts`.
fn first_update(sae: &mut SaeTrainer, parts: &[Tensor]) -> (Vec<Tensor>, Tensor, Tensor) {
    let parts: Vec<Tensor> = parts.iter().map(|part| tokens_for(sae, part)).collect();
    let mut update = sae.start(at(20)).unwrap();
    for part in &parts {
        update.add(part, part).unwrap();
    }
    let (gradients, losses, fire_counts) = update.decided(ALONE).unwrap();
    (gradients, terms(losses), fire_counts.copy())
}

/// The terms of the loss, 0 where a term is missing: `[7]`.
fn terms(losses: &Losses) -> Tensor {
    let scalars = [
        &losses.auxk,
        &losses.multi_topk,
        &losses.nested,
        &losses.sparsity,
    ];
    let zero = losses.squared_error.zeros_like();
    let mut terms = vec![losses.squared_error.view(1)];
    terms.extend(scalars.map(|term| term.as_ref().unwrap_or(&zero).view(1)));
    let powers = losses.powers.as_ref().map(Tensor::shallow_clone);
    terms.push(powers.unwrap_or_else(|| Tensor::stack(&[&zero, &zero], 0)));
    Tensor::cat(&terms, 0)
}

#[test]
fn the_gradients_of_every_kind_are_those_of_the_whole_update() {
    let _no_grad = tch::no_grad_guard();
    let quiet = sae::with_seed(7, || Tensor::randn([96, 32], (Kind::Float, Device::Cpu)));
    let nothing = quiet.narrow(0, 0, 0);
    let loud = quiet.flip([0i64]) * 3.0;
    let whole = Tensor::cat(&[&quiet, &loud], 0);
    let settings = |micro_acc_steps: usize| json!({"micro_acc_steps": micro_acc_steps});
    let of_whole: Vec<_> = fresh(&Run::new(&jobs(&settings(1))))
        .iter_mut()
        .map(|sae| first_update(sae, &[whole.shallow_clone()]))
        .collect();
    for (micro_acc_steps, parts) in [
        (1, vec![&quiet, &loud]),
        (3, vec![&nothing, &quiet, &nothing, &loud]),
        (96, vec![&quiet, &loud]),
        (2, vec![&whole]),
    ] {
        let parts: Vec<_> = parts.into_iter().map(Tensor::shallow_clone).collect();
        let run = Run::new(&jobs(&settings(micro_acc_steps)));
        for ((sae, whole), (name, _)) in fresh(&run).iter_mut().zip(&of_whole).zip(kinds()) {
            let what = format!("{name}, {micro_acc_steps} times {} parts", parts.len());
            let (gradients, terms, fire_counts) = first_update(sae, &parts);
            for (ours, whole) in gradients.iter().zip(&whole.0) {
                let off = (ours - whole).norm().double_value(&[]);
                let size = whole.norm().double_value(&[]);
                assert!(off <= 1e-5 * size, "{what}: {off} of {size}");
            }
            assert!(relative(&terms, &whole.1) < 1e-6, "{what}: {terms:?}");
            assert!(fire_counts.equal(&whole.2), "{what}: other latents fire");
        }
    }
}

#[test]
fn an_update_of_any_kind_without_a_token_changes_nothing() {
    let _no_grad = tch::no_grad_guard();
    let nothing = Tensor::zeros([0, 32], (Kind::Float, Device::Cpu));
    let moments = Moments::of(&nothing).unwrap();
    let x = sae::with_seed(7, || Tensor::randn([64, 32], (Kind::Float, Device::Cpu)));
    let run = Run::new(&jobs(&json!({})));
    let train = |sae: &mut SaeTrainer, step| {
        let x = tokens_for(sae, &x);
        let of_x = Moments::of(&x).unwrap();
        let update = sae.start(at(step)).unwrap();
        update.finish_on((&x, &x), &of_x, at(step)).unwrap();
    };
    for ((mut sae, mut other), (name, _)) in fresh(&run).into_iter().zip(fresh(&run)).zip(kinds()) {
        println!("{name}");
        let nothing = tokens_for(&sae, &nothing);
        train(&mut sae, 20);
        train(&mut other, 20);
        let update = sae.start(at(21)).unwrap();
        update
            .finish_on((&nothing, &nothing), &moments, at(21))
            .unwrap();
        let mut update = sae.start(at(22)).unwrap();
        update.add(&nothing, &nothing).unwrap();
        let update = update.sum(ALONE).unwrap().wait(0).unwrap();
        update.finish(&moments, at(22)).unwrap();
        train(&mut sae, 23);
        train(&mut other, 23);
        assert_same(&sae.published().unwrap(), &other.published().unwrap());
    }
}

/// What a stream reports if its batches of 8 sequences are cut, by job.
fn cut(settings: &Value, [batch_size, grad_acc_steps, micro_acc_steps]: [usize; 3]) -> Run {
    let mut settings = settings.clone();
    let cuts = json!({
        "batch_size": batch_size, "grad_acc_steps": grad_acc_steps, "micro_acc_steps": micro_acc_steps,
    });
    settings
        .as_object_mut()
        .unwrap()
        .extend(cuts.as_object().unwrap().clone());
    let run = Run::new(&jobs(&settings));
    assert_eq!(run.run(), 0, "{:?}", run.events().last());
    run
}

/// Mean L0 of each report of a job.
fn l0(run: &Run, job_idx: usize) -> Vec<f64> {
    let job_id = &run.order.jobs[job_idx].job.job_id;
    let reported = reported(run).into_iter();
    let of_job = reported.filter(|((job, ..), _)| job == job_id);
    of_job
        .map(|(_, stats)| stats["l0"].as_f64().unwrap() / stats["n_tokens"].as_f64().unwrap())
        .collect()
}

#[test]
fn how_updates_are_cut_changes_no_curve() {
    // Biases begin by the first batch, which is less than an update of several.
    let zeros = json!({"b_dec_init_method": "zeros", "init_l0": null});
    for (settings, cuts) in [(json!({}), [8, 1, 3]), (zeros, [2, 4, 2])] {
        let (whole, parts) = (cut(&settings, [8, 1, 1]), cut(&settings, cuts));
        for (job_idx, (name, config)) in jobs(&settings).into_iter().enumerate() {
            assert_close(&parts.curve(job_idx), &whole.curve(job_idx), 1e-3);
            let (ours, theirs) = (l0(&parts, job_idx), l0(&whole, job_idx));
            assert_eq!(ours.len(), 6, "{name}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let is_exact = config.activation == plan::Activation::BatchTopK;
                let tolerance = if is_exact { 0.0 } else { 1e-3 };
                assert!(
                    (ours - theirs).abs() <= tolerance * theirs,
                    "{name}: {ours} {theirs}"
                );
            }
        }
    }
}
