//! Gradients of every kind of SAE against autograd, where all latents are computed with, where they are listed, and in
//! libtorch's operations alone.

mod twin;

use super::latents::{Latents, had_all};
use super::*;
use crate::support::Support;
use crate::testing::noise;
use crate::{Activation, SaeConfig};
use tch::Device;
use twin::{Twin, double, sum_of};

const D: i64 = 6;
const F: i64 = 24;
const N: i64 = 11;
const DEAD: [i64; 4] = [1, 7, 8, 20];

/// An SAE whose weights, and thresholds, differ from latent to latent.
fn sae(cfg: SaeConfig) -> Sae {
    let mut sae = Sae::new(cfg, 5, Device::Cpu).unwrap();
    let d_out = sae.cfg.d_out() as i64;
    sae.encoder_bias = noise(&[F], 1.0) * 0.3;
    sae.b_dec = noise(&[d_out], 2.0);
    sae.w_dec = noise(&[F, d_out], 6.0);
    sae.w_skip = sae.w_skip.map(|_| noise(&[d_out, D], 7.0));
    // Some are below 0 and act as 0.
    sae.threshold = sae.threshold.map(|_| noise(&[F], 8.0) * 0.2 + 0.15);
    sae.gate = sae.gate.map(|_| Gate {
        b_mag: noise(&[F], 9.0) * 0.3,
        r_mag: noise(&[F], 10.0) * 0.4,
    });
    sae
}

fn config(activation: Activation) -> SaeConfig {
    SaeConfig {
        activation,
        normalize_decoder: false,
        ..SaeConfig::topk(D as usize, F as usize, 4)
    }
}

/// The loss that gradients are of.
fn loss_of(losses: &Losses, objective: &Objective<'_>, is_gated: bool) -> f64 {
    let value = |term: &Option<Tensor>| term.as_ref().map_or(0.0, |term| term.double_value(&[]));
    let error = match &losses.nested {
        Some(nested) => nested.double_value(&[]),
        None => losses.squared_error.double_value(&[]),
    };
    let alpha = match objective.auxk {
        Some(term) => term.alpha,
        None => f64::from(u8::from(is_gated)),
    };
    error + value(&losses.sparsity) + alpha * value(&losses.auxk)
}

fn assert_near(what: &str, got: &Tensor, expected: &Tensor) {
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    let off = (double(got) - expected).abs().max().double_value(&[]) / scale;
    assert!(off < 1e-5, "{what}: {off}");
}

fn assert_is(what: &str, ours: &Backward, twin: &Twin<'_>) {
    let (loss, gradients) = twin.differentiated();
    let got = loss_of(&ours.losses, twin.objective, twin.sae.gate.is_some());
    assert!(
        (got / loss - 1.0).abs() < 1e-5,
        "{what}: loss {got}, by autograd {loss}"
    );
    let tensors = ours.gradients.tensors();
    assert_eq!(tensors.len(), gradients.len());
    for (ours, (name, theirs)) in tensors.into_iter().zip(&gradients) {
        assert_near(&format!("{what}, {name}"), ours, theirs);
    }
}

fn in_double(sae: &Sae) -> Sae {
    let weights = sae.named_weights().into_iter();
    sae.with_weights(weights.map(|(_, weight)| double(weight)).collect())
}

/// SAEs of a kind that reconstruct, that do not subtract `b_dec`, and that predict and skip.
fn variants(activation: Activation) -> [SaeConfig; 3] {
    let plain = config(activation);
    let not_centred = SaeConfig {
        apply_b_dec_to_input: false,
        ..plain.clone()
    };
    let skipping = SaeConfig {
        transcode: true,
        skip_connection: true,
        d_out: Some(5),
        ..plain.clone()
    };
    [plain, not_centred, skipping]
}

fn inputs(sae: &Sae) -> (Tensor, Tensor) {
    let x = noise(&[N, D], 3.0);
    if sae.cfg.transcode {
        (x, noise(&[N, sae.cfg.d_out() as i64], 4.0))
    } else {
        (x.shallow_clone(), x)
    }
}

fn listed(sae: &Sae, (x, target): (&Tensor, &Tensor), objective: &Objective<'_>) -> Backward {
    let batch = sae.batch(x, target).unwrap();
    let latents = sae.near_thresholds(&batch.centred, objective, usize::MAX);
    let latents: Latents = latents.unwrap().unwrap();
    assert!(matches!(latents.support, Support::Some(_)));
    sae.backward_at(&batch, latents, objective).unwrap()
}

