//! Schedule-free sign descent, sparsify's default optimizer.
//!
//! Schedule-free (Defazio et al. 2024, arXiv:2405.15682) keeps two forms of every weight: `z`, which
//! takes the steps, and `x`, the average of all `z`, which is what gets saved. Gradients are taken at
//! `y = (1 - beta) z + beta x`, and `y` is what stands in the SAE while it trains. One update with
//! gradient `g` of `y`, learning rate `lr`, as update number `t` (from 1):
//!
//! ```text
//! x = y + (1 - 1/beta) (z - y)
//! z = z - lr sign(g)                 (signum: steepest descent in the L-infinity norm)
//! x = x + (z - x) / t                (constant lr: the plain mean)
//! y = x + (1 - beta) (z - x)
//! ```
//!
//! The form is that of `schedulefree.ScheduleFreeWrapper` 1.4.1, which stores `y` and `z` and
//! recomputes `x`: projecting `y`'s decoder between updates then moves `x` in the same way.

use crate::TrainError;
use crate::optimizer::{Remembered, Take, copies};
use std::thread::ScopedJoinHandle;
use tch::{Device, Tensor};

const BETA: f64 = 0.95;

/// Numbers of a block. Below 2^15 libtorch starts no threads of its own; `y`, `z`, the gradient and its
/// sign take half a megabyte, which the cache of a core holds.
const N_IN_BLOCK: i64 = (1 << 15) - 1;

/// The optimizer's memory of one SAE.
#[derive(Debug)]
pub(crate) struct Signum {
    lr: f64,
    n_updates: u64,
    /// In the order of `Sae::named_weights`; empty before the first update.
    z: Vec<Tensor>,
}

impl Signum {
    pub(crate) fn new(lr: f64) -> Self {
        Self {
            lr,
            n_updates: 0,
            z: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> Vec<Remembered<'_>> {
        let z = self.z.iter().enumerate();
        z.map(|(idx, z)| ("z", idx, z)).collect()
    }

    pub(crate) fn restore(
        &mut self,
        n_updates: u64,
        n_weights: usize,
        take: Take<'_>,
    ) -> Result<(), TrainError> {
        let z = (0..n_weights).map(|idx| take("z", idx));
        self.z = z.collect::<Result<_, _>>()?;
        self.n_updates = n_updates;
        Ok(())
    }

    /// One update of the weights, which stand in the form `y`.
    pub(crate) fn step(
        &mut self,
        weights: &mut [&mut Tensor],
        gradients: &[&Tensor],
    ) -> Result<(), TrainError> {
        if self.z.is_empty() {
            self.z = weights
                .iter()
                .map(|y| y.f_detach_copy())
                .collect::<Result<_, _>>()?;
        }
        self.n_updates += 1;
        let average = 1.0 / self.n_updates as f64;
        let update = Update {
            lr: self.lr,
            average,
        };
        for ((y, z), gradient) in weights.iter_mut().zip(&self.z).zip(gradients) {
            update.apply(y, z, gradient)?;
        }
        Ok(())
    }

    /// The averaged weights `x` of the weights in the form `y`.
    pub(crate) fn averaged(&self, weights: &[&Tensor]) -> Result<Vec<Tensor>, TrainError> {
        if self.z.is_empty() {
            return copies(weights);
        }
        let x = weights
            .iter()
            .zip(&self.z)
            .map(|(y, z)| y.f_lerp(z, 1.0 - 1.0 / BETA));
        Ok(x.collect::<Result<_, _>>()?)
    }
}

/// What an update does to every number alike.
#[derive(Clone, Copy, Debug)]
struct Update {
    lr: f64,
    /// `1 / t`.
    average: f64,
}

impl Update {
    /// On the CPU block by block, so that each number comes from memory once for all six operations,
    /// and on threads that meet once; elsewhere each operation on the whole, [`Update::apply_whole`].
    fn apply(self, y: &Tensor, z: &Tensor, gradient: &Tensor) -> Result<(), TrainError> {
        let rows = Rows::of(y);
        if rows.n_in_block >= rows.n {
            return self.apply_whole(y, z, gradient);
        }
        let n_threads = i64::from(tch::get_num_threads()).clamp(1, rows.n);
        let shares = (0..n_threads).map(|thread| {
            let (first, end) = (
                rows.n * thread / n_threads,
                rows.n * (thread + 1) / n_threads,
            );
            let share = |tensor: &Tensor| tensor.f_narrow(0, first, end - first);
            Ok((share(y)?, share(z)?, share(gradient)?))
        });
        let shares = shares.collect::<Result<Vec<_>, TrainError>>()?;
        std::thread::scope(|scope| {
            let spawn = |share| scope.spawn(move || self.apply_in_blocks(share, rows.n_in_block));
            let threads: Vec<_> = shares.into_iter().map(spawn).collect();
            let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("it does not panic");
            threads.into_iter().try_for_each(join)
        })
    }

