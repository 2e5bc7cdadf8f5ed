//! Crosscoders whose hookpoints choose their latents apart (crosscoder_learning's `DECOUPLED`): at a hookpoint a latent
//! is active where its activation times the norm of its row of the decoder there is above the hookpoint's threshold.
//! The encoder gives a latent one activation; what differs is where it is written.

use crate::{Encoded, Sae, SaeError};
use fault::Fault;
use tch::{Kind, TchError, Tensor};

impl Sae {
    /// Norms of the decoder's rows at each hookpoint: `[n_hookpoints, num_latents]`, Float, or Double if they are.
    pub(crate) fn hookpoint_norms(&self) -> Result<Tensor, TchError> {
        let rows = match self.w_dec.kind() {
            Kind::Double => self.w_dec.shallow_clone(),
            _ => self.w_dec.f_to_kind(Kind::Float)?,
        };
        let (num_latents, d_out) = rows.size2()?;
        let n_hookpoints = self.cfg.n_outputs() as i64;
        let rows = rows.f_reshape([num_latents, n_hookpoints, d_out / n_hookpoints])?;
        let norms = rows.f_norm_scalaropt_dim(2.0, [2i64], false)?;
        norms.f_tr()?.f_contiguous()
    }

    /// Of its output, the first column of a hookpoint, and their number.
    pub(crate) fn columns(&self, hookpoint: usize) -> (i64, i64) {
        let width = self.cfg.d_out() / self.cfg.n_outputs();
        ((hookpoint * width) as i64, width as i64)
    }

    /// What its latents write at one hookpoint: with the whole encoder, and the part of the decoder.
    pub(crate) fn of_hookpoint(&self, hookpoint: usize) -> Result<Self, SaeError> {
        let (start, width) = self.columns(hookpoint);
        let mut cfg = self.cfg.clone();
        // Its input is that of all hookpoints, from which a bias was subtracted already.
        cfg.transcode = true;
        cfg.d_out = Some(width as usize);
        cfg.hookpoints = Vec::new();
        Ok(Self {
            encoder_weight: self.encoder_weight.shallow_clone(),
            encoder_bias: self.encoder_bias.shallow_clone(),
            w_dec: self.w_dec.f_narrow(1, start, width)?.f_contiguous()?,
            b_dec: self.b_dec.f_narrow(0, start, width)?,
            w_skip: None,
            threshold: None,
            gate: None,
            cfg,
        })
    }

    /// The activations above which latents are active at each hookpoint: `[n_hookpoints, num_latents]`; `None`: it is
    /// of another kind, or has no thresholds.
    fn least_acts(&self) -> Result<Option<Tensor>, TchError> {
        let Some(threshold) = self.threshold.as_ref().filter(|_| self.cfg.is_decoupled()) else {
            return Ok(None);
        };
        let norms = self.hookpoint_norms()?;
        let threshold = threshold.f_to_kind(Kind::Float)?.f_clamp_min(0.0)?;
        let least = threshold.f_unsqueeze(1)?.f_div(&norms)?;
        // What writes nothing at a hookpoint is not active there.
        least
            .f_masked_fill(&norms.f_le(0.0)?, f64::INFINITY)
            .map(Some)
    }

    /// Above which a latent is active, or is so at any hookpoint: `[num_latents]`.
    pub(crate) fn latent_thresholds(&self) -> Result<Option<Tensor>, TchError> {
        match self.least_acts()? {
            Some(least) => least.f_amin([0i64], false).map(Some),
            None => Ok(self.threshold.as_ref().map(Tensor::shallow_clone)),
        }
    }

