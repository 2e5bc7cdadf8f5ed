//! The biases that fresh SAEs take from the first batch, other than its mean.

use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::ranks::Ranks;
use sae::Sae;
use tch::{Kind, Tensor};

/// Of the search for the geometric median, as dictionary_learning has them.
const MOST_ITERATIONS: usize = 100;
const LEAST_MOVE: f64 = 1e-5;
/// Distances below this count as this.
const LEAST_DISTANCE: f64 = 1e-8;
/// Latents whose pre-activations are in memory at the same time.
const LATENTS_AT_ONCE: i64 = 1024;

/// The point with the smallest mean distance from the rows of all ranks (Weiszfeld's iteration, from their mean): `[width]`,
/// Float. `None`: no rank has a row.
pub(super) fn geometric_median(
    x: &Tensor,
    ranks: &dyn Ranks,
) -> Result<Option<Tensor>, TrainError> {
    let Some(mean) = ranks.mean(x)? else {
        return Ok(None);
    };
    let x = x.f_to_kind(Kind::Double)?;
    let mut median = mean.f_to_kind(Kind::Double)?;
    for _ in 0..MOST_ITERATIONS {
        let distances = x.f_sub(&median)?.f_norm_scalaropt_dim(2.0, [1i64], true)?;
        let weights = distances.f_clamp_min(LEAST_DISTANCE)?.f_reciprocal()?;
        let weighted = x
            .f_mul(&weights)?
            .f_sum_dim_intlist(0, false, Kind::Double)?;
        let ours = RowSum {
            sum: Tensor::f_cat(&[weighted, weights.f_sum(Kind::Double)?.f_unsqueeze(0)?], 0)?,
            n_rows: x.size()[0],
        };
        let all = ranks.sum_of_rows(&ours)?.sum;
        let width = x.size()[1];
        let next = all.f_narrow(0, 0, width)?.f_div(&all.f_get(width)?)?;
        // Sync: a few times, once in training.
        let moved = next.f_sub(&median)?.f_norm()?.f_double_value(&[])?;
        median = next;
        if moved < LEAST_MOVE {
            break;
        }
    }
    Ok(Some(median.f_to_kind(Kind::Float)?))
}

/// The encoder's bias with which each latent is active on `l0 / num_latents` of the tokens `x` of all ranks:
/// `[num_latents]`.
pub(super) fn bias_for(
    sae: &Sae,
    x: &Tensor,
    l0: f64,
    ranks: &dyn Ranks,
) -> Result<Tensor, TrainError> {
    let num_latents = sae.num_latents() as i64;
    let centred = if sae.cfg.subtracts_b_dec() {
        x.f_sub(&sae.b_dec)?
    } else {
        x.shallow_clone()
    };
    let ours = x.size()[0];
    let of_ranks = ranks.gather("tokens of the first batch", &[ours])?;
    let n_tokens: i64 = of_ranks.iter().flatten().sum();
    if n_tokens == 0 {
        return Ok(sae.encoder_bias.shallow_clone());
    }
    let n_active = (n_tokens as f64 * l0 / num_latents as f64).round() as i64;
    let n_active = n_active.clamp(1, n_tokens);
    let mut largest = Vec::new();
    for start in (0..num_latents).step_by(LATENTS_AT_ONCE as usize) {
        let n = LATENTS_AT_ONCE.min(num_latents - start);
        let weight = sae.encoder_weight.f_narrow(0, start, n)?;
        let pre_acts = centred.f_matmul(&weight.f_tr()?)?;
        let n_kept = (n_active + 1).min(ours);
        largest.push(pre_acts.f_topk(n_kept, 0, true, true)?.0);
    }
    let largest = Tensor::f_cat(&largest, 1)?;
    let nth = |n: i64| match ranks.number() {
        1 => Ok(largest.f_get(n - 1)?),
        _ => nth_of_all_ranks(&largest, n, ranks),
    };
    // Between the last token that is wanted and the next, so that rounding decides about neither.
    let next = nth((n_active + 1).min(n_tokens))?;
    let least = nth(n_active)?.f_add(&next)?.f_mul_scalar(0.5)?;
    Ok(match &sae.threshold {
        None => least.f_neg()?,
        Some(threshold) => threshold.f_sub(&least)?,
    })
}

