//! Pre-activations of a batch, and the latents that they make active.
//!
//! In training they may be rounded: the encoder's product is then made in bfloat16, which a GPU does some ten
//! times as fast, and only says which latents are candidates. The pre-activations of those are computed again
//! in float32 from the weights themselves, and the `k` largest of them are taken. So every activation is
//! float32's, and a latent is missed only if bfloat16 ranks `k / 4 + 4` before it that should come after it.

use crate::activation::{all_above, select};
use crate::kernels::{dots_at_entries, topk, topk_of_candidates};
use crate::{Activation, Encoded, Sae, SaeError};
use tch::{Kind, Tensor};

/// With fewer latents than this for each candidate, the candidates cost more than the rounded product saves.
const LEAST_FOR_EACH: i64 = 8;

/// How many latents may be among the `k` largest, by rounded pre-activations.
fn n_candidates(k: i64) -> i64 {
    k + k / 4 + 4
}

/// The pre-activations of some tokens.
pub(crate) struct PreActs<'a> {
    sae: &'a Sae,
    /// What the encoder is applied to: `[n_tokens, d_in]`, Float.
    centred: Tensor,
    /// `[n_tokens, num_latents]`: Float, or rounded to BFloat16.
    numbers: Tensor,
}

impl Sae {
    /// The encoder's weights in bfloat16, for [`crate::Objective::rounded_encoder`]: `[num_latents, d_in]`. `None`:
    /// with `k` active latents, the candidates would cost more than that saves.
    ///
    /// # Errors
    /// Too little memory.
    pub fn rounded_encoder(&self, k: usize) -> Result<Option<Tensor>, SaeError> {
        if n_candidates(k as i64) * LEAST_FOR_EACH > self.num_latents() as i64 {
            return Ok(None);
        }
        Ok(Some(self.encoder_weight.f_to_kind(Kind::BFloat16)?))
    }

    /// The pre-activations of `centred`: by the encoder's weights, or by `rounded`, the same in bfloat16.
    pub(crate) fn pre_acts<'a>(
        &'a self,
        centred: &Tensor,
        rounded: Option<&Tensor>,
    ) -> Result<PreActs<'a>, SaeError> {
        let numbers = match rounded {
            None => centred.f_linear(&self.encoder_weight, Some(&self.encoder_bias))?,
            Some(weight) => {
                let bias = self.encoder_bias.f_to_kind(Kind::BFloat16)?;
                centred
                    .f_to_kind(Kind::BFloat16)?
                    .f_linear(weight, Some(&bias))?
            }
        };
        Ok(PreActs {
            sae: self,
            centred: centred.shallow_clone(),
            numbers,
        })
    }

    /// The pre-activations of the latents with the indices `latents` alone: `[n]`. `rescales`: the norms of the
    /// decoder's rows have a part in what decides between them.
    pub(crate) fn pre_acts_of<'a, 'l>(
        &'a self,
        centred: &'a Tensor,
        latents: &'l Tensor,
        rescales: bool,
    ) -> Result<SomePreActs<'a, 'l>, SaeError> {
        let weight = self.encoder_weight.f_index_select(0, latents)?;
        let bias = self.encoder_bias.f_index_select(0, latents)?;
        let pre_acts = centred.f_linear(&weight, Some(&bias))?;
        let scale = if rescales {
            Some(self.decoder_norms()?.f_index_select(0, latents)?)
        } else {
            None
        };
        Ok(SomePreActs {
            sae: self,
            centred,
            latents,
            numbers: match &scale {
                None => pre_acts,
                Some(scale) => pre_acts.f_mul(scale)?,
            },
            scale,
        })
    }
}