    /// The activations of `encoded` at each hookpoint, 0 where a latent is not active there: `[n_tokens, k]`. `None`:
    /// they are the same at all.
    fn acts_at_hookpoints(&self, encoded: &Encoded) -> Result<Option<Vec<Tensor>>, TchError> {
        let Some(least) = self.least_acts()? else {
            return Ok(None);
        };
        let Encoded {
            latent_acts,
            latent_indices,
        } = encoded;
        let of_hookpoint = |hookpoint: usize| {
            let least = least.f_get(hookpoint as i64)?.f_take(latent_indices)?;
            latent_acts.f_masked_fill(&latent_acts.f_le_tensor(&least)?, 0.0)
        };
        let all = (0..self.cfg.n_outputs()).map(of_hookpoint);
        all.collect::<Result<_, _>>().map(Some)
    }

    /// The sum of latents' rows, each only where it is active: `[n_tokens, d_out]`. `None`: it is of another kind.
    pub(crate) fn decoupled_sum(&self, encoded: &Encoded) -> Result<Option<Tensor>, SaeError> {
        let Some(acts) = self.acts_at_hookpoints(encoded)? else {
            return Ok(None);
        };
        let of_hookpoint = |(hookpoint, acts): (usize, &Tensor)| {
            let rows = self.of_hookpoint(hookpoint)?.w_dec;
            let sum = crate::kernels::sparse_times_rows(acts, &encoded.latent_indices, &rows)?;
            Ok::<_, SaeError>(sum)
        };
        let sums = acts.iter().enumerate().map(of_hookpoint);
        Ok(Some(Tensor::f_cat(
            &sums.collect::<Result<Vec<_>, _>>()?,
            1,
        )?))
    }

