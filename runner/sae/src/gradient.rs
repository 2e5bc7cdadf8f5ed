//! The gradient of the squared error, written by hand on the sparse structure.
//!
//! With `e = sae_out - x`, `L = sum |e|^2`, `A` the sparse latents, `M` their mask `A > 0`:
//!
//! ```text
//! dL/dsae_out = G = 2 e
//! dL/dW_dec   = A^T G
//! dL/dpre     = Z = M * (G W_dec^T at the entries of A)
//! dL/dW_enc   = Z^T (x - b_dec)
//! dL/db_enc   = column sums of Z
//! dL/db_dec   = column sums of G  -  (dL/db_enc) W_enc
//! ```
//!
//! The last term is the encoder's share: `b_dec` is subtracted before encoding. Summing `Z` first
//! makes it one vector-matrix product a step. The FVU's gradient is this divided by the total
//! variance of the step's whole batch, which is known only after its last part; see
//! [`Gradients::scale`].

use crate::kernels::{Bags, column_sums, dots_at_entries, sparse_transposed_times};
use crate::{Encoded, Sae, SaeError};
use tch::{Kind, Tensor};

/// Gradients of one SAE, shaped as its weights.
#[derive(Debug)]
pub struct Gradients {
    /// `[num_latents, d_in]`.
    pub encoder_weight: Tensor,
    /// `[num_latents]`.
    pub encoder_bias: Tensor,
    /// `[num_latents, d_in]`.
    pub w_dec: Tensor,
    /// `[d_in]`.
    pub b_dec: Tensor,
}

/// What [`Sae::backward`] gives; all on the input's device, nothing is waited for.
#[derive(Debug)]
pub struct Backward {
    /// Gradients of the squared error.
    pub gradients: Gradients,
    /// `sum |sae_out - x|^2`: scalar, Double.
    pub squared_error: Tensor,
    /// How many tokens each latent fired on: `[num_latents]`, Float. "Fired" is activation > 0.
    pub fire_counts: Tensor,
}

impl Gradients {
    /// The gradients in the order of [`Sae::named_weights`].
    pub fn as_array(&self) -> [&Tensor; 4] {
        [
            &self.encoder_weight,
            &self.encoder_bias,
            &self.w_dec,
            &self.b_dec,
        ]
    }

    fn as_array_mut(&mut self) -> [&mut Tensor; 4] {
        [
            &mut self.encoder_weight,
            &mut self.encoder_bias,
            &mut self.w_dec,
            &mut self.b_dec,
        ]
    }

    /// Adds another part of the same batch.
    ///
    /// # Errors
    /// Want of memory.
    pub fn add(&mut self, part: &Self) -> Result<(), SaeError> {
        for (sum, part) in self.as_array_mut().into_iter().zip(part.as_array()) {
            let _ = sum.f_add_(part)?;
        }
        Ok(())
    }

    /// Divides by `denominator`, a scalar: from squared error to FVU.
    ///
    /// # Errors
    /// Want of memory.
    pub fn scale(&mut self, denominator: &Tensor) -> Result<(), SaeError> {
        let denominator = denominator.f_to_kind(Kind::Float)?;
        for gradient in self.as_array_mut() {
            let _ = gradient.f_div_(&denominator)?;
        }
        Ok(())
    }

    /// Removes from the decoder's gradient its part parallel to the decoder's rows, so that a step
    /// turns the rows and does not stretch them: `g - (g . w) w`.
    ///
    /// # Errors
    /// Want of memory.
    pub fn remove_parallel_to_decoder(&mut self, sae: &Sae) -> Result<(), SaeError> {
        let parallel = self
            .w_dec
            .f_mul(&sae.w_dec)?
            .f_sum_dim_intlist(1, true, None)?;
        let _ = self.w_dec.f_addcmul_(&parallel.f_neg()?, &sae.w_dec)?;
        Ok(())
    }
}

impl Sae {
    /// Forward and backward pass of the squared error on `x`: `[n_tokens, d_in]`, Float.
    ///
    /// # Errors
    /// As [`Sae::encode`].
    pub fn backward(&self, x: &Tensor) -> Result<Backward, SaeError> {
        self.check_input(x)?;
        let centred = x.f_sub(&self.b_dec)?;
        let encoded = self.encode_centred(&centred)?;
        let mut error = self.decode(&encoded)?;
        let error = error.f_sub_(x)?;
        let squared_error = error.f_square()?.f_sum(Kind::Double)?;
        self.backward_of_error(&centred, &encoded, error, squared_error)
    }

