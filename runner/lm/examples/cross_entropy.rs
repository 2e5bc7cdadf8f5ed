//! Mean next-token cross-entropy of a sequence of tokens, and the memory that the blocks take.
//!
//! ```text
//! cargo run -p sae-run-lm --example cross_entropy -- MODEL_DIR TOKENS.json
//!     [--dtype auto|float32|bfloat16|float16] [--load-in-8bit]
//! ```
//!
//! TOKENS.json is a list of token ids. Prints one line of JSON:
//! - `cross_entropy`: in nats per token, computed in float32;
//! - `resident_blocks_bytes`: the resident set with the whole model, less that with no block loaded;
//! - `resident_bytes`, `peak_resident_bytes`: with the whole model, and the most until then, which
//!   counts the pages of the mapped file too;
//! - `linear_params`: how many weights `--load-in-8bit` holds in one byte each.
#![expect(clippy::print_stdout, reason = "the example's result")]

use plan::Dtype;
use sae_run_lm::{LanguageModel, LoadOptions};
use serde_json::{Value, json};
use std::error::Error;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: cross_entropy MODEL_DIR TOKENS.json [--dtype DTYPE] [--load-in-8bit]";

struct Args {
    model_dir: PathBuf,
    tokens: PathBuf,
    dtype: Dtype,
    load_in_8bit: bool,
}

fn main() -> Result<()> {
    let args = read_args()?;
    let token_ids: Vec<i64> = serde_json::from_slice(&std::fs::read(&args.tokens)?)?;
    let (model, memory) = load(&args)?;
    let mut report = json!({ "cross_entropy": cross_entropy(&model, &token_ids)? });
    for (name, amount) in memory {
        report[name] = amount.into();
    }
    println!("{report}");
    Ok(())
}

fn read_args() -> Result<Args> {
    let (mut dtype, mut load_in_8bit, mut paths) = (Dtype::Float32, false, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--load-in-8bit" => load_in_8bit = true,
            "--dtype" => dtype = serde_json::from_value(Value::from(words.next()))?,
            _ => paths.push(PathBuf::from(word)),
        }
    }
    let [model_dir, tokens] = <[PathBuf; 2]>::try_from(paths).map_err(|_| USAGE)?;
    Ok(Args {
        model_dir,
        tokens,
        dtype,
        load_in_8bit,
    })
}

/// The whole model, and what it takes.
fn load(args: &Args) -> Result<(LanguageModel, [(&'static str, u64); 4])> {
    let options = LoadOptions {
        dtype: args.dtype,
        load_in_8bit: args.load_in_8bit,
        ..LoadOptions::default()
    };
    let no_blocks = LoadOptions {
        n_layers: Some(0),
        ..options
    };
    let with_head = LoadOptions {
        with_head: true,
        ..options
    };
    let embedding = LanguageModel::load(&args.model_dir, &no_blocks)?;
    let without_blocks = resident("VmRSS")?;
    drop(embedding);
    let model = LanguageModel::load(&args.model_dir, &with_head)?;
    let whole = resident("VmRSS")?;
    let facts = model.facts();
    let linear_params = facts.layer_8bit_params * facts.n_layers as u64;
    let memory = [
        (
            "resident_blocks_bytes",
            whole.saturating_sub(without_blocks),
        ),
        ("resident_bytes", whole),
        ("peak_resident_bytes", resident("VmHWM")?),
        ("linear_params", linear_params),
    ];
    Ok((model, memory))
}

/// A line of the kernel's account of this process, in bytes.
fn resident(key: &str) -> Result<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let n_kib = line.and_then(|line| line.trim_matches(&[':', '\t', ' '][..]).strip_suffix(" kB"));
    Ok(n_kib
        .ok_or("the kernel does not say")?
        .trim()
        .parse::<u64>()?
        * 1024)
}

fn cross_entropy(model: &LanguageModel, token_ids: &[i64]) -> Result<f64> {
    let input_ids = Tensor::from_slice(token_ids).f_view([1, -1])?;
    let n_predicted = token_ids.len() as i64 - 1;
    let logits = model.logits(&input_ids)?.f_to_kind(Kind::Float)?;
    let predicted = logits.f_select(0, 0)?.f_narrow(0, 0, n_predicted)?;
    let following = input_ids.f_select(0, 0)?.f_narrow(0, 1, n_predicted)?;
    Ok(predicted
        .cross_entropy_for_logits(&following)
        .f_double_value(&[])?)
}
