//! Each kernel, run on the CPU, is its twin.

mod array;
mod emulated;
mod latents;
mod listed;
mod nvrtc;
mod tokens;
mod topk;
mod update;

use super::{Address, Argument, Launch, source};
use array::Array;
use emulated::{run, run_backward, try_run};

const NONE: Address = Address(0);

/// Where rows begin: at a multiple of 16 bytes, and elsewhere.
const SKEWS: [usize; 2] = [0, 1];

#[track_caller]
fn assert_close(what: &str, ours: &[f32], expected: &[f64]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0f64, |most, x| most.max(x.abs()));
    for (idx, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        let off = (f64::from(*ours) - expected).abs();
        assert!(off <= 1e-5 * scale, "{what} {idx}: {ours} {expected}");
    }
}

/// `k` different latents for each token.
fn latents(n_tokens: usize, num_latents: usize, k: usize) -> Vec<i64> {
    let of_entry = |entry| (entry / k * 7 + entry % k) % num_latents;
    (0..n_tokens * k)
        .map(|entry| of_entry(entry) as i64)
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// Of kernels and parameters that the sources declare.
#[test]
fn every_kernel_is_launched_by_its_name() {
    let source = source();
    let declared: Vec<&str> = source
        .split("KERNEL(")
        .skip(2)
        .filter_map(|rest| rest.split_once(")\n")?.1.split_once('('))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        declared,
        [
            "topk_float32",
            "topk_bfloat16",
            "dots_at_entries",
            "rescore_topk",
            "sparse_times_rows",
            "squared_error",
            "nested_errors",
            "rows_gradient",
            "latent_sums",
            "fire_counts",
            "rows_signum",
            "rows_adam",
            "dense_signum",
            "dense_adam"
        ]
    );
    assert!(!source.contains("#include"), "users have no headers");
}

#[test]
fn faults_of_kernels_are_found() {
    let launch = |kernel, arguments| Launch {
        kernel,
        grid: 2,
        block: 64,
        shared_bytes: 0,
        arguments,
    };
    let lanes = |n| {
        let mut sums = Array::filled(64, 0.0f32, 0);
        let arguments = vec![Argument::I32(n), sums.address().into()];
        try_run(&launch("faulty_lanes", arguments))
    };
    let barrier = |n| try_run(&launch("faulty_barrier", vec![Argument::I32(n)]));
    let lines = |n| try_run(&launch("faulty_lines", vec![Argument::I32(n)]));
    assert_eq!((barrier(64), barrier(0)), (Ok(()), Ok(())));
    let why = barrier(3).unwrap_err();
    assert!(
        why.contains("thread") && why.contains("for its block in line"),
        "{why}"
    );
    assert_eq!((lines(64), lines(0)), (Ok(()), Ok(())));
    assert!(lines(1).unwrap_err().contains("others in line"));
    assert_eq!(lanes(32), Ok(()));
    assert!(lanes(31).unwrap_err().contains("for its warp in line"));
    let unknown = try_run(&launch("nothing", vec![])).unwrap_err();
    assert!(unknown.contains("`nothing`"), "{unknown}");
    let empty = Launch {
        grid: 0,
        ..launch("faulty_barrier", vec![Argument::I32(0)])
    };
    assert!(try_run(&empty).is_err());
}
