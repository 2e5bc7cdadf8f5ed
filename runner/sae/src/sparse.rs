//! Gradients of the squared error as they come: if it is the whole loss, those of the matrices need never
//! be in memory. The optimizer takes them row by row.

use crate::kernels::{self, SortedEntries, SparseUpdate};
use crate::{Backward, Gradients, Losses, Objective, Rule, Sae, SaeError};
use fault::Fault;
use plan::Optimizer;
use tch::Tensor;

/// What [`Sae::sparse_backward`] gives.
#[derive(Debug)]
pub struct SparseBackward {
    /// Gradients of the sum of squared errors.
    pub gradients: SparseGradients,
    /// The sum.
    pub losses: Losses,
    /// How many tokens each latent fired on: `[num_latents]`, Float.
    pub fire_counts: Tensor,
}

/// Gradients of one SAE, those of the matrices as sums of rows that were not added up.
#[derive(Debug)]
pub struct SparseGradients {
    entries: SortedEntries,
    /// At the reconstruction: `[n_tokens, d_out]`.
    grad_out: Tensor,
    /// What the encoder was applied to: `[n_tokens, d_in]`.
    centred: Tensor,
    vectors: VectorGradients,
}

/// Gradients of the vectors of an SAE. Every number of the others is part of a sum of these.
#[derive(Debug)]
pub struct VectorGradients {
    /// `[num_latents]`.
    pub encoder_bias: Tensor,
    /// `[d_out]`.
    pub b_dec: Tensor,
    /// `[num_latents]`; only with thresholds.
    pub threshold: Option<Tensor>,
}

impl Sae {
    /// Whether [`SparseGradients::step`] is made for an optimizer on this device.
    pub fn is_updated_by_rows(&self, optimizer: Optimizer) -> bool {
        kernels::are_updated_by_rows(optimizer, &[&self.encoder_weight, &self.w_dec])
    }

    /// As [`Sae::backward`], where no term besides has gradients of the decoder's rows. `None`: one has, or there is a
    /// skip connection, or hookpoints choose their latents apart, or it is not on this device or of this kind, or too many latents are active to list them.
    ///
    /// # Errors
    /// As [`Sae::backward`].
    pub fn sparse_backward(
        &self,
        x: &Tensor,
        target: &Tensor,
        objective: &Objective<'_>,
    ) -> Result<Option<SparseBackward>, SaeError> {
        self.check_target(target)?;
        let is_here = kernels::are_for(&[x, target, &self.encoder_weight, &self.w_dec]);
        let takes_rows = objective.is_squared_error() && !self.cfg.is_decoupled();
        if !is_here || !takes_rows || self.w_skip.is_some() {
            return Ok(None);
        }
        if !self.is_plain(objective) {
            return self.general_sparse_backward((x, target), objective);
        }
        let centred = self.centred_for_training(x)?;
        let encoded = self.encode_centred(&centred, objective.k, objective.rounded_encoder)?;
        let decoder = (&self.w_dec, &self.b_dec);
        let Some(error) = kernels::squared_error(&encoded, decoder, target)? else {
            return Ok(None);
        };
        let num_latents = self.num_latents() as i64;
        let entries = SortedEntries::new(&encoded, &error.grad_pre, num_latents)?;
        let Some(entries) = entries else {
            return Ok(None);
        };
        let encoder_bias = entries.bias_gradient()?;
        let vectors = VectorGradients {
            b_dec: self.grad_b_dec(Some(&error.grad_out), &encoder_bias)?,
            encoder_bias,
            threshold: None,
        };
        Ok(Some(SparseBackward {
            losses: Losses::squared_error(error.sum),
            fire_counts: entries.fire_counts()?,
            gradients: SparseGradients {
                entries,
                grad_out: error.grad_out,
                centred,
                vectors,
            },
        }))
    }
}

impl SparseBackward {
    /// With all gradients in memory.
    ///
    /// # Errors
    /// Too little memory.
    pub fn dense(self) -> Result<Backward, SaeError> {
        Ok(Backward {
            gradients: self.gradients.dense()?,
            losses: self.losses,
            fire_counts: self.fire_counts,
        })
    }
}

impl SparseGradients {
    /// `grad_out`: `[n_tokens, d_out]`, for each of nested reconstructions.
    pub(crate) fn new(
        entries: SortedEntries,
        grad_out: Tensor,
        centred: Tensor,
        vectors: VectorGradients,
    ) -> Self {
        Self {
            entries,
            grad_out,
            centred,
            vectors,
        }
    }

    fn dense(self) -> Result<Gradients, SaeError> {
        let matrices = self
            .entries
            .matrix_gradients(&self.centred, &self.grad_out)?;
        let (encoder_weight, w_dec) = matrices.ok_or_else(|| {
            Fault::internal("rows of tokens that are not where their entries are")
        })?;
        let VectorGradients {
            encoder_bias,
            b_dec,
            threshold,
        } = self.vectors;
        Ok(Gradients {
            encoder_weight,
            encoder_bias,
            w_dec,
            b_dec,
            w_skip: None,
            threshold,
            gate: None,
        })
    }

