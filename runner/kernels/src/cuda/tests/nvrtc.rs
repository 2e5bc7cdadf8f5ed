//! The sources, compiled for each generation of cards by the compiler that users have. It needs no GPU.

use crate::cuda::compiler::compile_with;
use crate::cuda::{Capability, Folders, source};
use std::path::PathBuf;
use std::sync::Mutex;
use std::{env, thread};

/// By the two numbers of the capability.
const CAPABILITIES: [(u32, u32); 6] = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];

/// Of one kernel, as `ptxas -v` tells it.
struct Usage {
    kernel: String,
    registers: u32,
    spilled_bytes: u32,
}

/// NVRTC is where `SAE_RUN_NVRTC` says, or where pip puts it next to torch.
fn folders() -> Folders {
    let torch = env::var_os("LIBTORCH").map(PathBuf::from);
    Folders {
        libtorch: torch.map(|torch| torch.join("lib")),
        cache: None,
    }
}

/// What the compiler says, and the machine code.
fn compile(capability: Capability) -> (String, Vec<u8>) {
    let compiled = compile_with(capability, &["--ptxas-options=-v"], &folders());
    let (cubin, log) = compiled.unwrap_or_else(|error| {
        panic!("{error}\nhint: run `make setup`, or set `SAE_RUN_NVRTC` to the folder of NVRTC")
    });
    (log, cubin)
}

/// The number before words.
fn number_before(line: &str, words: &str) -> Option<u32> {
    let before = line.split_once(words)?.0.trim_end();
    before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            usages.push(Usage {
                kernel: rest.split('\'').next().unwrap().to_owned(),
                registers: 0,
                spilled_bytes: 0,
            });
        }
        let Some(usage) = usages.last_mut() else {
            continue;
        };
        let spilled =
            ["bytes spill stores", "bytes spill loads"].map(|words| number_before(line, words));
        usage.spilled_bytes += spilled.into_iter().flatten().sum::<u32>();
        if let Some(registers) = number_before(line, "registers") {
            usage.registers = registers;
        }
    }
    usages
}

#[test]
fn every_kernel_compiles_for_every_card_and_spills_nothing() {
    let n_kernels = source().matches("\nKERNEL(").count();
    let next = Mutex::new(CAPABILITIES.iter());
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..n_threads.min(CAPABILITIES.len()) {
            scope.spawn(|| {
                loop {
                    let Some(&(major, minor)) = next.lock().unwrap().next() else {
                        return;
                    };
                    let (log, cubin) = compile(Capability { major, minor });
                    let architecture = format!("sm_{major}{minor}");
                    report(&architecture, &log, n_kernels);
                    assert!(!cubin.is_empty(), "{architecture}: no machine code");
                }
            });
        }
    });
}

#[track_caller]
fn report(architecture: &str, log: &str, n_kernels: usize) {
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("warning"))
        .collect();
    assert!(warnings.is_empty(), "{architecture}: {log}");
    let usages = usages(log);
    assert_eq!(usages.len(), n_kernels, "{architecture}: {log}");
    for usage in &usages {
        let Usage {
            kernel,
            registers,
            spilled_bytes,
        } = usage;
        println!(
            "{architecture:7} {kernel:18} {registers:3} registers, {spilled_bytes} bytes spilled"
        );
        assert!(*registers > 0, "{architecture}: {log}");
        assert_eq!(*spilled_bytes, 0, "{architecture}, {kernel}");
    }
}
