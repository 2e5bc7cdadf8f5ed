//! Gradients and terms against autograd.

use super::*;
use crate::activation::select;
use crate::testing::noise;
use crate::{Activation, SaeConfig};
use tch::Device;

const DEAD: [i64; 4] = [1, 7, 8, 20];

fn configs() -> Vec<SaeConfig> {
    let topk = SaeConfig::topk(6, 24, 4);
    let transcode = SaeConfig {
        transcode: true,
        ..topk.clone()
    };
    vec![
        SaeConfig {
            activation: Activation::GroupMax,
            ..topk.clone()
        },
        SaeConfig {
            skip_connection: true,
            ..topk.clone()
        },
        SaeConfig {
            skip_connection: true,
            ..transcode.clone()
        },
        SaeConfig {
            d_out: Some(5),
            skip_connection: true,
            ..transcode.clone()
        },
        transcode,
        topk,
    ]
}

/// An SAE whose tokens sometimes have fewer than `k` positive pre-activations, its input and its
/// target.
fn case(cfg: SaeConfig) -> (Sae, Tensor, Tensor) {
    let (d_out, is_transcoder) = (cfg.d_out() as i64, cfg.transcode);
    let mut sae = Sae::new(cfg, 5, Device::Cpu).unwrap();
    sae.encoder_bias = noise(&[24], 1.0) * 0.1 - 0.6;
    sae.b_dec = noise(&[d_out], 2.0);
    sae.w_dec = noise(&[24, d_out], 6.0);
    sae.w_skip = sae.w_skip.map(|_| noise(&[d_out, 6], 7.0));
    let x = noise(&[9, 6], 3.0);
    let target = if is_transcoder {
        noise(&[9, d_out], 4.0)
    } else {
        x.shallow_clone()
    };
    (sae, x, target)
}

/// The same loss in dense operations, by autograd: its gradients and its terms.
fn by_autograd(
    sae: &Sae,
    x: &Tensor,
    target: &Tensor,
    objective: &Objective<'_>,
) -> (Vec<Tensor>, [f64; 3]) {
    let leaf = |(_, w): (_, &Tensor)| w.copy().set_requires_grad(true);
    let leaves: Vec<_> = sae.named_weights().into_iter().map(leaf).collect();
    let [w_enc, b_enc, w_dec, b_dec, w_skip @ ..] = &leaves[..] else {
        panic!("four weights or five");
    };
    let centred = if sae.cfg.transcode {
        x.shallow_clone()
    } else {
        x - b_dec
    };
    let pre_acts = centred.linear(w_enc, Some(b_enc));
    let keep = |indices: &Tensor| pre_acts.zeros_like().scatter_value(1, indices, 1.0);
    let whole = |latents: &Tensor| {
        let out = latents.matmul(w_dec) + b_dec;
        w_skip
            .iter()
            .fold(out, |out, w_skip| out + x.matmul(&w_skip.tr()))
    };
    let selected = select(sae.cfg.activation, &pre_acts.detach(), objective.k, None).unwrap();
    let latents = pre_acts.relu() * keep(&selected.latent_indices);
    let error = whole(&latents) - target;
    let mut loss = error.square().sum(Kind::Float);
    let mut terms = [loss.double_value(&[]), 0.0, 0.0];
    if let Some(AuxK {
        alpha,
        candidates: dead,
        ..
    }) = objective.auxk
    {
        let n_wanted = sae.cfg.d_out() as i64 / 2;
        let alive = pre_acts.ones_like().index_fill(1, dead, 0.0);
        let of_dead = pre_acts.detach() + alive * -1e9;
        let (_, indices) = of_dead.topk(n_wanted.min(dead.size()[0]), -1, true, false);
        let missed = (&pre_acts * keep(&indices)).matmul(w_dec) + error.detach();
        let scale = (dead.size()[0] as f64 / n_wanted as f64).min(1.0);
        let auxk = missed.square().sum(Kind::Float) * scale;
        terms[1] = auxk.double_value(&[]);
        loss += auxk * alpha;
    }
    if objective.multi_topk {
        let k = (4 * objective.k).min(24) as i64;
        let (_, indices) = pre_acts.detach().topk(k, -1, true, false);
        let error = whole(&(pre_acts.relu() * keep(&indices))) - target;
        let multi_topk = error.square().sum(Kind::Float);
        terms[2] = multi_topk.double_value(&[]);
        loss += multi_topk / 8.0;
    }
    loss.backward();
    let gradient = |leaf: &Tensor| {
        let gradient = leaf.grad();
        if gradient.defined() {
            gradient
        } else {
            leaf.detach().zeros_like()
        }
    };
    (leaves.iter().map(gradient).collect(), terms)
}

