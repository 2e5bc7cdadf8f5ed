//! What is done to activations before an SAE sees them: `(x - mean) M`, with a number or a matrix `M`.

use crate::{Sae, SaeError};
use tch::{TchError, Tensor};

/// `(x - mean) M` of rows `x`.
#[derive(Debug)]
pub struct Affine {
    /// `[width]`, Float.
    pub mean: Tensor,
    /// M, Float: a scalar, the diagonal alone, `[width]`, or `[width, width]`.
    pub matrix: Tensor,
    /// Its inverse.
    pub inverse: Tensor,
}

impl Affine {
    /// That of rows which have the columns of several one after the other.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// `all` is empty.
    pub fn side_by_side(all: &[Self]) -> Result<Self, SaeError> {
        let [first, others @ ..] = all else {
            panic!("there is at least one");
        };
        if others.is_empty() {
            return Ok(Self {
                mean: first.mean.shallow_clone(),
                matrix: first.matrix.shallow_clone(),
                inverse: first.inverse.shallow_clone(),
            });
        }
        let means: Vec<&Tensor> = all.iter().map(|own| &own.mean).collect();
        Ok(Self {
            mean: Tensor::f_cat(&means, 0)?,
            matrix: joined(all, |own| &own.matrix)?,
            inverse: joined(all, |own| &own.inverse)?,
        })
    }

    /// Of rows, `[n, width]`.
    ///
    /// # Errors
    /// Another width, or too little memory.
    pub fn of(&self, x: &Tensor) -> Result<Tensor, SaeError> {
        Ok(times(&x.f_sub(&self.mean)?, &self.matrix)?)
    }
}

/// The matrices of all along one diagonal.
fn joined(all: &[Affine], matrix: impl Fn(&Affine) -> &Tensor) -> Result<Tensor, TchError> {
    let of_each = all.iter().map(|own| match matrix(own).dim() {
        0 => matrix(own).f_expand_as(&own.mean),
        _ => Ok(matrix(own).shallow_clone()),
    });
    let of_each = of_each.collect::<Result<Vec<_>, TchError>>()?;
    match of_each[0].dim() {
        1 => Tensor::f_cat(&of_each, 0),
        _ => Tensor::f_block_diag(&of_each),
    }
}

/// `rows M`.
fn times(rows: &Tensor, matrix: &Tensor) -> Result<Tensor, TchError> {
    if matrix.dim() < 2 {
        rows.f_mul(matrix)
    } else {
        rows.f_matmul(matrix)
    }
}

/// `rows M^T`.
fn times_transposed(rows: &Tensor, matrix: &Tensor) -> Result<Tensor, TchError> {
    if matrix.dim() < 2 {
        rows.f_mul(matrix)
    } else {
        rows.f_matmul(&matrix.f_tr()?)
    }
}

impl Sae {
    /// Takes and gives activations as they are, and not as `input` and `output` make them: the same latents have the
    /// same activations.
    ///
    /// # Errors
    /// Too little memory.
    pub fn fold_affine(&mut self, input: &Affine, output: &Affine) -> Result<(), SaeError> {
        self.encoder_weight = times_transposed(&self.encoder_weight, &input.matrix)?;
        if !self.cfg.subtracts_b_dec() {
            self.subtract_from_pre_acts(&input.mean)?;
        }
        self.w_dec = times(&self.w_dec, &output.inverse)?;
        self.scale_hookpoint_thresholds(&output.inverse)?;
        let b_dec = self.b_dec.f_unsqueeze(0)?;
        self.b_dec = times(&b_dec, &output.inverse)?
            .f_squeeze_dim(0)?
            .f_add(&output.mean)?;
        if let Some(w_skip) = &self.w_skip {
            // skip(x) = (x - mean) M W_skip^T M_out^-1
            let of_input = times(
                &times_transposed(w_skip, &input.matrix)?.f_tr()?,
                &output.inverse,
            )?;
            let w_skip = of_input.f_tr()?.f_contiguous()?;
            let of_mean = w_skip.f_mv(&input.mean)?;
            self.w_skip = Some(w_skip);
            self.b_dec = self.b_dec.f_sub(&of_mean)?;
            if self.cfg.subtracts_b_dec() {
                self.subtract_from_pre_acts(&of_mean)?;
            }
        }
        Ok(())
    }

