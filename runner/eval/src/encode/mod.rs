//! Texts or token sequences through a language model and its SAEs, to a file of the latents that are
//! active at each token.
//!
//! One row for each: see [`EncodedRows`]. What is held in memory does not grow with the number of
//! sequences: rows go to the file as they come.

mod batches;
mod file;
mod rows;

#[cfg(test)]
mod tests;

pub use rows::EncodedRows;

use crate::EvalError;
use crate::models::{Facts, Models};
use crate::sites::{self, Site, taps_of_inputs};
use batches::{Batch, Batches};
use fault::Fault;
use file::RowFile;
use lm::Activations;
use lm::activations_of;
use plan::{EncodeSummary, EncodeTask, FoundSae};
use rows::TopLatents;
use sae::Sae;
use std::ops::ControlFlow;
use tch::{Device, Kind};

/// Rows that are put together before they go to the file.
const ROWS_AT_ONCE: usize = 1 << 16;

/// An SAE that is loaded, and where it belongs.
#[derive(Debug)]
struct Encoder {
    found: FoundSae,
    sae: Sae,
    site: Site,
}

/// Encodes what the task names. The file is written next to its final path, then moved there. `None`, and no file:
/// `report`, which gets the number of sequences done, stopped it.
///
/// # Errors
/// An SAE that cannot be read or does not fit its hookpoint, a model that cannot be loaded, a text that
/// is longer than the context, a file that cannot be written, or too little memory.
pub fn encode(
    task: &EncodeTask,
    report: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<EncodeSummary>, EvalError> {
    let device = lm::parse_device(&task.model.device)?;
    let _no_grad = tch::no_grad_guard();
    let facts = Facts::read(&task.model)?;
    let encoders = load(&task.saes, &facts, device)?;
    let sites: Vec<_> = encoders.iter().map(|encoder| &encoder.site).collect();
    let taps = taps_of_inputs(&facts, &sites)?;
    let models = Models::load(&task.model, Some(&taps), device)?;
    let saes: Vec<_> = encoders.iter().map(|encoder| &encoder.found).collect();
    let mut file = RowFile::create(&task.out, task.format, &saes)?;
    let mut summary = nothing_yet(encoders.len());
    for batch in Batches::new(task, facts.max_ctx_len())? {
        let batch = batch?;
        let activations = models.forward(&batch.input_ids()?, &taps)?;
        let n_tokens = batch.n_positions();
        let latents = encoders
            .iter()
            .map(|encoder| encoder.latents(&models, &activations, n_tokens, task.top));
        let latents = latents.collect::<Result<Vec<_>, _>>()?;
        add_rows(&batch, &latents, &mut file, &mut summary)?;
        if report(summary.n_sequences).is_break() {
            return Ok(None);
        }
    }
    file.finish()?;
    Ok(Some(summary))
}

fn nothing_yet(n_saes: usize) -> EncodeSummary {
    EncodeSummary {
        n_sequences: 0,
        n_tokens: 0,
        n_rows: vec![0; n_saes],
    }
}

fn load(saes: &[FoundSae], facts: &Facts, device: Device) -> Result<Vec<Encoder>, EvalError> {
    let options = sae::LoadOptions {
        device,
        kind: Some(Kind::Float),
        decoder: false,
        ..sae::LoadOptions::default()
    };
    let load = |found: &FoundSae| {
        let (sae, site) = sites::load(facts, &found.hookpoint, &found.dir, &options)?;
        let found = FoundSae {
            hookpoint: site.name(),
            ..found.clone()
        };
        Ok(Encoder { found, sae, site })
    };
    saes.iter().map(load).collect()
}

impl Encoder {
    /// The strongest latents at every one of the `n_tokens` positions of a batch.
    fn latents(
        &self,
        models: &Models,
        activations: &Activations,
        n_tokens: usize,
        top: Option<usize>,
    ) -> Result<TopLatents, EvalError> {
        let name = &self.found.hookpoint;
        let x = self.site.input(activations)?;
        let n_vectors = x.size()[0] as usize;
        if n_vectors != n_tokens {
            let message = format!("`{name}` gives {n_vectors} vectors for {n_tokens} tokens");
            let hint = "latents of one token each come from blocks, MLPs and attention";
            return Err(Fault::input(message).with_hint(hint).into());
        }
        let latents = TopLatents::of(&self.sae, &x, top)?;
        match latents.are_finite {
            [true, true] => Ok(latents),
            [true, false] => Err(self.sae.not_finite(&self.found.dir, "latents").into()),
            [false, _] => {
                let fault = models.at_fault()?.not_finite(&activations_of(name))?;
                Err(fault.into())
            }
        }
    }
}

/// Writes what a batch gave, sequence by sequence and in each SAE by SAE.
fn add_rows(
    batch: &Batch,
    latents: &[TopLatents],
    file: &mut RowFile,
    summary: &mut EncodeSummary,
) -> Result<(), EvalError> {
    let mut rows = EncodedRows::default();
    for sequence_idx in 0..batch.n_sequences() {
        for (sae_idx, of_sae) in latents.iter().enumerate() {
            let n_before = rows.len();
            batch.add_rows(sequence_idx, sae_idx, of_sae, &mut rows);
            summary.n_rows[sae_idx] += (rows.len() - n_before) as u64;
            if rows.len() >= ROWS_AT_ONCE {
                file.write(&rows)?;
                rows.clear();
            }
        }
        summary.n_sequences += 1;
        summary.n_tokens += batch.token_ids(sequence_idx).len() as u64;
    }
    file.write(&rows)
}
