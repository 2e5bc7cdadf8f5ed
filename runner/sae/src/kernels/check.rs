//! Whether the kernels for GPUs compute what libtorch does, on the GPU itself, and which is faster there.

use super::cuda::{Kernel, Opened, Order, Steps};
use super::timing::fastest;
use super::{Adam, Bags, Rule, aten};
use crate::Encoded;
use crate::generator::with_seed;
use fault::without_stack;
use kernels::Signum;
use plan::UpdateShape;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tch::{Device, Kind, TchError, Tensor};

/// Nothing round, something round, and more than a block or a group of anything.
const CHECKED: [UpdateShape; 3] = [
    shape(33, 130, 37, 5),
    shape(64, 1024, 64, 32),
    shape(12, 2100, 132, 9),
];
const SEED: i64 = 20_260;
/// Of the largest number.
const MOST_OFF: f64 = 1e-5;
/// Of all numbers: a gradient that is 0 up to rounding has either sign, and a number halfway between two of bfloat16
/// becomes either.
const MOST_OTHER_SIDES: f64 = 1e-3;

/// Tokens of a measurement, at most and at least.
const MOST_TOKENS: usize = 4096;
const LEAST_TOKENS: usize = 64;
const SIGNUM: Signum = Signum {
    lr: 0.01,
    to_x: 1.0 - 1.0 / 0.95,
    average: 0.25,
    to_y: 0.05,
};
const ADAM: Adam = Adam {
    lr: 0.01,
    to_gradient: 0.1,
    to_square: 0.001,
    correction: 0.1,
    eps: 1e-8,
};

const fn shape(n_tokens: usize, num_latents: usize, d_in: usize, k: usize) -> UpdateShape {
    UpdateShape {
        n_tokens,
        num_latents,
        d_in,
        k,
    }
}

/// Why a kernel is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// It computes something else than libtorch.
    Differs(String),
    /// It could not be started.
    Fails(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differs(what) => write!(f, "it differs from libtorch in {what}"),
            Self::Fails(message) => f.write_str(message),
        }
    }
}

impl Rejection {
    /// Whether it is only that memory ran out.
    pub(super) fn is_of_memory(&self) -> bool {
        matches!(self, Self::Fails(message) if message.contains("out of memory"))
    }
}

/// Holds a kernel to libtorch's operations.
pub(super) fn check(kernel: Kernel, opened: &Opened, device: Device) -> Result<(), Rejection> {
    for shape in CHECKED {
        check_at(kernel, opened, (shape, device))?;
    }
    Ok(())
}

fn check_at(
    kernel: Kernel,
    opened: &Opened,
    (shape, device): (UpdateShape, Device),
) -> Result<(), Rejection> {
    let fails = |error: TchError| Rejection::Fails(without_stack(&error));
    let inputs = || Inputs::draw(shape, device).map_err(fails);
    let twin = inputs()?.twin(kernel).map_err(fails)?;
    let ours = inputs()?.ours(kernel, opened).map_err(fails)?;
    let ours =
        ours.ok_or_else(|| Rejection::Fails(format!("it is not made for {}", shape.in_words())))?;
    for (idx, (ours, twin)) in ours.iter().zip(&twin).enumerate() {
        let n_off = n_off(ours, twin).map_err(fails)?;
        let takes_signs = matches!(kernel, Kernel::RowsSignum | Kernel::DenseSignum);
        let most = if takes_signs || twin.kind() == Kind::BFloat16 {
            MOST_OTHER_SIDES * twin.numel() as f64
        } else {
            0.0
        };
        if n_off as f64 > most {
            let n = twin.numel();
            return Err(Rejection::Differs(format!(
                "{n_off} of {n} numbers of result {idx} at {}",
                shape.in_words()
            )));
        }
    }
    Ok(())
}

