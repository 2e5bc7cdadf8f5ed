//! Loads all SAEs of a job and encodes a text with them, layer by layer: the counterpart of the first
//! example in sparsify's README.
//!
//! ```text
//! cargo run -p sae-run-train --example encode_layers -- MODEL_DIR JOB_DIR [TEXT]
//! ```
//!
//! JOB_DIR holds one folder for each SAE, called after its hookpoint, as `sae-run` and sparsify save
//! them.
//!
//! sparsify's example takes `hidden_states`, which [`LanguageModel::hidden_states`] gives here too. The
//! last of them comes after the final norm, though, and is not what an SAE of the last block was
//! trained on. Taps by the SAEs' names give every hookpoint as it is, blocks or not.

use lm::{Activations, LanguageModel, LoadOptions, Taps};
use plan::FoundSae;
use sae::{Encoded, Sae};
use sae_files::find_saes;
use std::error::Error;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tokens::Tokenizer;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many latents of the last token are shown.
const N_SHOWN: i64 = 5;

#[expect(clippy::print_stdout, reason = "a program whose result is its output")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model_dir, job_dir, text) = match &args[..] {
        [model_dir, job_dir] => (Path::new(model_dir), Path::new(job_dir), "Hello, world!"),
        [model_dir, job_dir, text] => (Path::new(model_dir), Path::new(job_dir), text.as_str()),
        _ => return Err("usage: encode_layers MODEL_DIR JOB_DIR [TEXT]".into()),
    };
    for layer in encode_layers(model_dir, job_dir, text)? {
        println!("{}: FVU {:.4}, of the last token", layer.name, layer.fvu);
        for (latent_idx, act) in layer.strongest {
            println!("  latent {latent_idx:>6}  {act:.3}");
        }
    }
    Ok(())
}

/// What one SAE makes of a text.
struct EncodedLayer {
    name: String,
    /// Fraction of variance unexplained, over all tokens.
    fvu: f64,
    /// The strongest latents of the last token, and their activations.
    strongest: Vec<(i64, f64)>,
}

/// Encodes `text` with every SAE of `job_dir`, in natural order of their names, on one forward pass up
/// to the last hookpoint.
fn encode_layers(model_dir: &Path, job_dir: &Path, text: &str) -> Result<Vec<EncodedLayer>> {
    let saes = load_saes(job_dir)?;
    let taps = taps_of(model_dir, &saes)?;
    let options = LoadOptions {
        n_layers: Some(taps.n_layers_needed()),
        ..LoadOptions::default()
    };
    let model = LanguageModel::load(model_dir, &options)?;
    let activations = model.forward(&read_tokens(model_dir, text)?, &taps)?;
    let encoded = saes
        .iter()
        .map(|(found, sae)| encode(found, sae, &activations));
    encoded.collect()
}

fn load_saes(job_dir: &Path) -> Result<Vec<(FoundSae, Sae)>> {
    let load = |found: FoundSae| {
        let sae = Sae::load_from_disk(&found.dir, Device::Cpu)?;
        Ok((found, sae))
    };
    find_saes(job_dir)?.into_iter().map(load).collect()
}

/// What the SAEs reconstruct, and what they read, which is something else for a transcoder.
fn taps_of(model_dir: &Path, saes: &[(FoundSae, Sae)]) -> Result<Taps> {
    let facts = facts::read_facts(model_dir)?;
    let names = |of_transcoders: bool| -> Vec<&str> {
        let wanted = saes
            .iter()
            .filter(|(_, sae)| sae.cfg.transcode || !of_transcoders);
        wanted.map(|(found, _)| found.hookpoint.as_str()).collect()
    };
    Ok(Taps::new(&facts, &names(false))?.with_inputs(&facts, &names(true))?)
}

/// `[1, n_tokens]`, Int64
fn read_tokens(model_dir: &Path, text: &str) -> Result<Tensor> {
    let token_ids = Tokenizer::from_dir(model_dir)?.tokenize(text)?;
    let token_ids: Vec<i64> = token_ids.into_iter().map(i64::from).collect();
    Ok(Tensor::from_slice(&token_ids).f_view([1, -1])?)
}

fn encode(found: &FoundSae, sae: &Sae, activations: &Activations) -> Result<EncodedLayer> {
    let output = activations.get(&found.hookpoint).ok_or("is tapped")?;
    let input = if sae.cfg.transcode {
        activations.input(&found.hookpoint).ok_or("is tapped")?
    } else {
        output
    };
    let (x, y) = (vectors(input)?, vectors(output)?);
    let pass = sae.forward(&x)?;
    Ok(EncodedLayer {
        name: found.name.clone(),
        fvu: fvu(&y, &pass.sae_out),
        strongest: strongest(&pass.encoded)?,
    })
}