/// In a list of a fixed length, by Rust's kernels and by libtorch's operations. `None`: it has no room for all.
fn listed_in_room(
    sae: &Sae,
    (x, target): (&Tensor, &Tensor),
    (room, objective): (usize, &Objective<'_>),
) -> Option<Backward> {
    let batch = sae.batch(x, target).unwrap();
    let latents = sae.in_room(&batch.centred, room, objective);
    let mut latents: Latents = latents.unwrap().unwrap();
    let n_entries = latents.pre_acts.size()[0];
    assert_eq!(n_entries, room as i64 * N);
    let near = latents.near.as_ref().unwrap().double_value(&[]);
    let had_all = had_all(latents.room.take()).unwrap();
    assert_eq!(had_all, near <= n_entries as f64);
    let backward = sae.backward_at(&batch, latents, objective).unwrap();
    let counted = backward.losses.near.as_ref().unwrap();
    assert_eq!(counted.double_value(&[]), near);
    had_all.then_some(backward)
}

/// With all latents, with those listed that are near a threshold, listed in libtorch's operations, and in a list that is
/// longer.
fn check_thresholded(sae: &Sae, objective: &Objective<'_>, what: &str) {
    let (x, target) = inputs(sae);
    let twin = || Twin::new(sae, (&x, &target), objective, None);
    let batch = sae.batch(&x, &target).unwrap();
    let dense = sae.dense_backward(&batch, objective).unwrap();
    assert_is(&format!("{what}, all"), &dense, &twin());
    if sae.gate.is_some() {
        return;
    }
    let by_kernels = listed(sae, (&x, &target), objective);
    assert_is(&format!("{what}, listed"), &by_kernels, &twin());
    let by_libtorch = listed(&in_double(sae), (&double(&x), &double(&target)), objective);
    assert_is(&format!("{what}, by libtorch"), &by_libtorch, &twin());
    let all = (sae.num_latents() + 2, objective);
    let in_room = listed_in_room(sae, (&x, &target), all).unwrap();
    assert_is(&format!("{what}, in room"), &in_room, &twin());
    let in_double = (&in_double(sae), (&double(&x), &double(&target)));
    let in_room = listed_in_room(in_double.0, in_double.1, all).unwrap();
    assert_is(&format!("{what}, in room, by libtorch"), &in_room, &twin());
    let none = listed_in_room(sae, (&x, &target), (0, objective));
    assert!(none.is_none(), "{what}: some are near");
    for fire_counts in [&by_libtorch.fire_counts, &dense.fire_counts] {
        assert!(
            fire_counts
                .to_kind(Kind::Float)
                .equal(&by_kernels.fire_counts)
        );
    }
}

const NESTING: [Level; 3] = [
    Level {
        end: 5,
        weight: 1.0,
    },
    Level {
        end: 14,
        weight: 0.5,
    },
    Level {
        end: F as usize,
        weight: 2.0,
    },
];

#[test]
fn relu_with_every_power() {
    let powers = [
        (1.0, false),
        (1.0, true),
        (0.5, false),
        (0.7, true),
        (2.0, true),
    ];
    for sae in variants(Activation::Relu).map(sae) {
        for (p, is_norm) in powers {
            for nesting in [&[][..], &NESTING] {
                let objective = Objective {
                    penalty: Penalty::Power {
                        coefficient: 0.7,
                        p,
                        is_norm,
                        is_scaled: p > 0.6,
                        next_p: None,
                    },
                    nesting,
                    ..Objective::squared_error(4)
                };
                check_thresholded(&sae, &objective, &format!("p = {p}, {is_norm}"));
            }
        }
    }
}

#[test]
fn jumprelu_with_every_penalty() {
    let dead = Tensor::from_slice(&DEAD);
    let (coefficient, scale, target) = (0.3, 4.0, 3.0);
    for sae in variants(Activation::JumpRelu).map(sae) {
        let fired = sae.encode(&inputs(&sae).0).unwrap().latent_acts.gt(0.0);
        let mean_l0 = &(fired.sum(Kind::Float) / N as f64);
        for penalty in [
            Penalty::None,
            Penalty::Count { coefficient },
            Penalty::Tanh { coefficient, scale },
            Penalty::Quadratic {
                coefficient,
                target,
            },
            Penalty::MeanQuadratic {
                coefficient,
                target,
                mean_l0,
            },
        ] {
            for (ste_to_input, nesting, latents) in
                [(false, &NESTING[..], None), (true, &[], Some(&dead))]
            {
                let objective = Objective {
                    penalty,
                    nesting,
                    jump: Jump {
                        bandwidth: 0.4,
                        ste_to_input,
                    },
                    pre_act_loss: Some(PreActLoss {
                        coefficient: 0.2,
                        latents,
                        counts: None,
                    }),
                    ..Objective::squared_error(4)
                };
                check_thresholded(&sae, &objective, &format!("{penalty:?}, {ste_to_input}"));
            }
        }
    }
}

#[test]
fn gated_with_the_decoder_detached_and_not() {
    for sae in variants(Activation::Gated).map(sae) {
        for gate_is_detached in [true, false] {
            let objective = Objective {
                penalty: Penalty::Power {
                    coefficient: 0.7,
                    p: 1.0,
                    is_norm: false,
                    is_scaled: gate_is_detached,
                    next_p: Some(0.5),
                },
                gate_is_detached,
                ..Objective::squared_error(4)
            };
            check_thresholded(&sae, &objective, &format!("gated {gate_is_detached}"));
        }
    }
}

/// Those of 4 for each token, or of as many of all tokens, as 1 and 0.
fn chosen_by_sorting(sae: &Sae, x: &Tensor, rescales: bool, of_batch: Option<i64>) -> Tensor {
    let (weight, bias) = sae.scoring_encoder(rescales).unwrap();
    let scores = sae.centred(x).unwrap().linear(&weight, Some(&bias)).relu();
    let zeros = double(&scores.zeros_like());
    match of_batch {
        Some(n) => {
            let (_, places) = scores.flatten(0, 1).topk(n, 0, true, false);
            let chosen = zeros.flatten(0, 1).scatter_value(0, &places, 1.0);
            chosen.view_as(&scores)
        }
        None => {
            let (_, indices) = scores.topk(4, -1, true, false);
            zeros.scatter_value(1, &indices, 1.0)
        }
    }
}

fn auxk(candidates: &Tensor, is_of_residual: bool) -> Option<AuxK<'_>> {
    Some(AuxK {
        alpha: 0.3,
        candidates,
        are_dead: None,
        is_of_residual,
        fire_counts: None,
        residual_scale: None,
    })
}