/// How many numbers are not the same up to rounding.
fn n_off(ours: &Tensor, twin: &Tensor) -> Result<i64, TchError> {
    let scale = twin.f_abs()?.f_amax([0i64; 0], false)?;
    let off = ours.f_sub(twin)?.f_abs()?;
    // A NaN is not within it either.
    // Sync: the number decides whether the kernel is used.
    let is_close = off.f_le_tensor(&scale.f_mul_scalar(MOST_OFF)?)?;
    is_close
        .f_logical_not()?
        .f_sum(Kind::Int64)?
        .f_int64_value(&[])
}

/// Seconds of kernels and of libtorch's operations at these sizes; not of those that are not made for them. With
/// little memory, fewer tokens and latents are taken.
pub(super) fn time_all(
    kernels: impl Iterator<Item = Kernel> + Clone,
    opened: &Opened,
    (shape, device): (UpdateShape, Device),
    most: Duration,
) -> Vec<(Kernel, [f64; 2])> {
    let mut shape = UpdateShape {
        n_tokens: shape.n_tokens.min(MOST_TOKENS),
        ..shape
    };
    loop {
        let time = |kernel, inputs: &mut Inputs| time(kernel, opened, inputs, most / 20);
        let timed = Inputs::draw(shape, device).and_then(|mut inputs| {
            let timed = kernels
                .clone()
                .map(|kernel| Ok((kernel, time(kernel, &mut inputs)?)));
            timed.collect::<Result<Vec<_>, TchError>>()
        });
        match timed {
            Ok(timed) => {
                let timed = timed.into_iter();
                return timed
                    .filter_map(|(kernel, seconds)| Some((kernel, seconds?)))
                    .collect();
            }
            Err(_) if shape.n_tokens >= 2 * LEAST_TOKENS && shape.num_latents >= 2 * shape.k => {
                shape.n_tokens /= 2;
                shape.num_latents /= 2;
            }
            Err(_) => return Vec::new(),
        }
    }
}

/// `None`: the kernel is not made for these sizes.
fn time(
    kernel: Kernel,
    opened: &Opened,
    inputs: &mut Inputs,
    most: Duration,
) -> Result<Option<[f64; 2]>, TchError> {
    if inputs.ours(kernel, opened)?.is_none() {
        return Ok(None);
    }
    let device = inputs.x.device();
    let ours = fastest(device, most, || inputs.ours(kernel, opened).map(drop))?;
    let twin = fastest(device, most, || inputs.twin(kernel).map(drop))?;
    Ok(Some([ours, twin]))
}

/// By which a kernel changes weights.
fn rule_of(kernel: Kernel, remembered: &mut [Tensor; 2]) -> Rule<'_> {
    match kernel {
        Kernel::RowsAdam | Kernel::DenseAdam => Rule::Adam(ADAM, remembered),
        _ => Rule::Signum(SIGNUM, &mut remembered[0]),
    }
}

/// What an SAE's update would give the kernels: random, and the same for a shape on any device.
struct Inputs {
    /// `[n_tokens, width]`.
    x: Tensor,
    /// `[num_latents, width]`.
    weight: Tensor,
    /// In bfloat16.
    rounded: Tensor,
    /// What an optimizer remembers of it.
    remembered: [Tensor; 2],
    /// Its gradient.
    gradient: Tensor,
    /// `[num_latents]`.
    bias: Tensor,
    /// Pre-activations: `[n_tokens, num_latents]`, BFloat16.
    numbers: Tensor,
    encoded: Encoded,
    /// Gradients at the latents: `[n_tokens, k]`.
    grad_pre: Tensor,
    divisor: Tensor,
}

