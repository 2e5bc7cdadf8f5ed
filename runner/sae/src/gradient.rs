//! Gradients by hand: the latents are sparse, and autograd would not make use of it.
//!
//! A loss reaches the weights through one or several reconstructions, each a sparse matrix `S` of
//! activations times `W_dec`. With `G` its gradient at the reconstruction, `P` the gradient at the
//! selected pre-activations (`G W_dec^T` at the entries of `S`, 0 where ReLU was) and `c` what the
//! encoder is applied to:
//!
//! ```text
//! d W_dec = S^T G       d W_enc = P^T c       d b_enc = sum P       d W_skip = G^T x
//! d b_dec = sum G - (sum P) W_enc             (a transcoder does not subtract b_dec: sum G)
//! ```

use crate::folding::MIN_NORM;
use crate::kernels::{self, WeightGradients, dots_at_entries, sparse_times_rows, weight_gradients};
use crate::pre_acts::PreActs;
use crate::{Encoded, Gate, Sae, SaeError};
use fault::Fault;
use tch::{Kind, Tensor};

/// Gradients of one SAE, shaped as its weights.
#[derive(Debug)]
pub struct Gradients {
    /// `[num_latents, d_in]`.
    pub encoder_weight: Tensor,
    /// `[num_latents]`.
    pub encoder_bias: Tensor,
    /// `[num_latents, d_out]`.
    pub w_dec: Tensor,
    /// `[d_out]`.
    pub b_dec: Tensor,
    /// `[d_out, d_in]`; only with a skip connection.
    pub w_skip: Option<Tensor>,
    /// `[num_latents]`; only with thresholds.
    pub threshold: Option<Tensor>,
    /// Only of gated SAEs.
    pub gate: Option<Gate>,
}

impl Gradients {
    /// The gradients in the order of [`Sae::named_weights`].
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut tensors = vec![
            &self.encoder_weight,
            &self.encoder_bias,
            &self.w_dec,
            &self.b_dec,
        ];
        tensors.extend(&self.w_skip);
        tensors.extend(&self.threshold);
        tensors.extend(self.gate.iter().flat_map(Gate::weights));
        tensors
    }

    /// The gradients, in the order of [`Sae::named_weights`].
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let mut tensors = vec![
            &mut self.encoder_weight,
            &mut self.encoder_bias,
            &mut self.w_dec,
            &mut self.b_dec,
        ];
        tensors.extend(&mut self.w_skip);
        tensors.extend(&mut self.threshold);
        tensors.extend(self.gate.iter_mut().flat_map(Gate::weights_mut));
        tensors
    }

    /// Adds another part of the same batch.
    ///
    /// # Errors
    /// Too little memory.
    pub fn add(&mut self, part: &Self) -> Result<(), SaeError> {
        for (sum, part) in self.tensors_mut().into_iter().zip(part.tensors()) {
            let _ = sum.f_add_(part)?;
        }
        Ok(())
    }

    /// Divides by `denominator`, a scalar: from squared error to FVU.
    ///
    /// # Errors
    /// Too little memory.
    pub fn scale(&mut self, denominator: &Tensor) -> Result<(), SaeError> {
        let denominator = denominator.f_to_kind(Kind::Float)?;
        for gradient in self.tensors_mut() {
            kernels::scale(gradient, &denominator)?;
        }
        Ok(())
    }

    /// Makes all of them smaller by one factor, so that the norm of all numbers together is at most `most`.
    ///
    /// # Errors
    /// Too little memory.
    pub fn limit_norm(&mut self, most: f64) -> Result<(), SaeError> {
        let norms = self.tensors().into_iter().map(Tensor::f_norm);
        let norms: Vec<Tensor> = norms.collect::<Result<_, _>>()?;
        let norm = Tensor::f_stack(&norms, 0)?.f_norm()?;
        let factor = norm
            .f_add_scalar(1e-6)?
            .f_reciprocal()?
            .f_mul_scalar(most)?;
        let factor = factor.f_clamp_max(1.0)?;
        for gradient in self.tensors_mut() {
            let _ = gradient.f_mul_(&factor)?;
        }
        Ok(())
    }

    /// Removes from the decoder's gradient its part parallel to the decoder's rows, so that a step
    /// turns the rows and does not stretch them: `g - (g . w) w`. `has_unit_norm`: whether the rows have that.
    ///
    /// # Errors
    /// Too little memory.
    pub fn remove_parallel_to_decoder(
        &mut self,
        sae: &Sae,
        has_unit_norm: bool,
    ) -> Result<(), SaeError> {
        if has_unit_norm {
            return Ok(kernels::project(&mut self.w_dec, &sae.w_dec)?);
        }
        let norms = sae.w_dec.f_norm_scalaropt_dim(2.0, [1i64], true)?;
        let rows = sae.w_dec.f_div(&norms.f_clamp_min(MIN_NORM)?)?;
        Ok(kernels::project(&mut self.w_dec, &rows)?)
    }
}

