//! What is done to activations before an SAE is trained on them, estimated on the first tokens of training. It is part of
//! the state of training; every SAE that is written takes activations as they are.

use crate::TrainError;
use crate::activations::row_sum::RowSum;
use plan::NormalizeActivations;
use sae::Affine;
use tch::{Kind, Tensor};

/// Added to the variances that whitening divides by, as in SAELens.
const WHITENING_EPS: f64 = 1e-3;

/// What an SAE takes, and what it should give.
#[derive(Debug)]
pub(crate) struct Scaling {
    pub(crate) input: Affine,
    pub(crate) output: Affine,
}

/// Tokens, added up: of each hookpoint the vector, its norm, and if it is needed its product with itself.
#[derive(Debug)]
pub(crate) struct Statistics {
    how: NormalizeActivations,
    /// Hookpoints, side by side in a vector.
    n_hookpoints: i64,
    sums: Option<RowSum>,
}

impl Statistics {
    pub(crate) fn new(how: NormalizeActivations, n_hookpoints: usize) -> Self {
        Self {
            how,
            n_hookpoints: n_hookpoints as i64,
            sums: None,
        }
    }

    /// Adds `x`: `[n_tokens, width]`, Float.
    pub(crate) fn add(&mut self, x: &Tensor) -> Result<(), TrainError> {
        let x = x.f_to_kind(Kind::Double)?;
        let mut parts = Vec::new();
        for x in x.f_chunk(self.n_hookpoints, 1)? {
            let norms = x.f_norm_scalaropt_dim(2.0, [1i64], false)?;
            parts.push(x.f_sum_dim_intlist(0, false, Kind::Double)?);
            parts.push(norms.f_sum(Kind::Double)?.f_unsqueeze(0)?);
            if self.how == NormalizeActivations::CovarianceWhitening {
                parts.push(x.f_tr()?.f_matmul(&x)?.f_flatten(0, -1)?);
            }
        }
        let part = RowSum {
            sum: Tensor::f_cat(&parts, 0)?,
            n_rows: x.size()[0],
        };
        self.sums = Some(match self.sums.take() {
            None => part,
            Some(sums) => RowSum {
                sum: sums.sum.f_add(&part.sum)?,
                n_rows: sums.n_rows + part.n_rows,
            },
        });
        Ok(())
    }

    /// What was added here, of which another rank may have had nothing.
    pub(crate) fn into_sums(self, width: i64, device: tch::Device) -> Result<RowSum, TrainError> {
        let n_sums = self.n_hookpoints * n_sums(self.how, width / self.n_hookpoints);
        let zeros = || Tensor::f_zeros([n_sums], (Kind::Double, device));
        match self.sums {
            Some(sums) => Ok(sums),
            None => Ok(RowSum {
                sum: zeros()?,
                n_rows: 0,
            }),
        }
    }
}

/// Numbers that are added up of a hookpoint of this width.
fn n_sums(how: NormalizeActivations, width: i64) -> i64 {
    let n_more = match how {
        NormalizeActivations::CovarianceWhitening => width * width,
        _ => 0,
    };
    width + 1 + n_more
}

/// What the sums of all ranks say of `n_hookpoints` that have the `width` together; `None`: there was no token.
pub(crate) fn affine(
    how: NormalizeActivations,
    sums: &RowSum,
    (width, n_hookpoints): (i64, usize),
) -> Result<Option<Affine>, TrainError> {
    if sums.n_rows == 0 {
        return Ok(None);
    }
    let width = width / n_hookpoints as i64;
    let n_sums = n_sums(how, width);
    let of_hookpoint = |idx| -> Result<Affine, TrainError> {
        let sum = sums.sum.f_narrow(0, idx * n_sums, n_sums)?;
        affine_of_one(how, (&sum, sums.n_rows as f64), width)
    };
    let all = (0..n_hookpoints as i64).map(of_hookpoint);
    Ok(Some(Affine::side_by_side(
        &all.collect::<Result<Vec<_>, _>>()?,
    )?))
}

/// What the sums over `n` tokens say of a hookpoint.
fn affine_of_one(
    how: NormalizeActivations,
    (sum, n): (&Tensor, f64),
    width: i64,
) -> Result<Affine, TrainError> {
    let mean = sum.f_narrow(0, 0, width)?.f_div_scalar(n)?;
    let one = || mean.f_new_ones([0i64; 0], (Kind::Double, mean.device()));
    let (mean, matrix, inverse) = match how {
        NormalizeActivations::None | NormalizeActivations::MeanCentering => {
            (mean.shallow_clone(), one()?, one()?)
        }
        NormalizeActivations::ExpectedAverageOnlyIn => {
            let mean_norm = sum.f_get(width)?.f_div_scalar(n)?;
            let inverse = mean_norm.f_div_scalar((width as f64).sqrt())?;
            (mean.f_zeros_like()?, inverse.f_reciprocal()?, inverse)
        }
        NormalizeActivations::CovarianceWhitening => {
            let squares = sum
                .f_narrow(0, width + 1, width * width)?
                .f_view([width, width])?;
            let of_mean = mean.f_outer(&mean)?.f_mul_scalar(n)?;
            let covariance = squares.f_sub(&of_mean)?.f_div_scalar((n - 1.0).max(1.0))?;
            let (values, vectors) = covariance.f_linalg_eigh("L")?;
            let roots = values
                .f_clamp_min(0.0)?
                .f_add_scalar(WHITENING_EPS)?
                .f_sqrt()?;
            let matrix = vectors.f_div(&roots)?;
            let inverse = roots.f_unsqueeze(1)?.f_mul(&vectors.f_tr()?)?;
            (mean.shallow_clone(), matrix, inverse)
        }
    };
    let float = |x: &Tensor| x.f_to_kind(Kind::Float);
    Ok(Affine {
        mean: float(&mean)?,
        matrix: float(&matrix)?,
        inverse: float(&inverse)?,
    })
}

