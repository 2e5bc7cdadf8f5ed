//! Jobs that were interrupted and resumed are bit-identical to undisturbed ones.

use crate::ranks::ALONE;
use crate::ranks::owners::Owners;
use crate::sae_trainer::Progress;
use crate::testing::{
    HOOKPOINTS, Run, assert_close, assert_same, at, config, interrupt_after, other,
};
use crate::training::job_trainer::JobTrainer;
use fault::FailureKind;
use plan::{Activation, EventKind, LossFn, Optimizer, TrainConfig};
use sae::Moments;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

#[test]
fn an_interrupted_job_ends_as_if_undisturbed() {
    // Reports and checkpoints at different steps: the sums in between must not be lost.
    let sparse = TrainConfig {
        log_every: 3,
        ..config()
    };
    let undisturbed = Run::new(&[("a", sparse.clone())]);
    assert_eq!(undisturbed.run(), 0);
    let mut run = Run::new(&[("a", sparse)]);
    interrupt_after(&run, 1);
    assert!(run.dir.path().join(".state/a").is_dir());
    run.order.attempt = 2;
    assert_eq!(run.run(), 0);
    assert_eq!(run.n_tokens(0), undisturbed.n_tokens(0));
    assert_same(&run.sae("a", "layers.2"), &undisturbed.sae("a", "layers.2"));
    let state = run.dir.path().join(".state/a");
    assert!(!state.exists(), "a job that is done needs no state");
}

#[test]
fn a_job_that_is_ahead_waits_for_the_others() {
    let undisturbed = Run::new(&[("a", config()), ("b", other())]);
    assert_eq!(undisturbed.run(), 0);
    let mut run = Run::new(&[("a", config())]);
    interrupt_after(&run, 3);
    run.order.jobs = undisturbed.order.jobs.clone();
    run.order.attempt = 2;
    assert_eq!(run.run(), 0);
    for (job_idx, name) in ["a", "b"].into_iter().enumerate() {
        assert_eq!(run.n_tokens(job_idx), undisturbed.n_tokens(job_idx));
        assert_close(&run.curve(job_idx), &undisturbed.curve(job_idx), 1e-12);
        for hookpoint in HOOKPOINTS {
            assert_same(&run.sae(name, hookpoint), &undisturbed.sae(name, hookpoint));
        }
    }
}

/// Every setting that gives a step something to remember.
fn variants() -> Vec<(&'static str, TrainConfig)> {
    let config = || TrainConfig {
        hookpoints: vec!["layers.1.mlp".into(), "layers.2".into()],
        lr_warmup_steps: 5,
        dead_feature_threshold: 1000,
        save_best: true,
        max_examples: Some(96),
        save_every: 4,
        ..config()
    };
    let end_to_end = |loss_fn| TrainConfig {
        loss_fn,
        exclude_tokens: vec![0, 64],
        ..config()
    };
    vec![
        (
            "adam, auxk, multi_topk",
            TrainConfig {
                optimizer: Optimizer::Adam,
                auxk_alpha: 0.03,
                multi_topk: true,
                ..config()
            },
        ),
        (
            "muon, k decay, gradient accumulation",
            TrainConfig {
                optimizer: Optimizer::Muon,
                k_decay_steps: 9,
                batch_size: 4,
                grad_acc_steps: 2,
                ..config()
            },
        ),
        (
            "signum, an update of many passes",
            TrainConfig {
                batch_size: 1,
                grad_acc_steps: 8,
                ..config()
            },
        ),
        (
            "groupmax, several seeds, micro-batches, excluded tokens",
            TrainConfig {
                activation: Activation::GroupMax,
                init_seeds: vec![0, 3],
                micro_acc_steps: 3,
                exclude_tokens: vec![0, 64],
                ..config()
            },
        ),
        (
            "a transcoder with a skip connection",
            TrainConfig {
                transcode: true,
                skip_connection: true,
                hookpoints: vec!["layers.1.mlp".into(), "layers.2.mlp".into()],
                ..config()
            },
        ),
        ("ce", end_to_end(LossFn::Ce)),
        ("kl", end_to_end(LossFn::Kl)),
    ]
}

#[test]
fn every_kind_of_job_resumes_to_the_bit() {
    std::thread::scope(|scope| {
        for (what, config) in variants() {
            scope.spawn(move || assert_resumes(what, &config));
        }
    });
}

fn assert_resumes(what: &str, config: &TrainConfig) {
    let undisturbed = Run::new(&[("a", config.clone())]);
    assert_eq!(undisturbed.run(), 0, "{what}");
    let mut run = Run::new(&[("a", config.clone())]);
    for n_reports in [3, 7] {
        interrupt_after(&run, n_reports);
        run.order.attempt += 1;
    }
    assert_eq!(run.run(), 0, "{what}");
    let (ours, theirs) = (run.saes(), undisturbed.saes());
    assert!(theirs.len() >= 4, "{what}: the last ones and the best ones");
    assert!(ours.keys().eq(theirs.keys()), "{what}: {:?}", ours.keys());
    for (path, sae) in &ours {
        assert_same(sae, &theirs[path]);
    }
    assert_close(&run.curve(0), &undisturbed.curve(0), 1e-12);
}

