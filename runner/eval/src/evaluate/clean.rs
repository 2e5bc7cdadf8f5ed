//! The clean pass: the models as they are, up to the last hookpoint, and where all other passes begin.

use super::batch::Batch;
use super::replacement::own_error;
use super::totals::Totals;
use crate::EvalError;
use crate::models::{AllTaps, Block, Facts, Models, by_model};
use lm::{Activations, ModulePass, Replacements};
use std::cell::RefCell;
use tch::Tensor;

/// Taps of the clean pass.
#[derive(Debug)]
pub(super) struct CleanTaps {
    taps: AllTaps,
    /// In each model, the last block that another pass begins at.
    last: [Option<Block>; 2],
}

/// A batch as the models see it without SAEs.
#[derive(Debug)]
pub(super) struct CleanPass<'a> {
    models: &'a Models,
    batch: &'a Batch,
    pub(super) activations: Activations,
}

impl CleanTaps {
    /// Taps on what SAEs of several hookpoints take, which `taps` has, and on the blocks that hookpoints are in.
    ///
    /// # Errors
    /// A hookpoint that the models do not have.
    pub(super) fn new(
        (models, facts): (&Models, &Facts),
        taps: Option<AllTaps>,
        totals: &Totals,
    ) -> Result<Self, EvalError> {
        let ablations = totals.ablations.iter();
        let blocks = ablations.flat_map(|ablation| {
            let names = ablation.hookpoints.iter();
            let names: Vec<&str> = names
                .map(|index| &*totals.hookpoints[*index].hookpoint)
                .collect();
            first_blocks(models, &names)
        });
        let blocks: Vec<Block> = blocks.flatten().collect();
        let last = [false, true].map(|is_second| {
            let own = blocks
                .iter()
                .filter(|block| block.is_in_second == is_second);
            own.max_by_key(|block| block.index).cloned()
        });
        let taps = match taps {
            Some(taps) => taps,
            None => facts.taps(&[], &[])?,
        };
        Ok(Self {
            taps: taps.with_blocks(facts, &blocks)?,
            last,
        })
    }
}

/// In each model, the block from which on a pass with the outputs of `hookpoints` replaced differs from the clean one.
fn first_blocks(models: &Models, hookpoints: &[&str]) -> [Option<Block>; 2] {
    let mut found = [None, None];
    let of_models = models.iter().zip(by_model(hookpoints));
    for (model_idx, (model, hookpoints)) in of_models.enumerate() {
        let names = hookpoints.into_iter().map(|(_, name)| name);
        found[model_idx] = Block::of_first(model.facts(), model_idx == 1, names);
    }
    found
}

impl<'a> CleanPass<'a> {
    /// Runs the models up to the last hookpoint.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn run(
        models: &'a Models,
        batch: &'a Batch,
        taps: &CleanTaps,
    ) -> Result<Self, EvalError> {
        Ok(Self {
            models,
            batch,
            activations: models.forward(&batch.input_ids, &taps.taps)?,
        })
    }

    /// The logits of each model.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn logits(&self, taps: &CleanTaps) -> Result<Vec<Tensor>, EvalError> {
        let of_model = |(model_idx, last): (usize, &Option<Block>)| {
            self.logits_after(model_idx, last.as_ref(), &mut Replacements::default())
        };
        let n_models = self.models.iter().count();
        let last = taps.last.iter().enumerate().take(n_models);
        last.map(of_model).collect()
    }

    /// The logits with the outputs of `hookpoints` replaced by what `replace` returns for the index of each: of each
    /// model that has one of them, with its index.
    ///
    /// # Errors
    /// That of `replace`, or too little memory.
    pub(super) fn logits_with(
        &self,
        hookpoints: &[&str],
        replace: impl FnMut(usize, ModulePass) -> Result<Tensor, EvalError>,
    ) -> Result<Vec<(usize, Tensor)>, EvalError> {
        let replace = RefCell::new(replace);
        let mut all = Vec::new();
        let of_models = self.models.iter().zip(by_model(hookpoints));
        for (model_idx, (model, hookpoints)) in of_models.enumerate() {
            if hookpoints.is_empty() {
                continue;
            }
            let names = hookpoints.iter().map(|(_, name)| *name);
            let block = Block::of_first(model.facts(), model_idx == 1, names);
            let mut replacements = Replacements::default();
            for (index, hookpoint) in hookpoints {
                let replace = &replace;
                let one = move |pass: ModulePass| Ok((replace.borrow_mut())(index, pass)?);
                replacements.add(model.facts(), hookpoint, one)?;
            }
            let logits = self.logits_after(model_idx, block.as_ref(), &mut replacements);
            all.push((model_idx, logits?));
        }
        Ok(all)
    }

    /// A pass from `block` on; `None`: from the beginning.
    fn logits_after(
        &self,
        model_idx: usize,
        block: Option<&Block>,
        replacements: &mut Replacements,
    ) -> Result<Tensor, EvalError> {
        let model = self
            .models
            .iter()
            .nth(model_idx)
            .expect("it is one of them");
        let begun = block.map(|block| (block, block.input(&self.activations)));
        let logits = match begun {
            Some((block, Some(x))) => model.logits_from(block.index, x, replacements),
            _ => model.logits_with(&self.batch.input_ids, replacements),
        };
        logits.map_err(own_error)
    }
}
