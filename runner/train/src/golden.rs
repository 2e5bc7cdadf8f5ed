//! The whole worker against sparsify 1.3.3 on the same model, tokens and seed; see
//! `tests/fixtures/README.md` for the files and their tolerances.

use crate::golden_training::{check, config_of, variant};
use crate::ranks::ALONE;
use crate::sae_trainer::SaeTrainer;
use crate::testing::{Run, assert_close, assert_same, at, config, fixtures, job, other, relative};
use crate::training::end_to_end;
use crate::training::output_loss::{OutputLoss, TokenBatch};
use fault::FailureKind;
use lm::{LanguageModel, LoadOptions};
use plan::{EventKind, Optimizer, TrainConfig};
use sae::{Objective, Sae, tensors_by_name};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use tch::{Device, Kind, Tensor};

/// How far a gradient may be from sparsify's: norm of the difference over norm.
const OF_GRADIENT: f64 = 1e-4;

fn tensors(name: &str) -> HashMap<String, Tensor> {
    tensors_by_name(&fixtures().join("golden").join(name)).unwrap()
}

#[test]
fn the_curve_and_the_checkpoint_are_sparsifys() {
    let run = Run::new(&[("a", config())]);
    assert_eq!(run.run(), 0);
    let golden = fs::read_to_string(fixtures().join("golden/curve.json")).unwrap();
    let golden: BTreeMap<String, Value> = serde_json::from_str(&golden).unwrap();
    let curves = run.curve(0);
    assert!(curves.keys().eq(golden.keys()));
    // The same settings for longer.
    let spread = &variant("signum")["spread"];
    for (sae, ours) in &curves {
        let spread = &spread[sae].as_array().unwrap()[..ours.len()];
        check(sae, ours, &golden[sae], &spread.into());
    }
    let golden = fixtures().join("golden/checkpoint/layers.2");
    let golden = Sae::load_from_disk(&golden, Device::Cpu).unwrap();
    let ours = run.sae("a", "layers.2");
    for ((name, ours), (_, golden)) in ours.named_weights().into_iter().zip(golden.named_weights())
    {
        // A sign that rounding turns gives 0.5 %; another form than the averaged one 20 %.
        let difference = relative(ours, golden);
        assert!(difference < 0.02, "{name}: {difference}");
    }
}

/// The first SAE of a job, as it is at the start of its first update.
fn first_sae(config: TrainConfig) -> SaeTrainer {
    let job = job("a", config);
    let mut trainer = SaeTrainer::new(&job, &job.saes[0], None, Device::Cpu).unwrap();
    trainer.start(at(0)).unwrap();
    trainer
}

/// The gradients of the FVU of `x` and `target`, as the trainer makes them.
fn gradients_of_fvu(trainer: &mut SaeTrainer, x: &Tensor, target: &Tensor) -> Vec<Tensor> {
    trainer.centre_on(x, target, ALONE).unwrap();
    let mut update = trainer.start(at(0)).unwrap();
    update.add(x, target).unwrap();
    let mean = target.mean_dim(0, true, Kind::Float);
    let total_variance = (target - mean).square().sum(Kind::Double);
    let gradients = update.gradients().into_iter();
    gradients.map(|sum| sum / &total_variance).collect()
}

/// Checks the gradients of an SAE's weights. One that is 0 except for rounding, such as that of a
/// transcoder's `b_dec`, which starts at the mean, is compared with all of them.
fn assert_gradients(what: &str, sae: &Sae, ours: &[Tensor], golden: impl Fn(&str) -> Tensor) {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    let names = sae.named_weights().into_iter().map(|(name, _)| name);
    let theirs: Vec<_> = names.map(|name| (name, golden(name))).collect();
    assert_eq!(ours.len(), theirs.len());
    let of_all = theirs.iter().map(|(_, theirs)| norm(theirs).powi(2));
    let of_all = of_all.sum::<f64>().sqrt();
    for (ours, (name, theirs)) in ours.iter().zip(&theirs) {
        let of_one = norm(theirs);
        let scale = if of_one < 1e-4 * of_all {
            of_all
        } else {
            of_one
        };
        let difference = norm(&(ours - theirs)) / scale;
        assert!(difference < OF_GRADIENT, "{what}, {name}: {difference}");
    }
}

/// Whether libtorch computes here as where the golden files were made: without AVX2, and the fused
/// multiplication and addition that comes with it, it rounds uniform numbers another way.
fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2")
        && std::env::var_os("ATEN_CPU_CAPABILITY").is_none_or(|wanted| wanted != "default");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[test]
fn the_first_weights_are_sparsifys_to_the_bit() {
    let golden = tensors("step1.safetensors");
    for hookpoint in config().hookpoints {
        let golden = |name: &str| &golden[&format!("{hookpoint}/{name}")];
        let mut trainer = first_sae(TrainConfig {
            hookpoints: vec![hookpoint.clone()],
            ..config()
        });
        trainer.centre_on(golden("x"), golden("x"), ALONE).unwrap();
        for (name, weight) in trainer.sae.named_weights() {
            let (what, golden) = (format!("{hookpoint}, {name}"), golden(name));
            assert!(weight.allclose(golden, 1e-6, 1e-6, false), "{what}");
            assert!(weight.equal(golden) || !has_avx2(), "{what} to the bit");
        }
    }
}

