//! What ranks add up of an update, once for each SAE: gradients, terms of the loss, what fired.

use crate::TrainError;
use crate::sae_trainer::Sums;
use dist::{Group, Pending};
use tch::{Kind, Tensor};

/// Tensors from this size on are summed where they lie; smaller ones together, in one copy.
const LARGE_BYTES: usize = 1 << 20;

/// The sums of one SAE's update, on their way to all ranks.
pub(crate) struct Reduction<'a> {
    sums: Sums,
    /// By the index among the gradients and fire counts.
    large: Vec<(usize, Pending<'a>)>,
    /// The rest of them, one behind the other.
    small: Pending<'a>,
    /// The terms of the loss, Double.
    losses: Pending<'a>,
}

impl<'a> Reduction<'a> {
    /// Begins to sum. `output_losses`: sums of a loss on the model's output.
    pub(crate) fn begin(
        group: &'a Group,
        name: &str,
        mut sums: Sums,
        output_losses: &[(Tensor, u64)],
    ) -> Result<Self, TrainError> {
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for (idx, tensor) in tensors_mut(&mut sums).into_iter().enumerate() {
            if is_large(tensor) {
                let name = format!("gradient {idx} of {name}");
                large.push((idx, group.begin_all_reduce(&name, tensor.shallow_clone())?));
            } else {
                small.push(tensor.f_flatten(0, -1)?);
            }
        }
        let small = Tensor::f_cat(&small, 0)?;
        let losses = losses(&sums, output_losses)?;
        Ok(Self {
            large,
            small: group.begin_all_reduce(&format!("gradients of {name}"), small)?,
            losses: group.begin_all_reduce(&format!("losses of {name}"), losses)?,
            sums,
        })
    }

    /// The sums over all ranks, and that of the loss on the model's output.
    pub(crate) fn wait(self) -> Result<(Sums, Tensor), TrainError> {
        let Self {
            mut sums,
            large,
            small,
            losses,
        } = self;
        let small = small.wait()?;
        let mut tensors = tensors_mut(&mut sums);
        let mut start = 0;
        for tensor in tensors.iter_mut().filter(|tensor| !is_large(tensor)) {
            let n = tensor.numel() as i64;
            let summed = small.f_narrow(0, start, n)?.f_view_as(tensor)?;
            tensor.f_copy_(&summed)?;
            start += n;
        }
        for (idx, pending) in large {
            *tensors[idx] = pending.wait()?;
        }
        let losses = losses.wait()?;
        let of = |term| losses.f_get(term);
        let (_, terms, _) = &mut sums;
        terms.squared_error = of(0)?;
        terms.auxk = Some(of(1)?);
        terms.multi_topk = Some(of(2)?);
        Ok((sums, of(3)?))
    }
}

/// Gradients and fire counts, Float.
fn tensors_mut((gradients, _, fire_counts): &mut Sums) -> Vec<&mut Tensor> {
    let mut tensors = gradients.tensors_mut();
    tensors.push(fire_counts);
    tensors
}

fn is_large(tensor: &Tensor) -> bool {
    tensor.numel() * Kind::Float.elt_size_in_bytes() >= LARGE_BYTES
}

/// The terms of the loss, and the loss on the model's output: `[4]`, Double.
fn losses((_, terms, _): &Sums, output_losses: &[(Tensor, u64)]) -> Result<Tensor, TrainError> {
    let mut output_loss = terms.squared_error.f_zeros_like()?;
    for (sum, _) in output_losses {
        let _ = output_loss.f_add_(sum)?;
    }
    let or_zero = |term: &Option<Tensor>| match term {
        Some(term) => Ok(term.shallow_clone()),
        None => terms.squared_error.f_zeros_like(),
    };
    let (auxk, multi_topk) = (or_zero(&terms.auxk)?, or_zero(&terms.multi_topk)?);
    let terms = [&terms.squared_error, &auxk, &multi_topk, &output_loss];
    Ok(Tensor::f_stack(&terms, 0)?)
}
