//! Trainings of different length that begin alike: how far a longer one can continue from a state of a shorter one.

use crate::{Activation, LrSchedule, LrScheduler, NormalizeActivations, TrainConfig, updates_of};

/// How many updates two trainings with the settings of `config` have in common, to the bit: one of `n_steps`, one of
/// `n_other`. They differ once something depends on how many there will be: a fall of the learning rate to the end, or
/// what is given as a fraction of all updates.
pub fn n_shared_updates(config: &TrainConfig, n_steps: u64, n_other: u64) -> u64 {
    let n_fewer = n_steps.min(n_other);
    let warm_up = penalty_warm_up(config);
    if updates_of(warm_up, n_steps) != updates_of(warm_up, n_other)
        || n_estimation_updates(config) > n_fewer
    {
        return 0;
    }
    let schedule = LrSchedule::of(config);
    let is_shared = |step: &u64| schedule.at(*step, n_steps) == schedule.at(*step, n_other);
    let n_of_lr = (0..n_fewer).take_while(is_shared).count() as u64;
    if anneals_to_the_end(config) {
        n_of_lr.min(config.p_anneal_start)
    } else {
        n_of_lr
    }
}

impl TrainConfig {
    /// Whether a job keeps a state when it is done.
    pub fn keeps_state(&self) -> bool {
        self.keep_state.unwrap_or_else(|| self.has_no_end())
    }

    /// The update before which a job of `n_steps` keeps its state, if it keeps one: all before it are also those of any
    /// longer training.
    pub fn kept_step(&self, n_steps: u64) -> Option<u64> {
        let n_extendable = || n_shared_updates(self, n_steps, n_steps.saturating_mul(1000));
        let step = self.keeps_state().then(n_extendable);
        step.filter(|step| *step > 0)
    }

    /// Whether no update depends on how many there will be.
    fn has_no_end(&self) -> bool {
        let is_fraction = |setting: f64| setting > 0.0 && setting <= 1.0;
        self.lr_scheduler == LrScheduler::Constant
            && self.lr_decay_steps == 0.0
            && !is_fraction(penalty_warm_up(self))
            && !anneals_to_the_end(self)
    }
}

/// Updates over which the penalty rises, or if at most 1, a fraction of all.
fn penalty_warm_up(config: &TrainConfig) -> f64 {
    match config.activation {
        Activation::Relu | Activation::Gated => config.l1_warm_up_steps,
        _ => config.l0_warm_up_steps,
    }
}

/// Updates whose tokens tell how activations are scaled; fewer if training is shorter.
fn n_estimation_updates(config: &TrainConfig) -> u64 {
    if config.normalize_activations == NormalizeActivations::None {
        return 0;
    }
    let tokens_per_update = config.tokens_per_update;
    let tokens_per_update = tokens_per_update.unwrap_or_else(|| config.tokens_of_one_process());
    config
        .norm_estimate_tokens
        .div_ceil(tokens_per_update.max(1))
}

fn anneals_to_the_end(config: &TrainConfig) -> bool {
    config.p_anneal_end.is_some() && config.p_anneal_until == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(settings: Value) -> TrainConfig {
        let mut all = TrainConfig::default().to_map();
        all.extend(settings.as_object().unwrap().clone());
        serde_json::from_value(all.into()).unwrap()
    }

    /// Settings, and the updates that trainings of 100 and of more have in common.
    fn cases() -> Vec<(Value, u64)> {
        let constant = |more: Value| {
            let mut settings =
                json!({"optimizer": "adam", "lr_scheduler": "constant", "lr_warmup_steps": 0});
            let more = more.as_object().unwrap().clone();
            settings.as_object_mut().unwrap().extend(more);
            settings
        };
        vec![
            (json!({"optimizer": "adam", "lr_warmup_steps": 10}), 11),
            (constant(json!({})), 100),
            (constant(json!({"lr_warmup_steps": 10})), 100),
            (constant(json!({"lr_decay_steps": 0.2})), 81),
            (constant(json!({"lr_decay_steps": 30})), 71),
            (
                json!({"optimizer": "adam", "lr_scheduler": "cosine", "lr_warmup_steps": 10}),
                11,
            ),
            (
                constant(json!({"activation": "relu", "l1_warm_up_steps": 20})),
                100,
            ),
            (
                constant(json!({"activation": "relu", "l1_warm_up_steps": 0.2})),
                0,
            ),
        ]
    }

    #[test]
    fn trainings_are_alike_until_the_end_matters() {
        for (settings, expected) in cases() {
            let config = config(settings.clone());
            for n_other in [150, 1000] {
                assert_eq!(
                    n_shared_updates(&config, 100, n_other),
                    expected,
                    "{settings}"
                );
                assert_eq!(
                    n_shared_updates(&config, n_other, 100),
                    expected,
                    "{settings}"
                );
            }
            assert_eq!(config.has_no_end(), expected == 100, "{settings}");
            let kept = TrainConfig {
                keep_state: Some(true),
                ..config
            }
            .kept_step(100);
            assert_eq!(kept, Some(expected).filter(|step| *step > 0), "{settings}");
        }
    }
}
