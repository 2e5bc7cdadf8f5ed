//! Held-out evaluation of published SAEs: how well they reconstruct, and what their reconstruction
//! costs the language model.
//!
//! Two times over the sequences: a pass up to the last hookpoint for the mean and the variance of
//! each hookpoint's outputs; then, batch by batch, a clean pass, a pass with each hookpoint's mean in
//! place of its output, and a pass with each SAE's output there.

mod batch;
mod evaluator;
mod jobs;
mod predictions;
mod replacement;
mod sums;

#[cfg(test)]
mod tests;

pub(crate) use jobs::JobEvaluation;

use crate::not_finite::{activations_of, of_model, of_sae};
use crate::{TrainError, places};
use evaluator::Evaluator;
use lm::{LanguageModel, LoadOptions};
use plan::{Dtype, EvalStats, ModelFacts};
use sae::{Sae, tensors_by_name, write_safetensors};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tokens::EvalSequences;

/// The tensor of a firing density file.
pub const FIRING_DENSITY: &str = "firing_density";

/// What to evaluate, on what, and how.
#[derive(Debug)]
pub struct EvalRequest {
    /// Folder of the language model; its head is needed too.
    pub model_dir: PathBuf,
    /// What the model computes in.
    pub dtype: Dtype,
    /// Whether its linear modules are held in 8 bit.
    pub load_in_8bit: bool,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// The sequences.
    pub sequences: EvalSequences,
    /// Sequences in a forward pass. The result does not depend on it, beyond the rounding of sums.
    pub batch_size: usize,
    /// The SAEs.
    pub saes: Vec<EvalSae>,
}

/// An SAE on disk that shall be evaluated.
#[derive(Clone, Debug)]
pub struct EvalSae {
    /// What it is called in reports.
    pub name: String,
    /// The submodule whose output it stands for.
    pub hookpoint: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Tokens at whose positions the output stays as it is, and nothing is counted.
    pub exclude_tokens: Vec<u32>,
    /// Where to write [`FIRING_DENSITY`], `[num_latents]`, Float: the fraction of the evaluated tokens
    /// on which each latent's activation is above 0.
    pub density: Option<PathBuf>,
}

/// What an evaluation found of one SAE.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// What it is called.
    pub name: String,
    /// The submodule.
    pub hookpoint: String,
    /// Number of latents.
    pub num_latents: usize,
    /// The sums.
    pub stats: EvalStats,
}

/// An SAE that is loaded.
#[derive(Debug)]
struct Subject {
    spec: EvalSae,
    sae: Sae,
}

/// Evaluates SAEs, in their order; `None` where `report`, which is told of sequences done and of
/// all, breaks off.
///
/// # Errors
/// An SAE that cannot be read or is not for its hookpoint, a model that cannot be loaded with its
/// head, a density file that cannot be written, or want of memory.
pub fn evaluate(
    request: &EvalRequest,
    report: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<Vec<Evaluated>>, TrainError> {
    let device = lm::parse_device(&request.device)?;
    let _no_grad = tch::no_grad_guard();
    let facts = facts::read_facts(&request.model_dir)?;
    let subjects = load(&request.saes, &facts, device)?;
    let options = LoadOptions {
        device,
        dtype: request.dtype,
        load_in_8bit: request.load_in_8bit,
        n_layers: None,
        with_head: true,
    };
    let model = LanguageModel::load(&request.model_dir, &options)?;
    let evaluator = Evaluator::new(&model, &request.sequences, request.batch_size);
    let Some(measured) = evaluator.run(&subjects, report)? else {
        return Ok(None);
    };
    let mut evaluated = Vec::with_capacity(subjects.len());
    for (Subject { spec, sae }, (stats, fire_counts)) in subjects.into_iter().zip(measured) {
        check(&model, (&spec, &sae), &stats)?;
        if let Some(path) = &spec.density {
            write_density(path, &fire_counts, stats.n_tokens)?;
        }
        evaluated.push(Evaluated {
            name: spec.name,
            hookpoint: spec.hookpoint,
            num_latents: sae.num_latents(),
            stats,
        });
    }
    Ok(Some(evaluated))
}

/// Checks that what was measured of an SAE are numbers.
fn check(
    model: &LanguageModel,
    (spec, sae): (&EvalSae, &Sae),
    stats: &EvalStats,
) -> Result<(), TrainError> {
    if stats.n_tokens == 0 {
        return Err(TrainError::NothingCounts);
    }
    let logits = "the logits of the language model".to_owned();
    let ablated = format!("the logits with the mean in place of `{}`", spec.hookpoint);
    for (sum, what) in [
        (stats.total_variance, activations_of(&spec.hookpoint)),
        (stats.ce_clean, logits),
        (stats.ce_ablated, ablated),
    ] {
        if !sum.is_finite() {
            return Err(of_model(model, what)?);
        }
    }
    let of_sae_alone = stats.squared_error + stats.l0;
    let in_model = stats.ce_spliced + stats.kl;
    match (of_sae_alone.is_finite(), in_model.is_finite()) {
        (true, true) => Ok(()),
        (true, false) => Err(of_sae(sae, &spec.dir, "the model's logits with the output")),
        (false, _) => Err(of_sae(sae, &spec.dir, "reconstructions")),
    }
}

/// A number of sequences for a forward pass whose logits are not too large, and at most `most`.
pub fn eval_batch_size(most: usize, ctx_len: usize, vocab_size: usize) -> usize {
    const MOST_LOGITS_BYTES: usize = 1 << 30;
    let of_sequence = 4 * ctx_len * vocab_size;
    (MOST_LOGITS_BYTES / of_sequence.max(1)).clamp(1, most.max(1))
}

fn load(specs: &[EvalSae], facts: &ModelFacts, device: Device) -> Result<Vec<Subject>, TrainError> {
    let options = sae::LoadOptions {
        device,
        kind: Some(Kind::Float),
        ..sae::LoadOptions::default()
    };
    let load = |spec: &EvalSae| {
        let (sae, hookpoint) = places::load(facts, &spec.hookpoint, &spec.dir, &options)?;
        let spec = EvalSae {
            hookpoint: hookpoint.name.clone(),
            ..spec.clone()
        };
        Ok(Subject { spec, sae })
    };
    specs.iter().map(load).collect()
}

/// The firing density of each latent, the share of tokens it fired on, from a file that an evaluation
/// has written.
///
/// # Errors
/// A missing or damaged file.
pub fn read_density(path: &Path) -> Result<Vec<f32>, TrainError> {
    let tensors = tensors_by_name(path)?;
    let density = tensors.get(FIRING_DENSITY).ok_or_else(|| {
        let missing = std::io::Error::other(format!("it has no tensor `{FIRING_DENSITY}`"));
        TrainError::io("read", path)(missing)
    })?;
    let density = density.f_to_kind(Kind::Float)?.f_flatten(0, -1)?;
    Ok(Vec::<f32>::try_from(&density)?)
}

/// `fire_counts`: tokens on which each latent fired, `[num_latents]`, Int64.
fn write_density(path: &Path, fire_counts: &Tensor, n_tokens: u64) -> Result<(), TrainError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(TrainError::io("create", dir))?;
    }
    let density = fire_counts
        .f_to_kind(Kind::Double)?
        .f_div_scalar(n_tokens.max(1) as f64)?
        .f_to_kind(Kind::Float)?
        .f_to_device(Device::Cpu)?;
    Ok(write_safetensors(&[(FIRING_DENSITY, &density)], path)?)
}
