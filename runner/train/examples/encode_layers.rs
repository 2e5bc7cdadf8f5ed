//! Loads all SAEs of a job and encodes the hidden states of a language model with them, layer by
//! layer: the counterpart of the first example in sparsify's README.
//!
//! ```text
//! cargo run -p sae-run-train --example encode_layers -- MODEL_DIR JOB_DIR [TEXT]
//! ```
//!
//! JOB_DIR holds one folder for each SAE, called after its hookpoint, as `sae-run` and sparsify save
//! them.

#![expect(clippy::print_stdout, reason = "a program whose result is its output")]

use data::Tokenizer;
use lm::{LanguageModel, LoadOptions};
use sae::Sae;
use std::error::Error;
use std::path::Path;
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model_dir, job_dir, text) = match &args[..] {
        [model_dir, job_dir] => (Path::new(model_dir), Path::new(job_dir), "Hello, world!"),
        [model_dir, job_dir, text] => (Path::new(model_dir), Path::new(job_dir), text.as_str()),
        _ => return Err("usage: encode_layers MODEL_DIR JOB_DIR [TEXT]".into()),
    };
    let saes = Sae::load_many(job_dir, Device::Cpu)?;
    let model = LanguageModel::load(model_dir, &LoadOptions::default())?;
    let token_ids = Tokenizer::from_dir(model_dir)?.tokenize(text)?;
    let token_ids: Vec<i64> = token_ids.into_iter().map(i64::from).collect();
    let hidden_states = model.hidden_states(&Tensor::from_slice(&token_ids).view([1, -1]))?;
    for (name, sae) in &saes {
        // The first hidden state is the input of the first block. Of the last block only the normed
        // output is among them; a tap on it, by its name, gives it as it is.
        let layer_idx = layer_of(name, &model).ok_or(format!("`{name}` is no block"))?;
        let x = hidden_states[layer_idx + 1].flatten(0, 1);
        let encoded = sae.encode(&x)?;
        let sae_out = sae.decode(&encoded)?;
        println!("{name}: FVU {:.4}, of the last token", fvu(&x, &sae_out));
        print_last(&encoded.latent_acts, &encoded.latent_indices);
    }
    Ok(())
}

/// The block that a hookpoint such as `layers.3` names, unless it is the last one.
fn layer_of(hookpoint: &str, model: &LanguageModel) -> Option<usize> {
    let facts = model.facts();
    let index = hookpoint
        .strip_prefix(&facts.layers_name)?
        .strip_prefix('.')?;
    let layer_idx: usize = index.parse().ok()?;
    (layer_idx + 1 < facts.n_layers).then_some(layer_idx)
}

/// Fraction of variance unexplained.
fn fvu(x: &Tensor, sae_out: &Tensor) -> f64 {
    let squared_error = (x - sae_out).square().sum(Kind::Double);
    let variance = (x - x.mean_dim(0, true, Kind::Float))
        .square()
        .sum(Kind::Double);
    (squared_error / variance).double_value(&[])
}

/// The five strongest latents of the last token.
fn print_last(latent_acts: &Tensor, latent_indices: &Tensor) {
    let (acts, order) = latent_acts.get(-1).topk(5, -1, true, true);
    let indices = latent_indices.get(-1).index_select(0, &order);
    for rank in 0..acts.size()[0] {
        let (latent_idx, act) = (indices.int64_value(&[rank]), acts.double_value(&[rank]));
        println!("  latent {latent_idx:>6}  {act:.3}");
    }
}
