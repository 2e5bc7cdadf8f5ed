//! Rust's kernels are their ATen twins, at all sizes.

use super::*;
use crate::activation::select;
use crate::testing::noise;
use crate::{Activation, Sae, SaeConfig};
use tch::{Device, Kind};

/// Tokens, latents, width, k: nothing, one, odd, and more than a block of anything.
const SIZES: [(i64, i64, i64, i64); 8] = [
    (0, 5, 3, 2),
    (1, 1, 1, 1),
    (3, 7, 5, 7),
    (17, 33, 15, 1),
    (64, 64, 16, 4),
    (65, 130, 31, 9),
    (130, 1000, 33, 32),
    (1030, 70, 17, 3),
];

#[track_caller]
fn assert_close(what: &str, ours: &Tensor, twin: &Tensor) {
    assert_eq!(ours.size(), twin.size(), "{what}");
    assert_eq!(ours.kind(), twin.kind(), "{what}");
    if twin.numel() == 0 {
        return;
    }
    let scale = twin.abs().max().double_value(&[]).max(1.0);
    let off = (ours - twin).abs().max().double_value(&[]);
    assert!(off <= 1e-5 * scale, "{what}: {off} of {scale}");
}

/// All latents, `[n_tokens, num_latents]`.
fn dense(encoded: &Encoded, num_latents: i64) -> Tensor {
    let (acts, indices) = (&encoded.latent_acts, &encoded.latent_indices);
    let zeros = Tensor::zeros([acts.size()[0], num_latents], (Kind::Float, Device::Cpu));
    zeros.scatter(1, indices, acts)
}

#[test]
fn the_largest_of_a_product() {
    for (n, num_latents, d, k) in SIZES {
        let (x, weight) = (noise(&[n, d], 1.0), noise(&[num_latents, d], 2.0));
        let bias = noise(&[num_latents], 3.0);
        let ours = topk_of_product(&x, (&weight, &bias), k as usize).unwrap();
        let pre_acts = x.linear(&weight, Some(&bias));
        let twin = select(Activation::TopK, &pre_acts, k as usize, None);
        let latents = |encoded: &Encoded| dense(encoded, num_latents);
        assert_close(
            "latents",
            &latents(&ours.unwrap()),
            &latents(&twin.unwrap()),
        );
    }
}

#[test]
fn gradients_of_weights() {
    for (n, num_latents, d, k) in SIZES {
        let pre_acts = noise(&[n, num_latents], 1.0);
        let encoded = select(Activation::TopK, &pre_acts, k as usize, None).unwrap();
        let grad_pre = noise(&[n, k], 2.0);
        let rows = (&noise(&[n, d], 3.0), &noise(&[n, d + 2], 4.0));
        let ours = weight_gradients(&encoded, &grad_pre, rows, num_latents).unwrap();
        if n == 0 {
            assert_eq!(ours.w_dec.abs().max().double_value(&[]), 0.0);
            continue;
        }
        let at_entries = (&encoded.latent_acts, &grad_pre);
        let indices = &encoded.latent_indices;
        let bags = Bags::like(indices).unwrap();
        let twin = aten::weight_gradients(at_entries, (indices, &bags), rows, num_latents).unwrap();
        assert_close("encoder", &ours.encoder_weight, &twin.encoder_weight);
        assert_close("bias", &ours.encoder_bias, &twin.encoder_bias);
        assert_close("decoder", &ours.w_dec, &twin.w_dec);
    }
}

#[test]
fn the_squared_error() {
    for (n, num_latents, d, k) in SIZES {
        let cfg = SaeConfig::topk(d as usize, num_latents as usize, k as usize);
        let mut sae = Sae::new(cfg, 1, Device::Cpu).unwrap();
        sae.b_dec = noise(&[d], 2.0);
        let x = noise(&[n, d], 1.0);
        let encoded = sae.encode(&x).unwrap();
        let ours = squared_error(&encoded, (&sae.w_dec, &sae.b_dec), &x);
        let ours = ours.unwrap().unwrap();
        if n == 0 {
            assert_eq!(ours.sum.double_value(&[]), 0.0);
            continue;
        }
        let error = sae.decode(&encoded).unwrap() - &x;
        assert_close("error", &ours.sum, &error.square().sum(Kind::Double));
        let grad_out = error * 2.0;
        assert_close("gradient", &ours.grad_out, &grad_out);
        let indices = &encoded.latent_indices;
        let dots = dots_at_entries(&grad_out, (&sae.w_dec, None), indices).unwrap();
        let dots = dots * encoded.latent_acts.gt(0.0);
        assert_close("gradient at latents", &ours.grad_pre, &dots);
    }
}