fn assert_equals_autograd(cfg: SaeConfig, objective: &Objective<'_>) {
    let (sae, x, target) = case(cfg);
    let ours = sae.backward(&x, &target, objective).unwrap();
    let (gradients, terms) = by_autograd(&sae, &x, &target, objective);
    let Losses {
        squared_error,
        auxk,
        multi_topk,
        ..
    } = &ours.losses;
    let value = |term: &Option<Tensor>| term.as_ref().map_or(0.0, |t| t.double_value(&[]));
    let our_terms = [
        squared_error.double_value(&[]),
        value(auxk),
        value(multi_topk),
    ];
    for (ours, theirs) in our_terms.into_iter().zip(terms) {
        assert!(
            (ours - theirs).abs() <= 1e-4 * theirs,
            "{:?}: {ours} {theirs}",
            sae.cfg
        );
    }
    assert_eq!(ours.gradients.tensors().len(), gradients.len());
    let names = sae.named_weights().into_iter().map(|(name, _)| name);
    for ((ours, theirs), name) in ours.gradients.tensors().iter().zip(&gradients).zip(names) {
        assert!(
            ours.allclose(theirs, 1e-4, 1e-4, false),
            "{name} of {:?}: {ours} {theirs}",
            sae.cfg
        );
    }
}

#[test]
fn the_squared_errors_gradients_are_those_of_autograd() {
    for cfg in configs() {
        assert_equals_autograd(cfg, &Objective::squared_error(4));
    }
    let (sae, x, _) = case(SaeConfig::topk(6, 24, 4));
    let idle = sae.encode(&x).unwrap().latent_acts.eq(0.0).any();
    assert!(
        bool::try_from(idle).unwrap(),
        "some latents must be selected at 0"
    );
}

#[test]
fn dead_latents_and_their_encoder_get_gradients() {
    for n_dead in [1, 2, 4] {
        let dead = Tensor::from_slice(&DEAD[..n_dead]);
        let auxk = Some(AuxK {
            alpha: 0.7,
            candidates: &dead,
            are_dead: None,
            is_of_residual: false,
            fire_counts: None,
            residual_scale: None,
        });
        let all = dead.ones_like().to_kind(Kind::Bool);
        let masked = auxk.map(|term| AuxK {
            are_dead: Some(&all),
            ..term
        });
        for cfg in configs() {
            for auxk in [auxk, masked] {
                let objective = Objective {
                    auxk,
                    ..Objective::squared_error(cfg.k)
                };
                assert_equals_autograd(cfg.clone(), &objective);
            }
        }
    }
}

#[test]
fn a_dead_latent_with_a_negative_pre_activation_can_come_back() {
    let (mut sae, x, target) = case(SaeConfig::topk(6, 24, 4));
    let mut bias = sae.encoder_bias.get(7);
    let _ = bias.fill_(-100.0);
    let dead = Tensor::from_slice(&[7i64]);
    let objective = Objective {
        auxk: Some(AuxK {
            alpha: 1.0,
            candidates: &dead,
            are_dead: None,
            is_of_residual: false,
            fire_counts: None,
            residual_scale: None,
        }),
        ..Objective::squared_error(4)
    };
    let gradients = sae.backward(&x, &target, &objective).unwrap().gradients;
    assert!(
        gradients.encoder_bias.double_value(&[7]) < 0.0,
        "its bias is to grow"
    );
    sae.cfg.k = 4;
    let without = Objective::squared_error(4);
    let gradients = sae.backward(&x, &target, &without).unwrap().gradients;
    assert_eq!(gradients.encoder_bias.double_value(&[7]), 0.0);
}

