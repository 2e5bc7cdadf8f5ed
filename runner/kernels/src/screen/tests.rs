use super::*;
use crate::{numbers, topk};
use proptest::prelude::*;

/// As a processor does it.
fn rough_products(x: &[u16], weights: &[u16], d: usize) -> Vec<u16> {
    let wide = |row: &[u16]| -> Vec<f32> { row.iter().map(|bits| widened(*bits)).collect() };
    let of_token = |x: &[u16]| -> Vec<f32> {
        let x = wide(x);
        let product = |w: &[u16]| x.iter().zip(wide(w)).map(|(x, w)| x * w).sum();
        weights.chunks(d).map(product).collect()
    };
    let products: Vec<f32> = x.chunks(d).flat_map(of_token).collect();
    let mut rounded = vec![0; products.len()];
    round_row(&products, &mut rounded);
    rounded
}

struct Largest {
    values: Vec<f32>,
    indices: Vec<i64>,
    n_computed: usize,
}

fn screened(x: &[f32], weights: &[f32], bias: &[f32], k: usize) -> Option<Largest> {
    let d = weights.len() / bias.len();
    let (mut weights16, mut x16) = (vec![0; weights.len()], vec![0; x.len()]);
    let screen = Screen::new(weights, bias, k, &mut weights16)?;
    let tokens = screen.round(x, &mut x16);
    let rough = rough_products(&x16, &weights16, d);
    let n = x.len() / d * k;
    let (mut values, mut indices) = (vec![0.0; n], vec![0; n]);
    let n_computed = screen.topk(&rough, &tokens, &mut values, &mut indices);
    Some(Largest {
        values,
        indices,
        n_computed,
    })
}

fn exact(x: &[f32], weights: &[f32], bias: &[f32], k: usize) -> (Vec<f32>, Vec<i64>) {
    let d = weights.len() / bias.len();
    let products: Vec<f32> = x
        .chunks(d)
        .flat_map(|x| weights.chunks(d).map(move |weights| dot(x, weights)))
        .collect();
    let n = x.len() / d * k;
    let (mut values, mut indices) = (vec![0.0; n], vec![0; n]);
    topk(&products, bias, k, &mut values, &mut indices);
    (values, indices)
}

/// Numbers without a pattern, of sizes that differ by what `spread` says.
fn random(n: usize, seed: u64, spread: i32) -> Vec<f32> {
    let mut next = crate::random(seed);
    let mut number = || (next() - 0.5) * 2f32.powf((next() - 0.5) * spread as f32);
    (0..n).map(|_| number()).collect()
}

proptest! {
    #[test]
    fn what_is_found_is_what_float32_finds(
        n_tokens in 0usize..4,
        num_latents in prop_oneof![1usize..40, 500usize..700],
        d in prop_oneof![1usize..5, 15usize..18, 60usize..70],
        k in prop_oneof![1usize..4, 20usize..30],
        seed in any::<u64>(),
        spread in 0i32..30,
    ) {
        let k = k.min(num_latents);
        let (x, weights) = (random(n_tokens * d, seed, spread), random(num_latents * d, !seed, spread));
        let bias = random(num_latents, seed ^ 1, 1);
        let found = screened(&x, &weights, &bias, k).unwrap();
        let (values, indices) = exact(&x, &weights, &bias, k);
        prop_assert_eq!(found.indices, indices);
        prop_assert_eq!(found.values, values);
    }

    /// Pairs that 16 bit cannot tell apart.
    #[test]
    fn near_ties_are_decided_in_float32(seed in any::<u64>(), k in 1usize..9) {
        let (num_latents, d) = (600, 24);
        let mut weights = random(num_latents * d, seed, 1);
        for pair in weights.chunks_mut(2 * d) {
            let (one, other) = pair.split_at_mut(d);
            other.copy_from_slice(one);
            other[0] *= 1.0 + 1e-5;
        }
        let (x, bias) = (random(5 * d, seed ^ 7, 1), vec![0.0; num_latents]);
        let found = screened(&x, &weights, &bias, k).unwrap();
        let (values, indices) = exact(&x, &weights, &bias, k);
        prop_assert_eq!(found.indices, indices);
        prop_assert_eq!(found.values, values);
    }
}