    fn apply_in_blocks(
        self,
        (y, z, gradient): (Tensor, Tensor, Tensor),
        n_in_block: i64,
    ) -> Result<(), TrainError> {
        // It holds for one thread.
        let _no_grad = tch::no_grad_guard();
        let n_rows = y.size()[0];
        for first in (0..n_rows).step_by(n_in_block as usize) {
            let n = n_in_block.min(n_rows - first);
            let block = |tensor: &Tensor| tensor.f_narrow(0, first, n);
            self.apply_whole(&block(&y)?, &block(&z)?, &block(&gradient)?)?;
        }
        Ok(())
    }

    fn apply_whole(self, y: &Tensor, z: &Tensor, gradient: &Tensor) -> Result<(), TrainError> {
        let (mut y, mut z) = (y.shallow_clone(), z.shallow_clone());
        let _ = y.f_lerp_(&z, 1.0 - 1.0 / BETA)?;
        let _ = z.f_sub_(&gradient.f_sign()?.f_mul_scalar_(self.lr)?)?;
        let _ = y.f_lerp_(&z, self.average)?;
        let _ = y.f_lerp_(&z, 1.0 - BETA)?;
        Ok(())
    }
}

/// How a tensor is cut.
#[derive(Clone, Copy, Debug)]
struct Rows {
    n: i64,
    /// All where it is not cut.
    n_in_block: i64,
}

impl Rows {
    fn of(tensor: &Tensor) -> Self {
        let n = tensor.size()[0];
        let n_in_row = (tensor.numel() as i64 / n.max(1)).max(1);
        let n_in_block = match tensor.device() {
            Device::Cpu => (N_IN_BLOCK / n_in_row).max(1),
            _ => n,
        };
        Self { n, n_in_block }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// Four one-number weights that start at 1 and always see a positive gradient.
    fn run(n_updates: usize, lr: f64) -> (Signum, Vec<Tensor>) {
        let one = || Tensor::ones([1], (Kind::Double, Device::Cpu));
        let mut weights: Vec<Tensor> = (0..4).map(|_| one()).collect();
        let gradients: Vec<Tensor> = (0..4).map(|_| one() * 3.0).collect();
        let mut signum = Signum::new(lr);
        for _ in 0..n_updates {
            let mut weights: Vec<_> = weights.iter_mut().collect();
            let gradients: Vec<_> = gradients.iter().collect();
            signum.step(&mut weights, &gradients).unwrap();
        }
        (signum, weights)
    }

    #[test]
    fn x_is_the_mean_of_all_z() {
        let (signum, weights) = run(3, 0.1);
        // z: 0.9, 0.8, 0.7; their mean is 0.8.
        assert!((signum.z[0].double_value(&[0]) - 0.7).abs() < 1e-12);
        let refs: Vec<_> = weights.iter().collect();
        let x = signum.averaged(&refs).unwrap();
        assert!((x[3].double_value(&[0]) - 0.8).abs() < 1e-12);
        let y = weights[3].double_value(&[0]);
        assert!((y - (0.95 * 0.8 + 0.05 * 0.7)).abs() < 1e-12);
    }

    #[test]
    fn a_learning_rate_of_zero_moves_nothing() {
        let (_, weights) = run(5, 0.0);
        assert!((weights[0].double_value(&[0]) - 1.0).abs() < 1e-12);
    }

    /// Of every size: none, one, less than a block, whole blocks, and with a rest.
    #[test]
    fn blocks_give_what_the_whole_gives() {
        let n_in_block = N_IN_BLOCK;
        let shapes = [
            vec![0],
            vec![1],
            vec![17],
            vec![n_in_block],
            vec![2 * n_in_block + 3],
            vec![3, n_in_block + 1],
            vec![n_in_block / 7 + 1, 15],
            vec![0, 5],
        ];
        for shape in shapes {
            let numbers = |factor: f64| {
                let n: i64 = shape.iter().product();
                let angles = Tensor::arange(n, (Kind::Float, Device::Cpu)) * factor;
                angles.sin().view(&shape[..])
            };
            let (mut y, gradient) = (numbers(0.7), numbers(1.3));
            let mut signum = Signum::new(0.01);
            let (whole_y, whole_z) = (y.copy(), y.copy());
            for t in 1..=3 {
                signum.step(&mut [&mut y], &[&gradient]).unwrap();
                let update = Update {
                    lr: 0.01,
                    average: 1.0 / f64::from(t),
                };
                update.apply_whole(&whole_y, &whole_z, &gradient).unwrap();
            }
            for (ours, whole) in [(&y, &whole_y), (&signum.z[0], &whole_z)] {
                assert!(ours.allclose(whole, 0.0, 1e-7, false), "{shape:?}");
            }
        }
    }
}