/// The terms and gradients with AuxK for the dead of `candidates`: some of `dead`.
fn with_candidates(
    (sae, x, target): &(Sae, Tensor, Tensor),
    candidates: &[i64],
    dead: &[i64],
    rounded_encoder: Option<&Tensor>,
) -> Backward {
    let are_dead: Vec<bool> = candidates.iter().map(|idx| dead.contains(idx)).collect();
    let (candidates, are_dead) = (
        Tensor::from_slice(candidates),
        Tensor::from_slice(&are_dead),
    );
    let objective = Objective {
        auxk: Some(AuxK {
            alpha: 0.7,
            candidates: &candidates,
            are_dead: Some(&are_dead),
            is_of_residual: false,
            fire_counts: None,
            residual_scale: None,
        }),
        // The squared error alone has other kernels.
        multi_topk: true,
        rounded_encoder,
        ..Objective::squared_error(sae.cfg.k)
    };
    sae.backward(x, target, &objective).unwrap()
}

#[test]
fn latents_that_might_be_dead_and_are_not_change_no_bit() {
    let wide = SaeConfig::topk(32, 256, 4);
    let mut wide_case = (
        Sae::new(wide, 5, Device::Cpu).unwrap(),
        noise(&[40, 32], 3.0),
        noise(&[40, 32], 3.0),
    );
    wide_case.0.encoder_bias = noise(&[256], 1.0) * 0.1;
    let rounded = wide_case.0.rounded_encoder(4).unwrap().unwrap();
    let mut cases: Vec<_> = configs().into_iter().map(|cfg| (case(cfg), None)).collect();
    cases.push((wide_case, Some(&rounded)));
    for (case, rounded) in &cases {
        let n = case.0.num_latents() as i64;
        let many: Vec<i64> = (0..n).step_by(3).collect();
        for dead in [&DEAD[..0], &DEAD[..1], &DEAD, &many] {
            // Of equal ones, the CPU's topk takes any, and many are equal in bfloat16.
            if rounded.is_some() && dead.len() > DEAD.len() {
                continue;
            }
            let others: Vec<i64> = (0..n)
                .filter(|idx| idx % 4 == 1 || dead.contains(idx))
                .collect();
            let all: Vec<i64> = (0..n).collect();
            let of = |candidates: &[i64]| with_candidates(case, candidates, dead, *rounded);
            let [alone, others, all] = [dead, &others[..], &all[..]].map(of);
            let terms = |backward: &Backward| {
                let auxk = backward.losses.auxk.as_ref();
                auxk.map_or(0.0, |term| term.double_value(&[]))
            };
            for more in [others, all] {
                assert_eq!(terms(&more), terms(&alone), "{} dead", dead.len());
                let pairs = more
                    .gradients
                    .tensors()
                    .into_iter()
                    .zip(alone.gradients.tensors());
                for (more, alone) in pairs {
                    assert!(more.equal(alone), "{} dead of {:?}", dead.len(), case.0.cfg);
                }
            }
        }
    }
}

#[test]
fn multi_topk_reaches_the_encoder_and_leaves_the_output_alone() {
    for cfg in configs() {
        let objective = Objective {
            multi_topk: true,
            ..Objective::squared_error(4)
        };
        assert_equals_autograd(cfg.clone(), &objective);
        let (sae, x, target) = case(cfg);
        let with = sae.backward(&x, &target, &objective).unwrap();
        let without = sae
            .backward(&x, &target, &Objective::squared_error(4))
            .unwrap();
        assert!(with.fire_counts.equal(&without.fire_counts));
        // Each is computed in a different way.
        let errors = [&with, &without].map(|backward| &backward.losses.squared_error);
        assert!(errors[0].allclose(errors[1], 1e-6, 0.0, false));
    }
}

#[test]
fn multi_topk_takes_all_latents_where_there_are_fewer() {
    let objective = Objective {
        multi_topk: true,
        ..Objective::squared_error(10)
    };
    let cfg = SaeConfig::topk(6, 24, 10);
    assert_equals_autograd(cfg, &objective);
}