    /// How many latents of all tokens together are active at each hookpoint: `[n_hookpoints]`, Double. `None`: they are
    /// the same at all.
    ///
    /// # Errors
    /// Too little memory.
    pub fn active_at_hookpoints(&self, encoded: &Encoded) -> Result<Option<Tensor>, SaeError> {
        let Some(acts) = self.acts_at_hookpoints(encoded)? else {
            return Ok(None);
        };
        let counts = acts.iter().map(|acts| acts.f_gt(0.0)?.f_sum(Kind::Double));
        let counts = counts.collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Tensor::f_stack(&counts, 0)?))
    }

    /// Thresholds of hookpoints after what the decoder gives there was multiplied by `inverse`.
    pub(crate) fn scale_hookpoint_thresholds(&mut self, inverse: &Tensor) -> Result<(), SaeError> {
        if !self.cfg.is_decoupled() {
            return Ok(());
        }
        let n_hookpoints = self.cfg.n_outputs() as i64;
        let Some(threshold) = &mut self.threshold else {
            return Ok(());
        };
        let factors = match inverse.dim() {
            0 => inverse.shallow_clone(),
            // One factor for all columns of a hookpoint.
            1 => inverse.f_view([n_hookpoints, -1])?.f_select(1, 0)?,
            _ => {
                let message = "thresholds of hookpoints cannot be those of a whitened decoder";
                return Err(Fault::internal(message).into());
            }
        };
        *threshold = threshold.f_mul(&factors)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::noise;
    use crate::{Activation, Affine, Sae, SaeConfig};
    use plan::CrosscoderNorm;
    use tch::{Device, Kind, Tensor};

    /// Three hookpoints of four columns each.
    fn crosscoder() -> Sae {
        let cfg = SaeConfig {
            activation: Activation::JumpRelu,
            hookpoints: ["a", "b", "c"].map(String::from).to_vec(),
            code_normalization: CrosscoderNorm::Decoupled,
            normalize_decoder: false,
            ..SaeConfig::topk(12, 20, 20)
        };
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        sae.w_dec = noise(&[20, 12], 2.0);
        sae.encoder_bias = noise(&[20], 3.0) * 0.1;
        sae.b_dec = noise(&[12], 4.0) * 0.3;
        sae.threshold = Some(Tensor::from_slice(&[0.3f32, 1.2, 2.5]));
        sae
    }

    /// What crosscoder_learning's `encode_decoupled` and `decode` compute: the mask of active latents
    /// `[n_tokens, 3, 20]`, and the reconstruction.
    fn by_formula(sae: &Sae, x: &Tensor) -> (Tensor, Tensor) {
        let acts = (x - &sae.b_dec)
            .linear(&sae.encoder_weight, Some(&sae.encoder_bias))
            .relu();
        let rows = sae.w_dec.view([20, 3, 4]);
        let norms = rows.norm_scalaropt_dim(2.0, [2i64], false).tr();
        let scores = acts.unsqueeze(1) * norms.unsqueeze(0);
        let threshold = sae.threshold.as_ref().unwrap().view([1, 3, 1]);
        let mask = scores.gt_tensor(&threshold);
        let written = acts.unsqueeze(1) * &mask;
        let sums = Tensor::einsum("nlf,fld->nld", &[written, rows], None::<i64>);
        (mask, sums.flatten(1, 2) + &sae.b_dec)
    }

    #[test]
    fn a_latent_writes_where_its_score_is_above_the_hookpoint_s_threshold() {
        let (sae, x) = (crosscoder(), noise(&[50, 12], 1.0) * 2.0);
        let (mask, expected) = by_formula(&sae, &x);
        let out = sae.forward(&x).unwrap();
        assert!(out.sae_out.allclose(&expected, 1e-5, 1e-5, false));
        // A latent is active if it is so at any hookpoint.
        let of_any = mask.any_dim(1, false).sum(Kind::Int64).int64_value(&[]);
        let n_active = out.encoded.latent_acts.gt(0.0).sum(Kind::Int64);
        assert_eq!(n_active.int64_value(&[]), of_any);
        let of_each = sae.active_at_hookpoints(&out.encoded).unwrap().unwrap();
        let expected = mask.sum_dim_intlist([0i64, 2].as_slice(), false, Kind::Double);
        assert!(of_each.equal(&expected), "{of_each:?} {expected:?}");
        let counts = Vec::<f64>::try_from(of_each).unwrap();
        assert!(counts[0] > counts[1] && counts[1] > counts[2] && counts[2] > 0.0);
    }

    #[test]
    fn a_row_of_zeros_is_active_nowhere_else() {
        let mut sae = crosscoder();
        sae.threshold = Some(Tensor::from_slice(&[0.0f32; 3]));
        let _ = sae.w_dec.narrow(1, 0, 4).fill_(0.0);
        let x = noise(&[50, 12], 1.0);
        let out = sae.forward(&x).unwrap();
        let of_each = sae.active_at_hookpoints(&out.encoded).unwrap().unwrap();
        let counts = Vec::<f64>::try_from(of_each).unwrap();
        assert!(counts[0] == 0.0 && counts[1] > 0.0 && counts[1] == counts[2]);
        assert!(out.sae_out.isfinite().all().int64_value(&[]) == 1);
    }

    #[test]
    fn a_folded_one_computes_the_same() {
        let sides = |matrix: &[f32]| {
            let each = Tensor::from_slice(matrix).repeat_interleave_self_int(4, 0, 12);
            Affine {
                mean: noise(&[12], 7.0),
                inverse: each.reciprocal(),
                matrix: each,
            }
        };
        let affine = sides(&[0.5, 2.0, 4.0]);
        let mut sae = crosscoder();
        let x = noise(&[50, 12], 1.0) * 2.0;
        let scaled = sae.forward(&affine.of(&x).unwrap()).unwrap();
        let expected = scaled.sae_out * &affine.inverse + &affine.mean;
        sae.fold_affine(&affine, &affine).unwrap();
        sae.fold_decoder_norms().unwrap();
        let folded = sae.forward(&x).unwrap();
        assert!(folded.sae_out.allclose(&expected, 1e-4, 1e-4, false));
        let norms = sae.decoder_norms().unwrap();
        assert!(norms.allclose(&norms.ones_like(), 0.0, 1e-5, false));
    }
}