    /// Takes away from pre-activations what the encoder makes of `shift`: `[d_in]`.
    fn subtract_from_pre_acts(&mut self, shift: &Tensor) -> Result<(), SaeError> {
        let of_shift = self.encoder_weight.f_mv(shift)?;
        self.encoder_bias = self.encoder_bias.f_sub(&of_shift)?;
        if let Some(gate) = &mut self.gate {
            gate.b_mag = gate.b_mag.f_sub(&gate.r_mag.f_exp()?.f_mul(&of_shift)?)?;
        }
        Ok(())
    }

    /// Makes latents active above thresholds: `[num_latents]`, Float; those of hookpoints, `[n_hookpoints]`, if they
    /// choose their latents apart.
    pub fn set_thresholds(&mut self, threshold: Tensor) {
        self.threshold = Some(threshold);
        self.cfg.activation = crate::Activation::JumpRelu;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::{Activation, SaeConfig};
    use tch::{Device, Kind};

    fn affine(width: i64, is_matrix: bool, seed: f64) -> Affine {
        let mean = noise(&[width], seed);
        let matrix = if is_matrix {
            noise(&[width, width], seed + 0.5) * 0.3
                + Tensor::eye(width, (Kind::Float, Device::Cpu))
        } else {
            Tensor::from(0.4f32)
        };
        let inverse = if is_matrix {
            matrix.inverse()
        } else {
            Tensor::from(2.5f32)
        };
        Affine {
            mean,
            matrix,
            inverse,
        }
    }

    #[test]
    fn what_is_folded_computes_the_same_on_activations_as_they_are() {
        for activation in [Activation::TopK, Activation::JumpRelu, Activation::Gated] {
            for (transcode, skip_connection, apply_b_dec_to_input) in [
                (false, false, true),
                (false, true, true),
                (false, true, false),
                (true, false, true),
                (true, true, true),
            ] {
                for is_matrix in [false, true] {
                    let cfg = SaeConfig {
                        activation,
                        transcode,
                        skip_connection,
                        d_out: transcode.then_some(5),
                        apply_b_dec_to_input,
                        ..SaeConfig::topk(8, 40, 40)
                    };
                    let d_out = cfg.d_out() as i64;
                    let mut sae = Sae::new(cfg, 3, Device::Cpu).unwrap();
                    sae.w_dec = noise(&[40, d_out], 1.0);
                    sae.b_dec = noise(&[d_out], 2.0) * 0.2;
                    sae.w_skip = sae.w_skip.map(|_| noise(&[d_out, 8], 3.0));
                    sae.threshold = sae.threshold.map(|_| noise(&[40], 5.0).abs() * 0.1);
                    let input = affine(8, is_matrix, 6.0);
                    let output = if transcode {
                        affine(d_out, is_matrix, 7.0)
                    } else {
                        affine(8, is_matrix, 6.0)
                    };
                    let x = noise(&[30, 8], 8.0) * 2.0;
                    let scaled = sae.forward(&input.of(&x).unwrap()).unwrap();
                    let expected = times(&scaled.sae_out, &output.inverse).unwrap() + &output.mean;
                    sae.fold_affine(&input, &output).unwrap();
                    let folded = sae.forward(&x).unwrap();
                    let off = (folded.sae_out - expected).abs().max().double_value(&[]);
                    assert!(
                        off < 1e-4,
                        "{activation} {transcode} {skip_connection} {apply_b_dec_to_input} {is_matrix}: {off}"
                    );
                }
            }
        }
    }
}
