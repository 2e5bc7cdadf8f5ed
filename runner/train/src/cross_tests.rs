//! Crosscoders and cross-layer transcoders on the tiny model.

use crate::testing::{Run, assert_same, config, interrupt_after};
use plan::{Activation, LrScheduler, NormalizeActivations, Optimizer, SparsityLoss, TrainConfig};
use sae::Sae;
use tch::{Device, Kind, Tensor};

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
    for (path, sae) in undisturbed.saes() {
        if !path.starts_with(".state") {
            assert_same(&run.saes()[&path], &sae);
        }
    }
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

/// With one layer more to write to, a transcoder's gradient is that of autograd through the sum.
#[test]
fn gradients_of_layers_are_autograd_s() {
    use sae::{Activation, Objective, Penalty, SaeConfig};
    let (n, d, latents) = (40, 6, 30);
    let noise = |shape: &[i64], seed| {
        sae::with_seed(seed, || Tensor::randn(shape, (Kind::Float, Device::Cpu)))
    };
    for activation in [Activation::TopK, Activation::Relu, Activation::JumpRelu] {
        let layer = |layer: i64| {
            let cfg = SaeConfig {
                activation,
                transcode: true,
                skip_connection: true,
                normalize_decoder: false,
                d_out: (layer == 0).then_some(12),
                hookpoints: MLPS[layer as usize..2]
                    .iter()
                    .map(|own| (*own).to_owned())
                    .collect(),
                ..SaeConfig::topk(d, latents, if activation.has_k() { 5 } else { latents })
            };
            let mut sae = Sae::new(cfg, layer, Device::Cpu).unwrap();
            sae.w_dec = noise(&sae.w_dec.size(), 10 + layer);
            sae.encoder_bias = noise(&[latents as i64], 20 + layer) * 0.1;
            sae
        };
        let saes = [layer(0), layer(1)];
        let xs = [noise(&[n, d as i64], 1), noise(&[n, d as i64], 2)];
        let y = noise(&[n, 2 * d as i64], 3);
        let objective = Objective {
            penalty: if activation == Activation::Relu {
                Penalty::Tanh {
                    coefficient: 0.3,
                    scale: 2.0,
                }
            } else {
                Penalty::None
            },
            ..Objective::squared_error(5)
        };
        let passes: Vec<_> = saes
            .iter()
            .zip(&xs)
            .map(|(sae, x)| sae.layer_pass(x, &objective).unwrap())
            .collect();
        let error = &passes[0].written - &y;
        let _ = error
            .narrow(1, d as i64, d as i64)
            .g_add_(&passes[1].written);
        let errors = [
            error.shallow_clone(),
            error.narrow(1, d as i64, d as i64).contiguous(),
        ];
        // By autograd, of the same two.
        let weights: Vec<Vec<Tensor>> = saes
            .iter()
            .map(|sae| {
                let weights = sae.named_weights().into_iter();
                weights
                    .map(|(_, own)| own.detach().copy().set_requires_grad(true))
                    .collect()
            })
            .collect();
        let written = |layer: usize| {
            let sae = saes[layer]
                .with_weights(weights[layer].iter().map(Tensor::shallow_clone).collect());
            let pre_acts = xs[layer].linear(&sae.encoder_weight, Some(&sae.encoder_bias));
            let acts = match activation {
                Activation::TopK => {
                    let (acts, indices) = pre_acts.topk(5, -1, true, true);
                    pre_acts.zeros_like().scatter(1, &indices, &acts.relu())
                }
                _ => pre_acts.relu(),
            };
            let own = Tensor::cat(
                &[
                    sae.b_dec.narrow(0, 0, d as i64),
                    sae.b_dec
                        .zeros_like()
                        .narrow(0, 0, sae.b_dec.size()[0] - d as i64),
                ],
                0,
            );
            let skip = xs[layer].matmul(&sae.w_skip.as_ref().unwrap().narrow(0, 0, d as i64).tr());
            let skip = skip.constant_pad_nd([0, sae.b_dec.size()[0] - d as i64]);
            let penalty = match activation {
                Activation::Relu => {
                    let norms = sae.w_dec.norm_scalaropt_dim(2.0, [1i64], false);
                    (&acts * norms * 2.0).tanh().sum(Kind::Double) * 0.3
                }
                _ => acts.sum(Kind::Double) * 0.0,
            };
            (acts.matmul(&sae.w_dec) + own + skip, penalty)
        };
        let (first, second) = (written(0), written(1));
        let sum = first.0 + second.0.constant_pad_nd([d as i64, 0]);
        let loss = (sum - &y).square().sum(Kind::Double) + first.1 + second.1;
        loss.backward();
        for (layer, (pass, error)) in passes.into_iter().zip(&errors).enumerate() {
            let backward = saes[layer].layer_backward(pass, error, &objective).unwrap();
            let names = saes[layer]
                .named_weights()
                .into_iter()
                .map(|(name, _)| name);
            for ((name, own), weight) in
                names.zip(backward.gradients.tensors()).zip(&weights[layer])
            {
                if name == "threshold" {
                    continue;
                }
                let off = (own - weight.grad()).abs().max().double_value(&[]);
                let size = weight.grad().abs().max().double_value(&[]);
                assert!(
                    off <= 1e-5 * size + 1e-6,
                    "{activation} {layer} {name}: {off} of {size}"
                );
            }
        }
    }
}
