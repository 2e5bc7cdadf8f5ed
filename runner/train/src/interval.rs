//! Sums of one SAE since its last report. They stay on the device until then.

use crate::TrainError;
use plan::SaeStats;
use sae::{Gradients, Losses};
use tch::{Device, Kind, Tensor};

/// Sums since the last report; scalars, Double, on the device.
#[derive(Debug)]
pub(crate) struct Interval {
    n_tokens: u64,
    /// Positions of the loss on the model's output.
    n_output: u64,
    squared_error: Tensor,
    total_variance: Tensor,
    l0: Tensor,
    auxk: Tensor,
    multi_topk: Tensor,
    output_loss: Tensor,
    /// Of some gradients: not finite where any gradient is not.
    gradient: Tensor,
}

/// What [`Interval::take`] gives, still on the device.
#[derive(Debug)]
pub(crate) struct Report {
    n_tokens: u64,
    n_output: u64,
    /// `[N_SUMS]`, Double.
    pub(crate) sums: Tensor,
}

/// Length of [`Report::sums`].
pub(crate) const N_SUMS: usize = 8;

impl Interval {
    pub(crate) fn new(device: Device) -> Result<Self, TrainError> {
        let zero = || Tensor::f_zeros([0i64; 0], (Kind::Double, device));
        Ok(Self {
            n_tokens: 0,
            n_output: 0,
            squared_error: zero()?,
            total_variance: zero()?,
            l0: zero()?,
            auxk: zero()?,
            multi_topk: zero()?,
            output_loss: zero()?,
            gradient: zero()?,
        })
    }

    /// Adds an update of `n_tokens` tokens.
    pub(crate) fn add(
        &mut self,
        n_tokens: u64,
        total_variance: &Tensor,
        (gradients, losses, fire_counts): &(Gradients, Losses, Tensor),
    ) -> Result<(), TrainError> {
        self.n_tokens += n_tokens;
        // Every entry of the other gradients is part of a sum of these two.
        for gradient in [&gradients.encoder_bias, &gradients.b_dec] {
            let _ = self.gradient.f_add_(&gradient.f_sum(Kind::Double)?)?;
        }
        let _ = self.squared_error.f_add_(&losses.squared_error)?;
        let _ = self.total_variance.f_add_(total_variance)?;
        let _ = self.l0.f_add_(&fire_counts.f_sum(Kind::Double)?)?;
        for (sum, term) in [
            (&mut self.auxk, &losses.auxk),
            (&mut self.multi_topk, &losses.multi_topk),
        ] {
            if let Some(term) = term {
                let _ = sum.f_add_(term)?;
            }
        }
        Ok(())
    }

    /// Adds a loss on the model's output: its sum over `n_output` positions.
    pub(crate) fn add_output_loss(
        &mut self,
        loss: &Tensor,
        n_output: u64,
    ) -> Result<(), TrainError> {
        self.n_output += n_output;
        let _ = self.output_loss.f_add_(loss)?;
        Ok(())
    }

    /// The sums since the last call, and how many latents are `dead` (Bool) now. `None` where
    /// nothing was trained since.
    pub(crate) fn take(&mut self, dead: &Tensor) -> Result<Option<Report>, TrainError> {
        if self.n_tokens == 0 {
            return Ok(None);
        }
        let interval = std::mem::replace(self, Self::new(dead.device())?);
        let sums: [Tensor; N_SUMS] = [
            interval.squared_error,
            interval.total_variance,
            interval.l0,
            dead.f_sum(Kind::Double)?,
            interval.auxk,
            interval.multi_topk,
            interval.output_loss,
            interval.gradient,
        ];
        Ok(Some(Report {
            n_tokens: interval.n_tokens,
            n_output: interval.n_output,
            sums: Tensor::f_stack(&sums, 0)?,
        }))
    }
}

impl Report {
    /// Whether all gradients were finite.
    pub(crate) fn gradients_are_finite(sums: &[f64]) -> bool {
        sums[7].is_finite()
    }

    /// The statistics, from the sums once they are on the host.
    pub(crate) fn stats(&self, sums: &[f64]) -> SaeStats {
        SaeStats {
            n_tokens: self.n_tokens,
            squared_error: sums[0],
            total_variance: sums[1],
            l0: sums[2],
            n_dead: sums[3] as u64,
            auxk: sums[4],
            multi_topk: sums[5],
            output_loss: sums[6],
            n_output: self.n_output,
        }
    }
}
