//! What ranks add up of an update, once for each SAE: gradients, terms of the loss, what fired.

use crate::TrainError;
use dist::{Group, Pending};
use sae::Backward;
use tch::{Kind, Tensor};

/// Tensors of at least this size are summed in place; smaller ones together, in one copy.
const LARGE_BYTES: usize = 1 << 20;

/// What the parts of an SAE's update add up to.
#[derive(Debug, Default)]
pub(crate) struct UpdateSums {
    /// `None`: no part had a token.
    pub(crate) backward: Option<Backward>,
    /// Sums of a loss on the model's output, with the number of positions.
    pub(crate) output_losses: Vec<(Tensor, u64)>,
}

/// The sums of an SAE's update over all ranks.
pub(crate) enum Summing<'a> {
    /// They are those of this process.
    Complete(Box<UpdateSums>),
    /// They are on their way to all ranks.
    OnItsWay(Box<Reduction<'a>>),
}

impl Summing<'_> {
    /// Returns when the sums are there; the loss on the model's output ran over `n_output` positions of all
    /// ranks.
    pub(crate) fn wait(self, n_output: u64) -> Result<UpdateSums, TrainError> {
        let reduction = match self {
            Self::Complete(sums) => return Ok(*sums),
            Self::OnItsWay(reduction) => reduction,
        };
        let (backward, output_loss) = reduction.wait()?;
        let output_losses = match n_output {
            0 => Vec::new(),
            _ => vec![(output_loss, n_output)],
        };
        Ok(UpdateSums {
            backward: Some(backward),
            output_losses,
        })
    }
}

/// The sums of one SAE's update, on their way to all ranks.
pub(crate) struct Reduction<'a> {
    sums: Backward,
    /// By the index among the gradients and fire counts.
    large: Vec<(usize, Pending<'a>)>,
    /// The rest of them, one after the other.
    small: Pending<'a>,
    /// The terms of the loss, Double.
    losses: Pending<'a>,
}

impl<'a> Reduction<'a> {
    /// Begins to sum. `output_losses`: sums of a loss on the model's output.
    pub(super) fn begin(
        group: &'a Group,
        name: &str,
        mut sums: Backward,
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
    fn wait(self) -> Result<(Backward, Tensor), TrainError> {
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
        let terms = &mut sums.losses;
        terms.squared_error = of(0)?;
        terms.auxk = Some(of(1)?);
        terms.multi_topk = Some(of(2)?);
        // Also on a rank without a token, which has no such term.
        terms.nested = Some(of(4)?);
        terms.sparsity = Some(of(5)?);
        terms.near = Some(of(6)?);
        terms.powers = Some(losses.f_narrow(0, 7, 2)?);
        Ok((sums, of(3)?))
    }
}

/// Gradients and fire counts, Float.
fn tensors_mut(sums: &mut Backward) -> Vec<&mut Tensor> {
    let mut tensors = sums.gradients.tensors_mut();
    tensors.push(&mut sums.fire_counts);
    tensors
}

fn is_large(tensor: &Tensor) -> bool {
    tensor.numel() * Kind::Float.elt_size_in_bytes() >= LARGE_BYTES
}

/// The terms of the loss, and the loss on the model's output: `[9]`, Double.
fn losses(sums: &Backward, output_losses: &[(Tensor, u64)]) -> Result<Tensor, TrainError> {
    let terms = &sums.losses;
    let mut output_loss = terms.squared_error.f_zeros_like()?;
    for (sum, _) in output_losses {
        let _ = output_loss.f_add_(sum)?;
    }
    let or_zero = |term: &Option<Tensor>| match term {
        Some(term) => Ok(term.shallow_clone()),
        None => terms.squared_error.f_zeros_like(),
    };
    let known = [
        or_zero(&Some(terms.squared_error.shallow_clone()))?,
        or_zero(&terms.auxk)?,
        or_zero(&terms.multi_topk)?,
        output_loss,
        or_zero(&terms.nested)?,
        or_zero(&terms.sparsity)?,
        or_zero(&terms.near)?,
    ];
    let known = Tensor::f_stack(&known, 0)?;
    let powers = match &terms.powers {
        Some(powers) => powers.shallow_clone(),
        None => known.f_new_zeros([2], (Kind::Double, known.device()))?,
    };
    Ok(Tensor::f_cat(&[known, powers], 0)?)
}