#[test]
fn all_terms_together() {
    let dead = Tensor::from_slice(&DEAD);
    let objective = Objective {
        auxk: Some(AuxK {
            alpha: 0.03,
            candidates: &dead,
            are_dead: None,
            is_of_residual: false,
            fire_counts: None,
            residual_scale: None,
        }),
        multi_topk: true,
        ..Objective::squared_error(3)
    };
    let skip = SaeConfig {
        skip_connection: true,
        ..SaeConfig::topk(6, 24, 4)
    };
    assert_equals_autograd(skip, &objective);
}

#[test]
fn parts_of_a_batch_add_up() {
    let (sae, x, target) = case(SaeConfig::topk(6, 24, 4));
    let backward = |first, n| {
        let (x, target) = (x.narrow(0, first, n), target.narrow(0, first, n));
        sae.backward(&x, &target, &Objective::squared_error(4))
            .unwrap()
    };
    let (whole, mut sum, rest) = (backward(0, 9), backward(0, 4), backward(4, 5));
    sum.gradients.add(&rest.gradients).unwrap();
    let sums = sum.gradients.tensors();
    for (a, b) in sums.into_iter().zip(whole.gradients.tensors()) {
        assert!(a.allclose(b, 1e-5, 1e-5, false));
    }
    assert!((sum.fire_counts + rest.fire_counts).equal(&whole.fire_counts));
}

#[test]
fn the_parallel_part_is_gone() {
    let (mut sae, x, target) = case(SaeConfig::topk(6, 24, 4));
    sae.normalize_decoder().unwrap();
    let backward = sae.backward(&x, &target, &Objective::squared_error(4));
    let mut gradients = backward.unwrap().gradients;
    gradients.remove_parallel_to_decoder(&sae, true).unwrap();
    let along = (&gradients.w_dec * &sae.w_dec).sum_dim_intlist(1, false, None);
    assert!(along.abs().max().double_value(&[]) < 1e-4);
}

#[test]
fn fire_counts_are_of_positive_activations() {
    let (sae, x, target) = case(SaeConfig::topk(6, 24, 4));
    let fired = sae.encode(&x).unwrap().latent_acts.gt(0.0).sum(Kind::Float);
    let backward = sae.backward(&x, &target, &Objective::squared_error(4));
    let counts = backward.unwrap().fire_counts.sum(Kind::Float);
    assert_eq!(counts.double_value(&[]), fired.double_value(&[]));
}

/// Any loss computed from the output: here the sum of its products with some weights. In Double, by
/// finite differences.
#[test]
fn gradients_of_a_loss_after_the_output_reach_weights_and_input() {
    for cfg in configs() {
        let (sae, x, _) = case(cfg);
        let double = |(_, w): (_, &Tensor)| w.to_kind(Kind::Double);
        let sae = sae.with_weights(sae.named_weights().into_iter().map(double).collect());
        let x = x.to_kind(Kind::Double);
        let pass = sae.pass(&x, 4, None).unwrap();
        let grad_out = noise(&pass.sae_out.size(), 9.0).to_kind(Kind::Double);
        let (gradients, grad_x) = sae.backward_of_output(&pass, &grad_out).unwrap();
        let value = |sae: &Sae, x: &Tensor| {
            let out = sae.pass(x, 4, None).unwrap().sae_out;
            (out * &grad_out).sum(Kind::Double).double_value(&[])
        };
        let assert_slope = |gradient: &Tensor, moved: &dyn Fn(&Tensor) -> f64| {
            let towards = noise(&gradient.size(), 12.0) * 1e-6;
            let slope = (moved(&towards) - moved(&-&towards)) / 2.0;
            let expected = (gradient * &towards).sum(Kind::Double).double_value(&[]);
            let difference = (slope - expected).abs();
            let what = format!("{:?}: {slope:e} {expected:e}", gradient.size());
            assert!(difference < 1e-4 * expected.abs() + 1e-11, "{what}");
        };
        assert_slope(&grad_x, &|by| value(&sae, &(&x + by)));
        for (idx, gradient) in gradients.tensors().into_iter().enumerate() {
            assert_slope(gradient, &|by| {
                let weights = sae.named_weights().into_iter();
                let mut moved = sae.with_weights(weights.map(|(_, w)| w.copy()).collect());
                let _ = moved.weights_mut().swap_remove(idx).g_add_(by);
                value(&moved, &x)
            });
        }
    }
}