#[test]
fn the_first_gradients_are_sparsifys() {
    let golden = tensors("step1.safetensors");
    for hookpoint in config().hookpoints {
        let golden = |name: &str| golden[&format!("{hookpoint}/{name}")].shallow_clone();
        let mut trainer = first_sae(TrainConfig {
            hookpoints: vec![hookpoint.clone()],
            ..config()
        });
        let x = golden("x");
        let gradients = gradients_of_fvu(&mut trainer, &x, &x);
        let of_weight = |name: &str| golden(&format!("grad.{name}"));
        assert_gradients(&hookpoint, &trainer.sae, &gradients, of_weight);
        let mut backward = trainer.sae.backward(&x, &x, &Objective::squared_error(8));
        let gradients = &mut backward.as_mut().unwrap().gradients;
        gradients
            .remove_parallel_to_decoder(&trainer.sae, true)
            .unwrap();
        let centred = &x - x.mean_dim(0, true, Kind::Float);
        gradients
            .scale(&centred.square().sum(Kind::Double))
            .unwrap();
        let difference = relative(&gradients.w_dec, &golden("grad_projected.W_dec"));
        assert!(difference < OF_GRADIENT, "{hookpoint}: {difference}");
    }
}

#[test]
fn the_first_gradients_of_other_activations_and_of_transcoders_are_sparsifys() {
    let (golden, outputs) = (
        tensors("gradients.safetensors"),
        tensors("step1.safetensors"),
    );
    for name in ["groupmax", "transcode", "transcode_skip"] {
        let config = config_of(&variant(name));
        for hookpoint in config.hookpoints.clone() {
            let target = &outputs[&format!("{hookpoint}/x")];
            let x = golden.get(&format!("{name}/{hookpoint}/x"));
            let mut trainer = first_sae(TrainConfig {
                hookpoints: vec![hookpoint.clone()],
                ..config.clone()
            });
            let gradients = gradients_of_fvu(&mut trainer, x.unwrap_or(target), target);
            let of_weight = |weight: &str| golden[&format!("{name}/{hookpoint}/{weight}")].copy();
            assert_gradients(name, &trainer.sae, &gradients, of_weight);
        }
    }
}

#[test]
fn the_first_gradients_of_losses_on_the_output_are_sparsifys() {
    let golden = tensors("gradients.safetensors");
    let input_ids = &tensors("step1.safetensors")["input_ids"];
    let token_ids = Vec::<i64>::try_from(input_ids.flatten(0, 1)).unwrap();
    let batch = TokenBatch {
        input_ids,
        token_ids: &token_ids,
        exclude_tokens: &[],
    };
    let options = LoadOptions {
        with_head: true,
        ..LoadOptions::default()
    };
    let model = LanguageModel::load(&fixtures().join("tiny-llama"), &options).unwrap();
    for name in ["ce", "kl"] {
        let config = config_of(&variant(name));
        let loss_fn = OutputLoss::of(config.loss_fn).unwrap();
        let n_output = loss_fn.n_positions(&token_ids, config.ctx_len, &[]);
        let mut trainer = first_sae(config);
        let _no_grad = tch::no_grad_guard();
        let mut update = trainer.start(at(0)).unwrap();
        let how = end_to_end::How {
            loss_fn,
            n_output,
            centre: Some(ALONE),
        };
        end_to_end::accumulate(&model, &mut [&mut update], &batch, &how).unwrap();
        let of_weight = |weight: &str| golden[&format!("{name}/layers.2/{weight}")].copy();
        let gradients = update.gradients();
        assert_gradients(name, &trainer.sae, &gradients, of_weight);
    }
}

/// Rounding turns no sign.
fn with_adam() -> TrainConfig {
    TrainConfig {
        optimizer: Optimizer::Adam,
        lr_warmup_steps: 5,
        ..config()
    }
}

#[test]
fn micro_batches_and_company_change_nothing() {
    let micro = TrainConfig {
        micro_acc_steps: 3,
        ..with_adam()
    };
    let alone = Run::new(&[("a", with_adam())]);
    let together = Run::new(&[("b", other()), ("a", with_adam())]);
    let in_parts = Run::new(&[("a", micro)]);
    assert_eq!((alone.run(), together.run(), in_parts.run()), (0, 0, 0));
    assert_close(&together.curve(1), &alone.curve(0), 1e-12);
    assert_close(&in_parts.curve(0), &alone.curve(0), 1e-3);
    assert_same(&together.sae("a", "layers.2"), &alone.sae("a", "layers.2"));
}

#[test]
fn a_batch_in_two_forward_passes_is_the_same_update() {
    let whole = Run::new(&[("a", with_adam())]);
    let halves = Run::new(&[(
        "a",
        TrainConfig {
            batch_size: 4,
            grad_acc_steps: 2,
            ..with_adam()
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
