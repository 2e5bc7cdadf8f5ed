//! The backward pass of every kind of SAE but TopK and GroupMax with one reconstruction, which gradient.rs and sparse.rs
//! have. What is selected is listed, token by token; if that is much of everything, all latents are computed with.

use super::jump::{Jump, JumpGradients};
use super::latents::{Latents, MOST_LISTED, had_all};
use super::penalty::{Active, PenaltyTerm};
use crate::gradient::Input;
use crate::kernels::{self, Acts, Listed, ListedNumbers, NestedErrors, above};
use crate::support::Support;
use crate::{
    Backward, BatchLatents, Encoded, Gradients, Level, Losses, Objective, Sae, SaeError,
    SparseBackward, SparseGradients, VectorGradients,
};
use tch::{Kind, Tensor};

/// Bytes of numbers at all latents that are in memory at the same time, for each tensor of them.
const BLOCK_BYTES: i64 = 256 << 20;

/// Some tokens.
pub(crate) struct Batch {
    /// `[n_tokens, d_in]`.
    pub(super) x: Tensor,
    /// What the encoder is applied to: `[n_tokens, d_in]`.
    pub(super) centred: Tensor,
    /// What the latents have to give, without what a skip connection does: `[n_tokens, d_out]`.
    pub(super) target: Tensor,
}

/// Activations of latents, with the errors of what they reconstruct.
pub(super) struct Reconstructed {
    pub(super) active: ActiveLatents,
    pub(super) errors: NestedErrors,
    pub(super) levels: Vec<Level>,
}

/// Activations, where the support is, and which latents are active.
pub(super) struct ActiveLatents {
    pub(super) acts: Tensor,
    /// Bool.
    pub(super) are_active: Tensor,
}

/// What the latents of some tokens do to the loss.
struct AtLatents {
    acts: Tensor,
    /// Where the support is.
    grad_pre: Tensor,
    /// The gradient at thresholds: `[num_latents]`.
    threshold: Option<Tensor>,
    /// The gradient at the norms of the decoder's rows: `[num_latents]`.
    at_norms: Option<Tensor>,
    errors: NestedErrors,
    levels: Vec<Level>,
    losses: Losses,
}

impl Sae {
    pub(super) fn general_backward(
        &self,
        (x, target): (&Tensor, &Tensor),
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        let batch = self.batch(x, target)?;
        if objective.is_hierarchical {
            let encoded =
                self.encode_centred(&batch.centred, objective.k, objective.rounded_encoder)?;
            return self.hierarchical_backward(&batch, encoded);
        }
        if let Some(chosen) = objective.chosen.filter(|_| self.cfg.is_decoupled()) {
            return self.decoupled_backward(&batch, chosen, objective);
        }
        if let Some(mut latents) = self.listed(&batch, objective)? {
            let room = latents.room.take();
            let backward = self.backward_at(&batch, latents, objective)?;
            if had_all(room)? {
                return Ok(backward);
            }
        }
        let n_tokens = x.size()[0];
        let block = (BLOCK_BYTES / (4 * self.num_latents() as i64)).max(1);
        let mut sum: Option<Backward> = None;
        let mut start = 0;
        loop {
            let n = block.min(n_tokens - start);
            let part = self.dense_backward(&batch.narrow(start, n)?, objective)?;
            match &mut sum {
                None => sum = Some(part),
                Some(sum) => sum.add(&part)?,
            }
            start += n;
            if start >= n_tokens {
                return Ok(sum.expect("a part was added"));
            }
        }
    }

    pub(super) fn batch(&self, x: &Tensor, target: &Tensor) -> Result<Batch, SaeError> {
        self.check_input(x)?;
        let zero = || target.f_zeros_like();
        Ok(Batch {
            x: x.shallow_clone(),
            centred: self.centred(x)?,
            target: match self.w_skip {
                None => target.shallow_clone(),
                Some(_) => target.f_sub(&self.with_skip(zero()?, x)?)?,
            },
        })
    }

