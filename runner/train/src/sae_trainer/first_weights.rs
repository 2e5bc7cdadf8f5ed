//! The weights that a fresh SAE begins with: sparsify's, or those of other trainers.

use crate::TrainError;
use plan::{SaeSpec, TrainConfig};
use sae::{Sae, SaeConfig, with_seed};
use tch::{Device, Kind, Tensor};

/// A fresh SAE. Weights are drawn on the CPU, so every device starts from the same numbers.
pub(super) fn first(
    cfg: SaeConfig,
    (spec, config): (&SaeSpec, &TrainConfig),
    device: Device,
) -> Result<Sae, TrainError> {
    let mut sae = Sae::new(cfg, spec.seed, device)?;
    if let Some(norm) = config.decoder_init_norm {
        if config.transcode {
            sae.w_dec = drawn(&sae.w_dec.size(), spec.seed)?.f_to_device(device)?;
        }
        scale_rows(&mut sae.w_dec, norm, sae.cfg.n_outputs() as i64)?;
        if !config.transcode {
            let scale = config.encoder_init_scale.unwrap_or(1.0);
            sae.encoder_weight = sae.w_dec.f_mul_scalar(scale)?;
        }
    }
    if let Some(threshold) = &mut sae.threshold {
        let _ = threshold.f_fill_(config.jumprelu_init_threshold)?;
    }
    Ok(sae)
}

/// Directions of all kinds, other ones than those of the encoder that the seed gives.
fn drawn(shape: &[i64], seed: i64) -> Result<Tensor, TrainError> {
    let mut weight = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    Ok(with_seed(!seed, || weight.f_uniform_(-1.0, 1.0))?)
}

/// Gives rows the norm, or each of their `n_parts`, one for each hookpoint.
fn scale_rows(weight: &mut Tensor, norm: f64, n_parts: i64) -> Result<(), TrainError> {
    let (n, width) = weight.size2()?;
    let mut parts = weight.f_view([n, n_parts, width / n_parts])?;
    let norms = parts.f_norm_scalaropt_dim(2.0, [2i64], true)?;
    let _ = parts.f_div_(&norms.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
    let _ = parts.f_mul_scalar_(norm)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, job};

    fn made(config: TrainConfig) -> Sae {
        let job = job("a", config);
        let cfg = crate::sae_trainer::sae_config(&job.saes[0], &job.config);
        first(cfg, (&job.saes[0], &job.config), Device::Cpu).unwrap()
    }

    #[test]
    fn a_decoder_of_a_given_norm_and_its_transpose() {
        let sae = made(TrainConfig {
            decoder_init_norm: Some(0.1),
            encoder_init_scale: Some(3.0),
            normalize_decoder: false,
            ..config()
        });
        let norms = sae.w_dec.norm_scalaropt_dim(2.0, [1i64], false);
        assert!(norms.allclose(&(norms.ones_like() * 0.1), 1e-5, 0.0, false));
        assert!(
            sae.encoder_weight
                .allclose(&(&sae.w_dec * 3.0), 1e-6, 1e-8, false)
        );
        let plain = made(config());
        let cosine = |a: &Tensor, b: &Tensor| (a * b).sum(Kind::Float) / (a.norm() * b.norm());
        assert!(cosine(&plain.w_dec, &sae.w_dec).double_value(&[]) > 0.999);
    }

    #[test]
    fn thresholds_begin_where_they_are_told_to() {
        let sae = made(TrainConfig {
            activation: plan::Activation::JumpRelu,
            jumprelu_init_threshold: 0.25,
            ..config()
        });
        let threshold = sae.threshold.unwrap();
        assert!(
            threshold
                .eq_tensor(&(threshold.ones_like() * 0.25))
                .all()
                .int64_value(&[])
                != 0
        );
    }
}
