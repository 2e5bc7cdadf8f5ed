//! Total variance of an update's activations, gathered part by part.

use crate::{SaeError, moments};
use tch::{Kind, Tensor};

/// `sum |x - mean(x)|^2` over all tokens of an update, merged exactly from its parts (Chan, Golub
/// and LeVeque 1979), so that it depends on no cut into micro-batches. Double, on the input's
/// device.
#[derive(Debug, Default)]
pub struct TotalVariance {
    parts: Option<Moments>,
}

/// Mean and total variance of some tokens.
#[derive(Debug)]
pub struct Moments {
    /// How many they are.
    pub n_tokens: u64,
    /// `[d_in]`, Double.
    pub mean: Tensor,
    /// Scalar, Double.
    pub squared_deviations: Tensor,
}

impl TotalVariance {
    /// Adds a part: `x`: `[n_tokens, d_in]`.
    ///
    /// # Errors
    /// libtorch cannot compute, mostly because memory ran out.
    pub fn add(&mut self, x: &Tensor) -> Result<(), SaeError> {
        let part = Moments::of(x)?;
        if part.n_tokens == 0 && self.parts.is_some() {
            return Ok(());
        }
        self.parts = Some(match self.parts.take() {
            None => part,
            Some(sum) => sum.merge(&part)?,
        });
        Ok(())
    }

    /// The moments of all parts.
    ///
    /// # Panics
    /// Without a part.
    pub fn moments(&self) -> &Moments {
        let sum = self.parts.as_ref();
        sum.expect("an update has at least one forward pass")
    }

    /// The same, to keep.
    ///
    /// # Panics
    /// Without a part.
    pub fn into_moments(self) -> Moments {
        self.parts.expect("an update has at least one forward pass")
    }
}

impl Moments {
    /// Those of `x`: `[n_tokens, d_in]`.
    ///
    /// # Errors
    /// libtorch cannot compute, mostly because memory ran out.
    pub fn of(x: &Tensor) -> Result<Self, SaeError> {
        let (mean, squared_deviations) = moments(x)?;
        Ok(Self {
            n_tokens: x.size()[0] as u64,
            mean,
            squared_deviations,
        })
    }

    /// Those of both.
    ///
    /// # Errors
    /// libtorch cannot compute, mostly because memory ran out.
    pub fn merge(self, other: &Self) -> Result<Self, SaeError> {
        let n_tokens = self.n_tokens + other.n_tokens;
        let others_share = other.n_tokens as f64 / n_tokens.max(1) as f64;
        let delta = other.mean.f_sub(&self.mean)?;
        let between = delta.f_square()?.f_sum(Kind::Double)?;
        let between = between.f_mul_scalar(self.n_tokens as f64 * others_share)?;
        let within = self.squared_deviations.f_add(&other.squared_deviations)?;
        Ok(Self {
            mean: self.mean.f_add(&delta.f_mul_scalar(others_share)?)?,
            squared_deviations: within.f_add(&between)?,
            n_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_cut_does_not_matter() {
        // Columns 0..5 and 10..15: each deviates by 10 in sum of squares.
        let x = Tensor::arange(5, (Kind::Float, Device::Cpu));
        let x = Tensor::stack(&[&x, &(&x + 10.0)], 1);
        let whole = |cuts: &[i64]| {
            let mut variance = TotalVariance::default();
            for part in x.split_with_sizes(cuts, 0) {
                variance.add(&part).unwrap();
            }
            variance.moments().squared_deviations.double_value(&[])
        };
        assert_eq!(whole(&[5]), 20.0);
        assert!((whole(&[1, 3, 1]) - 20.0).abs() < 1e-12);
    }

    #[test]
    fn the_sum_is_wider_than_its_terms() {
        // Each square is 1e37; Float ends at 3.4e38.
        let x = Tensor::ones([100, 1], (Kind::Float, Device::Cpu)) * 10f64.powf(18.5);
        let x = Tensor::cat(&[&x, &(-&x)], 0);
        let mut variance = TotalVariance::default();
        variance.add(&x).unwrap();
        let sum = &variance.moments().squared_deviations;
        assert!((sum.double_value(&[]) / 2e39 - 1.0).abs() < 1e-5);
    }
}
