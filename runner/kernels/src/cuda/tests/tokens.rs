//! What is computed by token.

use super::*;
use crate::cuda::launches::{
    Decoding, ErrorGradients, OfToken, SparseProduct, TokenLatents, sparse_times_rows,
    squared_error,
};
use crate::numbers;

/// Tokens, latents, width, k.
const SIZES: [(usize, usize, usize, usize); 9] = [
    (1, 1, 1, 1),
    (2, 3, 4, 2),
    (3, 40, 31, 7),
    (2, 70, 128, 32),
    (5, 9, 132, 9),
    // Rows that are not kept, more entries than are staged, more columns than are summed at a time, and both.
    (2, 700, 36, 300),
    (2, 12, 2100, 3),
    (2, 300, 2052, 270),
    (1, 200, 4, 193),
];

/// Activations as they come: some are 0.
fn acts(n: usize) -> Vec<f32> {
    numbers(n, 0.1).iter().map(|act| act.max(0.0)).collect()
}

#[test]
fn sums_of_rows() {
    for (idx, (n_tokens, num_latents, width, k)) in SIZES.into_iter().enumerate() {
        for skew in SKEWS {
            let (values, indices) = (acts(n_tokens * k), latents(n_tokens, num_latents, k));
            let (rows, bias) = (numbers(num_latents * width, 0.2), numbers(width, 0.3));
            let has_bias = idx % 2 == 0;
            let mut expected = vec![0.0f32; n_tokens * width];
            for (entry, &latent) in indices.iter().enumerate() {
                let row = &rows[latent as usize * width..][..width];
                crate::add_scaled(
                    &mut expected[entry / k * width..][..width],
                    values[entry],
                    row,
                );
            }
            if has_bias {
                let of_token = expected.chunks_mut(width);
                of_token.for_each(|row| crate::add_scaled(row, 1.0, &bias));
            }
            let [mut values, mut rows, mut bias] =
                [values, rows, bias].map(|x| Array::new(&x, skew));
            let mut indices = Array::new(&indices, 0);
            for run in [run, run_backward] {
                let mut out = Array::filled(n_tokens * width, f32::NAN, skew);
                let from = SparseProduct {
                    values: values.address(),
                    latents: TokenLatents {
                        indices: indices.address(),
                        of_token: OfToken::Every(k),
                        n_tokens,
                    },
                    rows: rows.address(),
                    bias: if has_bias { bias.address() } else { NONE },
                    width,
                };
                run(&sparse_times_rows(&from, out.address()).unwrap());
                assert_eq!(out.values(), expected, "added in the same order");
            }
        }
    }
}

#[test]
fn errors_and_their_gradients() {
    for (n_tokens, num_latents, width, k) in SIZES {
        for skew in SKEWS {
            let (acts, indices) = (acts(n_tokens * k), latents(n_tokens, num_latents, k));
            let (w_dec, b_dec) = (numbers(num_latents * width, 0.2), numbers(width, 0.3));
            let target = numbers(n_tokens * width, 0.4);
            let (mut grad_out, mut grad_pre) =
                (vec![0.0; n_tokens * width], vec![0.0; n_tokens * k]);
            let decoding = crate::Decoding {
                indices: &indices,
                acts: &acts,
                k,
                w_dec: &w_dec,
                b_dec: &b_dec,
            };
            let out = crate::ErrorGradients {
                grad_out: &mut grad_out,
                grad_pre: &mut grad_pre,
            };
            let error = decoding.squared_error(&target, out);
            let [mut acts, mut w_dec, mut b_dec, mut target] =
                [acts, w_dec, b_dec, target].map(|x| Array::new(&x, skew));
            let mut indices = Array::new(&indices, 0);
            let from = Decoding {
                acts: acts.address(),
                indices: indices.address(),
                w_dec: w_dec.address(),
                b_dec: b_dec.address(),
                target: target.address(),
                n_tokens,
                width,
                k,
            };
            let ours = |run: fn(&Launch)| {
                let mut ours_out = Array::filled(n_tokens * width, f32::NAN, skew);
                let mut ours_pre = Array::filled(n_tokens * k, f32::NAN, 0);
                let mut sums = Array::filled(n_tokens, f64::NAN, 0);
                let out = ErrorGradients {
                    grad_out: ours_out.address(),
                    grad_pre: ours_pre.address(),
                    sums: sums.address(),
                };
                run(&squared_error(&from, &out).unwrap());
                let sums = sums.values().to_vec();
                (ours_out.values().to_vec(), ours_pre.values().to_vec(), sums)
            };
            let forward = ours(run);
            assert_close("at the reconstruction", &forward.0, &wide(&grad_out));
            assert_close("at pre-activations", &forward.1, &wide(&grad_pre));
            let sum: f64 = forward.2.iter().sum();
            assert!((sum - error).abs() <= 1e-5 * error, "{sum} {error}");
            assert_eq!(ours(run_backward), forward);
        }
    }
}

#[test]
fn a_nan_shows() {
    let (n_tokens, num_latents, width, k) = (2, 5, 8, 2);
    let [mut w_dec, mut b_dec, mut target] =
        [num_latents, 1, n_tokens].map(|n| Array::new(&numbers(n * width, 0.2), 0));
    let mut acts = Array::new(&[f32::NAN, 1.0, 1.0, 0.0], 0);
    let mut indices = Array::new(&latents(n_tokens, num_latents, k), 0);
    let mut grad_out = Array::filled(n_tokens * width, 0.0f32, 0);
    let mut grad_pre = Array::filled(n_tokens * k, 0.0f32, 0);
    let mut sums = Array::filled(n_tokens, 0.0f64, 0);
    let from = Decoding {
        acts: acts.address(),
        indices: indices.address(),
        w_dec: w_dec.address(),
        b_dec: b_dec.address(),
        target: target.address(),
        n_tokens,
        width,
        k,
    };
    let out = ErrorGradients {
        grad_out: grad_out.address(),
        grad_pre: grad_pre.address(),
        sums: sums.address(),
    };
    run(&squared_error(&from, &out).unwrap());
    assert!(sums.values()[0].is_nan() && sums.values()[1].is_finite());
    let [first, second, third, fourth] = grad_pre.values() else {
        panic!("four entries");
    };
    assert!(second.is_nan() && third.is_finite());
    assert_eq!(
        (*first, *fourth),
        (0.0, 0.0),
        "their activations are not above 0"
    );
}

#[test]
fn limits_of_errors() {
    let from = |n_tokens, width, k| Decoding {
        acts: NONE,
        indices: NONE,
        w_dec: NONE,
        b_dec: NONE,
        target: NONE,
        n_tokens,
        width,
        k,
    };
    let out = ErrorGradients {
        grad_out: NONE,
        grad_pre: NONE,
        sums: NONE,
    };
    let shared_bytes = |k| squared_error(&from(1, 4, k), &out).map(|launch| launch.shared_bytes);
    assert_eq!(shared_bytes(192), Some(99 << 10), "what small cards have");
    assert_eq!(shared_bytes(193), Some(193 * 16));
    assert!(shared_bytes(14528).is_some());
    assert_eq!((shared_bytes(14529), shared_bytes(0)), (None, None));
    assert!(squared_error(&from(0, 4, 1), &out).is_none());
    assert!(squared_error(&from(1, 0, 1), &out).is_none());
}
