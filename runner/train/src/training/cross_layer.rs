//! Updates of cross-layer transcoders: the layers write into the same reconstructions, and share their errors.

use super::activation_stream::PassIdx;
use super::job_trainer::JobUpdate;
use super::sums::{Sums, VarianceIdx, Variances};
use crate::TrainError;
use crate::ranks::Ranks;
use crate::ranks::exchange::Inputs;
use crate::sae_trainer::{HeldPart, Update};
use fault::Fault;
use sae::BatchLatents;
use std::collections::BTreeMap;
use tch::Tensor;

/// Bytes of numbers at all latents of all layers that are in memory at the same time, for each tensor of them.
const BLOCK_BYTES: usize = 256 << 20;

/// An update of all layers of a cross-layer transcoder.
pub(super) struct CrossLayerUpdate<'a> {
    /// In the order of the layers, each with the total variance of what it is trained to write at its hookpoint.
    layers: Vec<(VarianceIdx, Update<'a>)>,
    /// The total variance of all targets.
    of_all: VarianceIdx,
}

/// Tokens as the layers take them.
struct Tokens {
    /// The input of each layer: `[n_tokens, width]`.
    inputs: Vec<Tensor>,
    /// What the layers should give, side by side: `[n_tokens, n_layers * width]`.
    targets: Tensor,
}

impl<'a> CrossLayerUpdate<'a> {
    /// Those of a job: one for each seed.
    pub(super) fn of_job(job: JobUpdate<'a>, variances: &mut Variances) -> Vec<Self> {
        let mut by_seed: BTreeMap<i64, Vec<Update<'a>>> = BTreeMap::new();
        for update in job.updates {
            let of_seed = by_seed.entry(update.trainer.spec.seed).or_default();
            of_seed.push(update);
        }
        let mut of_seed = |updates: Vec<Update<'a>>| Self {
            of_all: variances.of_layers(updates[0].trainer),
            layers: updates
                .into_iter()
                .map(|update| (variances.of_sae(update.trainer), update))
                .collect(),
        };
        by_seed.into_values().map(&mut of_seed).collect()
    }

    /// Takes the tokens of a pass, if this rank has a part of it.
    pub(super) fn add(
        &mut self,
        inputs: &mut Inputs<'_>,
        (pass, variances): (PassIdx, &mut Variances),
        (centres, ranks): (bool, &dyn Ranks),
    ) -> Result<(), TrainError> {
        let Some(tokens) = self.tokens(inputs)? else {
            return Ok(());
        };
        variances.add(self.of_all, pass, &tokens.targets)?;
        for (layer, (variance, update)) in self.layers.iter_mut().enumerate() {
            let target = tokens.own_target(layer)?;
            variances.add(*variance, pass, &target)?;
            if centres {
                let target = tokens.targets_from(layer)?;
                update
                    .trainer
                    .centre_on(&tokens.inputs[layer], &target, ranks)?;
            }
        }
        for tokens in tokens.parts(self.n_parts(&tokens))? {
            if self.layers[0].1.trainer.waits_for_all() {
                for (layer, (_, update)) in self.layers.iter_mut().enumerate() {
                    update.hold(&tokens.inputs[layer], &tokens.targets_from(layer)?)?;
                }
            } else {
                self.add_part(&tokens, None)?;
            }
        }
        Ok(())
    }

    /// Adds what waited for the rest of the update, and what other ranks have.
    pub(super) fn sum<'r>(
        mut self,
        ranks: &'r dyn Ranks,
        sums: &mut Sums<'a, 'r>,
    ) -> Result<(), TrainError> {
        if self.layers[0].1.trainer.waits_for_all() {
            self.add_held(ranks)?;
        }
        for (variance, update) in self.layers {
            sums.push_layer((variance, self.of_all), update.sum_added(ranks)?);
        }
        Ok(())
    }

    fn add_held(&mut self, ranks: &dyn Ranks) -> Result<(), TrainError> {
        let decide = |(_, update): &mut (VarianceIdx, Update<'a>)| update.decide(ranks);
        let parts = self.layers.iter_mut().map(decide);
        let mut of_layers: Vec<_> = parts
            .map(|parts| Ok(parts?.into_iter()))
            .collect::<Result<Vec<_>, TrainError>>()?;
        loop {
            let of_layers = of_layers.iter_mut().map(Iterator::next);
            let part: Vec<HeldPart> = of_layers.flatten().collect();
            let Some(first) = part.first() else {
                return Ok(());
            };
            let n_tokens = first.x.size()[0];
            if part.len() < self.layers.len()
                || part.iter().any(|other| other.x.size()[0] != n_tokens)
            {
                return Err(cut_differently().into());
            }
            let tokens = Tokens {
                targets: first.target.shallow_clone(),
                inputs: part.iter().map(|part| part.x.shallow_clone()).collect(),
            };
            let latents: Vec<_> = part.iter().map(|part| part.latents.as_ref()).collect();
            self.add_part(&tokens, Some(&latents))?;
        }
    }

    /// Forward and backward passes of all layers. `chosen`: their latents, if they are chosen among those of all tokens.
    fn add_part(
        &mut self,
        tokens: &Tokens,
        chosen: Option<&[Option<&BatchLatents>]>,
    ) -> Result<(), TrainError> {
        let of_layer = |layer: usize| chosen.and_then(|chosen| chosen[layer]);
        let passes = self.layers.iter().enumerate();
        let passes = passes
            .map(|(layer, (_, update))| update.layer_pass(&tokens.inputs[layer], of_layer(layer)));
        let passes = passes.collect::<Result<Vec<_>, TrainError>>()?;
        let error = tokens.targets.f_neg()?;
        for (layer, pass) in passes.iter().enumerate() {
            let _ = tokens.from(&error, layer)?.f_add_(&pass.written)?;
        }
        for (layer, ((_, update), pass)) in self.layers.iter_mut().zip(passes).enumerate() {
            let error = tokens.from(&error, layer)?.f_contiguous()?;
            update.take_layer(pass, &error, of_layer(layer))?;
        }
        Ok(())
    }

    /// `None`: this rank has no part of the pass.
    fn tokens(&self, inputs: &mut Inputs<'_>) -> Result<Option<Tokens>, TrainError> {
        let mut of_layers = Vec::new();
        let mut targets = None;
        for (_, update) in &self.layers {
            let Some((x, target)) = update.trainer.inputs(inputs)? else {
                return Ok(None);
            };
            of_layers.push(x);
            targets.get_or_insert(target);
        }
        Ok(targets.map(|targets| Tokens {
            inputs: of_layers,
            targets,
        }))
    }

    /// Parts into which tokens are cut.
    fn n_parts(&self, tokens: &Tokens) -> usize {
        let first = &self.layers[0].1.trainer;
        let bytes_of_tokens = tokens.targets.size()[0] as usize * size_of::<f32>();
        let n_blocks = if first.has_k() {
            1
        } else {
            let n_latents = self.layers.len() * first.spec.num_latents;
            (bytes_of_tokens * n_latents).div_ceil(BLOCK_BYTES)
        };
        first.micro_acc_steps().max(n_blocks)
    }
}

