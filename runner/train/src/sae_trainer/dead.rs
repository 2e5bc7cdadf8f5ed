//! Which latents are dead, for AuxK. The number of indices is the shape of a tensor, for which the host must wait.
//! Only tokens that pass make a latent dead, so one look finds all that can be dead before a number of tokens has
//! passed. Until then no update waits: it takes those of them that are dead by then.

use crate::TrainError;
use sae::{AuxK, PreActLoss};
use tch::{Device, Tensor};

/// A look is good for the threshold divided by this, in tokens. More often would cost waits; more rarely, work on
/// latents that are not dead.
const LOOKS_A_THRESHOLD: i64 = 8;

/// The latents that may be dead.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Dead is what has not fired for more than this number of tokens.
    threshold: i64,
    /// For how many tokens a look is good. 0: until the next ones.
    n_ahead: i64,
    /// Tokens since the last look.
    n_passed: i64,
    /// What it has found: `[n]`, Int64, ascending.
    found: Option<Tensor>,
}

/// The latents that are dead in an update.
#[derive(Debug)]
pub(crate) struct Dead {
    /// Indices: `[n]`, Int64, ascending.
    candidates: Tensor,
    /// Which of them are dead: `[n]`, Bool. `None`: all.
    are_dead: Option<Tensor>,
}

impl Candidates {
    /// On the CPU nothing waits, and every update looks.
    pub(crate) fn new(threshold: i64, device: Device) -> Self {
        let n_ahead = match device {
            Device::Cpu => 0,
            _ => threshold / LOOKS_A_THRESHOLD,
        };
        Self {
            threshold,
            n_ahead,
            n_passed: 0,
            found: None,
        }
    }

    /// Takes note of an update of `n_tokens` tokens.
    pub(crate) fn pass(&mut self, n_tokens: i64) {
        self.n_passed += n_tokens;
    }

    /// Those that are dead now. `tokens_since_fired`: `[num_latents]`, Int64. When the last look was makes no
    /// difference to what an update computes with them.
    pub(crate) fn dead(&mut self, tokens_since_fired: &Tensor) -> Result<Dead, TrainError> {
        let found = self.found.take().filter(|_| self.n_passed <= self.n_ahead);
        let candidates = match found {
            Some(found) => found,
            None => self.look(tokens_since_fired)?,
        };
        let are_dead = match self.n_ahead {
            0 => None,
            _ => Some(self.are_dead(&candidates, tokens_since_fired)?),
        };
        self.found = Some(candidates.shallow_clone());
        Ok(Dead {
            candidates,
            are_dead,
        })
    }

    fn look(&mut self, tokens_since_fired: &Tensor) -> Result<Tensor, TrainError> {
        self.n_passed = 0;
        let may_be_dead = tokens_since_fired.f_gt(self.threshold - self.n_ahead)?;
        // Sync: how many they are decides on shapes.
        Ok(may_be_dead.f_nonzero()?.f_squeeze_dim(1)?)
    }

    fn are_dead(
        &self,
        candidates: &Tensor,
        tokens_since_fired: &Tensor,
    ) -> Result<Tensor, TrainError> {
        let silent_for = tokens_since_fired.f_index_select(0, candidates)?;
        Ok(silent_for.f_gt(self.threshold)?)
    }
}

impl Dead {
    /// The term of the loss, with the weight `alpha`; what is of the update is known if it has other tokens, too.
    pub(crate) fn auxk<'a>(
        &'a self,
        (alpha, is_of_residual): (f64, bool),
        fire_counts: Option<&'a Tensor>,
        residual_scale: Option<&'a Tensor>,
    ) -> AuxK<'a> {
        AuxK {
            alpha,
            candidates: &self.candidates,
            are_dead: self.are_dead.as_ref(),
            is_of_residual,
            fire_counts,
            residual_scale,
        }
    }

    /// The loss of those below their thresholds.
    pub(crate) fn pre_act_loss(&self, coefficient: f64) -> PreActLoss<'_> {
        PreActLoss {
            coefficient,
            latents: Some(&self.candidates),
            counts: self.are_dead.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae_trainer::{Progress, SaeTrainer};
    use crate::testing::{assert_same, config, job, relative};
    use plan::{Optimizer, TrainConfig};
    use sae::{Moments, Sae};
    use tch::Kind;

    const N_UPDATES: u64 = 40;

    /// What a job trains, and before which updates it looked. `forgotten_at`: where it is resumed.
    fn trained(n_ahead: i64, forgotten_at: u64) -> (Sae, Vec<u64>) {
        let config = TrainConfig {
            optimizer: Optimizer::Adam,
            lr: Some(1e-2),
            lr_warmup_steps: 0,
            auxk_alpha: 0.1,
            // As on a device, with no other kernels for an update in which no latent may be dead.
            multi_topk: true,
            dead_feature_threshold: 400,
            k: 2.into(),
            ..config()
        };
        let job = job("a", config);
        let mut trainer = SaeTrainer::new(&job, &job.saes[0], None, Device::Cpu).unwrap();
        trainer.candidates.n_ahead = n_ahead;
        let _no_grad = tch::no_grad_guard();
        let (mut looks, mut numbers) = (Vec::new(), Vec::new());
        for step in 0..N_UPDATES {
            if step == forgotten_at {
                trainer.candidates.found = None;
            }
            // Updates have different numbers of tokens.
            let n = 40 + step as i64 % 3 * 7;
            let x = sae::with_seed(step as i64, || {
                Tensor::randn([n, 32], (Kind::Float, Device::Cpu))
            });
            numbers.push(trainer.dead().unwrap().sum(Kind::Int64).int64_value(&[]));
            let n_passed = trainer.candidates.n_passed;
            let mut update = trainer
                .start(Progress {
                    step,
                    n_steps: N_UPDATES,
                })
                .unwrap();
            if update.trainer.candidates.n_passed < n_passed || step == 0 || step == forgotten_at {
                looks.push(step);
            }
            update.add(&x, &x).unwrap();
            let progress = Progress {
                step,
                n_steps: N_UPDATES,
            };
            update.finish(&Moments::of(&x).unwrap(), progress).unwrap();
        }
        assert!(
            numbers.windows(2).any(|pair| pair[0] < pair[1]),
            "some die: {numbers:?}"
        );
        assert!(
            numbers.windows(2).any(|pair| pair[0] > pair[1]),
            "some come back: {numbers:?}"
        );
        (trainer.published().unwrap(), looks)
    }

    #[test]
    fn when_it_was_looked_changes_no_bit() {
        let (each_time, looks) = trained(1, N_UPDATES);
        assert!(looks.iter().copied().eq(0..N_UPDATES));
        for (n_ahead, forgotten_at) in [(60, N_UPDATES), (200, N_UPDATES), (200, 23), (400, 24)] {
            let (sae, looks) = trained(n_ahead, forgotten_at);
            assert_same(&sae, &each_time);
            let least = N_UPDATES as usize * 40 / n_ahead as usize;
            assert!(
                (2..=least + 3).contains(&looks.len()),
                "{n_ahead}: {looks:?}"
            );
        }
        // As on the CPU.
        let (unmasked, _) = trained(0, N_UPDATES);
        let pairs = unmasked
            .named_weights()
            .into_iter()
            .zip(each_time.named_weights());
        for ((name, unmasked), (_, masked)) in pairs {
            let difference = relative(unmasked, masked);
            assert!(difference < 1e-4, "{name}: {difference}");
        }
    }
}