/// A forward pass, with what its backward pass needs.
#[derive(Debug)]
pub struct Pass {
    /// The input: `[n_tokens, d_in]`.
    pub(crate) x: Tensor,
    /// What the encoder is applied to: `[n_tokens, d_in]`.
    pub(crate) centred: Tensor,
    /// The latents of the reconstruction.
    pub encoded: Encoded,
    /// The reconstruction, skip connection included: `[n_tokens, d_out]`.
    pub sae_out: Tensor,
}

/// What an SAE is given.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// `[n_tokens, d_in]`.
    pub(crate) x: &'a Tensor,
    /// What the encoder is applied to: `[n_tokens, d_in]`.
    pub(crate) centred: &'a Tensor,
}

impl Pass {
    pub(crate) fn input(&self) -> Input<'_> {
        Input {
            x: &self.x,
            centred: &self.centred,
        }
    }
}

/// A reconstruction within a loss.
pub(crate) struct Part<'a> {
    pub(crate) encoded: &'a Encoded,
    /// The loss's gradient at the reconstruction: `[n_tokens, d_out]`.
    pub(crate) grad_out: &'a Tensor,
    /// Where it reaches the pre-activations.
    pub(crate) reaches: Reaches<'a>,
    /// Whether `b_dec` and the skip connection are part of the reconstruction.
    pub(crate) is_whole: bool,
}

/// The selected pre-activations that a gradient reaches. At the others it is 0.
#[derive(Clone, Copy)]
pub(crate) enum Reaches<'a> {
    /// Those that are positive: ReLU was applied to them.
    Positive,
    All,
    /// Where a mask is true: `[n_tokens, k]`.
    Where(&'a Tensor),
}

/// What one part of a loss gives.
pub(crate) struct PartGradients {
    pub(crate) gradients: Gradients,
    /// Gradient at the selected pre-activations: `[n_tokens, k]`.
    grad_pre: Tensor,
}

impl Sae {
    /// A forward pass with `k` active latents a token on `x`: `[n_tokens, d_in]`, Float. `rounded`: the encoder
    /// that finds them, if it is not the SAE's own: see [`Sae::rounded_encoder`].
    ///
    /// # Errors
    /// As [`Sae::encode`].
    pub fn pass(&self, x: &Tensor, k: usize, rounded: Option<&Tensor>) -> Result<Pass, SaeError> {
        let centred = self.centred_for_training(x)?;
        let encoded = self.encode_centred(&centred, k, rounded)?;
        self.pass_of(x, centred, encoded)
    }

    /// The same, and the pre-activations.
    pub(crate) fn pass_with_pre_acts(
        &self,
        x: &Tensor,
        k: usize,
        rounded: Option<&Tensor>,
    ) -> Result<(Pass, PreActs<'_>), SaeError> {
        let centred = self.centred_for_training(x)?;
        let pre_acts = self.pre_acts(&centred, rounded)?;
        let encoded = pre_acts.select(k)?;
        Ok((self.pass_of(x, centred, encoded)?, pre_acts))
    }

    pub(crate) fn centred_for_training(&self, x: &Tensor) -> Result<Tensor, SaeError> {
        self.check_input(x)?;
        let activation = self.cfg.activation;
        if activation.has_k() {
            self.centred(x)
        } else {
            Err(Fault::internal(format!(
                "SAEs with the activation {activation} have no loss on the model's output"
            ))
            .into())
        }
    }

    fn pass_of(&self, x: &Tensor, centred: Tensor, encoded: Encoded) -> Result<Pass, SaeError> {
        Ok(Pass {
            x: x.shallow_clone(),
            centred,
            sae_out: self.with_skip(self.decode(&encoded)?, x)?,
            encoded,
        })
    }

