//! Measures an SAE's optimizer update in encoder products, behind a gate of correctness.
//!
//! ```text
//! cargo run -p sae-run-train --example bench_step -- [--smoke] [--n 1024,8192]
//!     [--latents 4608,18432] [--k 32,128] [--rounds 5] [--threads 2] [--json FILE]
//! cargo run -p sae-run-train --example bench_step -- --serve --threads 2
//! ```
//!
//! An encoder product is `[n, 576] x [576, num_latents]` into memory that is there already: 2 n d F
//! operations. It is timed right before and right after every update, and the ratio is that of one
//! round, so that what else runs on the machine weighs on both alike. `--serve` waits for requests of
//! `runner/bench/bench_peer.py` on standard input, one JSON a line.

mod args;
mod gate;
mod machine;
mod measure;
mod serve;

use args::Args;
use measure::Measured;
use serde_json::json;
use std::error::Error;
use std::fs;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Width of SmolLM2-135M's residual stream.
const D_IN: i64 = 576;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match Args::parse(&args).and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    tch::set_num_threads(args.threads);
    // As workers do.
    sae_run_train::keep_freed_memory();
    match args.serve {
        true => serve::serve(),
        false => bench(args),
    }
}

fn bench(args: &Args) -> Result<()> {
    let machine = machine::describe();
    say(&format!("{}, {} threads, fp32", machine.text, args.threads));
    let mut measured = Vec::new();
    for case in args.cases() {
        // No figure without it.
        let gate = gate::check(case)?;
        let result = measure::measure(case, args.rounds)?;
        if measured.is_empty() {
            say(Measured::HEADER);
        }
        say(&result.row(&gate));
        measured.push(json!({ "result": result, "gate": gate }));
    }
    say(&format!("load average at the end {}", machine::load()));
    if let Some(path) = &args.json {
        let record = json!({ "machine": machine, "threads": args.threads, "cases": measured });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_vec_pretty(&record)?)?;
        say(&format!("raw numbers in `{}`", path.display()));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program whose result is its output")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "where errors go")]
fn complain(error: &dyn Error) {
    eprintln!("error: {error}");
}