    pub(super) fn dense_backward(
        &self,
        batch: &Batch,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        if let Some(gate) = &self.gate {
            let terms = (objective.penalty, objective.gate_is_detached);
            return self.gated_backward(gate, batch, terms);
        }
        let latents = self.all_latents(&batch.centred, objective)?;
        self.backward_at(batch, latents, objective)
    }

    /// The latents that the loss looks at, one by one. `None`: at all.
    pub(super) fn listed(
        &self,
        batch: &Batch,
        objective: &Objective<'_>,
    ) -> Result<Option<Latents>, SaeError> {
        let activation = self.cfg.activation;
        if let Some(BatchLatents { sets }) = objective.chosen {
            return self.unscaled(&sets[0], objective).map(Some);
        }
        if activation.has_k() {
            let k = objective.k;
            let scores = self.scores_of_tokens(&batch.centred, k, objective)?;
            return self.unscaled(&scores, objective).map(Some);
        }
        if self.gate.is_some() {
            return Ok(None);
        }
        if !kernels::are_on_host(&[&batch.centred, &self.encoder_weight]) {
            return self.near_in_room(&batch.centred, objective);
        }
        let n_all = batch.centred.size()[0] as f64 * self.num_latents() as f64;
        self.near_thresholds(&batch.centred, objective, (MOST_LISTED * n_all) as usize)
    }

    /// The latents that are active, or so near to that that their thresholds have a gradient. `None`: more than `most`.
    pub(super) fn near_thresholds(
        &self,
        centred: &Tensor,
        objective: &Objective<'_>,
        most: usize,
    ) -> Result<Option<Latents>, SaeError> {
        let encoder = (&self.encoder_weight, &self.encoder_bias);
        let found = above(centred, encoder, &self.bounds(objective)?, most)?;
        Ok(found.map(|ListedNumbers { at, numbers }| Latents::new(Support::Some(at), numbers)))
    }

    /// What decides between the latents of a token, at the `k` that it takes.
    fn scores_of_tokens(
        &self,
        centred: &Tensor,
        k: usize,
        objective: &Objective<'_>,
    ) -> Result<ListedNumbers, SaeError> {
        let encoded = if objective.rescales {
            let (weight, bias) = self.scoring_encoder(true)?;
            let pre_acts = || centred.f_linear(&weight, Some(&bias));
            match kernels::topk_of_product(centred, (&weight, &bias), k)? {
                Some(encoded) => encoded,
                None => kernels::topk(&pre_acts()?, k as i64)?,
            }
        } else {
            self.encode_centred(centred, k, objective.rounded_encoder)?
        };
        let Encoded {
            mut latent_acts,
            mut latent_indices,
        } = encoded;
        if !kernels::are_on_host(&[&latent_acts]) {
            // Elsewhere the largest come first.
            let (rising, order) = latent_indices.f_sort(-1, false)?;
            latent_acts = latent_acts.f_gather(1, &order, false)?;
            latent_indices = rising;
        }
        Ok(ListedNumbers {
            at: Listed::of_rows(&latent_indices)?,
            numbers: latent_acts.f_relu()?.f_reshape([-1])?,
        })
    }

    /// Scores as pre-activations.
    pub(super) fn unscaled(
        &self,
        scores: &ListedNumbers,
        objective: &Objective<'_>,
    ) -> Result<Latents, SaeError> {
        let ListedNumbers { at, numbers } = scores;
        let pre_acts = if objective.rescales {
            numbers.f_div(&self.decoder_norms()?.f_take(&at.indices)?)?
        } else {
            numbers.shallow_clone()
        };
        let at = Listed::new(at.indices.shallow_clone(), at.starts.shallow_clone())?;
        Ok(Latents::new(Support::Some(at), pre_acts))
    }

