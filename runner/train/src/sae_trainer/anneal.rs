//! p-annealing (Karvonen et al. 2024, arXiv:2408.00113): the exponent of the penalty falls in steps, and its weight
//! changes with it, so that the penalty stays about what it was. As dictionary_learning does it.

use crate::TrainError;
use plan::TrainConfig;
use std::collections::VecDeque;
use tch::{Kind, Tensor};

/// Updates over which the penalties with both exponents are compared.
const QUEUE_LENGTH: usize = 10;

/// How the exponent falls, and how far it is.
#[derive(Debug)]
pub(crate) struct Anneal {
    start: u64,
    /// 0: the last update.
    until: u64,
    first_p: f64,
    last_p: f64,
    n: usize,
    /// Steps done.
    n_done: usize,
    /// By which the penalty's weight has changed.
    factor: f64,
    /// The means of the penalty with the exponent and with the next one, of the last updates: `[2]`, Double.
    queue: VecDeque<Tensor>,
}

impl Anneal {
    pub(crate) fn new(config: &TrainConfig, last_p: f64) -> Self {
        Self {
            start: config.p_anneal_start,
            until: config.p_anneal_until,
            first_p: config.lp_norm,
            last_p,
            n: config.p_anneal_updates,
            n_done: 0,
            factor: 1.0,
            queue: VecDeque::new(),
        }
    }

    /// The exponent of the next update.
    pub(crate) fn p(&self) -> f64 {
        self.value(self.n_done.saturating_sub(1))
    }

    /// The exponent that comes after it, once the first step is done.
    pub(crate) fn next_p(&self) -> Option<f64> {
        (self.n_done > 0).then(|| self.value(self.n_done.min(self.n - 1)))
    }

    /// What the penalty's weight is multiplied by.
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    fn value(&self, idx: usize) -> f64 {
        let progress = idx as f64 / (self.n - 1).max(1) as f64;
        self.first_p + (self.last_p - self.first_p) * progress
    }

    /// Takes note of update number `step`. `powers`: the penalty of its tokens with the exponent and with the next one,
    /// if there is one: `[2]`, Double. Where no latent is active, there is nothing to compare.
    pub(crate) fn note(
        &mut self,
        powers: Option<&Tensor>,
        n_tokens: u64,
        (step, n_steps): (u64, u64),
    ) -> Result<(), TrainError> {
        if let Some(powers) = powers.filter(|_| self.n_done > 0) {
            self.queue.push_back(powers.f_div_scalar(n_tokens as f64)?);
            if self.queue.len() > QUEUE_LENGTH {
                self.queue.pop_front();
            }
        }
        if self.n_done == self.n || step < self.step_of(self.n_done, n_steps) {
            return Ok(());
        }
        if self.n_done > 0 {
            let queue: Vec<&Tensor> = self.queue.iter().collect();
            let means = Tensor::f_stack(&queue, 0)?.f_mean_dim(0i64, false, Kind::Double)?;
            // Sync: once for each step of the exponent.
            let means = Vec::<f64>::try_from(means)?;
            let factor = self.factor * means[0] / means[1];
            if factor.is_finite() && factor > 0.0 {
                self.factor = factor;
            }
        }
        self.n_done += 1;
        Ok(())
    }

    /// The update after which a step is done.
    fn step_of(&self, idx: usize, n_steps: u64) -> u64 {
        let until = match self.until {
            0 => n_steps,
            until => until,
        };
        let all = until.saturating_sub(self.start) as f64;
        let progress = idx as f64 / (self.n - 1).max(1) as f64;
        self.start + (all * progress) as u64
    }

    /// What a resume needs: `[2 + 2 * updates in the queue]`, Double.
    pub(crate) fn state(&self) -> Result<Tensor, TrainError> {
        let own = Tensor::f_from_slice(&[self.n_done as f64, self.factor])?;
        let queue = self
            .queue
            .iter()
            .map(|powers| powers.to_device(tch::Device::Cpu));
        let all: Vec<Tensor> = [own].into_iter().chain(queue).collect();
        Ok(Tensor::f_cat(&all, 0)?)
    }

    pub(crate) fn restore(&mut self, state: &Tensor) -> Result<(), TrainError> {
        let numbers = Vec::<f64>::try_from(state.f_to_device(tch::Device::Cpu)?)?;
        let [n_done, factor, queue @ ..] = &numbers[..] else {
            return Ok(());
        };
        (self.n_done, self.factor) = ((*n_done as usize).min(self.n), *factor);
        let powers = queue.chunks(2).map(Tensor::f_from_slice);
        self.queue = powers.collect::<Result<_, _>>()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anneal() -> Anneal {
        Anneal::new(
            &TrainConfig {
                p_anneal_start: 2,
                p_anneal_until: 8,
                p_anneal_updates: 4,
                ..TrainConfig::default()
            },
            0.4,
        )
    }

    fn note(anneal: &mut Anneal, step: u64) {
        let powers = Tensor::from_slice(&[(step + 1) as f64 * 4.0, (step + 1) as f64 * 8.0]);
        let powers = anneal.next_p().map(|_| &powers);
        anneal.note(powers, 2, (step, 20)).unwrap();
    }

    #[test]
    fn the_exponent_falls_in_steps_and_the_weight_follows() {
        let mut anneal = anneal();
        let mut values = Vec::new();
        for step in 0..10 {
            values.push(((anneal.p() * 10.0).round() / 10.0, anneal.factor()));
            note(&mut anneal, step);
        }
        let expected = [
            (1.0, 1.0),
            (1.0, 1.0),
            (1.0, 1.0),
            (1.0, 1.0),
            (1.0, 1.0),
            (0.8, 0.5),
            (0.8, 0.5),
            (0.6, 0.25),
            (0.6, 0.25),
            (0.4, 0.125),
        ];
        assert_eq!(values, expected);
        assert_eq!((anneal.p(), anneal.next_p()), (0.4, Some(0.4)));
    }

    #[test]
    fn without_an_active_latent_the_weight_stays() {
        let mut anneal = anneal();
        for step in 0..10 {
            let none = Tensor::from_slice(&[0.0, 0.0]);
            anneal.note(Some(&none), 2, (step, 20)).unwrap();
        }
        assert_eq!((anneal.p(), anneal.factor()), (0.4, 1.0));
    }

    #[test]
    fn a_resume_continues_as_if_nothing_had_happened() {
        let (mut whole, mut resumed) = (anneal(), anneal());
        (0..5).for_each(|step| note(&mut whole, step));
        resumed.restore(&whole.state().unwrap()).unwrap();
        for step in 5..10 {
            note(&mut whole, step);
            note(&mut resumed, step);
            assert_eq!((whole.p(), whole.factor()), (resumed.p(), resumed.factor()));
        }
    }
}