    /// One update of an SAE, with gradients divided by `divisor` (scalar, Float) and, if the decoder is kept at unit
    /// norm, without the decoder's part parallel to its rows: on the CPU to the bit what [`Gradients::scale`],
    /// [`Gradients::remove_parallel_to_decoder`] and [`Rule::step`] make of [`Sae::backward`]. `rules`: by weight, in
    /// the order of [`Sae::named_weights`]. `rounded`: [`Sae::rounded_encoder`] of the weights before; given back if
    /// it is that of the new ones now.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// The SAE is not the one that [`Sae::sparse_backward`] took, or [`Sae::is_updated_by_rows`] is not true of it and
    /// the rules' optimizer.
    pub fn step(
        mut self,
        sae: &mut Sae,
        (rules, rounded): (Vec<Rule<'_>>, Option<Tensor>),
        divisor: &Tensor,
    ) -> Result<(VectorGradients, Option<Tensor>), SaeError> {
        let mut rules = rules.into_iter();
        let mut next = || rules.next().expect("there is one for each weight");
        let [of_encoder, of_bias, of_decoder, of_b_dec] = [next(), next(), next(), next()];
        let VectorGradients {
            encoder_bias,
            b_dec,
            threshold,
        } = &mut self.vectors;
        for gradient in [&mut *encoder_bias, &mut *b_dec]
            .into_iter()
            .chain(&mut *threshold)
        {
            kernels::scale(gradient, divisor)?;
        }
        if let (Some(weight), Some(gradient)) = (&mut sae.threshold, threshold) {
            next().step(weight, gradient)?;
        }
        of_bias.step(&mut sae.encoder_bias, encoder_bias)?;
        of_b_dec.step(&mut sae.b_dec, b_dec)?;
        let update = SparseUpdate {
            centred: &self.centred,
            grad_out: &self.grad_out,
            divisor,
            rounded: rounded.as_ref(),
        };
        let is_kept = self.entries.step(sae, [of_encoder, of_decoder], &update)?;
        Ok((self.vectors, rounded.filter(|_| is_kept)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::{SaeConfig, Signum};
    use tch::Device;

    #[test]
    fn an_update_is_that_of_dense_gradients_to_the_bit() {
        for (n, transcode) in [(0, false), (1, false), (90, false), (90, true)] {
            let cfg = SaeConfig {
                transcode,
                ..SaeConfig::topk(13, 70, 5)
            };
            let sae = || Sae::new(cfg.clone(), 3, Device::Cpu).unwrap();
            let (mut ours, mut dense) = (sae(), sae());
            let remembered = |sae: &Sae| -> Vec<Tensor> {
                let weights = sae.named_weights().into_iter();
                weights.map(|(_, weight)| weight * 0.9).collect()
            };
            let (mut z, mut dense_z) = (remembered(&ours), remembered(&dense));
            let (x, divisor) = (noise(&[n, 13], 1.0), Tensor::from(7.0f32));
            let objective = Objective::squared_error(5);
            for update in 1..=3 {
                let constants = Signum {
                    lr: 0.01,
                    to_x: 1.0 - 1.0 / 0.95,
                    average: 1.0 / f64::from(update),
                    to_y: 0.05,
                };
                let backward = ours.sparse_backward(&x, &x, &objective).unwrap().unwrap();
                let rules = z.iter_mut().map(|z| Rule::Signum(constants, z)).collect();
                let vectors = backward.gradients.step(&mut ours, (rules, None), &divisor);
                let mut gradients = dense.backward(&x, &x, &objective).unwrap().gradients;
                gradients.scale(&divisor).unwrap();
                if !transcode {
                    gradients.remove_parallel_to_decoder(&dense, true).unwrap();
                }
                assert!(vectors.unwrap().0.b_dec.equal(&gradients.b_dec));
                let weights = dense.weights_mut().into_iter().zip(&mut dense_z);
                for ((y, z), gradient) in weights.zip(gradients.tensors()) {
                    Rule::Signum(constants, z).step(y, gradient).unwrap();
                }
                let pairs = ours.named_weights().into_iter().zip(dense.named_weights());
                for ((name, ours), (_, dense)) in pairs {
                    assert!(ours.equal(dense), "{name} of {n} tokens");
                }
                assert!(
                    z.iter()
                        .zip(&dense_z)
                        .all(|(ours, dense)| ours.equal(dense))
                );
            }
        }
    }

    #[test]
    fn other_losses_and_kinds_have_none() {
        let sae = Sae::new(SaeConfig::topk(6, 24, 2), 1, Device::Cpu).unwrap();
        let x = noise(&[4, 6], 1.0);
        let of = |objective: &Objective<'_>| sae.sparse_backward(&x, &x, objective).unwrap();
        assert!(of(&Objective::squared_error(2)).is_some());
        let multi_topk = Objective {
            multi_topk: true,
            ..Objective::squared_error(2)
        };
        assert!(of(&multi_topk).is_none());
        let skipping = SaeConfig {
            skip_connection: true,
            transcode: true,
            ..SaeConfig::topk(6, 24, 2)
        };
        let skipping = Sae::new(skipping, 1, Device::Cpu).unwrap();
        let backward = skipping.sparse_backward(&x, &x, &Objective::squared_error(2));
        assert!(backward.unwrap().is_none());
    }
}
