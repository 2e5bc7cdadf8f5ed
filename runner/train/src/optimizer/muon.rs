//! Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for matrices: momentum, made nearly
//! orthogonal by a Newton-Schulz iteration; Adam for vectors.
//!
//! ```text
//! W = (1 - 0.1 lr_t) W
//! m = m + (1 - beta) (g - m)             g' = g + beta (m - g)            (Nesterov)
//! W = W - 0.2 sqrt(max(rows, columns)) lr_t orthogonal(g')
//! ```
//!
//! The scale is that of Liu et al. 2025 (arXiv:2502.16982), as sparsify has it. `lr_t` falls linearly
//! to 0 at the last update, or as the schedule says; Adam's also rises over the warm-up.

use crate::TrainError;
use crate::optimizer::adam::{Betas, Moments};
use crate::optimizer::{Remembered, Take};
use plan::{LrSchedule, TrainConfig};
use tch::{Kind, Tensor};

const BETA: f64 = 0.95;
const WEIGHT_DECAY: f64 = 0.1;
const N_ITERATIONS: usize = 5;
/// Of the quintic iteration, chosen for the steepest slope at 0.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// The optimizer's memory of one SAE.
#[derive(Debug)]
pub(crate) struct Muon {
    lr: f64,
    schedule: LrSchedule,
    betas: Betas,
    /// By weight; empty before the first update.
    memories: Vec<Memory>,
}

/// What is remembered of one weight.
#[derive(Debug)]
enum Memory {
    Matrix { exp_avg: Tensor },
    Vector(Moments),
}

impl Muon {
    pub(crate) fn new(config: &TrainConfig, lr: f64) -> Self {
        Self {
            lr,
            schedule: LrSchedule::of(config),
            betas: Betas::of(config),
            memories: Vec::new(),
        }
    }

    pub(crate) fn step(
        &mut self,
        weights: &mut [&mut Tensor],
        gradients: &[&Tensor],
        step: u64,
        n_steps: u64,
    ) -> Result<(), TrainError> {
        if self.memories.is_empty() {
            let fresh = weights.iter().map(|weight| Memory::zeros(weight));
            self.memories = fresh.collect::<Result<_, _>>()?;
        }
        let lr = self.lr * self.schedule.without_warmup().at(step, n_steps);
        let (adam_lr, betas) = (self.lr * self.schedule.at(step, n_steps), self.betas);
        let each = weights.iter_mut().zip(gradients).zip(&mut self.memories);
        for ((weight, gradient), memory) in each {
            match memory {
                Memory::Matrix { exp_avg } => step_matrix(weight, gradient, exp_avg, lr)?,
                Memory::Vector(moments) => {
                    moments.rule(adam_lr, step, betas).step(weight, gradient)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> Vec<Remembered<'_>> {
        let memories = self.memories.iter().enumerate();
        memories
            .flat_map(|(idx, memory)| memory.state(idx))
            .collect()
    }

    pub(crate) fn restore(&mut self, n_dims: &[usize], take: Take<'_>) -> Result<(), TrainError> {
        self.memories.clear();
        for (idx, n_dims) in n_dims.iter().enumerate() {
            self.memories.push(match n_dims {
                0 | 1 => Memory::Vector(Moments::restore(idx, take)?),
                _ => Memory::Matrix {
                    exp_avg: take("exp_avg", idx)?,
                },
            });
        }
        Ok(())
    }
}

impl Memory {
    fn state(&self, idx: usize) -> Vec<Remembered<'_>> {
        match self {
            Self::Matrix { exp_avg } => vec![("exp_avg", idx, exp_avg)],
            Self::Vector(moments) => moments.state(idx).to_vec(),
        }
    }

    fn zeros(weight: &Tensor) -> Result<Self, TrainError> {
        Ok(match weight.dim() {
            0 | 1 => Self::Vector(Moments::zeros(weight)?),
            _ => Self::Matrix {
                exp_avg: weight.f_zeros_like()?,
            },
        })
    }
}

fn step_matrix(
    weight: &mut Tensor,
    gradient: &Tensor,
    exp_avg: &mut Tensor,
    lr: f64,
) -> Result<(), TrainError> {
    let _ = weight.f_mul_scalar_(1.0 - lr * WEIGHT_DECAY)?;
    let _ = exp_avg.f_lerp_(gradient, 1.0 - BETA)?;
    let direction = orthogonal(&gradient.f_lerp(exp_avg, BETA)?)?;
    let longest = weight.size().into_iter().max().unwrap_or(1);
    let scale = -lr * 0.2 * (longest as f64).sqrt();
    let direction = direction.f_to_kind(weight.kind())?;
    let _ = weight.f_add_(&direction.f_mul_scalar(scale)?)?;
    Ok(())
}

/// A matrix with the singular vectors of `g` and singular values near 1 (0.7 to 1.2), in bfloat16.
fn orthogonal(g: &Tensor) -> Result<Tensor, TrainError> {
    let [a, b, c] = COEFFICIENTS;
    let (n_rows, n_columns) = g.size2()?;
    let is_tall = n_rows > n_columns;
    let mut x = g.f_to_kind(Kind::BFloat16)?;
    if is_tall {
        x = x.f_tr()?;
    }
    let norm = x.f_norm_scalaropt_dim(2.0, [0i64, 1], true)?;
    x = x.f_div(&norm.f_add_scalar(1e-7)?)?;
    for _ in 0..N_ITERATIONS {
        let gram = x.f_matmul(&x.f_tr()?)?;
        let quintic = gram.f_mul_scalar(c)?.f_matmul(&gram)?;
        let polynomial = gram.f_mul_scalar(b)?.f_add(&quintic)?;
        x = x.f_mul_scalar(a)?.f_add(&polynomial.f_matmul(&x)?)?;
    }
    Ok(if is_tall { x.f_tr()? } else { x })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sae::with_seed;
    use tch::Device;

    #[test]
    fn singular_values_come_near_1() {
        for shape in [[6, 20], [20, 6]] {
            let g = with_seed(3, || Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 7.0);
            let x = orthogonal(&g).unwrap().to_kind(Kind::Float);
            assert_eq!(x.size(), shape);
            let (_, singular_values, _) = x.svd(true, true);
            let (least, most) = (singular_values.min(), singular_values.max());
            let (least, most) = (least.double_value(&[]), most.double_value(&[]));
            assert!(least > 0.5 && most < 1.4, "{least} to {most}");
        }
    }
}
