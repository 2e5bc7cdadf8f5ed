//! Losses on the model's own output, with the SAEs' outputs instead of the modules'.
//!
//! What replaces a module's output is cut off from autograd's graph, and the SAE's backward pass is
//! done by hand. So the model falls into pieces, from one module's replacement to the next module's
//! input. The loss is taken back through the last piece first; each SAE takes the gradient at its
//! output back to its input, and from there it continues through the piece before.

use super::output_loss::{OutputLoss, TokenBatch};
use crate::TrainError;
use crate::activations::views::{included, rows_of};
use crate::ranks::Ranks;
use crate::sae_trainer::Update;
use lm::{LanguageModel, ModulePass, Replacements, rows};
use sae::Pass;
use std::error::Error;
use tch::{Kind, Tensor};

/// The loss of one batch.
pub(crate) struct BatchLoss {
    /// Sum over positions, in nats: scalar, Double.
    pub(crate) sum: Tensor,
    /// Outputs of the modules as the SAEs saw them, by SAE: `[n_tokens, d_out]`, Float.
    pub(crate) targets: Vec<Tensor>,
}

/// What a batch is accumulated for.
pub(crate) struct How<'a> {
    pub(crate) loss_fn: OutputLoss,
    /// Positions that the loss is a mean over, on all ranks.
    pub(crate) n_output: u64,
    /// Set biases from the activations of all ranks beforehand.
    pub(crate) centre: Option<&'a dyn Ranks>,
}

/// One replaced module in a forward pass.
struct Splice {
    /// The index of its SAE's update.
    update_idx: usize,
    /// The module's input or output, in the graph: `[n_rows, width]`.
    x: Tensor,
    /// Rows that the SAE takes; `None`: all.
    rows: Option<Tensor>,
    target: Tensor,
    pass: Pass,
    /// What replaces the module's output, a leaf of the graph: `[n_rows, d_out]`, Float.
    leaf: Tensor,
}

