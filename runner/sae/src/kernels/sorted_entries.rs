//! The entries of a batch in the order of their latents, and what is summed over those of each latent: gradients
//! of the weights, in memory or straight into the optimizer.

use super::aten::{self, WeightGradients};
use super::cuda::{self, Opened};
use super::kernel::Kernel;
use super::{Listed, Rule, n_threads, slice, slice_mut};
use crate::{Encoded, Sae};
use kernels::{ByLatent, Entries, MatrixUpdate, Nested, RowSteps, TokenOf, Weights, in_threads};
use tch::{Device, Kind, TchError, Tensor};

/// Latents of tokens, with the gradients at them: `[n_tokens, k]`, or `[n_entries]` if tokens have any number.
#[derive(Debug)]
pub(crate) struct SortedEntries {
    encoded: Encoded,
    /// At the selected pre-activations.
    grad_pre: Tensor,
    /// Token of each entry, if they have any number.
    tokens: Option<Tensor>,
    /// Of nested reconstructions: see [`Nested`].
    ends: Vec<usize>,
    order: Order,
}

/// Where they are, and their order.
#[derive(Debug)]
enum Order {
    Host(ByLatent),
    Cuda(&'static Opened, cuda::Order),
}

/// What goes into the optimizer besides the entries: see [`SortedEntries::step`].
#[derive(Debug)]
pub(crate) struct SparseUpdate<'a> {
    /// What the encoder was applied to: `[n_tokens, d_in]`.
    pub(crate) centred: &'a Tensor,
    /// The gradient at the reconstruction: `[n_tokens, d_out]`; of nested ones `[n_levels, n_tokens, d_out]`.
    pub(crate) grad_out: &'a Tensor,
    /// What gradients are divided by: scalar, Float.
    pub(crate) divisor: &'a Tensor,
    /// The encoder in bfloat16, to be brought up to date: `[num_latents, d_in]`.
    pub(crate) rounded: Option<&'a Tensor>,
}

