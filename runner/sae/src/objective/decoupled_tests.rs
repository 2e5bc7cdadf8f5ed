//! The gradients of crosscoders whose hookpoints choose their latents apart, against autograd through the formula of
//! crosscoder_learning's `encode_decoupled`, `decode` and `get_auxiliary_loss`.

use super::*;
use crate::testing::noise;
use crate::{Activation, SaeConfig};
use plan::CrosscoderNorm;
use tch::Device;

const L: i64 = 3;
const D: i64 = 4;
const F: i64 = 24;
const N: i64 = 40;
/// Chosen at each hookpoint.
const N_CHOSEN: usize = 90;
const DEAD: [i64; 4] = [1, 7, 8, 20];
const NESTING: [Level; 2] = [
    Level {
        end: 9,
        weight: 0.5,
    },
    Level {
        end: F as usize,
        weight: 2.0,
    },
];

fn crosscoder(apply_b_dec_to_input: bool) -> Sae {
    let cfg = SaeConfig {
        activation: Activation::Relu,
        normalize_decoder: false,
        apply_b_dec_to_input,
        hookpoints: ["a", "b", "c"].map(String::from).to_vec(),
        code_normalization: CrosscoderNorm::Decoupled,
        ..SaeConfig::topk((L * D) as usize, F as usize, F as usize)
    };
    let mut sae = Sae::new(cfg, 5, Device::Cpu).unwrap();
    sae.encoder_bias = noise(&[F], 1.0) * 0.3;
    sae.b_dec = noise(&[L * D], 2.0);
    sae.w_dec = noise(&[F, L * D], 6.0);
    sae
}

fn objective<'a>(auxk: Option<AuxK<'a>>, nesting: &'a [Level]) -> Objective<'a> {
    Objective {
        rescales: true,
        nesting,
        auxk,
        ..Objective::squared_error(4)
    }
}

fn search() -> BatchSearch<'static> {
    BatchSearch {
        n_wanted: N_CHOSEN,
        least: &[],
        rescales: true,
    }
}

/// What autograd makes of the formula.
struct ByFormula {
    loss: f64,
    gradients: Vec<Tensor>,
    /// At which hookpoints which latents of tokens are active: `[L, N, F]`.
    mask: Tensor,
}

fn by_formula(sae: &Sae, x: &Tensor, objective: &Objective<'_>) -> ByFormula {
    let leaves: Vec<Tensor> = sae
        .named_weights()
        .into_iter()
        .map(|(_, weight)| weight.to_kind(Kind::Double).set_requires_grad(true))
        .collect();
    let [w_enc, b_enc, w_dec, b_dec] = &leaves[..] else {
        panic!("four weights")
    };
    let x = x.to_kind(Kind::Double);
    let centred = if sae.cfg.subtracts_b_dec() {
        &x - b_dec
    } else {
        x.shallow_clone()
    };
    let pre_acts = centred.linear(w_enc, Some(b_enc));
    let acts = pre_acts.relu();
    let norms = w_dec
        .view([F, L, D])
        .norm_scalaropt_dim(2.0, [2i64], false)
        .detach();
    let masks: Vec<Tensor> = (0..L)
        .map(|l| {
            let scores = (acts.detach() * norms.select(1, l)).flatten(0, 1);
            let (_, kept) = scores.topk(N_CHOSEN as i64, 0, true, false);
            scores
                .zeros_like()
                .scatter_value(0, &kept, 1.0)
                .view([N, F])
        })
        .collect();
    let decoded = |end: i64| {
        let parts: Vec<Tensor> = (0..L)
            .map(|l| {
                let written = (&acts * &masks[l as usize]).narrow(1, 0, end);
                written.matmul(&w_dec.narrow(0, 0, end).narrow(1, l * D, D))
            })
            .collect();
        Tensor::cat(&parts, 1) + b_dec
    };
    let all = [Level::all(F as usize)];
    let levels = match objective.nesting {
        [] => &all[..],
        levels => levels,
    };
    let square = |x: &Tensor| x.square().sum(Kind::Double);
    let mut loss = Tensor::from(0.0f64);
    for level in levels {
        loss += square(&(decoded(level.end as i64) - &x)) * level.weight;
    }
    let mask = Tensor::stack(&masks, 0) * acts.detach().gt(0.0);
    if let Some(term) = objective.auxk {
        let error = (decoded(F) - &x).detach();
        let fires = mask
            .sum_dim_intlist([0i64, 1].as_slice(), false, Kind::Double)
            .gt(0.0);
        let mut is_dead = fires.zeros_like();
        let _ = is_dead.index_fill_(0, term.candidates, 1i64);
        let is_dead = is_dead.logical_and(&fires.logical_not());
        // By the sum of the scores of all hookpoints.
        let scores = pre_acts.detach() * norms.sum_dim_intlist(1, false, Kind::Double);
        let scores = scores.masked_fill(&is_dead.logical_not(), f64::NEG_INFINITY);
        let (_, kept) = scores.topk(D / 2, -1, true, false);
        let kept = scores.zeros_like().scatter_value(1, &kept, 1.0) * &is_dead;
        let of_dead = pre_acts.relu() * kept;
        let variance = square(&(&error - error.mean_dim(0, true, Kind::Double)));
        let missed = of_dead.matmul(w_dec) + &error;
        loss += square(&missed) / variance * (N as f64 * term.alpha);
    }
    loss.backward();
    ByFormula {
        loss: loss.double_value(&[]),
        gradients: leaves.iter().map(Tensor::grad).collect(),
        mask,
    }
}

fn auxk(candidates: &Tensor) -> AuxK<'_> {
    AuxK {
        alpha: 0.3,
        candidates,
        are_dead: None,
        is_of_residual: true,
        fire_counts: None,
        residual_scale: None,
    }
}

