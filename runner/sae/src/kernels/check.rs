//! Whether the kernels for GPUs compute what libtorch does, on the GPU itself, and which is faster there.

use super::cuda::{Opened, Order, Steps, TokenLatents};
use super::kernel::Kernel;
use super::timing::fastest;
use super::{Acts, Adam, Bags, NestedErrors, Rule, aten};
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

/// To be compared: some tokens have no entry, and some nearly three times the mean.
const COMPARED: Lists = Lists {
    power: 3,
    nested: &[(0.25, 0.5), (0.5, 2.0), (1.0, 1.0)],
};
/// To be measured: all have as many.
const MEASURED: Lists = Lists {
    power: 1,
    nested: &[(1.0, 1.0)],
};

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

/// How latents of lists are drawn.
struct Lists {
    /// The entries up to a token grow with its number to this power.
    power: i64,
    /// Of nested reconstructions the parts of all latents, and the weights of their errors.
    nested: &'static [(f64, f32)],
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

/// How entries belong to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As many to each.
    Rows,
    /// Any number.
    List,
}

impl Form {
    /// Those that a kernel takes.
    fn all(kernel: Kernel) -> &'static [Self] {
        match kernel {
            Kernel::DotsAtEntries
            | Kernel::SparseTimesRows
            | Kernel::RowsGradient
            | Kernel::RowsSignum
            | Kernel::RowsAdam => &[Self::Rows, Self::List],
            Kernel::NestedErrors => &[Self::List],
            _ => &[Self::Rows],
        }
    }
}

/// Holds a kernel to libtorch's operations.
pub(super) fn check(kernel: Kernel, opened: &Opened, device: Device) -> Result<(), Rejection> {
    for shape in CHECKED {
        for form in Form::all(kernel) {
            check_at((kernel, *form), opened, (shape, device))?;
        }
    }
    Ok(())
}