    pub(super) fn backward_at(
        &self,
        batch: &Batch,
        latents: Latents,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        let reconstructed = self.reconstructed(batch, &latents, objective)?;
        self.backward_from(batch, latents, reconstructed, objective)
    }

    /// The backward pass from reconstructions.
    pub(super) fn backward_from(
        &self,
        batch: &Batch,
        latents: Latents,
        reconstructed: Reconstructed,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        let at = self.at_latents(&latents, reconstructed, objective)?;
        let Latents { support, near, .. } = latents;
        let levels = &at.levels;
        let mut gradients = self.gradients_at(batch, &support, &at)?;
        if let Some(at_norms) = &at.at_norms {
            let of_rows = self.row_norm().gradient(&self.w_dec, at_norms)?;
            let _ = gradients.w_dec.f_add_(&of_rows)?;
        }
        let mut losses = Losses { near, ..at.losses };
        if let Some(term) = objective.pre_act_loss {
            let loss = self.add_pre_act_loss(&batch.centred, term, &mut gradients)?;
            losses.sparsity = Some(match losses.sparsity.take() {
                None => loss,
                Some(sparsity) => sparsity.f_add(&loss)?,
            });
        }
        let fire_counts = support.fire_counts(&at.acts, self.num_latents() as i64)?;
        if let Some(term) = objective.auxk {
            let (error, term) = (whole_error(&at.errors, levels)?, (term, &fire_counts));
            let sum = (objective.rescales, &mut gradients);
            losses.auxk = self.add_auxk(batch.input(), &error, term, sum)?;
        }
        Ok(Backward {
            fire_counts,
            gradients,
            losses,
        })
    }

    /// What latents make of `x` less the `target`: `[n_tokens, d_out]`, and on how many tokens each fires:
    /// `[num_latents]`, as the backward pass has them.
    ///
    /// # Errors
    /// Other shapes, or too little memory.
    pub fn error_and_fire_counts(
        &self,
        (x, target): (&Tensor, &Tensor),
        objective: &Objective<'_>,
    ) -> Result<(Tensor, Tensor), SaeError> {
        if objective.is_hierarchical || self.is_plain(objective) {
            let pass = self.pass(x, objective.k, objective.rounded_encoder)?;
            return Ok((
                pass.sae_out.f_sub(target)?,
                self.fire_counts(&pass.encoded)?,
            ));
        }
        let batch = self.batch(x, target)?;
        if let Some(chosen) = objective.chosen.filter(|_| self.cfg.is_decoupled()) {
            return self.decoupled_error(&batch, chosen, objective);
        }
        if let Some(latents) = self.listed(&batch, objective)? {
            let Latents {
                support, pre_acts, ..
            } = &latents;
            let acts = self.acts_at(support, pre_acts)?.acts;
            let levels = [Level::all(self.num_latents())];
            let decoder = (&self.w_dec, &self.b_dec);
            let acts_to_decode = self.to_decode(&acts);
            let errors = support.reconstruct(acts_to_decode, decoder, &batch.target, &levels)?;
            let fire_counts = support.fire_counts(&acts, self.num_latents() as i64)?;
            if had_all(latents.room)? {
                return Ok((whole_error(&errors, &levels)?, fire_counts));
            }
        }
        let encoded = self.encode(x)?;
        let error = self.forward(x)?.sae_out.f_sub(target)?;
        Ok((error, self.fire_counts(&encoded)?))
    }