    fn backward_of_error(
        &self,
        centred: &Tensor,
        encoded: &Encoded,
        mut error: Tensor,
        squared_error: Tensor,
    ) -> Result<Backward, SaeError> {
        let num_latents = self.num_latents() as i64;
        let Encoded {
            latent_acts,
            latent_indices: indices,
        } = encoded;
        let bags = Bags::like(indices)?;
        let grad_out = error.f_mul_scalar_(2.0)?;
        let fired = latent_acts.f_gt(0.0)?.f_to_kind(Kind::Float)?;
        let mut grad_pre = dots_at_entries(&grad_out, &self.w_dec, indices, &bags)?;
        let grad_pre = grad_pre.f_mul_(&fired)?;
        let encoder_bias = column_sums(&grad_pre, indices, num_latents)?;
        let through_encoder = encoder_bias
            .f_unsqueeze(0)?
            .f_matmul(&self.encoder_weight)?;
        let b_dec = grad_out.f_sum_dim_intlist(0, false, None)?;
        let gradients = Gradients {
            encoder_weight: sparse_transposed_times(
                &grad_pre,
                indices,
                &bags,
                centred,
                num_latents,
            )?,
            w_dec: sparse_transposed_times(latent_acts, indices, &bags, &grad_out, num_latents)?,
            b_dec: b_dec.f_sub(&through_encoder.f_squeeze()?)?,
            encoder_bias,
        };
        let fire_counts = column_sums(&fired, indices, num_latents)?;
        Ok(Backward {
            gradients,
            squared_error,
            fire_counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SaeConfig;
    use crate::testing::noise;
    use tch::Device;

    fn sae_and_input() -> (Sae, Tensor) {
        let mut sae = Sae::new(SaeConfig::topk(6, 24, 4), 5, Device::Cpu).unwrap();
        sae.encoder_bias = noise(&[24], 1.0) * 0.1 - 0.6;
        // A bias below zero, so that some tokens have fewer than k positive pre-activations.
        sae.b_dec = noise(&[6], 2.0);
        let x = noise(&[9, 6], 3.0);
        (sae, x)
    }

    /// The same forward pass in operations that autograd knows.
    fn autograd(sae: &Sae, x: &Tensor) -> [Tensor; 4] {
        let leaves = sae
            .named_weights()
            .map(|(_, w)| w.copy().set_requires_grad(true));
        let [w_enc, b_enc, w_dec, b_dec] = &leaves;
        let pre_acts = (x - b_dec).linear(w_enc, Some(b_enc)).relu();
        let (acts, indices) = pre_acts.topk(sae.cfg.k as i64, -1, true, false);
        let latents = pre_acts.zeros_like().scatter(1, &indices, &acts);
        let loss = (latents.matmul(w_dec) + b_dec - x)
            .square()
            .sum(Kind::Float);
        loss.backward();
        leaves.map(|leaf| leaf.grad())
    }

    #[test]
    fn equals_autograd() {
        let (sae, x) = sae_and_input();
        let idle = sae.encode(&x).unwrap().latent_acts.eq(0.0).any();
        assert!(
            bool::try_from(idle).unwrap(),
            "the case must hold latents selected at 0"
        );
        let backward = sae.backward(&x).unwrap();
        for (ours, theirs) in backward
            .gradients
            .as_array()
            .into_iter()
            .zip(autograd(&sae, &x))
        {
            assert!(ours.allclose(&theirs, 1e-4, 1e-4, false), "{ours} {theirs}");
        }
    }

    #[test]
    fn parts_of_a_batch_add_up() {
        let (sae, x) = sae_and_input();
        let whole = sae.backward(&x).unwrap();
        let mut sum = sae.backward(&x.narrow(0, 0, 4)).unwrap();
        let rest = sae.backward(&x.narrow(0, 4, 5)).unwrap();
        sum.gradients.add(&rest.gradients).unwrap();
        for (a, b) in sum
            .gradients
            .as_array()
            .into_iter()
            .zip(whole.gradients.as_array())
        {
            assert!(a.allclose(b, 1e-5, 1e-5, false));
        }
        assert!((sum.fire_counts + rest.fire_counts).equal(&whole.fire_counts));
    }

    #[test]
    fn the_parallel_part_is_gone() {
        let (mut sae, x) = sae_and_input();
        sae.normalize_decoder().unwrap();
        let mut gradients = sae.backward(&x).unwrap().gradients;
        gradients.remove_parallel_to_decoder(&sae).unwrap();
        let along = (&gradients.w_dec * &sae.w_dec).sum_dim_intlist(1, false, None);
        assert!(along.abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn fire_counts_are_of_positive_activations() {
        let (sae, x) = sae_and_input();
        let fired = sae.encode(&x).unwrap().latent_acts.gt(0.0).sum(Kind::Float);
        let counts = sae.backward(&x).unwrap().fire_counts.sum(Kind::Float);
        assert_eq!(counts.double_value(&[]), fired.double_value(&[]));
    }
}