#[test]
fn nested_errors_of_lists() {
    for (n, num_latents, d, k) in SIZES {
        let pre_acts = noise(&[n, num_latents], 1.0);
        // Some tokens have none, and some have many.
        let bound = noise(&[n, 1], 5.0) * 2.0 + 1.0 - k as f64 / num_latents as f64;
        let is_listed = pre_acts.gt_tensor(&bound);
        let counts = is_listed.sum_dim_intlist(1, false, Kind::Int64);
        let starts = Tensor::cat(
            &[
                counts.new_zeros([1], (Kind::Int64, Device::Cpu)),
                counts.cumsum(0, Kind::Int64),
            ],
            0,
        );
        let indices = is_listed.nonzero().select(1, 1).contiguous();
        let at = Listed::new(indices, starts).unwrap();
        let numbers = pre_acts.masked_select(&is_listed).relu();
        let (w_dec, b_dec) = (noise(&[num_latents, d], 2.0), noise(&[d], 3.0));
        let target = noise(&[n, d], 4.0);
        let levels = [(num_latents as usize / 2, 0.5), (num_latents as usize, 2.0)];
        let (acts, decoder) = (
            Acts {
                numbers: &numbers,
                reaches_idle: true,
            },
            (&w_dec, &b_dec),
        );
        let ours = nested_errors(&at, acts, decoder, (&target, &levels)).unwrap();
        if n == 0 {
            assert_eq!(ours.errors.abs().max().double_value(&[]), 0.0);
            continue;
        }
        let bags = Bags::of_starts(&at.starts, numbers.size()[0], false).unwrap();
        let listed = (&numbers, &at.indices, &bags);
        let twin = aten::nested_errors(listed, decoder, &target, &levels).unwrap();
        assert_close("errors", &ours.errors, &twin.errors);
        assert_close("gradients", &ours.grad_out, &twin.grad_out);
        assert_close("gradients at latents", &ours.grad_acts, &twin.grad_acts);
    }
}

#[test]
fn passes_over_weights() {
    for (_, num_latents, d, _) in SIZES {
        let shape = [num_latents, d];
        let weights = noise(&shape, 1.0) * 0.2;
        let (mut ours, mut twin) = (noise(&shape, 2.0), noise(&shape, 2.0));
        project(&mut ours, &weights).unwrap();
        aten::project(&mut twin, &weights).unwrap();
        assert_close("projection", &ours, &twin);
        scale(&mut ours, &Tensor::from(3.0f32)).unwrap();
        assert_close("scale", &ours, &(twin / 3.0));
    }
}

#[test]
fn schedule_free_signum() {
    for (_, num_latents, d, _) in SIZES {
        let weights = |seed| noise(&[num_latents, d], seed);
        let (mut y, mut z) = (weights(1.0), weights(2.0));
        let (mut twin_y, mut twin_z) = (weights(1.0), weights(2.0));
        for update in 1..=4 {
            let gradient = weights(2.0 + f64::from(update));
            let constants = Signum {
                lr: 0.01,
                to_x: 1.0 - 1.0 / 0.95,
                average: 1.0 / f64::from(update),
                to_y: 0.05,
            };
            let rule = Rule::Signum(constants, &mut z);
            rule.step(&mut y, &gradient).unwrap();
            let rule = Rule::Signum(constants, &mut twin_z);
            aten::step(rule, &mut twin_y, &gradient).unwrap();
            assert_close("y", &y, &twin_y);
            assert_close("z", &z, &twin_z);
        }
    }
}

#[test]
fn moments_of_rows() {
    for (n, _, d, _) in SIZES {
        let x = noise(&[n, d], 1.0) + 3.0;
        let (ours, twin) = (moments(&x).unwrap(), aten::moments(&x).unwrap());
        assert_close("mean", &ours.0, &twin.0);
        assert_close("deviations", &ours.1, &twin.1);
    }
}

#[test]
fn what_is_not_contiguous_or_of_another_kind_goes_to_aten() {
    let (x, weight) = (noise(&[4, 6], 1.0), noise(&[9, 6], 2.0));
    let bias = noise(&[9], 3.0);
    let of = |x: &Tensor| topk_of_product(x, (&weight, &bias), 2).unwrap();
    assert!(of(&x).is_some());
    assert!(of(&x.tr().contiguous().tr()).is_none());
    let double = x.to_kind(Kind::Double);
    assert!(!are_for(&[&x, &double]));
    let (mean, _) = moments(&double).unwrap();
    assert_close("mean", &mean, &moments(&x).unwrap().0);
}