    /// The backward pass if its gradients are all of listed latents, without those of matrices. `None`: they are not.
    pub(crate) fn general_sparse_backward(
        &self,
        (x, target): (&Tensor, &Tensor),
        objective: &Objective<'_>,
    ) -> Result<Option<SparseBackward>, SaeError> {
        if objective.is_hierarchical {
            return Ok(None);
        }
        let batch = self.batch(x, target)?;
        let Some(latents) = self.listed(&batch, objective)? else {
            return Ok(None);
        };
        let reconstructed = self.reconstructed(&batch, &latents, objective)?;
        let at = self.at_latents(&latents, reconstructed, objective)?;
        let entries = latents
            .support
            .sorted([&at.acts, &at.grad_pre], &at.levels)?;
        let Some(entries) = entries else {
            return Ok(None);
        };
        let encoder_bias = entries.bias_gradient()?;
        let of_all = at.errors.grad_out.f_get(0)?;
        let vectors = VectorGradients {
            b_dec: self.grad_b_dec(Some(&of_all), &encoder_bias)?,
            encoder_bias,
            threshold: at.threshold,
        };
        let fire_counts = entries.fire_counts()?;
        if !had_all(latents.room)? {
            return Ok(None);
        }
        Ok(Some(SparseBackward {
            losses: Losses {
                near: latents.near,
                ..at.losses
            },
            fire_counts,
            gradients: SparseGradients::new(entries, at.errors.grad_out, batch.centred, vectors),
        }))
    }

    /// Activations to reconstruct from: near thresholds, idle latents have gradients, too.
    pub(super) fn to_decode<'a>(&self, numbers: &'a Tensor) -> Acts<'a> {
        Acts {
            numbers,
            reaches_idle: self.threshold.is_some(),
        }
    }

    pub(super) fn reconstructed(
        &self,
        batch: &Batch,
        latents: &Latents,
        objective: &Objective<'_>,
    ) -> Result<Reconstructed, SaeError> {
        let Latents {
            support, pre_acts, ..
        } = latents;
        let active = self.acts_at(support, pre_acts)?;
        let levels = match objective.nesting {
            [] => vec![Level::all(self.num_latents())],
            nesting => nesting.to_vec(),
        };
        let decoder = (&self.w_dec, &self.b_dec);
        let acts = self.to_decode(&active.acts);
        let errors = support.reconstruct(acts, decoder, &batch.target, &levels)?;
        Ok(Reconstructed {
            active,
            errors,
            levels,
        })
    }

    /// What latents do to the loss.
    fn at_latents(
        &self,
        latents: &Latents,
        reconstructed: Reconstructed,
        objective: &Objective<'_>,
    ) -> Result<AtLatents, SaeError> {
        let support = &latents.support;
        let Reconstructed {
            active: ActiveLatents { acts, are_active },
            errors,
            levels,
        } = reconstructed;
        let penalty = self.penalty(support, [&acts, &are_active], objective)?;
        let (grad_pre, threshold) = self.at_pre_acts(
            latents,
            &are_active,
            (&errors.grad_acts, &penalty),
            objective,
        )?;
        Ok(AtLatents {
            losses: Losses {
                sparsity: penalty.loss,
                powers: penalty.powers,
                ..nested_losses(&errors, &levels)?
            },
            at_norms: penalty.at_norms,
            acts,
            grad_pre,
            threshold,
            errors,
            levels,
        })
    }

    /// Activations, and which latents are active.
    pub(super) fn acts_at(
        &self,
        support: &Support,
        pre_acts: &Tensor,
    ) -> Result<ActiveLatents, SaeError> {
        if let Some(threshold) = &self.threshold {
            let jumped = Jump::acts(support, pre_acts, threshold)?;
            return Ok(ActiveLatents {
                acts: jumped.acts,
                are_active: jumped.are_active,
            });
        }
        let acts = pre_acts.f_relu()?;
        Ok(ActiveLatents {
            are_active: acts.f_gt(0.0)?,
            acts,
        })
    }

    fn penalty(
        &self,
        support: &Support,
        [acts, are_active]: [&Tensor; 2],
        objective: &Objective<'_>,
    ) -> Result<PenaltyTerm, SaeError> {
        let norms = self.decoder_norms()?;
        objective.penalty.term(&Active {
            support,
            acts,
            are_active,
            norms: &norms,
        })
    }

    /// The gradients at pre-activations, and at thresholds.
    fn at_pre_acts(
        &self,
        latents: &Latents,
        are_active: &Tensor,
        (grad_acts, penalty): (&Tensor, &PenaltyTerm),
        objective: &Objective<'_>,
    ) -> Result<(Tensor, Option<Tensor>), SaeError> {
        let grad_acts = match &penalty.at_acts {
            None => grad_acts.shallow_clone(),
            Some(at_acts) => grad_acts.f_add(at_acts)?,
        };
        let Some(threshold) = &self.threshold else {
            let grad_pre = grad_acts.f_mul(&are_active.f_to_kind(Kind::Float)?)?;
            return Ok((grad_pre, None));
        };
        let Latents {
            support, pre_acts, ..
        } = latents;
        let at = (pre_acts, threshold);
        let JumpGradients {
            grad_pre,
            threshold,
        } = objective
            .jump
            .gradients(support, at, (&grad_acts, penalty))?;
        Ok((grad_pre, Some(threshold)))
    }

    fn gradients_at(
        &self,
        batch: &Batch,
        support: &Support,
        at: &AtLatents,
    ) -> Result<Gradients, SaeError> {
        let rows = (&at.errors.grad_out, &batch.centred);
        let of_weights = support.latent_gradients([&at.acts, &at.grad_pre], rows, &at.levels)?;
        let of_all = at.errors.grad_out.f_get(0)?;
        Ok(Gradients {
            b_dec: self.grad_b_dec(Some(&of_all), &of_weights.encoder_bias)?,
            w_skip: self.grad_w_skip(&batch.x, &of_all)?,
            encoder_weight: of_weights.encoder_weight,
            encoder_bias: of_weights.encoder_bias,
            w_dec: of_weights.w_dec,
            threshold: at.threshold.as_ref().map(Tensor::shallow_clone),
            gate: None,
        })
    }

    /// The encoder whose pre-activations decide between latents: its own, or times the norms of the decoder's rows.
    pub(crate) fn scoring_encoder(&self, rescales: bool) -> Result<(Tensor, Tensor), SaeError> {
        let (weight, bias) = (&self.encoder_weight, &self.encoder_bias);
        if !rescales {
            return Ok((weight.shallow_clone(), bias.shallow_clone()));
        }
        let norms = self.decoder_norms()?;
        Ok((weight.f_mul(&norms.f_unsqueeze(1)?)?, bias.f_mul(&norms)?))
    }
}

