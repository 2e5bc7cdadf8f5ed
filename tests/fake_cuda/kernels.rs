//! The project's own kernels on the device that is not there: compiled by the real NVRTC, run on the host.

use super::log::Log;
use super::{DEVICE, ON_DEVICE, SHORT, command, worker_logs};
use crate::common::{Workspace, finish, with_jobs};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;

/// Sizes that a processor's thread can do.
const SMALL: [&str; 4] = ["doctor", "--gpu", "--shape", "64,256,32,8"];

/// A job with lists of latents and nested reconstructions.
const NESTED: &str =
    "activation='batchtopk', matryoshka_widths=[0.5], loss_fn='mse', optimizer='adam'";

/// Every kernel was started, at its check or in an update.
#[track_caller]
pub(super) fn all_were_used(log: &Log) {
    let started: BTreeSet<&str> = log
        .of_kind("kernel")
        .map(|event| event.what.as_str())
        .collect();
    let source = ::kernels::cuda::source();
    let entries = source.split("\nKERNEL(").skip(1);
    let names = entries.map(|entry| entry.lines().nth(1).unwrap().split('(').next().unwrap());
    let missing: Vec<_> = names.filter(|name| !started.contains(name)).collect();
    assert!(missing.is_empty(), "never started: {missing:?}");
}

/// What is in the cache of kernels, by the end of its name.
fn cached(workspace: &Workspace, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(workspace.path("cache/kernels"))
        .into_iter()
        .flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect()
}

#[test]
fn a_gpu_is_checked_and_measured() {
    let workspace = Workspace::new();
    let outcome = finish(command(&workspace, "log", &SMALL)).succeeds();
    for part in [
        "cuda:0, a GPU that is not there",
        "compute capability 9.0",
        "read and written",
        "in bfloat16",
    ] {
        assert!(outcome.stdout.contains(part), "no `{part}`: {outcome}");
    }
    let json = [&SMALL[..], &["--device", DEVICE, "--json"]].concat();
    let json = finish(command(&workspace, "log", &json)).succeeds().json();
    let kernels = json["found"]["kernels"]["checked"]["kernels"]
        .as_array()
        .unwrap()
        .clone();
    for kernel in &kernels {
        assert_eq!(kernel["rejection"], Value::Null, "{kernel}");
        assert!(kernel["seconds"][0].as_f64().unwrap() > 0.0, "{kernel}");
        let name = kernel["name"].as_str().unwrap();
        assert!(outcome.stdout.contains(name), "{outcome}");
    }
    assert_eq!(kernels.len(), sae::Kernel::ALL.len());
    assert_eq!(cached(&workspace, ".cubin").len(), 1);
}

#[test]
fn several_processes_may_compile_at_once_and_what_is_damaged_is_compiled_again() {
    let workspace = Workspace::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| finish(command(&workspace, "log", &SMALL)).succeeds());
        }
    });
    let cubins = cached(&workspace, ".cubin");
    let whole = fs::read(&cubins[0]).unwrap();
    fs::write(&cubins[0], &whole[..whole.len() / 2]).unwrap();
    fs::write(&cached(&workspace, ".json")[0], "{").unwrap();
    let outcome = finish(command(&workspace, "log", &SMALL)).succeeds();
    assert!(!outcome.stdout.contains("failed"), "{outcome}");
    assert!(fs::read(&cubins[0]).unwrap() == whole, "not mended");
    assert_eq!(cached(&workspace, "").len(), 2, "something is left");
}

/// Runs on a GPU whose kernels cannot be used, and says why in its log; the run ends as any other.
#[track_caller]
fn trains_without(variable: (&str, &str), reason: &str) {
    let workspace = with_jobs(SHORT, &[("signum", "")]);
    let mut command = command(&workspace, "log", &ON_DEVICE);
    command.env(variable.0, variable.1);
    finish(command).succeeds();
    let log = worker_logs(&workspace);
    assert!(log.contains(reason), "no `{reason}`: {log}");
    assert!(
        log.contains("kernels in use: libtorch's operations alone"),
        "{log}"
    );
}

