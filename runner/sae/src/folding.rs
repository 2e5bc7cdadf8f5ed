//! The same SAE with other weights: what training did besides is folded into them.

use crate::{Sae, SaeError};
use tch::{Kind, TchError, Tensor};

/// Smallest norm of a decoder's row that is divided by, as SAELens has it.
pub(crate) const MIN_NORM: f64 = 1e-8;

/// The bias of an encoder that is applied to the input less `b_dec`, which makes the pre-activations that `bias` makes of
/// the input as it is.
pub(crate) fn bias_after_b_dec(
    weight: &Tensor,
    bias: &Tensor,
    b_dec: &Tensor,
) -> Result<Tensor, TchError> {
    let weight = weight.f_to_kind(Kind::Float)?;
    bias.f_add(&weight.f_mv(&b_dec.f_to_kind(Kind::Float)?)?)
}

impl Sae {
    /// With a decoder whose rows have unit norm, and latents that are larger by the norms that they had: each computes
    /// the same.
    ///
    /// # Errors
    /// Too little memory.
    pub fn fold_decoder_norms(&mut self) -> Result<(), SaeError> {
        let norms = self.decoder_norms()?.f_clamp_min(MIN_NORM)?;
        let _ = self.w_dec.f_div_(&norms.f_unsqueeze(1)?)?;
        let _ = self.encoder_weight.f_mul_(&norms.f_unsqueeze(1)?)?;
        let _ = self.encoder_bias.f_mul_(&norms)?;
        // Activations times norms stay what they were.
        let own = self.threshold.as_mut().filter(|_| !self.cfg.is_decoupled());
        if let Some(threshold) = own {
            let _ = threshold.f_mul_(&norms)?;
        }
        if let Some(gate) = &mut self.gate {
            let _ = gate.b_mag.f_mul_(&norms)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::{Activation, SaeConfig};
    use tch::Device;

    #[test]
    fn a_folded_sae_computes_the_same() {
        for activation in [
            Activation::TopK,
            Activation::Relu,
            Activation::JumpRelu,
            Activation::Gated,
        ] {
            let cfg = SaeConfig {
                activation,
                normalize_decoder: false,
                ..SaeConfig::topk(8, 40, 40)
            };
            let mut sae = Sae::new(cfg, 3, Device::Cpu).unwrap();
            sae.w_dec = noise(&[40, 8], 1.0) * 3.0;
            sae.encoder_bias = noise(&[40], 2.0) * 0.1;
            sae.b_dec = noise(&[8], 4.0) * 0.3;
            if let Some(threshold) = &mut sae.threshold {
                *threshold = noise(&[40], 5.0).abs() * 0.2;
            }
            if let Some(gate) = &mut sae.gate {
                gate.b_mag = noise(&[40], 6.0) * 0.1;
                gate.r_mag = noise(&[40], 7.0) * 0.2;
            }
            let x = noise(&[30, 8], 8.0);
            let before = sae.forward(&x).unwrap();
            sae.fold_decoder_norms().unwrap();
            let after = sae.forward(&x).unwrap();
            assert!(after.sae_out.allclose(&before.sae_out, 1e-4, 1e-4, false));
            let norms = sae.decoder_norms().unwrap();
            assert!(norms.allclose(&norms.ones_like(), 0.0, 1e-5, false));
        }
    }
}