/// `x` as `[n_tokens, d]`, in the SAEs' precision.
fn vectors(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_flatten(0, -2)?.f_to_kind(Kind::Float)?)
}

/// Fraction of variance unexplained.
fn fvu(y: &Tensor, sae_out: &Tensor) -> f64 {
    let squared_error = (y - sae_out).square().sum(Kind::Double);
    let variance = (y - y.mean_dim(0, true, Kind::Float))
        .square()
        .sum(Kind::Double);
    (squared_error / variance).double_value(&[])
}

/// The strongest latents of the last token: [`N_SHOWN`], or `k` if that is less.
fn strongest(encoded: &Encoded) -> Result<Vec<(i64, f64)>> {
    let n_shown = N_SHOWN.min(encoded.latent_acts.size()[1]);
    let (acts, order) = encoded
        .latent_acts
        .f_get(-1)?
        .f_topk(n_shown, -1, true, true)?;
    let indices = encoded
        .latent_indices
        .f_get(-1)?
        .f_index_select(0, &order)?;
    let (indices, acts): (Vec<i64>, Vec<f32>) = (indices.try_into()?, acts.try_into()?);
    Ok(indices
        .into_iter()
        .zip(acts.into_iter().map(f64::from))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sae::SaeConfig;
    use std::path::PathBuf;
    use tempfile::TempDir;

    const TEXT: &str = "Call me Ishmael. Some years ago";

    fn tiny_llama() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llama")
    }

    /// A job with an SAE in each folder of `names`, with `k` latents a token.
    fn job(names: &[&str], cfg: &SaeConfig) -> TempDir {
        let job = tempfile::tempdir().unwrap();
        for (seed, name) in names.iter().enumerate() {
            let sae = Sae::new(cfg.clone(), seed as i64, Device::Cpu).unwrap();
            sae.save_to_disk(&job.path().join(name)).unwrap();
        }
        job
    }

    fn encoded(job: &TempDir) -> Vec<EncodedLayer> {
        encode_layers(&tiny_llama(), job.path(), TEXT).unwrap()
    }

    /// The default of sparsify: every block, the last one too.
    #[test]
    fn every_block_is_encoded_as_it_is() {
        let blocks = ["layers.0", "layers.1", "layers.2", "layers.3"];
        let job = job(&blocks, &SaeConfig::topk(32, 64, 8));
        let layers = encoded(&job);
        assert!(layers.iter().all(|layer| layer.strongest.len() == 5));
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, blocks);

        let model = LanguageModel::load(&tiny_llama(), &LoadOptions::default()).unwrap();
        let input_ids = read_tokens(&tiny_llama(), TEXT).unwrap();
        let hidden_states = model.hidden_states(&input_ids).unwrap();
        let saes = load_saes(job.path()).unwrap();
        for (layer_idx, ((_, sae), layer)) in saes.iter().zip(&layers).enumerate() {
            let x = vectors(&hidden_states[layer_idx + 1]).unwrap();
            let of_hidden_state = fvu(&x, &sae.forward(&x).unwrap().sae_out);
            let is_last = layer_idx == 3;
            assert_eq!(layer.fvu != of_hidden_state, is_last, "{}", layer.name);
        }
    }

    #[test]
    fn hookpoints_within_blocks_and_several_seeds() {
        let names = [
            "embed_tokens",
            "layers.1.mlp/seed0",
            "layers.1.mlp/seed1",
            "norm",
        ];
        // Fewer latents than are shown.
        let layers = encoded(&job(&names, &SaeConfig::topk(32, 64, 2)));
        let found: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(found, names);
        for layer in &layers {
            assert!(layer.fvu.is_finite(), "{}", layer.name);
            assert_eq!(layer.strongest.len(), 2);
            assert!(layer.strongest[0].1 >= layer.strongest[1].1);
        }
        assert_ne!(layers[1].fvu, layers[2].fvu);
    }

    #[test]
    fn a_transcoder_reads_the_input() {
        let cfg = SaeConfig {
            transcode: true,
            d_out: Some(32),
            ..SaeConfig::topk(64, 64, 4)
        };
        // Of another width than the output.
        let layers = encoded(&job(&["layers.0.mlp.down_proj"], &cfg));
        assert!(layers[0].fvu.is_finite());
    }
}
