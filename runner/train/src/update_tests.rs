//! What an update is, however its batch is cut, and what is on the disk after it.

use crate::ranks::owners::Owners;
use crate::sae_trainer::Progress;
use crate::testing::{HOOKPOINTS, Run, assert_close, assert_same, at, config, relative};
use crate::training::job_trainer::JobTrainer;
use plan::{EventKind, Optimizer, TrainConfig};
use sae::Moments;
use tch::{Device, Kind, Tensor};

/// The gradients of the first SAE after `parts` of an update, cut into `micro_acc_steps` each.
fn gradients(micro_acc_steps: usize, parts: &[Tensor]) -> Vec<Tensor> {
    let config = TrainConfig {
        micro_acc_steps,
        ..config()
    };
    let run = Run::new(&[("a", config)]);
    let _no_grad = tch::no_grad_guard();
    let mut job = JobTrainer::open(
        &run.order.jobs[0],
        run.dir.path(),
        Device::Cpu,
        Owners::default(),
    )
    .unwrap();
    let mut update = job.saes[0].start(at(0)).unwrap();
    for part in parts {
        update.add(part, part).unwrap();
    }
    update.gradients()
}

/// sparsify divides the gradient of each part by that part's own variance, and by their number.
#[test]
fn the_gradient_of_an_update_is_that_of_its_whole_batch() {
    let quiet = sae::with_seed(7, || Tensor::randn([96, 32], (Kind::Float, Device::Cpu)));
    let loud = quiet.flip([0i64]) * 7.0;
    let whole = gradients(1, &[Tensor::cat(&[&quiet, &loud], 0)]);
    let parts = [quiet, loud];
    for micro_acc_steps in [1, 2, 3, 96] {
        for (ours, whole) in gradients(micro_acc_steps, &parts).iter().zip(&whole) {
            let difference = relative(ours, whole);
            assert!(difference < 1e-5, "{micro_acc_steps} parts: {difference}");
        }
    }
}

#[test]
fn an_update_that_is_dropped_is_as_if_it_had_not_been_started() {
    let config = TrainConfig {
        auxk_alpha: 0.03,
        dead_feature_threshold: 10,
        micro_acc_steps: 2,
        ..config()
    };
    let run = Run::new(&[("a", config)]);
    let _no_grad = tch::no_grad_guard();
    let x = sae::with_seed(7, || Tensor::randn([64, 32], (Kind::Float, Device::Cpu)));
    let moments = Moments::of(&x).unwrap();
    let trained = |n_dropped: usize| {
        let (order, device) = (&run.order.jobs[0], Device::Cpu);
        let job = JobTrainer::open(order, run.dir.path(), device, Owners::default());
        let mut sae = job.unwrap().saes.remove(0);
        for step in 0..3 {
            for _ in 0..n_dropped {
                sae.start(at(step)).unwrap().add(&x, &x).unwrap();
            }
            let mut update = sae.start(at(step)).unwrap();
            update.add(&x, &x).unwrap();
            let progress = Progress { step, n_steps: 3 };
            update.finish(&moments, progress).unwrap();
        }
        sae.published().unwrap()
    };
    assert_same(&trained(2), &trained(0));
}

/// Learning rate, k and the number of updates, too, go by updates and not by passes.
#[test]
fn how_a_batch_is_cut_into_passes_changes_no_curve() {
    // From trained SAEs: fresh ones take their biases from the first pass.
    let first = Run::new(&[("a", config())]);
    assert_eq!(first.run(), 0);
    let curve = |batch_size, grad_acc_steps, micro_acc_steps| {
        let config = TrainConfig {
            finetune: Some(first.dir.path().join("a").to_str().unwrap().into()),
            optimizer: Optimizer::Adam,
            lr: Some(1e-3),
            lr_warmup_steps: 5,
            k_decay_steps: 9,
            // Of 158 sequences the last six are not a whole update.
            max_examples: Some(158),
            batch_size,
            grad_acc_steps,
            micro_acc_steps,
            ..config()
        };
        let run = Run::new(&[("a", config)]);
        assert_eq!(run.run(), 0, "{:?}", run.events().last());
        run.curve(0)
    };
    let whole = curve(8, 1, 1);
    assert_eq!(whole["layers.2"].len(), 19);
    for (batch_size, grad_acc_steps, micro_acc_steps) in
        [(4, 2, 1), (1, 8, 1), (8, 1, 3), (2, 4, 2)]
    {
        assert_close(
            &curve(batch_size, grad_acc_steps, micro_acc_steps),
            &whole,
            1e-3,
        );
    }
}

#[test]
fn checkpoints_come_after_every_so_many_updates_and_at_the_end() {
    let run = Run::new(&[("a", config())]);
    assert_eq!(run.run(), 0);
    let step = |event: plan::Event| match event.kind {
        EventKind::Checkpoint { step, is_final, .. } => Some((step, is_final)),
        _ => None,
    };
    let steps: Vec<_> = run.events().into_iter().filter_map(step).collect();
    assert_eq!(steps, [(7, false), (14, false), (20, true)]);
}

#[test]
fn what_an_optimizer_without_averages_publishes_has_unit_rows() {
    for optimizer in [Optimizer::Adam, Optimizer::Muon] {
        let config = TrainConfig {
            optimizer,
            lr: Some(1e-2),
            lr_warmup_steps: 0,
            ..config()
        };
        let run = Run::new(&[("a", config)]);
        assert_eq!(run.run(), 0);
        for hookpoint in HOOKPOINTS {
            let w_dec = run.sae("a", hookpoint).w_dec;
            let norms = w_dec.norm_scalaropt_dim(2.0, [1i64], false);
            let error = (norms - 1.0).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{optimizer:?} {hookpoint}: {error}");
        }
    }
}
