//! Memory that one forward and backward pass takes, measured in a separate process: so this file has one test.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sae::{Objective, Sae, SaeConfig};
use std::fs;
use tch::{Device, Kind, Tensor};

/// The most this process has had in memory so far.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let n_kb: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    n_kb * 1024
}

/// Bytes by which a backward pass raises the peak.
fn taken(n_tokens: i64, d_in: i64, num_latents: usize, k: usize) -> u64 {
    let _no_grad = tch::no_grad_guard();
    let cfg = SaeConfig::topk(d_in as usize, num_latents, k);
    let sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
    let x = Tensor::randn([n_tokens, d_in], (Kind::Float, Device::Cpu));
    let before = peak_bytes();
    let backward = sae.backward(&x, &x, &Objective::squared_error(k)).unwrap();
    assert!(backward.losses.squared_error.double_value(&[]) > 0.0);
    peak_bytes() - before
}

#[test]
fn no_tensor_is_of_all_tokens_latents_and_widths_and_no_gradient_is_dense() {
    // Libraries and thread pools are loaded once.
    taken(64, 64, 128, 4);
    let (n_tokens, d_in, num_latents, k) = (4096, 512, 2048, 128);
    let contributions = 4 * n_tokens as u64 * k as u64 * d_in as u64;
    let bytes = taken(n_tokens, d_in, num_latents, k);
    assert!(bytes < contributions / 4, "{bytes} of {contributions}");

    let (n_tokens, d_in, num_latents, k) = (8192, 16, 16384, 4);
    let pre_acts = 4 * n_tokens as u64 * num_latents as u64;
    let bytes = taken(n_tokens, d_in, num_latents, k);
    // A dense gradient would be as large as the pre-activations again.
    assert!(bytes < pre_acts * 3 / 2, "{bytes} of {pre_acts}");
}