#[test]
fn as_many_states_are_kept_as_were_asked_for() {
    let config = TrainConfig {
        save_total_limit: 2,
        save_every: 2,
        ..config()
    };
    let run = Run::new(&[("a", config)]);
    interrupt_after(&run, 7);
    let states = run.dir.path().join(".state/a").read_dir().unwrap();
    assert_eq!(states.count(), 2);
}

/// A job with two states, interrupted; the newest one first.
fn with_two_states() -> (Run, Vec<PathBuf>) {
    let config = TrainConfig {
        save_total_limit: 2,
        save_every: 5,
        ..config()
    };
    let mut run = Run::new(&[("a", config)]);
    interrupt_after(&run, 12);
    run.order.attempt = 2;
    let states = run.dir.path().join(".state/a").read_dir().unwrap();
    let mut states: Vec<_> = states.map(|entry| entry.unwrap().path()).collect();
    states.sort_by(|a, b| b.cmp(a));
    assert_eq!(states.len(), 2);
    (run, states)
}

fn truncate(path: &Path) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

#[test]
fn a_damaged_state_is_put_aside_for_the_one_before_it() {
    let undisturbed = Run::new(&[("a", config())]);
    assert_eq!(undisturbed.run(), 0);
    let damages: [fn(&Path); 4] = [
        |state| truncate(&state.join("layers.2.safetensors")),
        |state| fs::remove_file(state.join("layers.2.mlp.safetensors")).unwrap(),
        |state| truncate(&state.join("state.json")),
        |state| fs::remove_file(state.join("state.json")).unwrap(),
    ];
    for damage in damages {
        let (run, states) = with_two_states();
        damage(&states[0]);
        assert_eq!(run.run(), 0);
        for hookpoint in HOOKPOINTS {
            assert_same(&run.sae("a", hookpoint), &undisturbed.sae("a", hookpoint));
        }
        let is_told = |event: &plan::Event| match &event.kind {
            EventKind::Note { message } => {
                message.contains("is damaged") && message.contains("continues from step")
            }
            _ => false,
        };
        assert!(run.events().iter().any(is_told), "{:?}", run.events());
    }
}

#[test]
fn where_all_states_are_damaged_nothing_is_trained_anew() {
    let (run, states) = with_two_states();
    for state in &states {
        truncate(&state.join("layers.2.safetensors"));
    }
    assert_eq!(run.run(), 2);
    let last = run.events().pop().unwrap().kind;
    let EventKind::Failed {
        kind,
        message,
        hint,
    } = last
    else {
        panic!("{last:?}");
    };
    assert_eq!(kind, FailureKind::Input);
    assert!(message.contains("layers.2.safetensors"), "{message}");
    assert!(hint.unwrap().contains(states[0].to_str().unwrap()));
    assert!(states.iter().all(|state| state.is_dir()), "nothing is lost");
}

#[test]
fn an_update_without_a_token_that_counts_is_none_of_the_weights() {
    for optimizer in [Optimizer::Signum, Optimizer::Adam, Optimizer::Muon] {
        let config = TrainConfig {
            optimizer,
            ..config()
        };
        let run = Run::new(&[("a", config)]);
        let open = || {
            JobTrainer::open(
                &run.order.jobs[0],
                run.dir.path(),
                Device::Cpu,
                Owners::default(),
            )
            .unwrap()
        };
        let _no_grad = tch::no_grad_guard();
        let mut job = open();
        let progress = |step| Progress { step, n_steps: 9 };
        for sae in &mut job.saes {
            let update = sae.start(at(0)).unwrap();
            let nothing = Moments::of(&Tensor::zeros([0, 32], (Kind::Float, Device::Cpu)));
            update.finish(&nothing.unwrap(), progress(0)).unwrap();
        }
        job.step = 1;
        job.save_state(9, ALONE).unwrap();
        let mut resumed = open();
        assert_eq!(resumed.step, 1);
        let x = sae::with_seed(7, || Tensor::randn([64, 32], (Kind::Float, Device::Cpu)));
        for job in [&mut job, &mut resumed] {
            let mut update = job.saes[0].start(at(1)).unwrap();
            update.add(&x, &x).unwrap();
            update
                .finish(&Moments::of(&x).unwrap(), progress(1))
                .unwrap();
        }
        let [ours, theirs] = [&job, &resumed].map(|job| job.saes[0].published().unwrap());
        assert_same(&ours, &theirs);
    }
}

#[test]
fn the_state_has_the_current_k_and_what_is_published_the_configured_one() {
    let config = TrainConfig {
        k_decay_steps: 15,
        ..config()
    };
    let run = Run::new(&[("a", config)]);
    interrupt_after(&run, 3);
    let states = run.dir.path().join(".state/a").read_dir().unwrap();
    let state = states.map(|entry| entry.unwrap().path()).next().unwrap();
    let state = fs::read(state.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let k = state["saes"]["layers.2"]["k"].as_u64().unwrap();
    assert!(k > 8, "{state}");
    assert_eq!(run.sae("a", "layers.2").cfg.k, 8);
}
