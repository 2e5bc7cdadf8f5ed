//! Loads an SAE and says how long that takes and how much memory, untouched and with every weight read.
//!
//! ```text
//! cargo run --release -p sae --example load -- SAE_FOLDER
//! ```

use sae::Sae;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::{Device, Kind};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = &args[..] else {
        return Err("usage: load SAE_FOLDER".into());
    };
    // Libraries and thread pools are loaded once.
    let _ = tch::Tensor::ones([1 << 20], (Kind::Float, Device::Cpu)).f_sum(Kind::Float)?;
    let (before, begun) = (peak_bytes()?, Instant::now());
    let sae = Sae::load_from_disk(Path::new(folder), Device::Cpu)?;
    report("loaded", begun.elapsed(), peak_bytes()? - before);
    for (_, weights) in sae.named_weights() {
        let _ = weights.f_sum(Kind::Float)?.f_double_value(&[])?;
    }
    report("and read", begun.elapsed(), peak_bytes()? - before);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program whose result is its output")]
fn report(what: &str, elapsed: Duration, peak_bytes: u64) {
    let mb = peak_bytes as f64 / 1e6;
    println!(
        "{what}: {:.4} s, {mb:.1} MB more at most",
        elapsed.as_secs_f64()
    );
}

/// The most this process has had in memory so far.
fn peak_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"));
    let n_kb: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("this system does not say what a process took")?
        .parse()?;
    Ok(n_kb * 1024)
}