impl PreActs<'_> {
    /// The active latents, by the SAE's activation.
    pub(crate) fn select(&self, k: usize) -> Result<Encoded, SaeError> {
        if let Some(gate) = &self.sae.gate {
            let [acts, _] = gate.acts(&self.numbers, &self.sae.encoder_bias)?;
            return all_above(&acts, None);
        }
        let activation = self.sae.cfg.activation;
        if !self.are_rounded() {
            let threshold = self.sae.latent_thresholds()?;
            return select(activation, &self.numbers, k, threshold.as_ref());
        }
        if activation == Activation::TopK {
            return with_relu(self.largest(k as i64)?);
        }
        let found = select(activation, &self.numbers, k, None)?;
        let encoder = (&self.sae.encoder_weight, Some(&self.sae.encoder_bias));
        with_relu(Encoded {
            latent_acts: dots_at_entries(&self.centred, encoder, &found.latent_indices)?,
            latent_indices: found.latent_indices,
        })
    }

    /// The `k` largest, without ReLU.
    pub(crate) fn largest(&self, k: i64) -> Result<Encoded, SaeError> {
        if !self.are_rounded() {
            return Ok(topk(&self.numbers, k)?);
        }
        let n = n_candidates(k).min(self.sae.num_latents() as i64);
        let candidates = topk(&self.numbers, n)?.latent_indices;
        let encoder = (&self.sae.encoder_weight, &self.sae.encoder_bias);
        Ok(topk_of_candidates(&self.centred, encoder, &candidates, k)?)
    }

    /// Those of the latents with the indices `latents`: `[n]`.
    pub(crate) fn of<'l>(&self, latents: &'l Tensor) -> Result<SomePreActs<'_, 'l>, SaeError> {
        Ok(SomePreActs {
            sae: self.sae,
            centred: &self.centred,
            latents,
            numbers: self.numbers.f_index_select(1, latents)?,
            scale: None,
        })
    }

    fn are_rounded(&self) -> bool {
        self.numbers.kind() != self.centred.kind()
    }
}

/// The pre-activations of some latents.
pub(crate) struct SomePreActs<'a, 'l> {
    sae: &'a Sae,
    /// What the encoder is applied to: `[n_tokens, d_in]`, Float.
    centred: &'a Tensor,
    /// Indices: `[n]`, Int64.
    latents: &'l Tensor,
    /// What decides between them: `[n_tokens, n]`: Float, or rounded to BFloat16.
    numbers: Tensor,
    /// By which the pre-activations were multiplied for that: `[n]`.
    scale: Option<Tensor>,
}

impl SomePreActs<'_, '_> {
    /// The `k` largest, without ReLU.
    pub(crate) fn largest(&self, k: i64) -> Result<Encoded, SaeError> {
        let (numbers, kept) = self.numbers.f_topk(k, -1, true, false)?;
        self.at(numbers, &kept)
    }

    /// The `k` largest of those where `mask` is true: `[n]`, without ReLU; and at which entries it is: `[n_tokens, k]`.
    /// At the others, if `mask` is true fewer than `k` times, activations are 0. The entries are in the order of the
    /// latents: no sum over them depends on the latents besides.
    pub(crate) fn largest_where(
        &self,
        mask: &Tensor,
        k: i64,
    ) -> Result<(Encoded, Tensor), SaeError> {
        let numbers = self
            .numbers
            .f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?;
        // Of equal ones, CUDA's takes the first.
        let (_, kept) = numbers.f_topk(k, -1, true, false)?;
        let (kept, _) = kept.f_sort(-1, false)?;
        let mut encoded = self.at(numbers.f_gather(1, &kept, false)?, &kept)?;
        let kept = mask.f_take(&kept)?;
        let acts = &mut encoded.latent_acts;
        let _ = acts.f_masked_fill_(&kept.f_logical_not()?, 0.0)?;
        Ok((encoded, kept))
    }

    /// The latents at the places `kept`, which have these `numbers`; in float32.
    fn at(&self, numbers: Tensor, kept: &Tensor) -> Result<Encoded, SaeError> {
        let latent_indices = self.latents.f_take(kept)?;
        let latent_acts = if numbers.kind() != self.centred.kind() {
            let encoder = (&self.sae.encoder_weight, Some(&self.sae.encoder_bias));
            dots_at_entries(self.centred, encoder, &latent_indices)?
        } else {
            match &self.scale {
                None => numbers,
                Some(scale) => numbers.f_div(&scale.f_take(kept)?)?,
            }
        };
        Ok(Encoded {
            latent_acts,
            latent_indices,
        })
    }
}