    /// The backward pass of any loss: its gradients at the weights and at the input, from that at
    /// the output, `grad_out`: `[n_tokens, d_out]`.
    ///
    /// # Errors
    /// Another shape of `grad_out`, or too little memory.
    pub fn backward_of_output(
        &self,
        pass: &Pass,
        grad_out: &Tensor,
    ) -> Result<(Gradients, Tensor), SaeError> {
        self.check_target(grad_out)?;
        let part = Part {
            encoded: &pass.encoded,
            grad_out,
            reaches: Reaches::Positive,
            is_whole: true,
        };
        let PartGradients {
            gradients,
            grad_pre,
        } = self.part_gradients(pass.input(), &part)?;
        let indices = &pass.encoded.latent_indices;
        let grad_x = sparse_times_rows(&grad_pre, indices, &self.encoder_weight)?;
        let grad_x = match &self.w_skip {
            None => grad_x,
            Some(w_skip) => grad_x.f_addmm(grad_out, w_skip)?,
        };
        Ok((gradients, grad_x))
    }

    /// The gradients of a part of a loss.
    pub(crate) fn part_gradients(
        &self,
        input: Input<'_>,
        part: &Part<'_>,
    ) -> Result<PartGradients, SaeError> {
        let Encoded {
            latent_acts,
            latent_indices: indices,
        } = part.encoded;
        let mut grad_pre = dots_at_entries(part.grad_out, (&self.w_dec, None), indices)?;
        grad_pre = match part.reaches {
            Reaches::Positive => grad_pre.f_mul_(&latent_acts.f_gt(0.0)?)?,
            Reaches::All => grad_pre,
            Reaches::Where(mask) => grad_pre.f_masked_fill_(&mask.f_logical_not()?, 0.0)?,
        };
        Ok(PartGradients {
            gradients: self.gradients_from(input, part, &grad_pre)?,
            grad_pre,
        })
    }

    /// The gradients of a part of a loss, with that at the selected pre-activations.
    fn gradients_from(
        &self,
        input: Input<'_>,
        part: &Part<'_>,
        grad_pre: &Tensor,
    ) -> Result<Gradients, SaeError> {
        let rows = (part.grad_out, input.centred);
        let WeightGradients {
            encoder_weight,
            encoder_bias,
            w_dec,
        } = weight_gradients(part.encoded, grad_pre, rows, self.num_latents() as i64)?;
        Ok(Gradients {
            encoder_weight,
            w_dec,
            b_dec: self.grad_b_dec(part.is_whole.then_some(part.grad_out), &encoder_bias)?,
            w_skip: if part.is_whole {
                self.grad_w_skip(input.x, part.grad_out)?
            } else {
                self.w_skip.as_ref().map(Tensor::f_zeros_like).transpose()?
            },
            threshold: None,
            gate: None,
            encoder_bias,
        })
    }

    /// `grad_out`: the gradient at the reconstruction, if `b_dec` is part of it; `grad_bias`: the sum of those at what
    /// the encoder's weights are multiplied with.
    pub(crate) fn grad_b_dec(
        &self,
        grad_out: Option<&Tensor>,
        grad_bias: &Tensor,
    ) -> Result<Tensor, SaeError> {
        let direct = match grad_out {
            Some(grad_out) => grad_out.f_sum_dim_intlist(0, false, None)?,
            None => self.b_dec.f_zeros_like()?,
        };
        if !self.cfg.subtracts_b_dec() {
            return Ok(direct);
        }
        let through_encoder = grad_bias.f_unsqueeze(0)?.f_matmul(&self.encoder_weight)?;
        Ok(direct.f_sub(&through_encoder.f_squeeze_dim(0)?)?)
    }

    pub(crate) fn grad_w_skip(
        &self,
        x: &Tensor,
        grad_out: &Tensor,
    ) -> Result<Option<Tensor>, SaeError> {
        match &self.w_skip {
            None => Ok(None),
            Some(_) => Ok(Some(grad_out.f_tr()?.f_matmul(x)?)),
        }
    }

    /// How many tokens each latent fired on: `[num_latents]`, Float. "Fired" is activation > 0.
    ///
    /// # Errors
    /// Too little memory.
    pub fn fire_counts(&self, encoded: &Encoded) -> Result<Tensor, SaeError> {
        Ok(kernels::fire_counts(encoded, self.num_latents() as i64)?)
    }
}