#[test]
fn chosen_by_token() {
    let dead = Tensor::from_slice(&DEAD);
    let cases = [
        (false, &NESTING[..], false),
        (true, &NESTING, true),
        (true, &[], false),
    ];
    for sae in variants(Activation::TopK).map(sae) {
        for (rescales, nesting, is_of_residual) in cases {
            let objective = Objective {
                nesting,
                rescales,
                auxk: auxk(&dead, is_of_residual),
                ..Objective::squared_error(4)
            };
            let (x, target) = inputs(&sae);
            let chosen = chosen_by_sorting(&sae, &x, rescales, None);
            let ours = sae.backward(&x, &target, &objective).unwrap();
            let twin = Twin::new(&sae, (&x, &target), &objective, Some(&chosen));
            assert_is("by token", &ours, &twin);
        }
    }
}

#[test]
fn chosen_of_the_whole_batch() {
    let dead = Tensor::from_slice(&DEAD);
    let cases = [
        (false, &NESTING[..], 30),
        (true, &[], 44),
        (true, &NESTING, 7),
    ];
    for sae in variants(Activation::Relu).map(sae) {
        for (rescales, nesting, n) in cases {
            let (x, target) = inputs(&sae);
            let chosen = chosen_by_sorting(&sae, &x, rescales, Some(n));
            let search = BatchSearch {
                n_wanted: n as usize,
                least: &[0.3],
                rescales,
            };
            let in_double = in_double(&sae);
            for (own, kind) in [(&sae, Kind::Float), (&in_double, Kind::Double)] {
                let (x_of, target_of) = (x.to_kind(kind), target.to_kind(kind));
                let latents = own.batch_latents(&x_of, search).unwrap();
                let objective = Objective {
                    nesting,
                    rescales,
                    chosen: Some(&latents),
                    auxk: auxk(&dead, false),
                    ..Objective::squared_error(4)
                };
                let ours = own.backward(&x_of, &target_of, &objective).unwrap();
                let twin = Twin::new(&sae, (&x, &target), &objective, Some(&chosen));
                assert_is(&format!("of the batch, {kind:?}"), &ours, &twin);
            }
        }
    }
}

