//! What changes in the course of training: the learning rate and the number of active latents. Both
//! count optimizer updates.

use crate::{K, LrScheduler, TrainConfig};
use std::f64::consts::PI;

/// How the learning rate changes.
#[derive(Clone, Copy, Debug)]
pub struct LrSchedule {
    scheduler: LrScheduler,
    n_warmup_steps: u64,
    is_from_zero: bool,
    decay_steps: f64,
}

/// What a cosine ends at, as a part of the peak: SAELens's default.
const COSINE_END: f64 = 0.1;

impl LrSchedule {
    /// That of a job.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            scheduler: config.lr_scheduler,
            n_warmup_steps: config.lr_warmup_steps,
            is_from_zero: config.lr_warmup_from_zero,
            decay_steps: config.lr_decay_steps,
        }
    }

    /// The same without a warm-up.
    #[must_use]
    pub fn without_warmup(self) -> Self {
        Self {
            n_warmup_steps: 0,
            ..self
        }
    }

    /// The rate of update number `step`, from 0, of `n_steps`, as a part of its peak.
    pub fn at(self, step: u64, n_steps: u64) -> f64 {
        if step < self.n_warmup_steps {
            let n_risen = if self.is_from_zero { step } else { step + 1 };
            return n_risen as f64 / self.n_warmup_steps as f64;
        }
        let n_decay = updates_of(self.decay_steps, n_steps);
        let n_left = n_steps.saturating_sub(step);
        let decayed = match n_decay {
            n if n_left < n => n_left as f64 / n as f64,
            _ => 1.0,
        };
        match self.scheduler {
            LrScheduler::Linear => linear_schedule(step, self.n_warmup_steps, n_steps),
            LrScheduler::Constant => decayed,
            LrScheduler::Cosine => {
                let n_before = n_steps.saturating_sub(self.n_warmup_steps + n_decay).max(1);
                let progress = (step - self.n_warmup_steps) as f64 / n_before as f64;
                let cosine = (1.0 + (PI * progress.min(1.0)).cos()) / 2.0;
                decayed * (COSINE_END + (1.0 - COSINE_END) * cosine)
            }
        }
    }
}

/// A linear rise from 0 over `n_warmup_steps`, then a linear fall to 0 at `n_steps`. The schedule of
/// `get_linear_schedule_with_warmup` in transformers, where the first of several warm-up steps has
/// rate 0.
fn linear_schedule(step: u64, n_warmup_steps: u64, n_steps: u64) -> f64 {
    if step < n_warmup_steps {
        return step as f64 / n_warmup_steps.max(1) as f64;
    }
    let n_left = n_steps.saturating_sub(step) as f64;
    n_left / n_steps.saturating_sub(n_warmup_steps).max(1) as f64
}

/// The updates that a setting such as `lr_decay_steps` means in a training of `n_steps`: a number of updates, or if
/// it is at most 1, a fraction of all.
pub fn updates_of(setting: f64, n_steps: u64) -> u64 {
    if setting <= 1.0 {
        (setting * n_steps as f64).round() as u64
    } else {
        setting as u64
    }
}

/// Active latents of a token in update number `step`, from 0: a linear fall to `k` at `k_decay_steps`, from `from`,
/// rounded down, which is dictionary_learning's, or from `10 * d_in`, rounded, which is sparsify's; or from all latents if
/// there are fewer.
pub fn k_at(
    step: u64,
    (k, k_decay_steps): (K, u64),
    from: Option<f64>,
    (d_in, num_latents): (usize, usize),
) -> K {
    if step >= k_decay_steps {
        return k;
    }
    let progress = step as f64 / k_decay_steps as f64;
    let first = from.unwrap_or_else(|| d_in.saturating_mul(10) as f64);
    let k_now = first.min(num_latents as f64) * (1.0 - progress) + k.mean() * progress;
    let k_now = match from {
        // Python rounds halves to even.
        None => k_now.round_ties_even(),
        Some(_) => k_now.floor(),
    };
    k_now.max(1.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<_> = (0..=6).map(|step| linear_schedule(step, 2, 6)).collect();
        assert_eq!(rates, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(linear_schedule(0, 0, 4), 1.0);
        assert_eq!(linear_schedule(3, 0, 4), 0.25);
        assert_eq!(linear_schedule(5, 10, 6), 0.5, "warm-up longer than all");
    }

    #[test]
    fn rates_of_saelens() {
        let schedule = |scheduler, is_from_zero| LrSchedule {
            scheduler,
            n_warmup_steps: 2,
            is_from_zero,
            decay_steps: 4.0,
        };
        let rates = |scheduler, is_from_zero| -> Vec<f64> {
            let rate = |step| schedule(scheduler, is_from_zero).at(step, 10);
            (0..10)
                .map(|step| (rate(step) * 1e6).round() / 1e6)
                .collect()
        };
        let constant = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25];
        assert_eq!(rates(LrScheduler::Constant, false), constant);
        let from_zero = rates(LrScheduler::Constant, true);
        assert_eq!(from_zero[..3], [0.0, 0.5, 1.0]);
        let cosine = rates(LrScheduler::Cosine, false);
        assert_eq!(cosine[..4], [0.5, 1.0, 1.0, 0.868198]);
        assert_eq!(cosine[6..], [0.1, 0.075, 0.05, 0.025]);
    }

    #[test]
    fn updates_are_a_number_or_a_fraction_of_all() {
        let updates = [0.0, 0.2, 1.0, 2.0, 500.0].map(|setting| updates_of(setting, 50));
        assert_eq!(updates, [0, 10, 50, 2, 500]);
    }

    #[test]
    fn k_falls_to_its_end() {
        let k = K::from;
        let ks = |from| -> Vec<usize> {
            (0..6)
                .map(|step| k_at(step, (k(4), 4), from, (2, 100)).count())
                .collect()
        };
        assert_eq!(ks(None), [20, 16, 12, 8, 4, 4]);
        assert_eq!(ks(Some(9.0)), [9, 7, 6, 5, 4, 4]);
        assert_eq!(
            k_at(0, (k(4), 4), None, (100, 64)),
            k(64),
            "no more than there are"
        );
        assert_eq!(k_at(0, (k(4), 0), None, (100, 64)), k(4));
        let fraction = |step| k_at(step, (4.5.into(), 4), None, (2, 100)).mean();
        assert_eq!([fraction(2), fraction(4)], [12.0, 4.5]);
    }
}