fn check_at(
    (kernel, form): (Kernel, Form),
    opened: &Opened,
    (shape, device): (UpdateShape, Device),
) -> Result<(), Rejection> {
    let fails = |error: TchError| Rejection::Fails(without_stack(&error));
    let inputs = || {
        let mut inputs = Inputs::draw(shape, device, &COMPARED).map_err(fails)?;
        inputs.form = form;
        Ok(inputs)
    };
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
        let timed = Inputs::draw(shape, device, &MEASURED).and_then(|mut inputs| {
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
    inputs.form = Form::all(kernel)[0];
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
    rows: Entries,
    list: Entries,
    /// Which of both are taken.
    form: Form,
    /// Of nested reconstructions, below which latents those of each are, and the weights of their errors.
    levels: Vec<(usize, f32)>,
    divisor: Tensor,
}

/// Latents of tokens, with gradients at them: `[n_tokens, k]`, or `[n_entries]`.
struct Entries {
    encoded: Encoded,
    grad_pre: Tensor,
    /// Of a list, where tokens begin.
    starts: Option<Tensor>,
}

impl Entries {
    fn latents(&self) -> TokenLatents<'_> {
        TokenLatents {
            indices: &self.encoded.latent_indices,
            starts: self.starts.as_ref(),
        }
    }

    fn bags(&self) -> Result<Bags, TchError> {
        let indices = &self.encoded.latent_indices;
        match &self.starts {
            None => Bags::like(indices),
            Some(starts) => Bags::of_starts(starts, indices.size()[0], false),
        }
    }

    fn order(&self, num_latents: i64) -> Result<Order, TchError> {
        let indices = &self.encoded.latent_indices;
        match self.starts {
            None => Order::sort(indices, num_latents),
            Some(_) => Order::sort_listed(indices, self.bags()?.tokens(), num_latents),
        }
    }

    /// The same, one after the other, as entries of other tokens; those of each in the order of their latents.
    fn listed(&self, num_latents: i64, power: i64) -> Result<Self, TchError> {
        let indices = &self.encoded.latent_indices;
        let (n_tokens, k) = indices.size2()?;
        let until = Tensor::f_arange(n_tokens + 1, (Kind::Int64, indices.device()))?;
        let starts = until.f_pow_tensor_scalar(power)?.f_mul_scalar(k)?;
        let starts = starts.f_divide_scalar_mode(n_tokens.pow(power as u32 - 1), "floor")?;
        let bags = Bags::of_starts(&starts, n_tokens * k, false)?;
        let places = bags.tokens().f_mul_scalar(num_latents)?;
        let places = places.f_add(&indices.f_reshape([-1])?)?;
        let (places, order) = places.f_sort(0, false)?;
        Ok(Self {
            encoded: Encoded {
                latent_acts: self.encoded.latent_acts.f_take(&order)?,
                latent_indices: places.f_remainder(num_latents)?,
            },
            grad_pre: self.grad_pre.f_take(&order)?,
            starts: Some(starts),
        })
    }
}

impl Inputs {
    fn draw(shape: UpdateShape, device: Device, lists: &Lists) -> Result<Self, TchError> {
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
            let rows = Entries {
                encoded: Encoded {
                    latent_acts: acts.f_to_kind(Kind::Float)?.f_relu()?,
                    latent_indices,
                },
                grad_pre: noise(n_tokens, k)?,
                starts: None,
            };
            let end = |part: &f64| (num_latents as f64 * part) as usize;
            let nested = lists.nested.iter();
            Ok(Self {
                list: rows.listed(num_latents, lists.power)?,
                rows,
                form: Form::Rows,
                levels: nested.map(|(part, weight)| (end(part), *weight)).collect(),
                remembered: [
                    noise(num_latents, width)?,
                    noise(num_latents, width)?.f_abs()?,
                ],
                gradient: noise(num_latents, width)?,
                rounded: weight.f_to_kind(Kind::BFloat16)?,
                divisor: Tensor::f_full([0i64; 0], 3.0, (Kind::Float, device))?,
                x,
                weight,
                bias,
                numbers,
            })
        })
    }

    /// What the kernel gives; `None`: it is not made for these sizes.
    fn ours(&mut self, kernel: Kernel, opened: &Opened) -> Result<Option<Vec<Tensor>>, TchError> {
        let entries = match self.form {
            Form::Rows => &self.rows,
            Form::List => &self.list,
        };
        let (latents, indices) = (entries.latents(), &entries.encoded.latent_indices);
        let order = || entries.order(self.weight.size()[0]);
        Ok(match kernel {
            Kernel::TopK => {
                let found = opened.topk(&self.numbers, indices.size()[1])?;
                found.map(|found| self.with_numbers(&found)).transpose()?
            }
            Kernel::Rescore => {
                let encoder = (&self.weight, &self.bias);
                let k = (indices.size()[1] + 1) / 2;
                let found = opened.rescore(&self.x, encoder, indices, k)?;
                found.map(|found| self.with_numbers(&found)).transpose()?
            }
            Kernel::DotsAtEntries => {
                let rows = (&self.weight, Some(&self.bias));
                opened
                    .dots_at_entries(&self.x, rows, latents)?
                    .map(|dots| vec![dots])
            }
            Kernel::SparseTimesRows => {
                let sums = opened.sparse_times_rows(&entries.grad_pre, latents, &self.weight)?;
                sums.map(|sums| vec![sums])
            }
            Kernel::SquaredError => {
                let decoder = (&self.weight, &self.x.f_select(0, 0)?);
                let error = opened.squared_error(&entries.encoded, decoder, &self.x)?;
                error.map(|error| vec![error.sum, error.grad_out, error.grad_pre])
            }
            Kernel::NestedErrors => {
                let acts = Acts {
                    numbers: &entries.encoded.latent_acts,
                    reaches_idle: true,
                };
                let decoder = (&self.weight, &self.x.f_select(0, 0)?);
                let errors =
                    opened.nested_errors(latents, acts, decoder, (&self.x, &self.levels))?;
                errors.map(in_parts)
            }
            Kernel::RowsGradient => {
                let order = order()?;
                let dense = (&self.dense()?, &*self.ends());
                let gradient = opened.rows_gradient(&order, &entries.grad_pre, dense)?;
                let sums = opened.latent_sums(&order, &entries.grad_pre)?;
                let counts = opened.fire_counts(&order, &entries.encoded.latent_acts)?;
                gradient.map(|gradient| vec![gradient, sums, counts])
            }
            Kernel::RowsSignum | Kernel::RowsAdam => {
                let order = order()?;
                let steps = Steps {
                    divisor: &self.divisor,
                    is_projected: true,
                    rounded: Some(&self.rounded),
                };
                let dense = (&self.dense()?, &*self.ends());
                let entries = (&entries.grad_pre, dense);
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
        let entries = self.entries();
        let Encoded {
            latent_acts: acts,
            latent_indices: indices,
        } = &entries.encoded;
        let bags = || entries.bags();
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
                let values = &entries.grad_pre;
                let sums = aten::listed_times_rows(values, indices, &bags()?, &self.weight)?;
                vec![sums]
            }
            Kernel::SquaredError => {
                let sae_out = aten::sparse_times_rows(acts, indices, &self.weight)?;
                let error = sae_out.f_add(&self.x.f_select(0, 0)?)?.f_sub(&self.x)?;
                let grad_out = error.f_mul_scalar(2.0)?;
                let grad_pre = aten::dots_at_entries(&grad_out, &self.weight, indices, &bags()?)?;
                let grad_pre = grad_pre.f_mul(&acts.f_gt(0.0)?)?;
                vec![error.f_square()?.f_sum(Kind::Double)?, grad_out, grad_pre]
            }
            Kernel::NestedErrors => {
                let decoder = (&self.weight, &self.x.f_select(0, 0)?);
                let latents = (acts, indices, &bags()?);
                in_parts(aten::nested_errors(
                    latents,
                    decoder,
                    &self.x,
                    &self.levels,
                )?)
            }
            Kernel::RowsGradient => {
                let counts = aten::fire_counts(&entries.encoded, num_latents)?;
                let sums = aten::sums_by_latent(&entries.grad_pre, indices, &bags()?, num_latents)?;
                vec![self.gradient_of_rows()?, sums, counts]
            }
            Kernel::RowsSignum | Kernel::RowsAdam => {
                let mut gradient = self.gradient_of_rows()?;
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

    fn entries(&self) -> &Entries {
        match self.form {
            Form::Rows => &self.rows,
            Form::List => &self.list,
        }
    }

    /// What gradients of weights are made of: rows of tokens, of lists some for each level.
    fn dense(&self) -> Result<Tensor, TchError> {
        if self.form == Form::Rows {
            return Ok(self.x.shallow_clone());
        }
        let of_level = |(_, weight): &(usize, f32)| self.x.f_mul_scalar(f64::from(*weight));
        let levels = self.levels.iter().map(of_level);
        Tensor::f_stack(&levels.collect::<Result<Vec<_>, _>>()?, 0)
    }

    fn ends(&self) -> Vec<usize> {
        self.levels.iter().map(|(end, _)| *end).collect()
    }

    /// The gradients at the latents times those rows.
    fn gradient_of_rows(&self) -> Result<Tensor, TchError> {
        let num_latents = self.weight.size()[0];
        let entries = self.entries();
        let bags = entries.bags()?;
        let (values, indices) = (&entries.grad_pre, &entries.encoded.latent_indices);
        let times = |dense: &Tensor| {
            aten::sparse_transposed_times(values, indices, &bags, dense, num_latents)
        };
        let dense = self.dense()?;
        if self.form == Form::Rows {
            return times(&dense);
        }
        let of_level =
            |(level, (begin, end))| times(&dense.f_get(level)?)?.f_narrow(0, begin, end - begin);
        let ends = self.ends();
        let levels = (0..).zip(aten::ranges(&ends)).map(of_level);
        Tensor::f_cat(&levels.collect::<Result<Vec<_>, _>>()?, 0)
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

fn in_parts(errors: NestedErrors) -> Vec<Tensor> {
    vec![errors.errors, errors.grad_out, errors.grad_acts]
}