/// Names of the tensors in a state.
const NAMES: [[&str; 3]; 2] = [
    [
        "scaling.input.mean",
        "scaling.input.matrix",
        "scaling.input.inverse",
    ],
    [
        "scaling.output.mean",
        "scaling.output.matrix",
        "scaling.output.inverse",
    ],
];

impl Scaling {
    /// For a resume, by name.
    pub(crate) fn state(&self) -> Vec<(&'static str, Tensor)> {
        let sides = [&self.input, &self.output].into_iter().zip(NAMES);
        let of_side = |(side, names): (&Affine, [&'static str; 3])| {
            let tensors = [&side.mean, &side.matrix, &side.inverse];
            names.into_iter().zip(tensors.map(Tensor::shallow_clone))
        };
        sides.flat_map(of_side).collect()
    }

    /// What [`Scaling::state`] gave; `take`: gives a tensor by name.
    pub(crate) fn restored(
        take: &mut dyn FnMut(&'static str) -> Result<Tensor, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut side = |[mean, matrix, inverse]: [&'static str; 3]| -> Result<Affine, TrainError> {
            Ok(Affine {
                mean: take(mean)?,
                matrix: take(matrix)?,
                inverse: take(inverse)?,
            })
        };
        Ok(Self {
            input: side(NAMES[0])?,
            output: side(NAMES[1])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn estimated(how: NormalizeActivations, x: &Tensor) -> Tensor {
        estimated_of(how, x, 1)
    }

    fn estimated_of(how: NormalizeActivations, x: &Tensor, n_hookpoints: usize) -> Tensor {
        let mut statistics = Statistics::new(how, n_hookpoints);
        for part in x.split(300, 0) {
            statistics.add(&part).unwrap();
        }
        let width = x.size()[1];
        let sums = statistics.into_sums(width, Device::Cpu).unwrap();
        let found = affine(how, &sums, (width, n_hookpoints));
        found.unwrap().unwrap().of(x).unwrap()
    }

    #[test]
    fn hookpoints_side_by_side_are_scaled_each_by_itself() {
        let x = sae::with_seed(3, || Tensor::randn([1000, 4], (Kind::Float, Device::Cpu)));
        let y = x.matmul(&x.tr().matmul(&x)).sin() * 20.0 + 7.0;
        let both = Tensor::cat(&[&x, &y], 1);
        for how in [
            NormalizeActivations::ExpectedAverageOnlyIn,
            NormalizeActivations::MeanCentering,
            NormalizeActivations::CovarianceWhitening,
        ] {
            let alone = Tensor::cat(&[estimated(how, &x), estimated(how, &y)], 1);
            let together = estimated_of(how, &both, 2);
            assert!(together.allclose(&alone, 1e-5, 1e-5, false), "{how:?}");
        }
    }

    #[test]
    fn each_way_makes_of_activations_what_it_says() {
        let x = sae::with_seed(3, || Tensor::randn([1000, 6], (Kind::Float, Device::Cpu)));
        let mixing = Tensor::arange(36, (Kind::Float, Device::Cpu))
            .sin()
            .view([6, 6])
            * 0.3
            + Tensor::eye(6, (Kind::Float, Device::Cpu));
        let x = x.matmul(&mixing) + 3.0;
        let mean = |x: &Tensor| {
            x.mean_dim(0, false, Kind::Float)
                .abs()
                .max()
                .double_value(&[])
        };
        let scaled = estimated(NormalizeActivations::ExpectedAverageOnlyIn, &x);
        let norm = scaled
            .norm_scalaropt_dim(2.0, [1i64], false)
            .mean(Kind::Float);
        assert!((norm.double_value(&[]) - 6f64.sqrt()).abs() < 1e-4);
        let centred = estimated(NormalizeActivations::MeanCentering, &x);
        assert!(mean(&centred) < 1e-4);
        assert!((&centred - &x).std(false).double_value(&[]) < 5.0);
        let white = estimated(NormalizeActivations::CovarianceWhitening, &x);
        let covariance = white.tr().matmul(&white) / 999.0;
        let eye = Tensor::eye(6, (Kind::Float, Device::Cpu));
        assert!(mean(&white) < 1e-3);
        assert!((covariance - eye).abs().max().double_value(&[]) < 0.02);
    }
}