impl Inputs {
    fn draw(shape: UpdateShape, device: Device) -> Result<Self, TchError> {
        let UpdateShape {
            n_tokens,
            num_latents,
            d_in,
            k,
        } = shape;
        let [n_tokens, num_latents, width, k] = [n_tokens, num_latents, d_in, k].map(|n| n as i64);
        let noise = |rows, columns| Tensor::f_randn([rows, columns], (Kind::Float, device));
        with_seed(SEED, || {
            let x = noise(n_tokens, width)?;
            let weight = noise(num_latents, width)?.f_div_scalar((width as f64).sqrt())?;
            let bias = noise(1, num_latents)?.f_squeeze_dim(0)?;
            let numbers = x
                .f_linear(&weight, Some(&bias))?
                .f_to_kind(Kind::BFloat16)?;
            let (acts, latent_indices) = numbers.f_topk(k, -1, true, true)?;
            let latent_acts = acts.f_to_kind(Kind::Float)?.f_relu()?;
            Ok(Self {
                remembered: [
                    noise(num_latents, width)?,
                    noise(num_latents, width)?.f_abs()?,
                ],
                gradient: noise(num_latents, width)?,
                grad_pre: noise(n_tokens, k)?,
                rounded: weight.f_to_kind(Kind::BFloat16)?,
                divisor: Tensor::f_full([0i64; 0], 3.0, (Kind::Float, device))?,
                encoded: Encoded {
                    latent_acts,
                    latent_indices,
                },
                x,
                weight,
                bias,
                numbers,
            })
        })
    }

    /// What the kernel gives; `None`: it is not made for these sizes.
    fn ours(&mut self, kernel: Kernel, opened: &Opened) -> Result<Option<Vec<Tensor>>, TchError> {
        let (indices, k) = (
            &self.encoded.latent_indices,
            self.encoded.latent_indices.size()[1],
        );
        let order = || Order::sort(indices, self.weight.size()[0]);
        Ok(match kernel {
            Kernel::TopK => {
                let found = opened.topk(&self.numbers, k)?;
                found.map(|found| self.with_numbers(&found)).transpose()?
            }
            Kernel::Rescore => {
                let encoder = (&self.weight, &self.bias);
                let found = opened.rescore(&self.x, encoder, indices, (k + 1) / 2)?;
                found.map(|found| self.with_numbers(&found)).transpose()?
            }
            Kernel::DotsAtEntries => {
                let rows = (&self.weight, Some(&self.bias));
                opened
                    .dots_at_entries(&self.x, rows, indices)?
                    .map(|dots| vec![dots])
            }
            Kernel::SparseTimesRows => {
                let sums = opened.sparse_times_rows(&self.grad_pre, indices, &self.weight)?;
                sums.map(|sums| vec![sums])
            }
            Kernel::SquaredError => {
                let decoder = (&self.weight, &self.x.f_select(0, 0)?);
                let error = opened.squared_error(&self.encoded, decoder, &self.x)?;
                error.map(|error| vec![error.sum, error.grad_out, error.grad_pre])
            }
            Kernel::RowsGradient => {
                let order = order()?;
                let gradient = opened.rows_gradient(&order, &self.grad_pre, &self.x)?;
                let sums = opened.latent_sums(&order, &self.grad_pre)?;
                let counts = opened.fire_counts(&order, &self.encoded.latent_acts)?;
                gradient.map(|gradient| vec![gradient, sums, counts])
            }
            Kernel::RowsSignum | Kernel::RowsAdam => {
                let order = order()?;
                let steps = Steps {
                    divisor: &self.divisor,
                    is_projected: true,
                    rounded: Some(&self.rounded),
                };
                let entries = (&self.grad_pre, &self.x);
                let weights = (&mut self.weight, &mut rule_of(kernel, &mut self.remembered));
                let done = opened.step_rows(&order, entries, weights, &steps)?;
                done.map(|()| self.updated())
            }
            Kernel::DenseSignum | Kernel::DenseAdam => {
                let weights = (&mut self.weight, &mut rule_of(kernel, &mut self.remembered));
                let done = opened.step(weights, &self.gradient)?;
                done.map(|()| self.updated())
            }
        })
    }

