//! Each kernel alone, at the sizes of a 32x SAE on SmolLM2-135M: `cargo bench -p sae-run-kernels`.

use divan::Bencher;
use sae_run_kernels::{
    ByLatent, Decoding, Entries, ErrorGradients, MatrixUpdate, RowSteps, Screen, Signum, TokenOf,
    WeightGradients, Weights, in_threads, moments, project, scale, signum, topk,
};

const D: usize = 576;
const NUM_LATENTS: usize = 32 * D;
const N_TOKENS: usize = 2048;
const KS: [usize; 2] = [32, 128];
const N_THREADS: [usize; 2] = [1, 2];

const SIGNUM: Signum = Signum {
    lr: 0.0,
    to_x: 1.0 - 1.0 / 0.95,
    average: 0.1,
    to_y: 0.05,
};

fn main() {
    divan::main();
}

fn numbers(n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|idx| (idx as f32 * 1.7 + phase).sin()).collect()
}

/// Distinct latents of a token, spread as a trained SAE's are not: evenly.
fn indices(k: usize) -> Vec<i64> {
    let of_token = |token: usize| (0..k).map(move |idx| (token * 7919 + idx * 557) % NUM_LATENTS);
    (0..N_TOKENS)
        .flat_map(of_token)
        .map(|latent| latent as i64)
        .collect()
}

#[divan::bench(args = KS)]
fn largest(bencher: Bencher, k: usize) {
    let (rows, bias) = (numbers(256 * NUM_LATENTS, 0.1), numbers(NUM_LATENTS, 0.2));
    let (mut values, mut indices) = (vec![0.0; 256 * k], vec![0; 256 * k]);
    bencher.bench_local(|| topk(&rows, &bias, k, &mut values, &mut indices));
}

#[divan::bench(args = KS)]
fn sort_by_latent(bencher: Bencher, k: usize) {
    let indices = indices(k);
    bencher.bench_local(|| ByLatent::sort(&indices, NUM_LATENTS));
}

#[divan::bench(args = KS)]
fn gradients_of_weights(bencher: Bencher, k: usize) {
    let indices = indices(k);
    let by_latent = ByLatent::sort(&indices, NUM_LATENTS);
    let (acts, grad_pre) = (numbers(N_TOKENS * k, 0.3), numbers(N_TOKENS * k, 0.4));
    let (grad_out, centred) = (numbers(N_TOKENS * D, 0.5), numbers(N_TOKENS * D, 0.6));
    let mut encoder_weight = vec![0.0; NUM_LATENTS * D];
    let mut w_dec = vec![0.0; NUM_LATENTS * D];
    let entries = Entries {
        indices: &indices,
        acts: &acts,
        grad_pre: &grad_pre,
        tokens: TokenOf::Every(k),
    };
    bencher.bench_local(|| {
        let out = WeightGradients {
            encoder_weight: &mut encoder_weight,
            w_dec: &mut w_dec,
        };
        entries.weight_gradients(&by_latent, grad_out.as_slice().into(), &centred, out);
    });
}

/// The same, divided, projected and given to the optimizer.
#[divan::bench(args = KS)]
fn update_of_matrices(bencher: Bencher, k: usize) {
    let indices = indices(k);
    let by_latent = ByLatent::sort(&indices, NUM_LATENTS);
    let (acts, grad_pre) = (numbers(N_TOKENS * k, 0.3), numbers(N_TOKENS * k, 0.4));
    let (grad_out, centred) = (numbers(N_TOKENS * D, 0.5), numbers(N_TOKENS * D, 0.6));
    let mut matrices = [0.7, 0.8, 0.9, 1.0].map(|phase| numbers(NUM_LATENTS * D, phase));
    let entries = Entries {
        indices: &indices,
        acts: &acts,
        grad_pre: &grad_pre,
        tokens: TokenOf::Every(k),
    };
    bencher.bench_local(|| {
        let [y_encoder, z_encoder, y_decoder, z_decoder] = &mut matrices;
        let update = MatrixUpdate {
            encoder_weight: Weights {
                y: y_encoder,
                z: z_encoder,
            },
            w_dec: Weights {
                y: y_decoder,
                z: z_decoder,
            },
            steps: RowSteps {
                divisor: 1.5,
                is_projected: true,
                constants: SIGNUM,
            },
        };
        entries.update(&by_latent, grad_out.as_slice().into(), &centred, update);
    });
}

/// To bfloat16, with the bounds of what that takes from it.
#[divan::bench]
fn rounding_of_an_encoder(bencher: Bencher) {
    let (weights, bias) = (numbers(NUM_LATENTS * D, 0.1), numbers(NUM_LATENTS, 0.2));
    let mut rounded = vec![0; NUM_LATENTS * D];
    bencher.bench_local(|| Screen::new(&weights, &bias, KS[0], &mut rounded).is_some());
}

#[divan::bench(args = KS)]
fn squared_error(bencher: Bencher, k: usize) {
    let indices = indices(k);
    let acts: Vec<f32> = numbers(N_TOKENS * k, 0.7)
        .iter()
        .map(|act| act.abs())
        .collect();
    let (w_dec, b_dec) = (numbers(NUM_LATENTS * D, 0.8), numbers(D, 0.9));
    let target = numbers(N_TOKENS * D, 1.0);
    let (mut grad_out, mut grad_pre) = (vec![0.0; N_TOKENS * D], vec![0.0; N_TOKENS * k]);
    let decoding = Decoding {
        indices: &indices,
        acts: &acts,
        k,
        w_dec: &w_dec,
        b_dec: &b_dec,
    };
    bencher.bench_local(|| {
        let out = ErrorGradients {
            grad_out: &mut grad_out,
            grad_pre: &mut grad_pre,
        };
        decoding.squared_error(&target, out)
    });
}

#[divan::bench(args = N_THREADS)]
fn signum_of_a_weight(bencher: Bencher, n_threads: usize) {
    let n = NUM_LATENTS * D;
    let (mut y, mut z, gradients) = (numbers(n, 1.1), numbers(n, 1.2), numbers(n, 1.3));
    bencher.bench_local(|| {
        in_threads(n_threads, || signum(&mut y, &mut z, &gradients, SIGNUM));
    });
}

#[divan::bench(args = N_THREADS)]
fn scale_and_project(bencher: Bencher, n_threads: usize) {
    let n = NUM_LATENTS * D;
    let (mut gradients, weights) = (numbers(n, 1.4), numbers(n, 1.5));
    bencher.bench_local(|| {
        in_threads(n_threads, || {
            scale(&mut gradients, 1.5);
            project(&mut gradients, &weights, D);
        });
    });
}

#[divan::bench]
fn moments_of_activations(bencher: Bencher) {
    let x = numbers(N_TOKENS * D, 1.6);
    let mut mean = vec![0.0; D];
    bencher.bench_local(|| moments(&x, &mut mean));
}