fn assert_is(what: &str, ours: &Backward, expected: &ByFormula, alpha: f64) {
    let value = |term: &Option<Tensor>| term.as_ref().map(|term| term.double_value(&[]));
    let losses = &ours.losses;
    let error = value(&losses.nested).unwrap_or_else(|| losses.squared_error.double_value(&[]));
    let loss = error + alpha * value(&losses.auxk).unwrap_or(0.0);
    assert!(
        (loss / expected.loss - 1.0).abs() < 1e-5,
        "{what}: {loss}, by autograd {}",
        expected.loss
    );
    for (idx, (ours, theirs)) in ours
        .gradients
        .tensors()
        .into_iter()
        .zip(&expected.gradients)
        .enumerate()
    {
        let scale = theirs.abs().max().double_value(&[]).max(1.0);
        let off = (ours.to_kind(Kind::Double) - theirs).abs().max();
        assert!(
            off.double_value(&[]) / scale < 1e-5,
            "{what}, weight {idx}: {off:?}"
        );
    }
    // A latent fires on a token if it is active at any hookpoint.
    let of_any = expected.mask.any_dim(0, false);
    let counts = of_any.sum_dim_intlist(0, false, Kind::Float);
    assert!(
        ours.fire_counts.to_kind(Kind::Float).equal(&counts),
        "{what}"
    );
}

#[test]
fn gradients_are_those_of_autograd() {
    let dead = Tensor::from_slice(&DEAD);
    for apply_b_dec_to_input in [false, true] {
        let sae = crosscoder(apply_b_dec_to_input);
        // Some never fire.
        let mut idle = sae.encoder_bias.narrow(0, 6, 3);
        let _ = idle.fill_(-50.0);
        let x = noise(&[N, L * D], 3.0);
        for (term, nesting) in [
            (None, &[][..]),
            (None, &NESTING),
            (Some(auxk(&dead)), &[]),
            (Some(auxk(&dead)), &NESTING),
        ] {
            let objective = objective(term, nesting);
            let alpha = term.map_or(0.0, |term| term.alpha);
            let expected = by_formula(&sae, &x, &objective);
            let weights = sae.named_weights().into_iter();
            let weights = weights.map(|(_, weight)| weight.to_kind(Kind::Double));
            let in_double = sae.with_weights(weights.collect());
            for (own, kind) in [(&sae, Kind::Float), (&in_double, Kind::Double)] {
                let x = x.to_kind(kind);
                let chosen = own.batch_latents(&x, search()).unwrap();
                let objective = Objective {
                    chosen: Some(&chosen),
                    ..objective
                };
                let ours = own.backward(&x, &x, &objective).unwrap();
                let what = format!("{kind:?}, {apply_b_dec_to_input}, {alpha}");
                assert_is(&what, &ours, &expected, alpha);
                let (error, fire_counts) = own.error_and_fire_counts((&x, &x), &objective).unwrap();
                assert!(fire_counts.equal(&ours.fire_counts));
                let squared = sum_of_squares(&error).unwrap().double_value(&[]);
                let of_loss = ours.losses.squared_error.double_value(&[]);
                assert!((squared / of_loss - 1.0).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn hookpoints_choose_as_many_each_and_not_the_same() {
    let (sae, x) = (crosscoder(false), noise(&[N, L * D], 3.0));
    let mask = by_formula(&sae, &x, &objective(None, &[])).mask;
    let of_each = mask.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double);
    assert!(of_each.equal(&of_each.full_like(N_CHOSEN as f64)));
    let of_any = mask.any_dim(0, false).sum(Kind::Int64).int64_value(&[]);
    assert!((N_CHOSEN as i64 + 10..3 * N_CHOSEN as i64 - 10).contains(&of_any));
}

#[test]
fn parts_of_a_batch_choose_what_the_whole_does() {
    let (sae, x) = (crosscoder(true), noise(&[N, L * D], 3.0));
    let backward = |x: &Tensor, chosen: &BatchLatents| {
        let objective = Objective {
            chosen: Some(chosen),
            ..objective(None, &NESTING)
        };
        sae.backward(x, x, &objective).unwrap()
    };
    let whole = sae.batch_latents(&x, search()).unwrap();
    let expected = backward(&x, &whole);
    let cuts = [(0, 13), (13, 1), (14, 0), (14, 26)];
    let parts = cuts.map(|(start, n)| sae.batch_latents(&x.narrow(0, start, n), search()).unwrap());
    let least = (0..L as usize).map(|set| {
        let scores: Vec<_> = parts.iter().map(|part| part.scores(set)).collect();
        BatchLatents::least_of(&scores, N_CHOSEN).unwrap()
    });
    let least = Tensor::stack(&least.collect::<Vec<_>>(), 0);
    let mut sum = Backward::zeros(&sae).unwrap();
    let mut of_narrowed = Backward::zeros(&sae).unwrap();
    for ((start, n), part) in cuts.into_iter().zip(parts) {
        let x = x.narrow(0, start, n);
        let part = part.at_least(&least).unwrap();
        sum.add(&backward(&x, &part)).unwrap();
        let narrowed = whole.narrow(start, n).unwrap();
        of_narrowed.add(&backward(&x, &narrowed)).unwrap();
    }
    for sum in [sum, of_narrowed] {
        let pairs = sum.gradients.tensors().into_iter();
        for (sum, whole) in pairs.zip(expected.gradients.tensors()) {
            let scale = whole.abs().max().double_value(&[]).max(1.0);
            assert!((sum - whole).abs().max().double_value(&[]) < 1e-5 * scale);
        }
        assert!(sum.fire_counts.equal(&expected.fire_counts));
    }
}