proptest! {
    #[test]
    fn what_is_above_is_what_float32_finds(
        n_tokens in 0usize..4,
        num_latents in prop_oneof![1usize..40, 500usize..700],
        d in prop_oneof![1usize..5, 15usize..18, 60usize..70],
        seed in any::<u64>(),
        spread in 0i32..30,
    ) {
        let (x, weights) = (random(n_tokens * d, seed, spread), random(num_latents * d, !seed, spread));
        let bias = random(num_latents, seed ^ 1, 1);
        let bounds = random(num_latents, seed ^ 2, 4);
        let (mut weights16, mut x16) = (vec![0; weights.len()], vec![0; x.len()]);
        let screen = Screen::new(&weights, &bias, 1, &mut weights16).unwrap();
        let tokens = screen.round(&x, &mut x16);
        let rough = rough_products(&x16, &weights16, d);
        let (found, n_computed) = screen.above(&rough, &tokens, &bounds);
        let of_token = |x: &[f32]| -> Vec<f32> { weights.chunks(d).map(|w| dot(x, w)).collect() };
        let products: Vec<f32> = x.chunks(d).flat_map(of_token).collect();
        prop_assert_eq!(&found, &crate::above(&products, &bias, &bounds));
        prop_assert!(n_computed >= found.values.len());
    }
}

#[test]
fn the_smallest_numbers_count() {
    let (num_latents, d, k) = (600, 8, 3);
    for factor in [1e-30, 1e-21, 1e-12] {
        let x: Vec<f32> = random(4 * d, 3, 4).iter().map(|x| x * factor).collect();
        let weights = random(num_latents * d, 4, 4);
        let mut weights: Vec<f32> = weights.iter().map(|w| w * 1e-12).collect();
        weights[..d].fill(0.0);
        let bias = vec![0.0; num_latents];
        let found = screened(&x, &weights, &bias, k).unwrap();
        let (values, indices) = exact(&x, &weights, &bias, k);
        assert_eq!((found.values, found.indices), (values, indices), "{factor}");
    }
}

#[test]
fn most_latents_are_ruled_out() {
    let (num_latents, d, k, n_tokens) = (8192, 256, 32, 4);
    let (x, weights) = (random(n_tokens * d, 1, 1), random(num_latents * d, 2, 1));
    let found = screened(&x, &weights, &vec![0.0; num_latents], k).unwrap();
    assert!(
        (k * n_tokens..2 * k * n_tokens).contains(&found.n_computed),
        "{}",
        found.n_computed
    );
}

#[test]
fn without_a_bound_all_are_computed_or_there_is_no_screen() {
    let (num_latents, d, k) = (600, 8, 3);
    let (weights, bias) = (numbers(num_latents * d, 0.1), vec![0.0; num_latents]);
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut x = numbers(2 * d, 0.2);
        x[3] = bad;
        let found = screened(&x, &weights, &bias, k).unwrap();
        let (values, indices) = exact(&x, &weights, &bias, k);
        assert_eq!(found.indices, indices, "{bad}");
        let bits = |values: &[f32]| -> Vec<u32> {
            let number = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            values.iter().map(number).collect()
        };
        assert_eq!(bits(&found.values), bits(&values), "{bad}");
        let mut weights = weights.clone();
        weights[17] = bad;
        assert!(screened(&x, &weights, &bias, k).is_none(), "{bad}");
    }
    let bias = vec![f32::NAN; num_latents];
    assert!(screened(&numbers(d, 0.3), &weights, &bias, k).is_none());
}

#[test]
fn rounding_is_to_the_nearest_and_to_even() {
    let mut rounded = [0; 5];
    let step = f32::EPSILON * 65536.0;
    let row = [
        1.0,
        1.0 + 0.5 * step,
        1.0 + 1.5 * step,
        1.0 + 0.51 * step,
        -3.0,
    ];
    round_row(&row, &mut rounded);
    let left = rounded.map(widened);
    assert_eq!(left, [1.0, 1.0, 1.0 + 2.0 * step, 1.0 + step, -3.0]);
}