/// Forward and backward pass with the SAEs of `updates`, at most one for a hookpoint, in the model. Their gradients
/// are those of the sum of the loss over positions, divided by `n_output`.
pub(crate) fn accumulate(
    model: &LanguageModel,
    updates: &mut [&mut Update<'_>],
    batch: &TokenBatch<'_>,
    how: &How<'_>,
) -> Result<BatchLoss, TrainError> {
    let How {
        loss_fn,
        n_output,
        centre,
    } = *how;
    let clean = if loss_fn.needs_clean_logits() {
        Some(model.logits(batch.input_ids)?)
    } else {
        None
    };
    let mut splices = Vec::new();
    let logits = tch::with_grad(|| spliced(model, updates, batch, centre, &mut splices))?;
    let sum = tch::with_grad(|| loss_fn.sum(&logits, clean.as_ref(), batch))?;
    let mean = tch::with_grad(|| sum.f_div_scalar(n_output as f64))?;
    take_back(updates, &splices, &mean)?;
    splices.sort_by_key(|splice| splice.update_idx);
    Ok(BatchLoss {
        sum: sum.f_detach()?.f_to_kind(Kind::Double)?,
        targets: splices.into_iter().map(|splice| splice.target).collect(),
    })
}

/// The logits of the model with every SAE spliced in.
fn spliced(
    model: &LanguageModel,
    updates: &mut [&mut Update<'_>],
    batch: &TokenBatch<'_>,
    centre: Option<&dyn Ranks>,
    splices: &mut Vec<Splice>,
) -> Result<Tensor, TrainError> {
    let splices = std::cell::RefCell::new(splices);
    let mut replacements = Replacements::default();
    for (update_idx, update) in updates.iter_mut().enumerate() {
        let (hookpoint, splices) = (update.trainer.spec.hookpoint.clone(), &splices);
        replacements.add(model.facts(), &hookpoint, move |module| {
            let splice = splice(update, update_idx, module, batch, centre)?;
            let output = module.output;
            let spliced = splice.leaf.f_to_kind(output.kind())?;
            let spliced = spliced.f_reshape(output.size())?;
            splices.borrow_mut().push(splice);
            Ok(spliced)
        })?;
    }
    Ok(model.logits_with(batch.input_ids, &mut replacements)?)
}

fn splice(
    update: &mut Update<'_>,
    update_idx: usize,
    module: ModulePass<'_>,
    batch: &TokenBatch<'_>,
    centre: Option<&dyn Ranks>,
) -> Result<Splice, Box<dyn Error + Send + Sync>> {
    let input = if update.trainer.sae.cfg.transcode {
        module.input
    } else {
        module.output
    };
    let x = rows(input)?;
    let _no_grad = tch::no_grad_guard();
    let output = rows(&module.output.f_detach()?)?.f_to_kind(Kind::Float)?;
    let device = output.device();
    let rows = match included(batch.token_ids, batch.exclude_tokens, device)? {
        Some(included) => rows_of(&output, &included, batch.token_ids.len())?,
        None => None,
    };
    let chosen = |x: &Tensor| match &rows {
        Some(rows) => x.f_index_select(0, rows),
        None => Ok(x.shallow_clone()),
    };
    let target = chosen(&output)?;
    let sae_x = chosen(&x.f_detach()?.f_to_kind(Kind::Float)?)?;
    if let Some(ranks) = centre {
        update.trainer.centre_on(&sae_x, &target, ranks)?;
    }
    let pass = update.pass(&sae_x)?;
    let leaf = match &rows {
        Some(rows) => output.f_index_copy(0, rows, &pass.sae_out)?,
        None => pass.sae_out.f_detach_copy()?,
    };
    Ok(Splice {
        update_idx,
        x,
        rows,
        target,
        pass,
        leaf: leaf.f_set_requires_grad(true)?,
    })
}

/// The backward pass of `loss`, from the last replaced module to the first.
fn take_back(
    updates: &mut [&mut Update<'_>],
    splices: &[Splice],
    loss: &Tensor,
) -> Result<(), TrainError> {
    let leaves: Vec<&Tensor> = splices.iter().map(|splice| &splice.leaf).collect();
    let mut gradients = Tensor::f_run_backward(&[loss], &leaves, true, false)?;
    for (splice_idx, splice) in splices.iter().enumerate().rev() {
        let gradient = gradients.pop().expect("each leaf has a gradient");
        if !gradient.defined() {
            continue;
        }
        let at_rows = match &splice.rows {
            Some(rows) => gradient.f_index_select(0, rows)?,
            None => gradient,
        };
        let update = &mut updates[splice.update_idx];
        let grad_x = update.take_back(&splice.pass, &splice.target, &at_rows)?;
        if splice_idx == 0 || !splice.x.requires_grad() {
            continue;
        }
        let before = &leaves[..splice_idx];
        let more = through_model(splice, &grad_x, before)?;
        for (sum, more) in gradients.iter_mut().zip(more) {
            match (sum.defined(), more.defined()) {
                (_, false) => {}
                (false, true) => *sum = more,
                (true, true) => *sum = sum.f_add(&more)?,
            }
        }
    }
    Ok(())
}

/// The gradients at the leaves `before` of a module, from `grad_x` at its SAE's input.
fn through_model(
    splice: &Splice,
    grad_x: &Tensor,
    before: &[&Tensor],
) -> Result<Vec<Tensor>, TrainError> {
    let product = tch::with_grad(|| {
        let x = match &splice.rows {
            Some(rows) => splice.x.f_index_select(0, rows)?,
            None => splice.x.shallow_clone(),
        };
        // Its gradient at `x` is `grad_x`.
        let product = x.f_to_kind(Kind::Float)?.f_mul(grad_x)?;
        product.f_sum(Kind::Float)
    })?;
    Ok(Tensor::f_run_backward(&[product], before, true, false)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae_trainer::SaeTrainer;
    use crate::testing::{at, config, fixtures, job};
    use lm::LoadOptions;
    use plan::TrainConfig;
    use tch::Device;

    const EXCLUDED: [u32; 2] = [0, 64];

    /// A model, its SAEs at hookpoints that feed each other, and tokens.
    struct Case {
        model: LanguageModel,
        saes: Vec<SaeTrainer>,
        token_ids: Vec<i64>,
        exclude_tokens: Vec<u32>,
    }

    impl Case {
        fn new(transcode: bool, exclude_tokens: &[u32]) -> Self {
            let config = TrainConfig {
                hookpoints: ["layers.0.mlp", "layers.1", "layers.2.mlp"]
                    .map(String::from)
                    .to_vec(),
                skip_connection: transcode,
                transcode,
                ..config()
            };
            let options = LoadOptions {
                with_head: true,
                ..LoadOptions::default()
            };
            let model = LanguageModel::load(&fixtures().join("tiny-llama"), &options).unwrap();
            let job = job("a", config);
            let fresh = |spec| SaeTrainer::new(&job, spec, None, Device::Cpu).unwrap();
            let mut saes: Vec<_> = job.saes.iter().map(fresh).collect();
            for (sae, seed) in saes.iter_mut().zip(1i64..) {
                sae.start(at(0)).unwrap();
                // A transcoder begins with a decoder of zeros, which would hide the encoder.
                sae.sae.w_dec = sae::with_seed(seed, || sae.sae.w_dec.randn_like() * 0.1);
            }
            Self {
                model,
                saes,
                token_ids: (0..32).map(|idx| (idx * 37 + 11) % 90).collect(),
                exclude_tokens: exclude_tokens.to_vec(),
            }
        }

        fn input_ids(&self) -> Tensor {
            Tensor::from_slice(&self.token_ids).view([2, 16])
        }

        /// The loss and all gradients by hand.
        fn ours(&mut self, loss_fn: OutputLoss, n_output: u64) -> (f64, Vec<Tensor>) {
            let input_ids = self.input_ids();
            let batch = TokenBatch {
                input_ids: &input_ids,
                token_ids: &self.token_ids,
                exclude_tokens: &self.exclude_tokens,
            };
            let saes = self.saes.iter_mut();
            let mut updates: Vec<_> = saes.map(|sae| sae.start(at(0)).unwrap()).collect();
            let mut updates: Vec<_> = updates.iter_mut().collect();
            let _no_grad = tch::no_grad_guard();
            let how = How {
                loss_fn,
                n_output,
                centre: None,
            };
            let loss = accumulate(&self.model, &mut updates, &batch, &how);
            let gradients = updates.iter().flat_map(|update| update.gradients());
            (loss.unwrap().sum.double_value(&[]), gradients.collect())
        }

        /// The same in dense operations, by autograd through model and SAEs at once.
        fn by_autograd(&self, loss_fn: OutputLoss, n_output: u64) -> (f64, Vec<Tensor>) {
            let clean = self.model.logits(&self.input_ids()).unwrap();
            let leaf = |(_, w): (_, &Tensor)| w.copy().set_requires_grad(true);
            let leaves: Vec<Vec<Tensor>> = self
                .saes
                .iter()
                .map(|sae| sae.sae.named_weights().into_iter().map(leaf).collect())
                .collect();
            let included: Vec<f32> = tokens::included(&self.token_ids, &self.exclude_tokens)
                .into_iter()
                .map(|counts| f32::from(u8::from(counts)))
                .collect();
            let included = Tensor::from_slice(&included).unsqueeze(1);
            let mut replacements = Replacements::default();
            for (sae, leaves) in self.saes.iter().zip(&leaves) {
                let (hookpoint, included) = (sae.spec.hookpoint.clone(), &included);
                let cfg = &sae.sae.cfg;
                let dense =
                    move |module: ModulePass<'_>| -> Result<Tensor, Box<dyn Error + Send + Sync>> {
                        let output = module.output.flatten(0, 1);
                        let x = if cfg.transcode {
                            module.input.flatten(0, 1)
                        } else {
                            output.shallow_clone()
                        };
                        let centred = if cfg.transcode {
                            x.shallow_clone()
                        } else {
                            &x - &leaves[3]
                        };
                        let pre_acts = centred.linear(&leaves[0], Some(&leaves[1])).relu();
                        let (_, indices) = pre_acts.detach().topk(cfg.k as i64, -1, true, false);
                        let kept = pre_acts.zeros_like().scatter_value(1, &indices, 1.0);
                        let mut out: Tensor = (pre_acts * kept).matmul(&leaves[2]) + &leaves[3];
                        if let Some(w_skip) = leaves.get(4) {
                            out += x.matmul(&w_skip.tr());
                        }
                        let rest = included.ones_like() - included;
                        let out: Tensor = out * included + output.detach() * rest;
                        Ok(out.view_as(module.output))
                    };
                replacements
                    .add(self.model.facts(), &hookpoint, dense)
                    .unwrap();
            }
            let logits = self
                .model
                .logits_with(&self.input_ids(), &mut replacements)
                .unwrap();
            let vocab_size = logits.size()[2];
            let log_probs = logits.log_softmax(-1, Kind::Float);
            let loss = match loss_fn {
                OutputLoss::Kl => {
                    let clean = clean.log_softmax(-1, Kind::Float);
                    let each = (clean.exp() * (clean - log_probs)).sum_dim_intlist(2, false, None);
                    (each.flatten(0, 1) * included.squeeze()).sum(Kind::Float)
                }
                _ => {
                    let predicted = log_probs.narrow(1, 0, 15).reshape([-1, vocab_size]);
                    let next = self.input_ids().narrow(1, 1, 15).reshape([-1]);
                    predicted.nll_loss(&next) * 30.0
                }
            };
            (&loss / n_output as f64).backward();
            let gradients = leaves.iter().flatten().map(Tensor::grad);
            (loss.double_value(&[]), gradients.collect())
        }
    }

    #[test]
    fn losses_and_gradients_are_those_of_autograd() {
        for (loss_fn, transcode, excluded) in [
            (OutputLoss::CrossEntropy, false, &[][..]),
            (OutputLoss::CrossEntropy, true, &EXCLUDED),
            (OutputLoss::Kl, false, &EXCLUDED),
            (OutputLoss::Kl, true, &[]),
        ] {
            let mut case = Case::new(transcode, excluded);
            let n_output = loss_fn.n_positions(&case.token_ids, 16, excluded);
            let (their_loss, theirs) = case.by_autograd(loss_fn, n_output);
            let (our_loss, ours) = case.ours(loss_fn, n_output);
            let what = format!("{loss_fn:?}, transcode {transcode}");
            assert!(
                (our_loss / their_loss - 1.0).abs() < 1e-4,
                "{what}: {our_loss} {their_loss}"
            );
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let norm = |x: &Tensor| x.norm().double_value(&[]);
                let (difference, scale) = (norm(&(ours - theirs)), norm(theirs));
                assert!(scale > 0.0, "{what}: no gradient");
                assert!(difference < 1e-3 * scale, "{what}: {difference} of {scale}");
            }
        }
    }
}