impl SortedEntries {
    /// `None`: neither on the CPU, nor on a GPU whose kernels are in use for gradients of weights.
    pub(crate) fn new(
        encoded: &Encoded,
        grad_pre: &Tensor,
        num_latents: i64,
    ) -> Result<Option<Self>, TchError> {
        let Encoded {
            latent_acts: acts,
            latent_indices: indices,
        } = encoded;
        let order = if let (Some(_), Some(_), Some(indices)) = (
            slice::<f32>(acts),
            slice::<f32>(grad_pre),
            slice::<i64>(indices),
        ) {
            Order::Host(ByLatent::sort(indices, num_latents as usize))
        } else if let Some(opened) = cuda::opened(Kernel::RowsGradient, &[acts, grad_pre, indices])
        {
            Order::Cuda(opened, cuda::Order::sort(indices, num_latents)?)
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            encoded: Encoded {
                latent_acts: acts.shallow_clone(),
                latent_indices: indices.shallow_clone(),
            },
            grad_pre: grad_pre.shallow_clone(),
            tokens: None,
            ends: Vec::new(),
            order,
        }))
    }

    /// The same for any number of latents of a token, and for reconstructions from the latents below each of `ends`.
    /// `None`: as of [`SortedEntries::new`].
    pub(crate) fn listed(
        at: &Listed,
        [acts, grad_pre]: [&Tensor; 2],
        ends: &[usize],
        num_latents: i64,
    ) -> Result<Option<Self>, TchError> {
        let tensors = [acts, grad_pre, &at.indices, at.tokens()];
        let order = if let (Some(_), Some(_), Some(indices)) = (
            slice::<f32>(acts),
            slice::<f32>(grad_pre),
            slice::<i64>(&at.indices),
        ) {
            Order::Host(ByLatent::sort(indices, num_latents as usize))
        } else if let Some(opened) = cuda::opened(Kernel::RowsGradient, &tensors) {
            let latents = at.latents_or(num_latents)?;
            let order = cuda::Order::sort_listed(&latents, at.tokens(), num_latents)?;
            Order::Cuda(opened, order)
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            order,
            encoded: Encoded {
                latent_acts: acts.shallow_clone(),
                latent_indices: at.indices.shallow_clone(),
            },
            grad_pre: grad_pre.shallow_clone(),
            tokens: Some(at.tokens().shallow_clone()),
            ends: ends.to_vec(),
        }))
    }

    /// The gradient of the encoder's bias: `[num_latents]`.
    pub(crate) fn bias_gradient(&self) -> Result<Tensor, TchError> {
        match &self.order {
            Order::Cuda(opened, order) => opened.latent_sums(order, &self.grad_pre),
            Order::Host(by_latent) => {
                let mut bias =
                    Tensor::f_empty([by_latent.n_latents() as i64], (Kind::Float, Device::Cpu))?;
                let out = slice_mut(&mut bias).expect("as it was made");
                let entries = self.on_host();
                in_threads(n_threads(), || entries.bias_gradient(by_latent, out));
                Ok(bias)
            }
        }
    }

    /// How many tokens each latent fired on: `[num_latents]`, Float.
    pub(crate) fn fire_counts(&self) -> Result<Tensor, TchError> {
        let acts = &self.encoded.latent_acts;
        match &self.order {
            Order::Cuda(opened, order) => opened.fire_counts(order, acts),
            Order::Host(by_latent) => {
                let num_latents = by_latent.n_latents() as i64;
                aten::fire_counts(&self.encoded, num_latents)
            }
        }
    }

    /// The gradients of the encoder's weights and of the decoder, from `centred`: `[n_tokens, d_in]` and
    /// `grad_out`: see [`SparseUpdate`]. `None`: those are elsewhere, or of another kind.
    pub(crate) fn matrix_gradients(
        &self,
        centred: &Tensor,
        grad_out: &Tensor,
    ) -> Result<Option<(Tensor, Tensor)>, TchError> {
        let by_latent = match &self.order {
            Order::Host(by_latent) => by_latent,
            Order::Cuda(opened, order) => {
                let (centred, grad_out) = ((centred, &[][..]), (grad_out, &*self.ends));
                let encoder_weight = opened.rows_gradient(order, &self.grad_pre, centred)?;
                let acts = &self.encoded.latent_acts;
                let w_dec = opened.rows_gradient(order, acts, grad_out)?;
                return Ok(encoder_weight.zip(w_dec));
            }
        };
        let (Some(rows), Some(grad_rows)) = (slice(centred), slice(grad_out)) else {
            return Ok(None);
        };
        let matrix = |rows: &Tensor| {
            let width = rows.size().last().copied().unwrap_or(0);
            let shape = [by_latent.n_latents() as i64, width];
            Tensor::f_empty(shape, (Kind::Float, Device::Cpu))
        };
        let (mut encoder_weight, mut w_dec) = (matrix(centred)?, matrix(grad_out)?);
        let out = kernels::WeightGradients {
            encoder_weight: slice_mut(&mut encoder_weight).expect("as it was made"),
            w_dec: slice_mut(&mut w_dec).expect("as it was made"),
        };
        let (entries, grad_out) = (self.on_host(), self.nested(grad_rows));
        in_threads(n_threads(), || {
            entries.weight_gradients(by_latent, grad_out, rows, out);
        });
        Ok(Some((encoder_weight, w_dec)))
    }

    /// All of them: see [`aten::weight_gradients`].
    pub(crate) fn weight_gradients(
        &self,
        centred: &Tensor,
        grad_out: &Tensor,
    ) -> Result<Option<WeightGradients>, TchError> {
        let matrices = self.matrix_gradients(centred, grad_out)?;
        let Some((encoder_weight, w_dec)) = matrices else {
            return Ok(None);
        };
        Ok(Some(WeightGradients {
            encoder_weight,
            encoder_bias: self.bias_gradient()?,
            w_dec,
        }))
    }

    /// One update of the encoder's weights and of the decoder, by a rule for each, without their gradients in memory.
    /// Whether the encoder in bfloat16 is up to date.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// Weights that are not where the entries are, or rules that [`are_updated_by_rows`](super::are_updated_by_rows) is not true of.
    pub(crate) fn step(
        &self,
        sae: &mut Sae,
        [mut of_encoder, mut of_decoder]: [Rule<'_>; 2],
        update: &SparseUpdate<'_>,
    ) -> Result<bool, TchError> {
        let is_projected = sae.has_unit_decoder();
        let (encoder_weight, w_dec) = (&mut sae.encoder_weight, &mut sae.w_dec);
        let (opened, order) = match &self.order {
            Order::Cuda(opened, order) => (opened, order),
            Order::Host(by_latent) => {
                let (Rule::Signum(constants, z), Rule::Signum(_, z_decoder)) =
                    (of_encoder, of_decoder)
                else {
                    unreachable!("on the CPU only signum takes rows")
                };
                let matrices = MatrixUpdate {
                    encoder_weight: weights(encoder_weight, z),
                    w_dec: weights(w_dec, z_decoder),
                    steps: RowSteps {
                        divisor: slice(update.divisor).expect(IS_HERE)[0],
                        is_projected,
                        constants,
                    },
                };
                self.step_on_host(by_latent, update, matrices);
                return Ok(false);
            }
        };
        let steps = cuda::Steps {
            divisor: update.divisor,
            is_projected: false,
            rounded: update.rounded,
        };
        let entries = (&self.grad_pre, (update.centred, &[][..]));
        opened.step_rows(order, entries, (encoder_weight, &mut of_encoder), &steps)?;
        let steps = cuda::Steps {
            is_projected,
            rounded: None,
            ..steps
        };
        let entries = (&self.encoded.latent_acts, (update.grad_out, &*self.ends));
        opened.step_rows(order, entries, (w_dec, &mut of_decoder), &steps)?;
        Ok(true)
    }

    fn step_on_host(
        &self,
        by_latent: &ByLatent,
        update: &SparseUpdate<'_>,
        matrices: MatrixUpdate<'_>,
    ) {
        let entries = self.on_host();
        let [centred, grad_out] =
            [update.centred, update.grad_out].map(|rows| slice(rows).expect(IS_HERE));
        let grad_out = self.nested(grad_out);
        in_threads(n_threads(), || {
            entries.update(by_latent, grad_out, centred, matrices);
        });
    }

    fn nested<'a>(&'a self, grad_out: &'a [f32]) -> Nested<'a> {
        Nested {
            grad_out,
            ends: &self.ends,
        }
    }

    fn on_host(&self) -> Entries<'_> {
        Entries {
            tokens: match &self.tokens {
                None => TokenOf::Every(self.encoded.latent_indices.size()[1] as usize),
                Some(tokens) => TokenOf::Listed(slice(tokens).expect(IS_HERE)),
            },
            indices: slice(&self.encoded.latent_indices).expect(IS_HERE),
            acts: slice(&self.encoded.latent_acts).expect(IS_HERE),
            grad_pre: slice(&self.grad_pre).expect(IS_HERE),
        }
    }
}

const IS_HERE: &str = "it was on the CPU before";

fn weights<'a>(y: &'a mut Tensor, z: &'a mut Tensor) -> Weights<'a> {
    Weights {
        y: slice_mut(y).expect(IS_HERE),
        z: slice_mut(z).expect(IS_HERE),
    }
}
