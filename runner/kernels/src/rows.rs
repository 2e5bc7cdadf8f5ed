//! One pass over weights: what an update does to each row.

use crate::instruction_sets::multiversioned;
use crate::{add_scaled, dot};
use rayon::prelude::*;

/// Numbers that a thread takes at a time, if rows mean nothing.
const CHUNK: usize = 1 << 14;

/// Constants of an update by schedule-free signum.
#[derive(Clone, Copy, Debug)]
pub struct Signum {
    /// Learning rate.
    pub lr: f64,
    /// Weight of `z` in the step from `y` back to the average `x`: `1 - 1 / beta`.
    pub to_x: f64,
    /// Weight of the new `z` in the average: 1 over the number of the update.
    pub average: f64,
    /// Weight of `z` in `y`: `1 - beta`.
    pub to_y: f64,
}

/// Constants of an update by Adam, whose formulas are those of `torch.optim.Adam`.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// The learning rate over `1 - beta_1^t`.
    pub lr: f64,
    /// `1 - beta_1`: how far `exp_avg` goes towards the gradient.
    pub to_gradient: f64,
    /// `1 - beta_2`: how far `exp_avg_sq` goes towards the gradient's square.
    pub to_square: f64,
    /// The square root of `1 - beta_2^t`: what that of `exp_avg_sq` is divided by.
    pub correction: f64,
    /// Added to that root.
    pub eps: f64,
}

/// `x / divisor`.
pub fn scale(x: &mut [f32], divisor: f32) {
    x.par_chunks_mut(CHUNK).for_each(|x| divide(x, divisor));
}

multiversioned!(fn divide(x: &mut [f32], divisor: f32) = divide_by);

#[inline(always)]
pub(crate) fn divide_by(x: &mut [f32], divisor: f32) {
    for x in x {
        *x /= divisor;
    }
}

/// Takes from each row of gradients its part parallel to the weights' row: `g - (g . w) w`. `gradients`,
/// `weights`: `[n, width]`.
///
/// # Panics
/// Shapes that do not fit, or `width` is 0.
pub fn project(gradients: &mut [f32], weights: &[f32], width: usize) {
    assert_eq!(gradients.len(), weights.len(), "a weight for each gradient");
    let rows = gradients
        .par_chunks_mut(width)
        .zip(weights.par_chunks(width));
    rows.for_each(|(gradient, weight)| project_row(gradient, weight));
}

multiversioned!(fn project_row(gradient: &mut [f32], weight: &[f32]) = project_from);

#[inline(always)]
pub(crate) fn project_from(gradient: &mut [f32], weight: &[f32]) {
    let parallel = dot(gradient, weight);
    add_scaled(gradient, -parallel, weight);
}

/// One update by schedule-free signum: `y` to `x`, `z - lr sign(g)`, the mean of `x` and `z`, and back.
///
/// # Panics
/// Lengths that differ.
pub fn signum(y: &mut [f32], z: &mut [f32], gradients: &[f32], constants: Signum) {
    assert_eq!(y.len(), z.len(), "a z for each weight");
    assert_eq!(y.len(), gradients.len(), "a gradient for each weight");
    y.par_chunks_mut(CHUNK)
        .zip(z.par_chunks_mut(CHUNK))
        .zip(gradients.par_chunks(CHUNK))
        .for_each(|((y, z), gradients)| signum_of(y, z, gradients, constants));
}

multiversioned!(
    fn signum_of(y: &mut [f32], z: &mut [f32], gradients: &[f32], constants: Signum) = signum_by
);

#[inline(always)]
pub(crate) fn signum_by(y: &mut [f32], z: &mut [f32], gradients: &[f32], constants: Signum) {
    let Signum {
        lr,
        to_x,
        average,
        to_y,
    } = constants;
    let (lr, average) = (lr as f32, average as f32);
    let [to_x, to_y] = [to_x, to_y].map(|weight| weight as f32);
    for ((y, z), g) in y.iter_mut().zip(z).zip(gradients) {
        let x = *y + to_x * (*z - *y);
        // A NaN is neither, and stays one.
        let sign = if *g > 0.0 {
            1.0
        } else if *g < 0.0 {
            -1.0
        } else {
            *g * 0.0
        };
        *z -= lr * sign;
        // From the nearer end, as libtorch: the first average is the first z.
        let x = if average < 0.5 {
            x + average * (*z - x)
        } else {
            *z - (*z - x) * (1.0 - average)
        };
        *y = x + to_y * (*z - x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gradients_have_no_part_parallel_to_rows_of_unit_norm(
            n in 0usize..5,
            width in 1usize..70,
        ) {
            let mut rows = numbers(n * width, 0.3);
            for row in rows.chunks_mut(width) {
                let norm = dot(row, row).sqrt();
                row.iter_mut().for_each(|x| *x /= norm);
            }
            let before = numbers(n * width, 0.9);
            let mut gradients = before.clone();
            scale(&mut gradients, 4.0);
            project(&mut gradients, &rows, width);
            let pairs = rows.chunks(width).zip(gradients.chunks(width)).zip(before.chunks(width));
            for ((row, gradient), before) in pairs {
                prop_assert!(dot(row, gradient).abs() < 1e-5);
                let parallel: f32 = row.iter().zip(before).map(|(row, g)| row * g / 4.0).sum();
                for ((row, g), before) in row.iter().zip(gradient).zip(before) {
                    prop_assert!((g - (before / 4.0 - parallel * row)).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn signum_keeps_the_mean_of_all_z() {
        // Longer than a chunk, with gradients of both signs, and of 0.
        let n = CHUNK + 7;
        let gradients: Vec<f32> = (0..n).map(|idx| [2.0, -0.1, 0.0][idx % 3]).collect();
        let (mut y, mut z) = (vec![1.0; n], vec![1.0; n]);
        let (lr, beta) = (0.1f64, 0.95f64);
        for update in 1..=3 {
            let constants = Signum {
                lr,
                to_x: 1.0 - 1.0 / beta,
                average: 1.0 / f64::from(update),
                to_y: 1.0 - beta,
            };
            signum(&mut y, &mut z, &gradients, constants);
        }
        for (idx, (y, z)) in y.into_iter().zip(z).enumerate() {
            // z: 0.9, 0.8, 0.7 where the gradient is positive.
            let sign = [1.0, -1.0, 0.0][idx % 3];
            let (y, z) = (f64::from(y), f64::from(z));
            assert!((z - (1.0 - 0.3 * sign)).abs() < 1e-6, "{idx}: {z}");
            let x = 1.0 - 0.2 * sign;
            assert!(
                (y - (beta * x + (1.0 - beta) * z)).abs() < 1e-6,
                "{idx}: {y}"
            );
        }
        let (mut y, mut z) = ([1.0], [1.0]);
        let constants = Signum {
            lr: 0.1,
            to_x: 0.0,
            average: 1.0,
            to_y: 0.05,
        };
        signum(&mut y, &mut z, &[f32::NAN], constants);
        assert!(y[0].is_nan(), "it shows");
    }
}
