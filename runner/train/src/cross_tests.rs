//! Crosscoders and cross-layer transcoders on the tiny model.

use crate::testing::{Run, assert_same_saes, config, interrupt_after};
use plan::{Activation, LrScheduler, NormalizeActivations, Optimizer, SparsityLoss, TrainConfig};

const BLOCKS: [&str; 3] = ["layers.0", "layers.1", "layers.2"];
const MLPS: [&str; 3] = ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"];

fn crosscoder() -> TrainConfig {
    TrainConfig {
        crosscoder: true,
        hookpoints: BLOCKS.map(String::from).to_vec(),
        ..config()
    }
}

fn cross_layer() -> TrainConfig {
    TrainConfig {
        transcode: true,
        cross_layer: true,
        hookpoints: MLPS.map(String::from).to_vec(),
        ..config()
    }
}

/// Kinds of both.
fn kinds(of: &TrainConfig) -> Vec<(&'static str, TrainConfig)> {
    let adam = TrainConfig {
        optimizer: Optimizer::Adam,
        lr: Some(3e-3),
        lr_warmup_steps: 0,
        lr_scheduler: LrScheduler::Constant,
        normalize_decoder: false,
        decoder_init_norm: Some(0.1),
        normalize_activations: NormalizeActivations::ExpectedAverageOnlyIn,
        norm_estimate_tokens: 1024,
        ..of.clone()
    };
    vec![
        ("topk", of.clone()),
        (
            "batchtopk",
            TrainConfig {
                activation: Activation::BatchTopK,
                rescale_acts_by_decoder_norm: true,
                auxk_alpha: 0.03,
                dead_feature_threshold: 2000,
                ..adam.clone()
            },
        ),
        (
            "relu",
            TrainConfig {
                activation: Activation::Relu,
                l1_coefficient: 0.05,
                ..adam.clone()
            },
        ),
        (
            "jumprelu",
            TrainConfig {
                activation: Activation::JumpRelu,
                jumprelu_sparsity_loss_mode: SparsityLoss::Tanh,
                l0_coefficient: 0.01,
                ..adam
            },
        ),
    ]
}

fn last_fvu(run: &Run, job: usize) -> Vec<(f64, f64)> {
    let curves = run.curve(job).into_values();
    curves
        .map(|curve| (curve[0], *curve.last().unwrap()))
        .collect()
}

#[test]
fn crosscoders_of_every_kind_learn_and_are_saved() {
    let jobs = kinds(&crosscoder());
    let run = Run::new(&jobs);
    assert_eq!(run.run(), 0);
    for (job, (name, _)) in jobs.iter().enumerate() {
        let [(first, last)] = last_fvu(&run, job)[..] else {
            panic!("one crosscoder")
        };
        assert!(last < 0.75 * first, "{name}: from {first} to {last}");
        let sae = run.sae(name, "crosscoder");
        assert_eq!(sae.cfg.hookpoints, BLOCKS, "{name}");
        assert_eq!(sae.cfg.d_in, 3 * sae.w_dec.size()[1] as usize / 3);
    }
}

#[test]
fn cross_layer_transcoders_of_every_kind_learn_and_are_saved() {
    let jobs = kinds(&cross_layer());
    let run = Run::new(&jobs);
    assert_eq!(run.run(), 0);
    for (job, (name, _)) in jobs.iter().enumerate() {
        let of_layers = last_fvu(&run, job);
        assert_eq!(of_layers.len(), 3);
        for (layer, (first, last)) in of_layers.into_iter().enumerate() {
            assert!(
                last < 0.85 * first,
                "{name} {layer}: from {first} to {last}"
            );
            let sae = run.sae(name, MLPS[layer]);
            assert_eq!(sae.cfg.hookpoints, MLPS[layer..], "{name}");
            let width = sae.cfg.d_in as i64;
            assert_eq!(sae.w_dec.size()[1], width * (3 - layer as i64));
            let others = sae.b_dec.narrow(0, width, sae.b_dec.size()[0] - width);
            assert!(others.equal(&others.zeros_like()), "{name} {layer}");
        }
    }
}

#[test]
fn a_resume_ends_in_the_same_bits() {
    let mut jobs = kinds(&crosscoder());
    jobs.extend(kinds(&cross_layer()).into_iter().map(|(name, config)| {
        let name: &str = match name {
            "topk" => "clt-topk",
            "batchtopk" => "clt-batchtopk",
            "relu" => "clt-relu",
            _ => "clt-jumprelu",
        };
        (name, config)
    }));
    let undisturbed = Run::new(&jobs);
    assert_eq!(undisturbed.run(), 0);
    let run = Run::new(&jobs);
    interrupt_after(&run, 9);
    assert_eq!(run.run(), 0);
    assert_same_saes(&run, &undisturbed);
}

/// The cut of an update into passes and parts changes nothing but the rounding of sums.
#[test]
fn the_cut_of_an_update_does_not_matter() {
    for base in [crosscoder(), cross_layer()] {
        for (name, config) in kinds(&base) {
            let end = |batch_size, grad_acc_steps, micro_acc_steps| {
                let config = TrainConfig {
                    batch_size,
                    grad_acc_steps,
                    micro_acc_steps,
                    max_examples: Some(80),
                    b_dec_init_method: plan::BDecInit::Zeros,
                    normalize_activations: NormalizeActivations::None,
                    norm_estimate_tokens: TrainConfig::default().norm_estimate_tokens,
                    ..config.clone()
                };
                let run = Run::new(&[("a", config)]);
                assert_eq!(run.run(), 0);
                let end = run.curve(0).into_values();
                end.map(|curve| *curve.last().unwrap())
                    .collect::<Vec<f64>>()
            };
            let whole = end(8, 1, 1);
            let parts = end(2, 4, 3);
            for (whole, parts) in whole.iter().zip(&parts) {
                assert!(
                    (whole / parts - 1.0).abs() < 2e-3,
                    "{name}: {whole} {parts}"
                );
            }
        }
    }
}