/// The `n`th number from above of each column of all ranks, `ours` are this one's: Float. By halving, in as many rounds as
/// a number has bits.
fn nth_of_all_ranks(ours: &Tensor, n: i64, ranks: &dyn Ranks) -> Result<Tensor, TrainError> {
    let ours = ordered(&ours.f_view_dtype(Kind::Int)?.f_to_kind(Kind::Int64)?)?;
    let width = [ours.size()[1]];
    let options = (Kind::Int64, ours.device());
    // A number with at least `n` from it on, and one that may have fewer from the next on.
    let mut least = Tensor::f_full(width, i64::from(i32::MIN), options)?;
    let mut most = Tensor::f_full(width, i64::from(i32::MAX), options)?;
    for _ in 0..i32::BITS {
        let middle = least
            .f_add(&most)?
            .f_add_scalar(1)?
            .f_divide_scalar_mode(2, "floor")?;
        let counts = ours.f_ge_tensor(&middle)?;
        let counts = RowSum {
            sum: counts.f_sum_dim_intlist(0, false, Kind::Double)?,
            n_rows: 1,
        };
        let are_enough = ranks.sum_of_rows(&counts)?.sum.f_ge(n as f64)?;
        least = middle.f_where_self(&are_enough, &least)?;
        most = most.f_where_self(&are_enough, &middle.f_sub_scalar(1)?)?;
    }
    let bits = ordered(&least)?.f_to_kind(Kind::Int)?;
    Ok(bits.f_view_dtype(Kind::Float)?)
}

/// Integers in the order of the numbers that have these bits, and back: Int64.
fn ordered(bits: &Tensor) -> Result<Tensor, TrainError> {
    let of_negative = bits.f_neg()?.f_add_scalar(i64::from(i32::MIN) - 1)?;
    Ok(of_negative.f_where_self(&bits.f_lt(0)?, bits)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::ALONE;
    use sae::{Activation, SaeConfig};
    use tch::Device;

    #[test]
    fn the_median_is_where_most_are() {
        let near = sae::with_seed(1, || Tensor::randn([40, 3], (Kind::Float, Device::Cpu))) * 0.01;
        let far = Tensor::ones([10, 3], (Kind::Float, Device::Cpu)) * 100.0;
        let x = Tensor::cat(&[near, far], 0);
        let median = geometric_median(&x, ALONE).unwrap().unwrap();
        assert!(median.abs().max().double_value(&[]) < 0.1, "{median:?}");
        assert!(
            geometric_median(&x.narrow(0, 0, 0), ALONE)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn the_nth_number_by_halving_is_that_by_sorting() {
        let x = sae::with_seed(4, || Tensor::randn([50, 7], (Kind::Float, Device::Cpu)));
        let _ = x.get(3).fill_(-0.0);
        let (sorted, _) = x.sort(0, true);
        for n in [1, 2, 25, 49, 50] {
            let found = nth_of_all_ranks(&x, n, ALONE).unwrap();
            assert!(found.equal(&sorted.get(n - 1)), "{n}: {found:?}");
        }
    }

    #[test]
    fn as_many_latents_are_active_as_were_asked_for() {
        for activation in [Activation::Relu, Activation::JumpRelu] {
            let cfg = SaeConfig {
                activation,
                ..SaeConfig::topk(8, 2000, 2000)
            };
            let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
            if let Some(threshold) = &mut sae.threshold {
                let _ = threshold.fill_(0.3);
            }
            let x = sae::with_seed(2, || Tensor::randn([500, 8], (Kind::Float, Device::Cpu)));
            sae.encoder_bias = bias_for(&sae, &x, 200.0, ALONE).unwrap();
            let acts = sae.encode(&x).unwrap().latent_acts;
            let l0 = acts.gt(0.0).sum(Kind::Double).double_value(&[]) / 500.0;
            assert_eq!(l0, 200.0);
        }
    }
}
