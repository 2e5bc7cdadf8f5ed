//! What changes in the course of training: the learning rate and the number of active latents. Both
//! count optimizer updates.

/// The learning rate of update number `step`, from 0, as a part of its peak: a linear rise from 0 over
/// `n_warmup_steps`, then a linear fall to 0 at `n_steps`. The schedule of
/// `get_linear_schedule_with_warmup` in transformers, where the first of several warm-up steps has
/// rate 0.
pub fn linear_schedule(step: u64, n_warmup_steps: u64, n_steps: u64) -> f64 {
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

/// Active latents of a token in update number `step`, from 0: a linear fall from `10 * d_in`, or all
/// latents if there are fewer, to `k` at `k_decay_steps`.
pub fn k_at(step: u64, k: usize, d_in: usize, num_latents: usize, k_decay_steps: u64) -> usize {
    if step >= k_decay_steps {
        return k;
    }
    let progress = step as f64 / k_decay_steps as f64;
    let first = d_in.saturating_mul(10).min(num_latents) as f64;
    // Python rounds halves to even.
    let k_now = (first * (1.0 - progress) + k as f64 * progress).round_ties_even();
    (k_now as usize).clamp(1, num_latents)
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
    fn updates_are_a_number_or_a_fraction_of_all() {
        let updates = [0.0, 0.2, 1.0, 2.0, 500.0].map(|setting| updates_of(setting, 50));
        assert_eq!(updates, [0, 10, 50, 2, 500]);
    }

    #[test]
    fn k_falls_to_its_end() {
        let ks: Vec<_> = (0..6).map(|step| k_at(step, 4, 2, 100, 4)).collect();
        assert_eq!(ks, [20, 16, 12, 8, 4, 4]);
        assert_eq!(k_at(0, 4, 100, 64, 4), 64, "no more than there are");
        assert_eq!(k_at(0, 4, 100, 64, 0), 4);
    }
}