impl Batch {
    pub(super) fn input(&self) -> Input<'_> {
        Input {
            x: &self.x,
            centred: &self.centred,
        }
    }

    fn narrow(&self, start: i64, n: i64) -> Result<Self, SaeError> {
        Ok(Self {
            x: self.x.f_narrow(0, start, n)?,
            centred: self.centred.f_narrow(0, start, n)?,
            target: self.target.f_narrow(0, start, n)?,
        })
    }
}

/// The error of the reconstruction from all latents.
pub(super) fn whole_error(errors: &NestedErrors, levels: &[Level]) -> Result<Tensor, SaeError> {
    let last = levels.len() - 1;
    let of_last = errors.grad_out.f_get(last as i64)?;
    Ok(of_last.f_div_scalar(2.0 * levels[last].weight)?)
}

fn nested_losses(errors: &NestedErrors, levels: &[Level]) -> Result<Losses, SaeError> {
    let last = errors.errors.f_get(levels.len() as i64 - 1)?;
    let nested = if levels.len() > 1 {
        // By numbers: a tensor of the weights would have to be sent to the device.
        let mut sum = last.f_zeros_like()?;
        for (idx, level) in (0..).zip(levels) {
            let weighted = errors.errors.f_get(idx)?.f_mul_scalar(level.weight)?;
            sum = sum.f_add(&weighted)?;
        }
        Some(sum)
    } else {
        None
    };
    Ok(Losses {
        nested,
        ..Losses::squared_error(last)
    })
}
