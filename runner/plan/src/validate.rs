//! What is wrong with settings, as far as they tell it alone.

use crate::config::MOST_LATENTS;
use crate::{DataArgs, PlanError, TrainConfig};

/// The most that a count may be: above any use, and low enough that products of three fit.
const MOST: usize = 1 << 20;

impl TrainConfig {
    /// Checks what can be checked without the model.
    ///
    /// # Errors
    /// The first setting that is out of range or contradicts another.
    pub fn validate(&self) -> Result<(), PlanError> {
        let counts = [
            ("ctx_len", self.ctx_len, 1..=MOST),
            ("batch_size", self.batch_size, 1..=MOST),
            ("grad_acc_steps", self.grad_acc_steps, 1..=MOST),
            ("micro_acc_steps", self.micro_acc_steps, 1..=MOST),
            ("epochs", self.epochs as usize, 1..=MOST),
            ("layer_stride", self.layer_stride, 1..=MOST),
            ("expansion_factor", self.expansion_factor, 0..=MOST),
            ("num_latents", self.num_latents, 0..=MOST_LATENTS),
            ("save_total_limit", self.save_total_limit, 1..=MOST),
            ("save_every", self.save_every as usize, 1..=usize::MAX),
            ("log_every", self.log_every as usize, 1..=usize::MAX),
        ];
        for (key, value, range) in counts {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                let problem = format!("must be at least {least} and at most {most}, got {value}");
                return Err(PlanError::setting(key, &problem));
            }
        }
        for (key, value) in [("model", &self.model), ("dataset", &self.dataset)] {
            if value.is_empty() {
                return Err(PlanError::setting(key, "is missing"));
            }
        }
        self.validate_choices()?;
        self.validate_kinds()?;
        self.validate_cross()?;
        if self.loss_fn.is_end_to_end() {
            self.validate_end_to_end()?;
        }
        self.train_data().request("split")?;
        self.validate_eval_data()
    }

    /// Checks that `max_examples` leaves a batch, whatever data there is.
    ///
    /// # Errors
    /// It does not.
    pub fn validate_batch(&self) -> Result<(), PlanError> {
        let n_batches = self.batches_per_pass();
        let n_wanted = n_batches * self.batch_size;
        match self.max_examples {
            Some(most) if most < n_wanted as u64 => {
                let times = match n_batches {
                    1 => String::new(),
                    n => format!(", {n} of them make an update"),
                };
                let problem = format!(
                    "is {}{times}, but `max_examples` leaves {most} sequences",
                    self.batch_size
                );
                Err(PlanError::setting("batch_size", &problem))
            }
            _ => Ok(()),
        }
    }

    fn validate_choices(&self) -> Result<(), PlanError> {
        if self.num_latents == 0 && self.expansion_factor == 0 {
            let problem = "must be at least 1 where `num_latents` is 0";
            return Err(PlanError::setting("expansion_factor", problem));
        }
        if !self.layers.is_empty() && self.layer_stride != 1 {
            return Err(PlanError::setting(
                "layers",
                "cannot be used with `layer_stride`",
            ));
        }
        if !self.layers.is_empty() && !self.hookpoints.is_empty() {
            return Err(PlanError::setting(
                "layers",
                "cannot be used with `hookpoints`",
            ));
        }
        if self.init_seeds.is_empty() {
            return Err(PlanError::setting("init_seeds", "needs at least one seed"));
        }
        let unique: std::collections::BTreeSet<_> = self.init_seeds.iter().collect();
        if unique.len() != self.init_seeds.len() {
            return Err(PlanError::setting("init_seeds", "names a seed twice"));
        }
        Ok(())
    }

    fn validate_eval_data(&self) -> Result<(), PlanError> {
        if !(0.0..1.0).contains(&self.eval_fraction) {
            let problem = format!("must be at least 0 and below 1, got {}", self.eval_fraction);
            return Err(PlanError::setting("eval_fraction", &problem));
        }
        if self.eval_dataset.is_none() && self.eval_data_args != DataArgs::default() {
            let problem = "needs an `eval_dataset`";
            return Err(PlanError::setting("eval_data_args", problem));
        }
        let Some(eval_data) = self.eval_data() else {
            return Ok(());
        };
        if self.eval_fraction > 0.0 {
            let problem = "cannot be used with `eval_dataset` or `eval_split`";
            return Err(PlanError::setting("eval_fraction", problem));
        }
        let key = match self.eval_split {
            Some(_) => "eval_split",
            None => "eval_dataset",
        };
        if eval_data.shares_rows_with(&self.train_data(), key)? {
            return Err(PlanError::setting(key, "has rows that are trained on"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(settings: Value) -> TrainConfig {
        let mut all = json!({"model": "m", "dataset": "d"});
        let settings = settings.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(settings);
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn contradictions_are_named() {
        for (settings, key) in [
            (
                json!({"loss_fn": "ce", "micro_acc_steps": 2}),
                "micro_acc_steps",
            ),
            (json!({"loss_fn": "kl", "auxk_alpha": 0.03}), "auxk_alpha"),
            (json!({"loss_fn": "ce", "multi_topk": true}), "multi_topk"),
            (
                json!({"loss_fn": "kl", "distribute_modules": true}),
                "distribute_modules",
            ),
            (
                json!({"activation": "groupmax", "k_decay_steps": 5}),
                "k_decay_steps",
            ),
            (json!({"auxk_alpha": -0.1}), "auxk_alpha"),
            (json!({"layers": [1], "layer_stride": 2}), "layers"),
            (json!({"layers": [1], "hookpoints": ["a"]}), "layers"),
            (json!({"init_seeds": []}), "init_seeds"),
            (json!({"init_seeds": [1, 1]}), "init_seeds"),
            (json!({"lr": -1.0}), "lr"),
        ] {
            let error = config(settings.clone()).validate().unwrap_err();
            assert_eq!(error.setting_key(), Some(key), "{settings}");
        }
        config(json!({"lr": 0.0})).validate().unwrap();
    }

    #[test]
    fn data_to_evaluate_on_is_named_once_and_never_trained_on() {
        for (settings, key) in [
            (json!({"eval_fraction": 1.0}), "eval_fraction"),
            (json!({"eval_fraction": -0.1}), "eval_fraction"),
            (
                json!({"eval_fraction": 0.1, "eval_split": "test"}),
                "eval_fraction",
            ),
            (json!({"eval_split": "train"}), "eval_split"),
            (json!({"eval_dataset": "d"}), "eval_dataset"),
            (json!({"eval_split": "train[:5%]"}), "eval_split"),
            (json!({"eval_split": "test+train"}), "eval_split"),
            (
                json!({"split": "train[4%:]", "eval_split": "train[:5%]"}),
                "eval_split",
            ),
            (
                json!({"split": "train[99:]", "eval_split": "train[:5%]"}),
                "eval_split",
            ),
            (
                json!({"split": "train[:-9]", "eval_split": "train[9:]"}),
                "eval_split",
            ),
            (json!({"eval_split": "test["}), "eval_split"),
            (json!({"eval_data_args": "name=fr"}), "eval_data_args"),
        ] {
            let error = config(settings.clone()).validate().unwrap_err();
            assert_eq!(error.setting_key(), Some(key), "{settings}");
        }
        for settings in [
            json!({"eval_dataset": "e"}),
            json!({"eval_dataset": "d", "eval_data_args": "name=fr"}),
            json!({"eval_split": "test"}),
            json!({"split": "train[5%:]", "eval_split": "train[:5%]"}),
            json!({"split": "train[:-9]+all", "eval_split": "train[-9:]"}),
            json!({"split": "train[:100]", "eval_split": "test+train[100:200]"}),
            json!({"eval_fraction": 0.01}),
        ] {
            config(settings).validate().unwrap();
        }
    }
}
