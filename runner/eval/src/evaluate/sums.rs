//! Running sums of one SAE's evaluation; they stay on the device until the end.

use crate::EvalError;
use sae::{Encoded, Reconstruction, Sae};
use tch::{Device, Kind, Tensor};

/// Sums of one SAE. Scalars, Double, on the SAE's device.
#[derive(Debug)]
pub(super) struct SaeSums {
    /// Tokens so far.
    pub(super) n_tokens: u64,
    /// `sum |sae_out - y|^2`.
    pub(super) squared_error: Tensor,
    /// Tokens on which each latent fired: `[num_latents]`, Int64.
    pub(super) fire_counts: Tensor,
}

/// A scalar to sum up in.
pub(super) fn zero(device: Device) -> Result<Tensor, EvalError> {
    Ok(Tensor::f_zeros([0i64; 0], (Kind::Double, device))?)
}

impl SaeSums {
    pub(super) fn new(sae: &Sae) -> Result<Self, EvalError> {
        let device = sae.b_dec.device();
        let num_latents = sae.num_latents() as i64;
        Ok(Self {
            n_tokens: 0,
            squared_error: zero(device)?,
            fire_counts: Tensor::f_zeros([num_latents], (Kind::Int64, device))?,
        })
    }

    /// The SAE's output for `x`: `[n_tokens, d_in]`, which reconstructs `y`: `[n_tokens, d_out]`, both
    /// Float.
    pub(super) fn reconstruct(
        &mut self,
        sae: &Sae,
        x: &Tensor,
        y: &Tensor,
    ) -> Result<Tensor, EvalError> {
        let sae_out = self.output(sae, x)?;
        self.add_error(&sae_out, y)?;
        Ok(sae_out)
    }

    /// The SAE's output for `x`: `[n_tokens, d_in]`, Float.
    pub(super) fn output(&mut self, sae: &Sae, x: &Tensor) -> Result<Tensor, EvalError> {
        self.n_tokens += x.size()[0] as u64;
        output(sae, x, |encoded| self.count(encoded))
    }

    /// `sae_out`, which reconstructs `y`.
    pub(super) fn add_error(&mut self, sae_out: &Tensor, y: &Tensor) -> Result<(), EvalError> {
        let error = sae_out.f_sub(y)?.f_square()?.f_sum(Kind::Double)?;
        let _ = self.squared_error.f_add_(&error)?;
        Ok(())
    }

    fn count(&mut self, encoded: &Encoded) -> Result<(), EvalError> {
        let fired = encoded.latent_acts.f_gt(0.0)?.f_to_kind(Kind::Int64)?;
        let (indices, fired) = (
            encoded.latent_indices.f_flatten(0, -1)?,
            fired.f_flatten(0, -1)?,
        );
        let _ = self.fire_counts.f_index_add_(0, &indices, &fired)?;
        Ok(())
    }

    /// Sum over tokens of the active latents, and the latents that never fired.
    pub(super) fn l0_and_dead(&self) -> Result<[Tensor; 2], EvalError> {
        let l0 = self.fire_counts.f_sum(Kind::Double)?;
        let n_dead = self.fire_counts.f_eq(0)?.f_sum(Kind::Double)?;
        Ok([l0, n_dead])
    }
}

/// The SAE's output for `x`: `[n_tokens, d_in]`, Float. `seen` gets its latents. Cut into parts whose pre-activations are
/// not too large.
pub(super) fn output(
    sae: &Sae,
    x: &Tensor,
    mut seen: impl FnMut(&Encoded) -> Result<(), EvalError>,
) -> Result<Tensor, EvalError> {
    const MOST_PRE_ACTS_BYTES: usize = 1 << 28;
    let n_rows = (MOST_PRE_ACTS_BYTES / (4 * sae.num_latents())).max(1) as i64;
    let mut parts = Vec::new();
    for x in x.f_split(n_rows, 0)? {
        let Reconstruction { sae_out, encoded } = sae.forward(&x)?;
        seen(&encoded)?;
        parts.push(sae_out);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}