/// Latents with ReLU applied to their pre-activations.
pub(crate) fn with_relu(mut encoded: Encoded) -> Result<Encoded, SaeError> {
    let _ = encoded.latent_acts.f_relu_()?;
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::{AuxK, Objective, SaeConfig};
    use tch::Device;

    const N_TOKENS: i64 = 200;

    fn sae(activation: Activation) -> Sae {
        let cfg = SaeConfig {
            activation,
            ..SaeConfig::topk(64, 1024, 16)
        };
        let mut sae = Sae::new(cfg, 3, Device::Cpu).unwrap();
        sae.encoder_bias = noise(&[1024], 5.0) * 0.02;
        sae
    }

    fn dense(encoded: &Encoded) -> Tensor {
        let zeros = Tensor::zeros([N_TOKENS, 1024], (Kind::Float, Device::Cpu));
        zeros.scatter(1, &encoded.latent_indices, &encoded.latent_acts)
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        ((a - b).norm() / b.norm()).double_value(&[])
    }

    #[test]
    fn bfloat16_finds_the_latents_of_float32_and_changes_no_activation() {
        for activation in [Activation::TopK, Activation::GroupMax] {
            let sae = sae(activation);
            let rounded = sae.rounded_encoder(16).unwrap().unwrap();
            let x = noise(&[N_TOKENS, 64], 1.0);
            let expected = sae.encode_centred(&x, 16, None).unwrap();
            let found = sae.encode_centred(&x, 16, Some(&rounded)).unwrap();
            let (expected, found) = (dense(&expected), dense(&found));
            let both = expected.gt(0.0).logical_and(&found.gt(0.0));
            let exact = both.to_kind(Kind::Float);
            assert!(distance(&(&found * &exact), &(&expected * &exact)) < 1e-6);
            let n_missed =
                (expected.gt(0.0).sum(Kind::Int64) - both.sum(Kind::Int64)).int64_value(&[]);
            // Of a group only the largest is a candidate, and others may be as large up to rounding.
            let most = if activation == Activation::TopK {
                0
            } else {
                60
            };
            assert!(
                n_missed <= most,
                "{activation}: {n_missed} of {}",
                16 * N_TOKENS
            );
        }
    }

    #[test]
    fn every_term_of_the_loss_takes_rounded_pre_activations() {
        let sae = sae(Activation::TopK);
        let rounded = sae.rounded_encoder(16).unwrap().unwrap();
        let x = noise(&[N_TOKENS, 64], 2.0);
        let dead = Tensor::arange_start_step(3, 1024, 7, (Kind::Int64, Device::Cpu));
        let exact = Objective {
            auxk: Some(AuxK {
                alpha: 0.5,
                candidates: &dead,
                are_dead: None,
                is_of_residual: false,
                fire_counts: None,
                residual_scale: None,
            }),
            multi_topk: true,
            ..Objective::squared_error(16)
        };
        let by_rounded = Objective {
            rounded_encoder: Some(&rounded),
            ..exact
        };
        let expected = sae.backward(&x, &x, &exact).unwrap();
        let got = sae.backward(&x, &x, &by_rounded).unwrap();
        let losses = |of: &crate::Losses| {
            [
                Some(&of.squared_error),
                of.auxk.as_ref(),
                of.multi_topk.as_ref(),
            ]
            .map(|term| term.unwrap().double_value(&[]))
        };
        for (got, expected) in losses(&got.losses)
            .into_iter()
            .zip(losses(&expected.losses))
        {
            assert!((got / expected - 1.0).abs() < 1e-3, "{got} {expected}");
        }
        for (got, expected) in got
            .gradients
            .tensors()
            .into_iter()
            .zip(expected.gradients.tensors())
        {
            assert!(
                distance(got, expected) < 0.02,
                "{}",
                distance(got, expected)
            );
        }
    }

    #[test]
    fn too_many_candidates_are_not_looked_for() {
        let sae = sae(Activation::TopK);
        assert!(sae.rounded_encoder(99).unwrap().is_some());
        assert!(sae.rounded_encoder(100).unwrap().is_none());
    }
}
