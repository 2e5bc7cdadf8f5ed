//! What the forward passes of an update add up to.

use super::activation_stream::PassIdx;
use crate::TrainError;
use crate::activations::views::View;
use crate::ranks::Ranks;
use crate::sae_trainer::{Progress, SaeTrainer, SummingUpdate};
use sae::{Moments, TotalVariance};
use std::collections::BTreeMap;

/// Updates to which this rank adds no more, and the total variances of what the SAEs should give.
#[derive(Default)]
pub(super) struct Sums<'a, 'r> {
    pub(super) variances: Variances,
    updates: Vec<Ending<'a, 'r>>,
}

struct Ending<'a, 'r> {
    variance: VarianceIdx,
    /// What the gradients are relative to.
    of_loss: VarianceIdx,
    /// Positions of the loss on the model's output, over all ranks.
    n_output: u64,
    update: SummingUpdate<'a, 'r>,
}

impl<'a, 'r> Sums<'a, 'r> {
    /// Takes an update with the loss at the hookpoint.
    pub(super) fn push(&mut self, variance: VarianceIdx, update: SummingUpdate<'a, 'r>) {
        self.push_end_to_end(variance, update, 0);
    }

    /// Takes an update with the loss on the model's output, over `n_output` positions of all ranks.
    pub(super) fn push_end_to_end(
        &mut self,
        variance: VarianceIdx,
        update: SummingUpdate<'a, 'r>,
        n_output: u64,
    ) {
        self.updates.push(Ending {
            variance,
            of_loss: variance,
            n_output,
            update,
        });
    }

    /// Takes an update of a layer of a cross-layer transcoder. `of_all`: the variance of all layers' targets.
    pub(super) fn push_layer(
        &mut self,
        (variance, of_all): (VarianceIdx, VarianceIdx),
        update: SummingUpdate<'a, 'r>,
    ) {
        self.updates.push(Ending {
            variance,
            of_loss: of_all,
            n_output: 0,
            update,
        });
    }

    /// Makes the optimizer's steps with the sums of all ranks; `false`: all stop, and no weight was changed.
    pub(super) fn finish(
        self,
        ranks: &dyn Ranks,
        is_asked_to_stop: bool,
        progress: Progress,
    ) -> Result<bool, TrainError> {
        let step = progress.step;
        let moments = self.variances.of_all_ranks(ranks, is_asked_to_stop, step)?;
        for Ending {
            variance,
            of_loss,
            n_output,
            update,
        } in self.updates
        {
            let update = update.wait(n_output)?;
            if let Some(moments) = &moments {
                let moments = (&moments[variance.0], &moments[of_loss.0]);
                update.finish_layer(moments, progress)?;
            }
        }
        Ok(moments.is_some())
    }
}

/// Total variances of an update's targets. SAEs with the same target share one.
#[derive(Default)]
pub(super) struct Variances {
    targets: Vec<Target>,
    /// By the activations and whether they come from all ranks.
    shared: BTreeMap<(bool, View), VarianceIdx>,
}

/// The index of a total variance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VarianceIdx(usize);

struct Target {
    name: String,
    /// Whether the activations come from all ranks: then the variance is not that of a part.
    is_of_all: bool,
    sum: TotalVariance,
    last_pass: Option<PassIdx>,
}

impl Variances {
    /// The index for an SAE, which those with the same target share.
    pub(super) fn of_target(&mut self, sae: &SaeTrainer) -> VarianceIdx {
        if sae.scaling.is_some() {
            return self.of_sae(sae);
        }
        let shared = (sae.is_spread, sae.target.clone());
        let targets = &mut self.targets;
        let new = || push(targets, format!("{:?}", sae.target), sae.is_spread);
        *self.shared.entry(shared).or_insert_with(new)
    }

    /// The index for an SAE alone, whose target depends on the SAEs before it.
    pub(super) fn of_sae(&mut self, sae: &SaeTrainer) -> VarianceIdx {
        push(&mut self.targets, sae.label.clone(), sae.is_spread)
    }

    /// The index for all layers of a cross-layer transcoder, of which `first` is the first.
    pub(super) fn of_layers(&mut self, first: &SaeTrainer) -> VarianceIdx {
        let name = format!("all layers from {} on", first.label);
        push(&mut self.targets, name, first.is_spread)
    }

    /// Adds the target of a pass, `[n_tokens, d_out]`; SAEs that share it add the same, which counts once.
    /// Gives the moments so far.
    pub(super) fn add(
        &mut self,
        idx: VarianceIdx,
        pass: PassIdx,
        target: &tch::Tensor,
    ) -> Result<&Moments, TrainError> {
        let Target { sum, last_pass, .. } = &mut self.targets[idx.0];
        if last_pass.replace(pass) != Some(pass) {
            sum.add(target)?;
        }
        Ok(sum.moments())
    }

    /// The moments of all ranks' tokens, by index. `None`: all stop.
    fn of_all_ranks(
        self,
        ranks: &dyn Ranks,
        is_asked_to_stop: bool,
        step: u64,
    ) -> Result<Option<Vec<Moments>>, TrainError> {
        let parts = self.targets.iter().filter(|target| !target.is_of_all);
        let n_tokens = parts.map(|target| target.sum.moments().n_tokens as i64);
        let n_tokens: Vec<i64> = n_tokens.collect();
        let what = format!("counts of update {step}");
        let Some(of_ranks) = ranks.agree_to_stop(&what, is_asked_to_stop, &n_tokens)? else {
            return Ok(None);
        };
        let mut idx = 0;
        let merged = self.targets.into_iter().map(|target| {
            let ours = target.sum.into_moments();
            if target.is_of_all {
                return Ok(ours);
            }
            let n_tokens = of_ranks.iter().map(|n_tokens| n_tokens[idx] as u64);
            let n_tokens: Vec<u64> = n_tokens.collect();
            idx += 1;
            ranks.merge_moments(&format!("moments of {}", target.name), ours, &n_tokens)
        });
        merged.collect::<Result<_, _>>().map(Some)
    }
}

fn push(targets: &mut Vec<Target>, name: String, is_of_all: bool) -> VarianceIdx {
    targets.push(Target {
        name,
        is_of_all,
        sum: TotalVariance::default(),
        last_pass: None,
    });
    VarianceIdx(targets.len() - 1)
}
