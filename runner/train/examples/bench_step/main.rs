//! Measures an SAE's optimizer update in encoder products, after a check of correctness (the gate).
//!
//! ```text
//! cargo run -p sae-run-train --example bench_step -- [--smoke] [--d-in 576] [--n 1024,8192]
//!     [--latents 4608,18432] [--k 32,128] [--encoder-dtype auto] [--rounds 5] [--threads 2] [--device cpu]
//!     [--json FILE]
//! cargo run -p sae-run-train --example bench_step -- --reference FOLDER [sizes as above]
//! cargo run -p sae-run-train --example bench_step -- --agree-with FOLDER --device cuda [as above]
//! cargo run -p sae-run-train --example bench_step -- --look --device cuda
//! cargo run -p sae-run-train --example bench_step -- --serve [--device cuda] [--encoder-dtype auto] [--threads 2]
//! ```
//!
//! An encoder product is `[n, d_in] x [d_in, num_latents]` into memory that is there already: 2 n d F
//! operations. It is timed right before and right after every update, and the ratio is that of one
//! round, so that other programs on the machine slow both down alike. `--reference` writes the first
//! updates of each case into a folder, and `--agree-with` compares another device, or other kernels, with
//! them before it measures: `runner/bench/bench_gpu.py` does both. `--look` only checks whether the device is
//! there.
//! `--serve` waits for requests of `runner/bench/bench_peer.py` and `runner/bench/gpu/updates.py` on standard
//! input, one JSON a line. Many SAEs can be measured one after the other; each has the width of the activations
//! that come with it.
//!
//! The gate takes the first 512 tokens at the most: its reference keeps latents as dense matrices,
//! `[512, num_latents]`.

mod agree;
mod args;
mod gate;
mod kinds;
mod machine;
mod measure;
mod serve;

use args::{Args, Task};
use fault::Remedy;
use kinds::MeasuredKind;
use lm::LmError;
use measure::{Case, Measured};
use plan::Optimizer;
use sae::{Unusable, UpdateShape};
use sae_run_train::use_faster_kernels;
use serde_json::{Value, json};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use tch::Device;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args = match Args::parse(&args) {
        Ok(args) => args,
        Err(error) => return complain(error.as_ref(), ExitCode::from(2)),
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(error.as_ref(), ExitCode::FAILURE),
    }
}

fn run(args: &Args) -> Result<()> {
    tch::set_num_threads(args.threads);
    // As workers do.
    sae_run_train::keep_freed_memory();
    match &args.task {
        Task::Measure { agree_with } => bench(args, agree_with.as_deref()),
        Task::Reference { folder } => write_references(args, folder),
        Task::Look => {
            say(&machine::describe().text);
            Ok(())
        }
        Task::Serve => serve::serve(args),
    }
}

fn write_references(args: &Args, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for case in args.cases() {
        agree::write_reference(case, args.device, folder)?;
    }
    Ok(())
}

fn bench(args: &Args, agree_with: Option<&Path>) -> Result<()> {
    let machine = machine::describe();
    let Args {
        threads, device, ..
    } = args;
    say(&format!(
        "{}, {threads} threads, {device:?}, fp32",
        machine.text
    ));
    let mut measured = Vec::new();
    for case in args.cases() {
        let kernels = use_kernels(case, *device).unwrap_or_else(|error| {
            say(&format!("no kernels of the project: {error}"));
            Vec::new()
        });
        // No figure without them.
        let gate = gate::check(case, *device)?;
        let agreement = agree_with.map(|folder| agree::check(case, *device, folder));
        let agreement = agreement.transpose()?;
        let result = measure::measure(case, *device, args.rounds)?;
        if measured.is_empty() {
            say(Measured::HEADER);
        }
        say(&result.row(&gate));
        measured.push(
            json!({ "result": result, "gate": gate, "agreement": agreement, "kernels": kernels }),
        );
    }
    let kinds = bench_kinds(args)?;
    say(&format!("load average at the end {}", machine::load()));
    if let Some(path) = &args.json {
        let record =
            json!({ "machine": machine, "threads": threads, "cases": measured, "kinds": kinds });
        write_json(path, &record)?;
    }
    Ok(())
}

/// Every kind of SAE beside TopK.
fn bench_kinds(args: &Args) -> Result<Vec<MeasuredKind>> {
    let mut all = Vec::new();
    say(MeasuredKind::HEADER);
    for case in args.cases() {
        for optimizer in [Optimizer::Signum, Optimizer::Adam] {
            let measured = kinds::measure(case, optimizer, args.device, args.rounds)?;
            measured.iter().for_each(|measured| say(&measured.row()));
            all.extend(measured);
        }
    }
    Ok(all)
}

/// On a GPU, the project's kernels that are faster there than libtorch; their names.
fn use_kernels(case: Case, device: Device) -> std::result::Result<Vec<&'static str>, Unusable> {
    let [n_tokens, num_latents, d_in, k] =
        [case.n_tokens, case.num_latents, case.d_in, case.k].map(|n| n as usize);
    let shape = UpdateShape {
        n_tokens,
        num_latents,
        d_in,
        k,
    };
    use_faster_kernels(device, shape)
}

fn write_json(path: &Path, record: &Value) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_vec_pretty(record)?)?;
    say(&format!("raw numbers in `{}`", path.display()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program whose result is its output")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "where errors go")]
fn complain(error: &(dyn Error + 'static), code: ExitCode) -> ExitCode {
    eprintln!("error: {error}");
    if let Some(hint) = error.downcast_ref::<LmError>().and_then(Remedy::hint) {
        eprintln!("hint: {hint}");
    }
    code
}
