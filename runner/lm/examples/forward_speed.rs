//! Runs forward passes one by one, as a driver asks for them on standard input. `forward_speed.py`
//! next to it compares their speed with that of transformers.
//!
//! ```text
//! cargo build -p sae-run-lm --example forward_speed
//! forward_speed MODEL_DIR TOKENS.json N_THREADS
//! ```
//!
//! TOKENS.json is a list of sequences of token ids. The model is loaded without its head, in float32
//! on the CPU. A line on standard input asks for one pass to the final norm; the answer is a line of
//! JSON with the pass's wall time `wall_s` and the root mean square `rms` of its output.
#![expect(clippy::print_stdout, reason = "answers to the driver")]

use plan::Dtype;
use sae_run_lm::{LanguageModel, LoadOptions, Taps};
use serde_json::json;
use std::error::Error;
use std::path::Path;
use std::time::Instant;
use tch::Tensor;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model_dir, tokens, n_threads] = &args[..] else {
        return Err("usage: forward_speed MODEL_DIR TOKENS.json N_THREADS".into());
    };
    tch::set_num_threads(n_threads.parse()?);
    let input_ids = read_tokens(Path::new(tokens))?;
    let options = LoadOptions {
        dtype: Dtype::Float32,
        ..LoadOptions::default()
    };
    let model = LanguageModel::load(Path::new(model_dir), &options)?;
    let last = model.facts().hookpoints.last().ok_or("no hookpoints")?;
    let taps = Taps::new(model.facts(), &[&last.name])?;
    for line in std::io::stdin().lines() {
        line?;
        let start = Instant::now();
        let activations = model.forward(&input_ids, &taps)?;
        let wall_s = start.elapsed().as_secs_f64();
        let output = activations.get(&last.name).ok_or("no output")?;
        let rms = output.f_square()?.f_mean(None)?.f_sqrt()?;
        println!(
            "{}",
            json!({ "wall_s": wall_s, "rms": rms.f_double_value(&[])? })
        );
    }
    Ok(())
}

/// `[batch, ctx_len]`, Int64
fn read_tokens(path: &Path) -> Result<Tensor> {
    let sequences: Vec<Vec<i64>> = serde_json::from_slice(&std::fs::read(path)?)?;
    let batch = sequences.len() as i64;
    Ok(Tensor::from_slice(&sequences.concat()).f_view([batch, -1])?)
}