#[test]
fn parts_of_a_batch_choose_what_the_whole_does() {
    let sae = sae(config(Activation::Relu));
    let x = noise(&[N, D], 3.0);
    let search = BatchSearch {
        n_wanted: 25,
        least: &[],
        rescales: true,
    };
    let backward = |x: &Tensor, chosen: &BatchLatents| {
        let objective = Objective {
            rescales: true,
            chosen: Some(chosen),
            nesting: &NESTING,
            ..Objective::squared_error(4)
        };
        sae.backward(x, x, &objective).unwrap()
    };
    let whole = sae.batch_latents(&x, search).unwrap();
    let expected = backward(&x, &whole);
    let cuts = [(0, 3), (3, 1), (4, 0), (4, 7)];
    let parts = cuts.map(|(start, n)| sae.batch_latents(&x.narrow(0, start, n), search).unwrap());
    let scores: Vec<_> = parts.iter().map(|part| part.scores(0)).collect();
    let least = BatchLatents::least_of(&scores, 25).unwrap();
    let least_of_whole = BatchLatents::least_of(&[whole.scores(0)], 25).unwrap();
    assert!(least.equal(&least_of_whole));
    let mut sum = Backward::zeros(&sae).unwrap();
    let mut of_narrowed = Backward::zeros(&sae).unwrap();
    for ((start, n), part) in cuts.into_iter().zip(parts) {
        let x = x.narrow(0, start, n);
        sum.add(&backward(&x, &part.at_least(&least).unwrap()))
            .unwrap();
        of_narrowed
            .add(&backward(&x, &whole.narrow(start, n).unwrap()))
            .unwrap();
    }
    for sum in [sum, of_narrowed] {
        let pairs = sum
            .gradients
            .tensors()
            .into_iter()
            .zip(expected.gradients.tensors());
        for (sum, whole) in pairs {
            assert_near("a sum of parts", sum, &double(whole));
        }
        assert!(sum.fire_counts.equal(&expected.fire_counts));
    }
}

#[test]
fn if_no_score_is_positive_nothing_is_chosen() {
    let mut sae = sae(config(Activation::Relu));
    sae.encoder_bias = Tensor::full([F], -1e3, (Kind::Float, Device::Cpu));
    let x = noise(&[N, D], 3.0);
    let search = BatchSearch {
        n_wanted: 25,
        least: &[],
        rescales: false,
    };
    let none = sae.batch_latents(&x, search).unwrap();
    let least = BatchLatents::least_of(&[none.scores(0)], 25).unwrap();
    assert_eq!(least.double_value(&[]), f64::INFINITY);
    let objective = Objective {
        chosen: Some(&none),
        ..Objective::squared_error(4)
    };
    let backward = sae.backward(&x, &x, &objective).unwrap();
    assert_eq!(backward.fire_counts.sum(Kind::Float).double_value(&[]), 0.0);
    assert!(backward.gradients.b_dec.abs().max().double_value(&[]) > 0.0);
}

/// A loop over every number of latents.
#[test]
fn hierarchical_reconstructions_are_those_of_a_loop() {
    for sae in variants(Activation::TopK).map(sae) {
        let (x, target) = inputs(&sae);
        let objective = Objective {
            is_hierarchical: true,
            ..Objective::squared_error(4)
        };
        let ours = sae.backward(&x, &target, &objective).unwrap();
        let plain = Objective::squared_error(4);
        let twin = Twin::new(&sae, (&x, &target), &plain, None);
        let pre_acts = twin.latents().pre_acts;
        let (_, indices) = pre_acts.detach().topk(4, -1, true, true);
        let mut loss = Tensor::from(0.0);
        for j in 1..=4 {
            let first = indices.narrow(1, 0, j);
            let chosen = pre_acts.zeros_like().scatter_value(1, &first, 1.0).detach();
            let error = twin.decode(&(pre_acts.relu() * chosen), F) - &twin.target;
            loss += sum_of(&error) / 4.0;
        }
        loss.backward();
        let got = loss_of(&ours.losses, &objective, false);
        assert!((got / loss.double_value(&[]) - 1.0).abs() < 1e-5);
        for (ours, (name, weight)) in ours.gradients.tensors().into_iter().zip(&twin.weights) {
            assert_near(name, ours, &weight.grad());
        }
    }
}