    /// The same by libtorch's operations.
    fn twin(&mut self, kernel: Kernel) -> Result<Vec<Tensor>, TchError> {
        let Encoded {
            latent_acts: acts,
            latent_indices: indices,
        } = &self.encoded;
        let bags = || Bags::like(indices);
        let num_latents = self.weight.size()[0];
        Ok(match kernel {
            Kernel::TopK => {
                let (acts, found) = self.numbers.f_topk(indices.size()[1], -1, true, true)?;
                self.with_numbers(&Encoded {
                    latent_acts: acts.f_to_kind(Kind::Float)?,
                    latent_indices: found,
                })?
            }
            Kernel::Rescore => {
                let exact = aten::dots_at_entries(&self.x, &self.weight, indices, &bags()?)?;
                let exact = exact.f_add(&self.bias.f_take(indices)?)?;
                let k = (indices.size()[1] + 1) / 2;
                let (acts, kept) = exact.f_topk(k, -1, true, true)?;
                self.with_numbers(&Encoded {
                    latent_acts: acts,
                    latent_indices: indices.f_gather(1, &kept, false)?,
                })?
            }
            Kernel::DotsAtEntries => {
                let dots = aten::dots_at_entries(&self.x, &self.weight, indices, &bags()?)?;
                vec![dots.f_add(&self.bias.f_take(indices)?)?]
            }
            Kernel::SparseTimesRows => {
                vec![aten::sparse_times_rows(
                    &self.grad_pre,
                    indices,
                    &self.weight,
                )?]
            }
            Kernel::SquaredError => {
                let sae_out = aten::sparse_times_rows(acts, indices, &self.weight)?;
                let error = sae_out.f_add(&self.x.f_select(0, 0)?)?.f_sub(&self.x)?;
                let grad_out = error.f_mul_scalar(2.0)?;
                let grad_pre = aten::dots_at_entries(&grad_out, &self.weight, indices, &bags()?)?;
                let grad_pre = grad_pre.f_mul(&acts.f_gt(0.0)?)?;
                vec![error.f_square()?.f_sum(Kind::Double)?, grad_out, grad_pre]
            }
            Kernel::RowsGradient => {
                let gradients = self.gradients(num_latents)?;
                let counts = aten::fire_counts(&self.encoded, num_latents)?;
                vec![gradients.encoder_weight, gradients.encoder_bias, counts]
            }
            Kernel::RowsSignum | Kernel::RowsAdam => {
                let mut gradient = self.gradients(num_latents)?.encoder_weight;
                let _ = gradient.f_div_(&self.divisor)?;
                aten::project(&mut gradient, &self.weight)?;
                let rule = rule_of(kernel, &mut self.remembered);
                aten::step(rule, &mut self.weight, &gradient)?;
                self.rounded = self.weight.f_to_kind(Kind::BFloat16)?;
                self.updated()
            }
            Kernel::DenseSignum | Kernel::DenseAdam => {
                let rule = rule_of(kernel, &mut self.remembered);
                aten::step(rule, &mut self.weight, &self.gradient)?;
                self.updated()
            }
        })
    }

    /// The weights, what the optimizer remembers of them, and their copy.
    fn updated(&self) -> Vec<Tensor> {
        let [first, second] = &self.remembered;
        let tensors = [&self.weight, first, second, &self.rounded];
        tensors.map(Tensor::shallow_clone).into()
    }

    /// As an encoder's: the gradient at the latents times the tokens.
    fn gradients(&self, num_latents: i64) -> Result<aten::WeightGradients, TchError> {
        let indices = &self.encoded.latent_indices;
        let bags = Bags::like(indices)?;
        let values = (&self.encoded.latent_acts, &self.grad_pre);
        aten::weight_gradients(values, (indices, &bags), (&self.x, &self.x), num_latents)
    }

    /// Activations, and the pre-activations at their indices: of equal numbers either index is right.
    fn with_numbers(&self, found: &Encoded) -> Result<Vec<Tensor>, TchError> {
        let at = self.numbers.f_gather(1, &found.latent_indices, false)?;
        Ok(vec![
            found.latent_acts.shallow_clone(),
            at.f_to_kind(Kind::Float)?,
        ])
    }
}
