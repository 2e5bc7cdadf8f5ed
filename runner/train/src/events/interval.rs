//! Sums of one SAE since its last report. They stay on the device until then.

use crate::TrainError;
use plan::SaeStats;
use sae::Losses;
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
    sparsity: Tensor,
    /// Latents of tokens that were near thresholds.
    near: Tensor,
    /// Of some gradients: not finite if any gradient is not.
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

/// Length of [`Interval::to_tensor`].
pub(crate) const N_KEPT: i64 = 11;
/// The same of states of earlier versions, at the least.
pub(crate) const LEAST_KEPT: i64 = 9;

/// Length of [`Report::sums`].
pub(crate) const N_SUMS: usize = 10;

/// Sums since the last report, on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Record {
    n_tokens: u64,
    n_output: u64,
    sums: [f64; N_SUMS],
}

/// A record as ranks send it.
pub(crate) type RecordNumbers = [i64; 2 + N_SUMS];

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
            sparsity: zero()?,
            near: zero()?,
            gradient: zero()?,
        })
    }

    /// Adds an update of `n_tokens` tokens. `vectors`: the gradients of both biases; every number of the
    /// others is part of a sum of these.
    pub(crate) fn add(
        &mut self,
        n_tokens: u64,
        total_variance: &Tensor,
        vectors: [&Tensor; 2],
        (losses, fire_counts): (&Losses, &Tensor),
    ) -> Result<(), TrainError> {
        self.n_tokens += n_tokens;
        for gradient in vectors {
            let _ = self.gradient.f_add_(&gradient.f_sum(Kind::Double)?)?;
        }
        let _ = self.squared_error.f_add_(&losses.squared_error)?;
        let _ = self.total_variance.f_add_(total_variance)?;
        let _ = self.l0.f_add_(&fire_counts.f_sum(Kind::Double)?)?;
        for (sum, term) in [
            (&mut self.auxk, &losses.auxk),
            (&mut self.multi_topk, &losses.multi_topk),
            (&mut self.sparsity, &losses.sparsity),
            (&mut self.near, &losses.near),
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

    /// Whether the activations of all updates were finite.
    pub(crate) fn activations_are_finite(&self) -> Result<bool, TrainError> {
        Ok(self.total_variance.f_double_value(&[])?.is_finite())
    }

    /// As a state has it: both counts, then the sums; `[N_KEPT]`, Double. Counts are exact below 2^53.
    pub(crate) fn to_tensor(&self) -> Result<Tensor, TrainError> {
        let counts = [self.n_tokens as f64, self.n_output as f64];
        let device = self.squared_error.device();
        let sums = [
            &self.squared_error,
            &self.total_variance,
            &self.l0,
            &self.auxk,
            &self.multi_topk,
            &self.output_loss,
            &self.gradient,
            &self.sparsity,
            &self.near,
        ];
        let counts = Tensor::f_from_slice(&counts)?.f_to_device(device)?;
        Ok(Tensor::f_cat(&[counts, Tensor::f_stack(&sums, 0)?], 0)?)
    }

    /// What [`Interval::to_tensor`] gave; `numbers` of that shape.
    pub(crate) fn of_tensor(numbers: &Tensor) -> Result<Self, TrainError> {
        let n_kept = numbers.size()[0];
        let number = |idx: i64| -> Result<Tensor, TrainError> {
            // States of earlier versions have fewer.
            Ok(if idx < n_kept {
                numbers.f_get(idx)?.f_detach_copy()?
            } else {
                numbers.f_get(0)?.f_zeros_like()?
            })
        };
        Ok(Self {
            n_tokens: numbers.f_double_value(&[0])? as u64,
            n_output: numbers.f_double_value(&[1])? as u64,
            squared_error: number(2)?,
            total_variance: number(3)?,
            l0: number(4)?,
            auxk: number(5)?,
            multi_topk: number(6)?,
            output_loss: number(7)?,
            gradient: number(8)?,
            sparsity: number(9)?,
            near: number(10)?,
        })
    }

    /// The sums since the last call, and how many latents are `dead` (Bool) now. `None` if
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
            interval.sparsity,
            interval.near,
        ];
        Ok(Some(Report {
            n_tokens: interval.n_tokens,
            n_output: interval.n_output,
            sums: Tensor::f_stack(&sums, 0)?,
        }))
    }
}

impl Report {
    /// With its sums once they are on the host.
    ///
    /// # Panics
    /// Their number is not [`N_SUMS`].
    pub(crate) fn record(&self, sums: &[f64]) -> Record {
        Record {
            n_tokens: self.n_tokens,
            n_output: self.n_output,
            sums: sums.try_into().expect("one number for each sum"),
        }
    }
}

impl Record {
    /// Whether nothing was trained.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_tokens == 0
    }

    /// How many latents of a token were near thresholds, on average; 0 on the CPU.
    pub(crate) fn near(&self) -> f64 {
        self.sums[9] / self.n_tokens as f64
    }

    /// Whether all gradients were finite.
    pub(crate) fn gradients_are_finite(&self) -> bool {
        self.sums[7].is_finite()
    }

    pub(crate) fn stats(&self) -> SaeStats {
        let sums = self.sums;
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
            sparsity: sums[8],
        }
    }

    pub(crate) fn to_numbers(self) -> RecordNumbers {
        let counts = [self.n_tokens, self.n_output];
        let sums = self.sums.iter().map(|sum| sum.to_bits());
        let mut numbers = counts.into_iter().chain(sums).map(u64::cast_signed);
        std::array::from_fn(|_| numbers.next().expect("two counts and the sums"))
    }

    pub(crate) fn of_numbers(numbers: RecordNumbers) -> Self {
        let numbers = numbers.map(i64::cast_unsigned);
        Self {
            n_tokens: numbers[0],
            n_output: numbers[1],
            sums: std::array::from_fn(|idx| f64::from_bits(numbers[2 + idx])),
        }
    }
}
