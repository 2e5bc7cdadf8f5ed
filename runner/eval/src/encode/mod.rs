//! Texts or token sequences through a language model and its SAEs, to a file of the latents that are
//! active at each token.
//!
//! One row for each: see [`EncodedRows`]. What is held in memory does not grow with the number of
//! sequences: rows go to the file as they come.

mod batches;
mod file;
mod output;
mod rows;

#[cfg(test)]
mod tests;

pub use rows::EncodedRows;

use crate::EvalError;
use crate::models::{Facts, Models};
use crate::ranks::Ranks;
use crate::sites::{self, Site, taps_of_inputs};
use batches::{Batch, Batches};
use fault::Fault;
use lm::Activations;
use lm::activations_of;
use output::Output;
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

/// Encodes what the task names, on all `ranks`; rank 0 writes the file. It is written next to its final path, then moved
/// there. `None`, and no file: `report`, which gets the number of sequences done, stopped it on one.
///
/// # Errors
/// A rank that is gone, an SAE that cannot be read or does not fit its hookpoint, a model that cannot be loaded, a text that
/// is longer than the context, a file that cannot be written, or too little memory.
pub fn encode(
    task: &EncodeTask,
    ranks: &dyn Ranks,
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
    let mut output = Output::create(task, &saes, ranks)?;
    let mut batches = Batches::new(task, facts.max_ctx_len())?;
    let (mut n_sequences, mut n_tokens) = (0, 0);
    loop {
        let round = batches.by_ref().take(ranks.shard().n_ranks);
        let round = round.collect::<Result<Vec<Batch>, _>>()?;
        if round.is_empty() {
            break;
        }
        if let Some(batch) = round.get(ranks.shard().rank) {
            let activations = models.forward(&batch.input_ids()?, &taps)?;
            let n_positions = batch.n_positions();
            let latents = encoders
                .iter()
                .map(|encoder| encoder.latents(&models, &activations, n_positions, task.top));
            add_rows(batch, &latents.collect::<Result<Vec<_>, _>>()?, &mut output)?;
        }
        output.end_round()?;
        n_sequences += round.iter().map(Batch::n_sequences).sum::<usize>() as u64;
        n_tokens += round.iter().map(Batch::n_tokens).sum::<usize>() as u64;
        let is_asked = report(n_sequences).is_break();
        if ranks.any("encoding ends", is_asked)? {
            return Ok(None);
        }
    }
    Ok(Some(EncodeSummary {
        n_sequences,
        n_tokens,
        n_rows: output.finish()?,
    }))
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
    output: &mut Output<'_>,
) -> Result<(), EvalError> {
    let mut rows = EncodedRows::default();
    for sequence_idx in 0..batch.n_sequences() {
        for (sae_idx, of_sae) in latents.iter().enumerate() {
            batch.add_rows(sequence_idx, sae_idx, of_sae, &mut rows);
            if rows.len() >= ROWS_AT_ONCE {
                output.add(&rows)?;
                rows.clear();
            }
        }
    }
    output.add(&rows)
}