#[test]
fn where_they_cannot_be_used_libtorch_computes() {
    trains_without(
        ("FAKE_CUDA_CAPABILITY", "75"),
        "has compute capability 7.5, and they need 8.0",
    );
    trains_without(("SAE_RUN_NVRTC", "/nowhere"), "NVRTC was not found");
    trains_without(("SAE_RUN_KERNELS", "aten"), "");
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_note() {
    let workspace = with_jobs(SHORT, &[("signum", "")]);
    for folder in [
        "kernels".to_owned(),
        format!("kernels-{}", files::user_id()),
    ] {
        workspace.write(
            &format!("cache/{folder}"),
            "a file where the folder should be",
        );
    }
    finish(command(&workspace, "log", &ON_DEVICE)).succeeds();
    let log = worker_logs(&workspace);
    assert!(log.contains("cannot keep the compiled kernels in"), "{log}");
}

#[test]
fn updates_of_one_part_make_no_gradient_of_a_matrix() {
    let jobs = [
        ("signum", ""),
        ("adam", "optimizer='adam'"),
        ("parts", "optimizer='adam', grad_acc_steps=2"),
        ("nested", NESTED),
    ];
    let workspace = with_jobs(SHORT, &jobs);
    let mut command = command(&workspace, "log", &ON_DEVICE);
    command.env("SAE_RUN_KERNELS", "own");
    finish(command).succeeds();
    let log = Log::read(&workspace.path("log"), None);
    let n_starts = |name| {
        let kernels = log.of_kind("kernel");
        kernels.filter(|event| event.what == name).count()
    };
    // At each of three sizes for the check, of lists for three levels. Then for encoder and decoder, in eight updates or in
    // four of two parts; the nested decoder has two levels.
    for (kernel, n_in_check, n_in_updates) in [
        ("rows_signum", 1 + 3, 2 * 8),
        ("rows_adam", 1 + 3, 2 * 8 + (1 + 2) * 8),
        ("dense_signum", 1, 0),
        ("dense_adam", 1, 2 * 4),
        ("rows_gradient", 1 + 3, 2 * 8),
        ("nested_errors", 1, 8),
    ] {
        let n_checked = 3 * n_in_check;
        assert_eq!(n_starts(kernel), n_checked + n_in_updates, "{kernel}");
    }
}

#[test]
fn a_kernel_that_computes_something_else_is_left_out() {
    for (kernel, settings) in [
        ("squared_error", "optimizer='adam'"),
        ("nested_errors", NESTED),
        ("rows_adam", "optimizer='adam'"),
    ] {
        let workspace = with_jobs(SHORT, &[("adam", settings)]);
        let mut command = command(&workspace, "log", &ON_DEVICE);
        command
            .env("SAE_RUN_KERNELS", "own")
            .env("FAKE_CUDA_WRONG_KERNEL", kernel);
        finish(command).succeeds();
        let log = worker_logs(&workspace);
        let left_out = format!("kernel `{kernel}` is not used: it differs from libtorch in");
        assert!(log.contains(&left_out), "{log}");
        assert!(log.contains("kernels in use: topk, rescore,"), "{log}");
    }
}

/// With too little for the forward pass, too, that is the error; with enough for it, the run succeeds.
#[test]
fn a_check_that_finds_no_memory_costs_its_kernel() {
    for (bytes, code) in [("1900000", 1), ("2600000", 1), ("3600000", 0)] {
        let workspace = with_jobs(SHORT, &[("signum", "")]);
        let mut command = command(&workspace, "log", &ON_DEVICE);
        command.env("FAKE_CUDA_MEMORY", bytes);
        finish(command).exits(code);
        let log = worker_logs(&workspace);
        assert!(log.contains("kernel `topk` is not used: "), "{log}");
        assert!(log.contains("CUDA out of memory"), "{log}");
        for word in ["frame #", "panicked"] {
            assert!(!log.contains(word), "{log}");
        }
    }
}
