//! Held-out evaluation of published SAEs: how well they reconstruct, and what their reconstruction
//! costs the language model.
//!
//! Two times over the sequences: a pass up to the last hookpoint for the mean and the variance of
//! each hookpoint's outputs; then, batch by batch, one clean pass for all SAEs. From the block of each
//! hookpoint on, it is followed by a pass with the hookpoint's mean in place of its output, and by one
//! with each SAE's output there.

mod batch;
mod calibrate;
mod clean;
mod evaluator;
mod groups;
mod predictions;
mod replacement;
mod splicing;
mod sums;
mod totals;

#[cfg(test)]
mod tests;

use crate::EvalError;
use crate::models::{Facts, Models};
use crate::sites::{self, Site};
pub use calibrate::{Calibrated, CalibratedHookpoint, Wanted, calibrate, thresholds_of};
use evaluator::Evaluator;
use fault::Fault;
use lm::activations_of;
use plan::{CachedTokens, EvalSae, EvalStats, EvaluateTask, Evaluated, ModelUse};
use sae::{Sae, write_safetensors};
use sae_files::FIRING_DENSITY;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tokens::{EvalSequences, Tokens};

/// What to evaluate, on what, and how.
#[derive(Debug)]
pub struct EvalRequest {
    /// The language model; its head is needed too.
    pub model: ModelUse,
    /// The sequences.
    pub sequences: EvalSequences,
    /// Sequences in a forward pass. The result does not depend on it, beyond the rounding of sums.
    pub batch_size: usize,
    /// The SAEs.
    pub saes: Vec<EvalSae>,
}

/// An SAE that is loaded.
#[derive(Debug)]
struct Subject {
    /// With the names of hookpoints that the model has.
    spec: EvalSae,
    sae: Sae,
    site: Site,
}

impl Subject {
    /// Whether it is a crosscoder or a layer of a cross-layer transcoder.
    fn is_of_several(&self) -> bool {
        !self.sae.cfg.hookpoints.is_empty()
    }
}

impl EvalRequest {
    /// That of a task.
    ///
    /// # Errors
    /// Its tokens are not in the cache.
    pub fn of(task: EvaluateTask) -> Result<Self, EvalError> {
        let CachedTokens { cache_dir, digest } = &task.tokens;
        let tokens = Tokens::find(cache_dir, digest)?;
        let sequences = EvalSequences::held_out(&tokens, task.eval_fraction);
        let sequences = sequences.ok_or_else(|| Fault::input("no sequence is held out"))?;
        Ok(Self {
            model: task.model,
            sequences: match task.most {
                Some(most) => sequences.at_most(most),
                None => sequences,
            },
            batch_size: task.batch_size,
            saes: task.saes,
        })
    }
}

/// Evaluates SAEs, in their order. `None`: `report`, which gets the number of sequences done and
/// that of all, stopped it.
///
/// # Errors
/// An SAE that cannot be read or is not for its hookpoint, a model that cannot be loaded with its
/// head, a density file that cannot be written, or too little memory.
pub fn evaluate(
    request: &EvalRequest,
    report: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<Vec<Evaluated>>, EvalError> {
    let model = &request.model;
    let device = lm::parse_device(&model.device)?;
    let _no_grad = tch::no_grad_guard();
    let facts = Facts::read(model)?;
    let subjects = load(&request.saes, &facts, device)?;
    let models = Models::load(model, None, device)?;
    let evaluator = Evaluator::new((&models, &facts), &request.sequences, request.batch_size);
    let Some(measured) = evaluator.run(&subjects, report)? else {
        return Ok(None);
    };
    let mut evaluated = Vec::with_capacity(subjects.len());
    for (Subject { spec, sae, .. }, (stats, fire_counts)) in subjects.into_iter().zip(measured) {
        check(&models, (&spec, &sae), &stats)?;
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

fn no_token() -> Fault {
    let fault = Fault::input("no token of the sequences counts: all are in `exclude_tokens`");
    fault.with_hint("remove some of them from `exclude_tokens`")
}

/// Checks that what was measured of an SAE are numbers.
fn check(
    models: &Models,
    (spec, sae): (&EvalSae, &Sae),
    stats: &EvalStats,
) -> Result<(), EvalError> {
    if stats.n_tokens == 0 {
        return Err(no_token().into());
    }
    let logits = "the logits of the language model".to_owned();
    let ablated = format!("the logits with the mean in place of `{}`", spec.hookpoint);
    for (sum, what) in [
        (stats.total_variance, activations_of(&spec.hookpoint)),
        (stats.ce_clean, logits),
        (stats.ce_ablated, ablated),
    ] {
        if !sum.is_finite() {
            return Err(models.at_fault()?.not_finite(&what)?.into());
        }
    }
    let of_sae_alone = stats.squared_error + stats.l0;
    let in_model = stats.ce_spliced + stats.kl;
    match (of_sae_alone.is_finite(), in_model.is_finite()) {
        (true, true) => Ok(()),
        (true, false) => Err(sae
            .not_finite(&spec.dir, "the model's logits with the output")
            .into()),
        (false, _) => Err(sae.not_finite(&spec.dir, "reconstructions").into()),
    }
}

fn load(specs: &[EvalSae], facts: &Facts, device: Device) -> Result<Vec<Subject>, EvalError> {
    let options = sae::LoadOptions {
        device,
        kind: Some(Kind::Float),
        ..sae::LoadOptions::default()
    };
    let load = |spec: &EvalSae| {
        let (sae, site) = sites::load(facts, &spec.hookpoint, &spec.dir, &options)?;
        let spec = EvalSae {
            hookpoint: site.name(),
            ..spec.clone()
        };
        Ok(Subject { spec, sae, site })
    };
    specs.iter().map(load).collect()
}

/// `fire_counts`: tokens on which each latent fired, `[num_latents]`, Int64.
fn write_density(path: &Path, fire_counts: &Tensor, n_tokens: u64) -> Result<(), EvalError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(EvalError::io("create", dir))?;
    }
    let density = fire_counts
        .f_to_kind(Kind::Double)?
        .f_div_scalar(n_tokens.max(1) as f64)?
        .f_to_kind(Kind::Float)?
        .f_to_device(Device::Cpu)?;
    Ok(write_safetensors(&[(FIRING_DENSITY, &density)], path)?)
}
