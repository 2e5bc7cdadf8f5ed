//! The whole worker against sparsify 1.3.3 on the same model, tokens and seed; see
//! `tests/fixtures/README.md` for the files and their tolerances.

use crate::sae_trainer::SaeTrainer;
use crate::testing::{Run, assert_close, assert_same, config, fixtures, job, other, relative};
use plan::{EventKind, FailureKind, TrainConfig};
use sae::{Objective, Sae, tensors_by_name};
use std::fs;
use tch::{Device, Kind};

#[test]
fn the_curve_and_the_checkpoint_are_sparsifys() {
    let run = Run::new(&[("a", config())]);
    assert_eq!(run.run(), 0);
    let golden = fs::read_to_string(fixtures().join("golden/curve.json")).unwrap();
    assert_close(&run.curve(0), &serde_json::from_str(&golden).unwrap(), 0.01);
    let golden = fixtures().join("golden/checkpoint/layers.2");
    let golden = Sae::load_from_disk(&golden, Device::Cpu).unwrap();
    let ours = run.sae("a", "layers.2");
    for ((name, ours), (_, golden)) in ours.named_weights().into_iter().zip(golden.named_weights())
    {
        let difference = relative(ours, golden);
        assert!(difference < 1e-3, "{name}: {difference}");
    }
}

#[test]
fn the_first_batchs_weights_and_gradients_are_sparsifys() {
    let golden = tensors_by_name(&fixtures().join("golden/step1.safetensors")).unwrap();
    let job = job("a", config());
    for spec in &job.saes {
        let golden = |name: &str| &golden[&format!("{}/{name}", spec.hookpoint)];
        let mut trainer = SaeTrainer::new(&job, spec, None, Device::Cpu).unwrap();
        let x = golden("x");
        trainer.centre_on(x, x).unwrap();
        for (name, weight) in trainer.sae.named_weights() {
            assert!(weight.allclose(golden(name), 1e-6, 1e-6, false), "{name}");
        }
        let objective = Objective::squared_error(spec.k);
        let backward = trainer.sae.backward(x, x, &objective).unwrap();
        let mut gradients = backward.gradients;
        let mean = x.mean_dim(0, true, Kind::Float);
        gradients
            .scale(&(x - mean).square().sum(Kind::Double))
            .unwrap();
        let names = trainer.sae.named_weights().into_iter();
        for ((name, _), gradient) in names.zip(gradients.tensors()) {
            let difference = relative(gradient, golden(&format!("grad.{name}")));
            assert!(difference < 1e-4, "{name}: {difference}");
        }
        gradients.remove_parallel_to_decoder(&trainer.sae).unwrap();
        let difference = relative(&gradients.w_dec, golden("grad_projected.W_dec"));
        assert!(difference < 1e-4, "projected: {difference}");
    }
}

#[test]
fn micro_batches_and_company_change_nothing() {
    let micro = TrainConfig {
        micro_acc_steps: 3,
        ..config()
    };
    let alone = Run::new(&[("a", config())]);
    let together = Run::new(&[("b", other()), ("a", config())]);
    let in_parts = Run::new(&[("a", micro)]);
    assert_eq!((alone.run(), together.run(), in_parts.run()), (0, 0, 0));
    assert_close(&together.curve(1), &alone.curve(0), 1e-12);
    assert_close(&in_parts.curve(0), &alone.curve(0), 1e-2);
    assert_same(&together.sae("a", "layers.2"), &alone.sae("a", "layers.2"));
}

#[test]
fn a_batch_in_two_forward_passes_is_the_same_update() {
    let whole = Run::new(&[("a", config())]);
    let halves = Run::new(&[(
        "a",
        TrainConfig {
            batch_size: 4,
            grad_acc_steps: 2,
            ..config()
        },
    )]);
    assert_eq!((whole.run(), halves.run()), (0, 0));
    // Only the first decoder bias differs: it is the mean of the first forward pass.
    let curves = (whole.curve(0), halves.curve(0));
    assert_eq!(curves.1["layers.2"].len(), 20);
    assert_close(&curves.1, &curves.0, 0.05);
}

#[test]
fn a_changed_input_is_not_trained_on() {
    let mut run = Run::new(&[("a", config())]);
    run.order.key.token_digest = "of other text".into();
    assert_eq!(run.run(), 2);
    let last = run.events().pop().map(|event| event.kind);
    assert!(matches!(last, Some(EventKind::Failed { message, .. }) if message.contains("changed")));
}

#[test]
fn too_little_data_is_the_users_to_mend() {
    let too_much = TrainConfig {
        grad_acc_steps: 1000,
        ..config()
    };
    let run = Run::new(&[("a", too_much)]);
    assert_eq!(run.run(), 2);
    let Some(EventKind::Failed {
        kind,
        message,
        hint,
    }) = run.events().pop().map(|e| e.kind)
    else {
        panic!("the last event is the failure");
    };
    assert_eq!(kind, FailureKind::Input);
    assert!(message.contains("1000 batches") && hint.unwrap().contains("`batch_size`"));
}
