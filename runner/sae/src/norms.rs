//! How large latents count by their rows of the decoder: what penalties and the choice between latents are scaled by.
//! A crosscoder's row is one of several hookpoints, side by side.

use crate::folding::MIN_NORM;
use crate::{Sae, SaeError};
use plan::CrosscoderNorm;
use tch::{TchError, Tensor};

/// Part of the sum of norms in [`CrosscoderNorm::Mixed`], as crosscoder_learning has it.
const MIXED_SHARE: f64 = 0.1;

/// The norm that rows of a decoder have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowNorm {
    /// Weight of the norm of a whole row.
    of_whole: f64,
    /// Weight of the sum of its parts' norms, and the number of parts.
    of_parts: (f64, i64),
}

impl RowNorm {
    /// Of `w_dec`: `[n, d_out]`; gives `[n]`.
    pub(crate) fn of(self, w_dec: &Tensor) -> Result<Tensor, TchError> {
        let of_whole = || w_dec.f_norm_scalaropt_dim(2.0, [1i64], false);
        let of_parts = || self.part_norms(w_dec)?.f_sum_dim_intlist(1, false, None);
        match (self.of_whole, self.of_parts.0) {
            (1.0, 0.0) => of_whole(),
            (0.0, 1.0) => of_parts(),
            (0.0, 0.0) => w_dec.f_new_ones([w_dec.size()[0]], (w_dec.kind(), w_dec.device())),
            (whole, parts) => of_whole()?
                .f_mul_scalar(whole)?
                .f_add(&of_parts()?.f_mul_scalar(parts)?),
        }
    }

    /// The gradient of `sum(at_norms * norms)` at `w_dec`; `at_norms`: `[n]`.
    pub(crate) fn gradient(self, w_dec: &Tensor, at_norms: &Tensor) -> Result<Tensor, TchError> {
        let of_whole = || {
            let norms = w_dec.f_norm_scalaropt_dim(2.0, [1i64], false)?;
            // A transcoder's rows begin at 0, where a norm has no slope.
            let factors = at_norms.f_div(&norms.f_clamp_min(MIN_NORM)?)?;
            w_dec.f_mul(&factors.f_unsqueeze(1)?)
        };
        let of_parts = || {
            let norms = self.part_norms(w_dec)?.f_clamp_min(MIN_NORM)?;
            let factors = at_norms.f_unsqueeze(1)?.f_div(&norms)?.f_unsqueeze(2)?;
            self.parts(w_dec)?.f_mul(&factors)?.f_flatten(1, 2)
        };
        match (self.of_whole, self.of_parts.0) {
            (1.0, 0.0) => of_whole(),
            (0.0, 1.0) => of_parts(),
            (0.0, 0.0) => w_dec.f_zeros_like(),
            (whole, parts) => of_whole()?
                .f_mul_scalar(whole)?
                .f_add(&of_parts()?.f_mul_scalar(parts)?),
        }
    }

    /// `[n, n_parts, width]`.
    fn parts(self, w_dec: &Tensor) -> Result<Tensor, TchError> {
        let (n, d_out) = w_dec.size2()?;
        let n_parts = self.of_parts.1;
        w_dec.f_reshape([n, n_parts, d_out / n_parts])
    }

    fn part_norms(self, w_dec: &Tensor) -> Result<Tensor, TchError> {
        self.parts(w_dec)?.f_norm_scalaropt_dim(2.0, [2i64], false)
    }
}

impl Sae {
    /// The norm of its decoder's rows.
    pub(crate) fn row_norm(&self) -> RowNorm {
        let cfg = &self.cfg;
        let (of_whole, of_parts) = match cfg.code_normalization {
            _ if !cfg.is_crosscoder() => (1.0, 0.0),
            // Where hookpoints choose apart, dead latents are chosen for all of them.
            CrosscoderNorm::Crosscoder | CrosscoderNorm::Decoupled => (0.0, 1.0),
            CrosscoderNorm::Sae => (1.0, 0.0),
            CrosscoderNorm::Mixed => (1.0, MIXED_SHARE),
            CrosscoderNorm::None => (0.0, 0.0),
        };
        RowNorm {
            of_whole,
            of_parts: (of_parts, cfg.n_outputs() as i64),
        }
    }

    /// Norms of the decoder's rows: `[num_latents]`.
    ///
    /// # Errors
    /// Too little memory.
    pub fn decoder_norms(&self) -> Result<Tensor, SaeError> {
        Ok(self.row_norm().of(&self.w_dec)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SaeConfig;
    use crate::testing::noise;
    use tch::{Device, Kind};

    fn crosscoder(code_normalization: CrosscoderNorm) -> Sae {
        let cfg = SaeConfig {
            hookpoints: ["a", "b", "c"].map(String::from).to_vec(),
            code_normalization,
            ..SaeConfig::topk(12, 20, 4)
        };
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        sae.w_dec = noise(&[20, 12], 2.0);
        sae
    }

    #[test]
    fn a_crosscoder_s_norm_is_the_sum_of_those_of_its_hookpoints() {
        let sae = crosscoder(CrosscoderNorm::Crosscoder);
        let parts = sae.w_dec.split(4, 1).into_iter();
        let sum: Tensor = parts
            .map(|part| part.norm_scalaropt_dim(2.0, [1i64], false))
            .sum();
        assert!(
            sae.decoder_norms()
                .unwrap()
                .allclose(&sum, 1e-6, 0.0, false)
        );
        let whole = sae.w_dec.norm_scalaropt_dim(2.0, [1i64], false);
        let mixed = crosscoder(CrosscoderNorm::Mixed).decoder_norms().unwrap();
        assert!(mixed.allclose(&(&whole + sum * 0.1), 1e-6, 0.0, false));
        let of_sae = crosscoder(CrosscoderNorm::Sae).decoder_norms().unwrap();
        assert!(of_sae.equal(&whole));
        let none = crosscoder(CrosscoderNorm::None).decoder_norms().unwrap();
        assert!(none.equal(&whole.ones_like()));
    }

    #[test]
    fn gradients_of_norms_are_autograd_s() {
        for norm in [
            CrosscoderNorm::Crosscoder,
            CrosscoderNorm::Sae,
            CrosscoderNorm::Mixed,
            CrosscoderNorm::None,
            CrosscoderNorm::Decoupled,
        ] {
            let sae = crosscoder(norm);
            let w_dec = sae.w_dec.to_kind(Kind::Double).set_requires_grad(true);
            let at_norms = noise(&[20], 5.0).to_kind(Kind::Double);
            let row_norm = sae.row_norm();
            let own = row_norm.gradient(&w_dec.detach(), &at_norms).unwrap();
            let loss = (row_norm.of(&w_dec).unwrap() * &at_norms).sum(Kind::Double);
            if norm == CrosscoderNorm::None {
                assert!(own.equal(&own.zeros_like()));
                continue;
            }
            loss.backward();
            assert!(own.allclose(&w_dec.grad(), 1e-9, 1e-12, false), "{norm:?}");
        }
    }
}