impl Tokens {
    /// The width of a layer's target.
    fn width(&self) -> i64 {
        self.targets.size()[1] / self.inputs.len() as i64
    }

    /// The columns of `all`, which is shaped as the targets are, from those of a layer on.
    fn from(&self, all: &Tensor, layer: usize) -> Result<Tensor, TrainError> {
        let first = layer as i64 * self.width();
        Ok(all.f_narrow(1, first, all.size()[1] - first)?)
    }

    /// What a layer and those after it should give.
    fn targets_from(&self, layer: usize) -> Result<Tensor, TrainError> {
        self.from(&self.targets, layer)
    }

    fn own_target(&self, layer: usize) -> Result<Tensor, TrainError> {
        Ok(self.targets_from(layer)?.f_narrow(1, 0, self.width())?)
    }

    /// Consecutive tokens, in `n_parts` parts at most.
    fn parts(&self, n_parts: usize) -> Result<Vec<Self>, TrainError> {
        let most = (self.targets.size()[0] as usize).div_ceil(n_parts).max(1);
        let cut = |x: &Tensor| Ok(x.f_split(most as i64, 0)?);
        let inputs = self.inputs.iter().map(cut);
        let inputs = inputs.collect::<Result<Vec<_>, TrainError>>()?;
        let parts = cut(&self.targets)?.into_iter().enumerate();
        let part = |(index, targets): (usize, Tensor)| Self {
            inputs: inputs.iter().map(|of| of[index].shallow_clone()).collect(),
            targets,
        };
        Ok(parts.map(part).collect())
    }
}

fn cut_differently() -> Fault {
    let message =
        "memory ran out while latents of a cross-layer transcoder were chosen, in some layers only";
    Fault::input(message).with_hint("raise `micro_acc_steps`, or lower `batch_size`")
}
