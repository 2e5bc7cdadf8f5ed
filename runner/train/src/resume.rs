//! Jobs that were interrupted and taken up again end in the same bits as undisturbed ones.

use crate::testing::{HOOKPOINTS, Run, assert_close, assert_same, config, interrupt_after, other};
use plan::{Activation, LossFn, Optimizer, TrainConfig};

#[test]
fn an_interrupted_job_ends_as_if_undisturbed() {
    // Reports and checkpoints at steps of their own: the sums between must not be lost.
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
