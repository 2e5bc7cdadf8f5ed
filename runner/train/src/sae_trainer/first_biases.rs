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

/// The encoder's bias with which each latent is active on `l0 / num_latents` of the tokens `x` of all ranks; of several
/// ranks' quantiles the mean: `[num_latents]`.
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
    let n_tokens = x.size()[0];
    let n_active = (n_tokens as f64 * l0 / num_latents as f64).round() as i64;
    let n_active = n_active.clamp(1, n_tokens.max(1));
    let mut quantiles = Vec::new();
    for start in (0..num_latents).step_by(LATENTS_AT_ONCE as usize) {
        let n = LATENTS_AT_ONCE.min(num_latents - start);
        if n_tokens == 0 {
            quantiles.push(sae.encoder_bias.f_narrow(0, start, n)?.f_zeros_like()?);
            continue;
        }
        let weight = sae.encoder_weight.f_narrow(0, start, n)?;
        let (largest, _) = centred
            .f_matmul(&weight.f_tr()?)?
            .f_topk(n_active, 0, true, true)?;
        quantiles.push(largest.f_get(n_active - 1)?);
    }
    let quantiles = Tensor::f_cat(&quantiles, 0)?.f_to_kind(Kind::Double)?;
    let ours = RowSum {
        sum: quantiles.f_mul_scalar(n_tokens as f64)?,
        n_rows: n_tokens,
    };
    let Some(quantile) = ranks.sum_of_rows(&ours)?.mean()? else {
        return Ok(sae.encoder_bias.shallow_clone());
    };
    Ok(match &sae.threshold {
        None => quantile.f_neg()?,
        Some(threshold) => threshold.f_sub(&quantile)?,
    })
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
            assert!((l0 - 200.0).abs() < 5.0, "{l0}");
        }
    }
}
