//! What is wrong with the settings of kinds of SAEs, of their losses and of the optimizer.

use crate::config::MOST_LATENTS;
use crate::{Activation, PlanError, SparsityLoss, TrainConfig};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::{Bound, RangeBounds};

/// What a number may be: in words, and as bounds. Infinity and NaN are never allowed.
type Range = (&'static str, (Bound<f64>, Bound<f64>));

const POSITIVE: Range = ("above 0", (Excluded(0.0), Unbounded));
const NOT_NEGATIVE: Range = ("at least 0", (Included(0.0), Unbounded));
const AT_LEAST_1: Range = ("at least 1", (Included(1.0), Unbounded));
const LATENTS: Range = (
    "above 0 and at most 2147483648",
    (Excluded(0.0), Included(MOST_LATENTS as f64)),
);
const BELOW_1: Range = ("at least 0 and below 1", (Included(0.0), Excluded(1.0)));
const A_SHARE: Range = ("above 0 and at most 1", (Excluded(0.0), Included(1.0)));

impl SparsityLoss {
    /// Whether it aims at a number of active latents.
    pub fn has_target(self) -> bool {
        matches!(self, Self::Quadratic | Self::MeanQuadratic)
    }
}

impl Activation {
    /// Whether `k` says how many latents are active.
    pub fn has_k(self) -> bool {
        matches!(self, Self::TopK | Self::GroupMax | Self::BatchTopK)
    }

    /// Whether it is sparsify's: it is trained by any loss, and saved in sparsify's layout.
    fn is_of_tokens(self) -> bool {
        matches!(self, Self::TopK | Self::GroupMax)
    }
}

impl TrainConfig {
    /// Checks the settings of kinds of SAEs, of their losses and of the optimizer.
    pub(crate) fn validate_kinds(&self) -> Result<(), PlanError> {
        self.validate_ranges()?;
        self.validate_widths()?;
        if let Some(found) = self.without_effect().into_iter().next() {
            return Err(PlanError::setting(found.key, &found.problem));
        }
        self.validate_pairs()
    }

    fn validate_ranges(&self) -> Result<(), PlanError> {
        for (key, value, (range, bounds)) in self.numbers() {
            if !(value.is_finite() && bounds.contains(&value)) {
                let problem = format!("must be {range} and finite, got {value}");
                return Err(PlanError::setting(key, &problem));
            }
        }
        Ok(())
    }

    /// The numbers that are given, and what each may be.
    fn numbers(&self) -> Vec<(&'static str, f64, Range)> {
        let always = [
            ("k", self.k.mean(), LATENTS),
            ("auxk_alpha", self.auxk_alpha, NOT_NEGATIVE),
            ("l1_coefficient", self.l1_coefficient, NOT_NEGATIVE),
            ("l1_warm_up_steps", self.l1_warm_up_steps, NOT_NEGATIVE),
            ("lp_norm", self.lp_norm, POSITIVE),
            ("l0_coefficient", self.l0_coefficient, NOT_NEGATIVE),
            ("l0_warm_up_steps", self.l0_warm_up_steps, NOT_NEGATIVE),
            ("jumprelu_tanh_scale", self.jumprelu_tanh_scale, POSITIVE),
            ("jumprelu_bandwidth", self.jumprelu_bandwidth, POSITIVE),
            (
                "jumprelu_init_threshold",
                self.jumprelu_init_threshold,
                NOT_NEGATIVE,
            ),
            (
                "pre_act_loss_coefficient",
                self.pre_act_loss_coefficient,
                NOT_NEGATIVE,
            ),
            ("lr_decay_steps", self.lr_decay_steps, NOT_NEGATIVE),
            ("adam_beta1", self.adam_beta1, BELOW_1),
            ("adam_beta2", self.adam_beta2, BELOW_1),
            ("topk_threshold_lr", self.topk_threshold_lr, A_SHARE),
            ("p_anneal_updates", self.p_anneal_updates as f64, AT_LEAST_1),
            (
                "norm_estimate_tokens",
                self.norm_estimate_tokens as f64,
                AT_LEAST_1,
            ),
        ];
        let if_given = [
            ("lr", self.lr, NOT_NEGATIVE),
            ("decoder_init_norm", self.decoder_init_norm, POSITIVE),
            ("encoder_init_scale", self.encoder_init_scale, POSITIVE),
            ("init_l0", self.init_l0, POSITIVE),
            ("p_anneal_end", self.p_anneal_end, NOT_NEGATIVE),
            ("target_l0", self.target_l0, POSITIVE),
            ("max_grad_norm", self.max_grad_norm, POSITIVE),
            ("k_decay_from", self.k_decay_from, AT_LEAST_1),
        ];
        let given = if_given.into_iter();
        let given = given.filter_map(|(key, value, range)| Some((key, value?, range)));
        always.into_iter().chain(given).collect()
    }

    /// Settings that contradict each other, or lack one that they need.
    fn validate_pairs(&self) -> Result<(), PlanError> {
        let has_widths = !self.matryoshka_widths.is_empty();
        let is_nested = has_widths || self.matryoshka_prefixes > 0;
        let mode = self.jumprelu_sparsity_loss_mode;
        let anneals_up = self.p_anneal_end.is_some_and(|end| end > self.lp_norm);
        let is_whole = self.k.whole().is_some();
        let ends_early = self.p_anneal_until > 0 && self.p_anneal_until <= self.p_anneal_start;
        let contradictions = [
            (
                !is_whole && self.activation != Activation::BatchTopK,
                "k",
                "must be a whole number unless the `activation` is batchtopk, whose tokens have `k` latents on average",
            ),
            (
                has_widths && self.matryoshka_prefixes > 0,
                "matryoshka_prefixes",
                "cannot be used with `matryoshka_widths`",
            ),
            (
                self.hierarchical_topk && is_nested,
                "hierarchical_topk",
                "cannot be used with `matryoshka_widths` or `matryoshka_prefixes`",
            ),
            (
                self.hierarchical_topk
                    && (self.rescale_acts_by_decoder_norm || self.auxk_alpha > 0.0),
                "hierarchical_topk",
                "cannot be used with `rescale_acts_by_decoder_norm` or `auxk_alpha`",
            ),
            (
                self.multi_topk
                    && (is_nested || self.hierarchical_topk || self.rescale_acts_by_decoder_norm),
                "multi_topk",
                "cannot be used with `matryoshka_widths`, `matryoshka_prefixes`, `hierarchical_topk` or \
                 `rescale_acts_by_decoder_norm`",
            ),
            (
                self.skip_connection && !self.transcode && !self.activation.is_of_tokens(),
                "skip_connection",
                "needs `transcode` unless the `activation` is topk or groupmax: SAELens's layout has one in \
                 transcoders only",
            ),
            (
                mode.has_target() && self.target_l0.is_none(),
                "jumprelu_sparsity_loss_mode",
                "needs a `target_l0` with quadratic and mean_quadratic",
            ),
            (
                anneals_up,
                "p_anneal_end",
                "must be at most `lp_norm`, from which it falls",
            ),
            (
                ends_early,
                "p_anneal_until",
                "must be after `p_anneal_start`",
            ),
        ];
        first_of(contradictions)
    }

    /// What cannot be trained by a loss at the model's output.
    pub(crate) fn validate_end_to_end(&self) -> Result<(), PlanError> {
        let contradictions = [
            ("micro_acc_steps", self.micro_acc_steps > 1),
            ("auxk_alpha", self.auxk_alpha > 0.0),
            ("multi_topk", self.multi_topk),
            ("distribute_modules", self.distribute_modules),
            ("matryoshka_widths", !self.matryoshka_widths.is_empty()),
            ("matryoshka_prefixes", self.matryoshka_prefixes > 0),
            ("hierarchical_topk", self.hierarchical_topk),
        ];
        if !self.activation.is_of_tokens() {
            let problem =
                "must be topk or groupmax with a `loss_fn` on the model's output (ce, kl)";
            return Err(PlanError::setting("activation", problem));
        }
        let problem = "cannot be used with a `loss_fn` on the model's output (ce, kl)";
        first_of(contradictions.map(|(key, is_set)| (is_set, key, problem)))
    }

    /// Checks what can be checked once the number of latents of an SAE at `hookpoint` is known.
    ///
    /// # Errors
    /// A number of latents that is more than all, or groups of different sizes.
    pub(crate) fn check_latents(
        &self,
        num_latents: usize,
        hookpoint: &str,
    ) -> Result<(), PlanError> {
        let k = self.k;
        if self.activation.has_k() && k > num_latents.into() {
            let message = format!(
                "k = {k} is larger than num_latents = {num_latents} at hookpoint `{hookpoint}`"
            );
            let hint = "lower `k`, or raise `num_latents` or `expansion_factor`";
            return Err(PlanError::about("k", message).with_hint(hint));
        }
        if self.activation == Activation::GroupMax && !num_latents.is_multiple_of(k.count()) {
            let problem = format!(
                "must divide the {num_latents} latents of `{hookpoint}` with the activation groupmax, \
                 got {k}"
            );
            return Err(PlanError::setting("k", &problem));
        }
        self.matryoshka_widths_for(num_latents)?;
        let most = num_latents as f64;
        for (key, n_latents) in [
            ("target_l0", self.target_l0),
            ("init_l0", self.init_l0),
            ("matryoshka_prefixes", Some(self.matryoshka_prefixes as f64)),
        ] {
            if let Some(n_latents) = n_latents.filter(|n_latents| *n_latents > most) {
                let problem = format!(
                    "is {n_latents}, but `num_latents` is {num_latents} at hookpoint `{hookpoint}`"
                );
                let hint = format!("lower `{key}`, or raise `num_latents` or `expansion_factor`");
                return Err(PlanError::setting(key, &problem).with_hint(hint));
            }
        }
        Ok(())
    }
}

/// The first of some contradictions that is there: its key, and what to say.
fn first_of<const N: usize>(
    contradictions: [(bool, &'static str, &'static str); N],
) -> Result<(), PlanError> {
    match contradictions.into_iter().find(|(is_there, ..)| *is_there) {
        Some((_, key, problem)) => Err(PlanError::setting(key, problem)),
        None => Ok(()),
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

    /// Asserts that `settings` are refused for `key`, and that the message names `other`, too.
    fn assert_refused(settings: Value, key: &str, other: &str) {
        let error = config(settings.clone()).validate().unwrap_err();
        assert_eq!(error.setting_key(), Some(key), "{settings}: {error}");
        assert!(
            error.to_string().contains(&format!("`{other}`")),
            "{settings}: {error}"
        );
    }

    #[test]
    fn settings_of_another_kind_are_refused() {
        for (settings, key) in [
            (json!({"l0_coefficient": 2}), "l0_coefficient"),
            (json!({"l1_coefficient": 2}), "l1_coefficient"),
            (
                json!({"activation": "jumprelu", "l1_scaled_by_decoder_norm": false}),
                "l1_scaled_by_decoder_norm",
            ),
            (
                json!({"activation": "relu", "gated_aux_is_detached": false}),
                "gated_aux_is_detached",
            ),
            (json!({"calibrate_threshold": false}), "calibrate_threshold"),
            (
                json!({"activation": "batchtopk", "target_l0": 8}),
                "target_l0",
            ),
            (
                json!({"activation": "batchtopk", "multi_topk": true}),
                "multi_topk",
            ),
            (
                json!({"activation": "batchtopk", "hierarchical_topk": true}),
                "hierarchical_topk",
            ),
            (
                json!({"activation": "relu", "jumprelu_bandwidth": 1}),
                "jumprelu_bandwidth",
            ),
            (
                json!({"activation": "relu", "threshold_ema": "saev"}),
                "threshold_ema",
            ),
            (
                json!({"activation": "relu", "k_decay_steps": 5}),
                "k_decay_steps",
            ),
            (json!({"activation": "jumprelu", "lp_norm": 0.5}), "lp_norm"),
            (
                json!({"activation": "jumprelu", "p_anneal_end": 0.5}),
                "p_anneal_end",
            ),
            (
                json!({"activation": "gated", "pre_act_loss_coefficient": 1}),
                "pre_act_loss_coefficient",
            ),
            (
                json!({"activation": "gated", "matryoshka_widths": [4]}),
                "matryoshka_widths",
            ),
            (
                json!({"activation": "groupmax", "matryoshka_widths": [4]}),
                "matryoshka_widths",
            ),
            (
                json!({"activation": "groupmax", "matryoshka_prefixes": 4}),
                "matryoshka_prefixes",
            ),
            (
                json!({"activation": "relu", "normalize_decoder": false, "rescale_acts_by_decoder_norm": true}),
                "rescale_acts_by_decoder_norm",
            ),
        ] {
            assert_refused(settings, key, "activation");
        }
    }

    #[test]
    fn settings_that_need_another_are_refused_without_it() {
        let jumprelu = |key: &str, value: Value| json!({"activation": "jumprelu", key: value});
        for (settings, key, other) in [
            (
                json!({"rescale_acts_by_decoder_norm": true}),
                "rescale_acts_by_decoder_norm",
                "normalize_decoder = false",
            ),
            (
                json!({"encoder_init_scale": 0.5}),
                "encoder_init_scale",
                "decoder_init_norm",
            ),
            (
                json!({"matryoshka_weights": [1]}),
                "matryoshka_weights",
                "matryoshka_widths",
            ),
            (
                json!({"norm_estimate_tokens": 7}),
                "norm_estimate_tokens",
                "normalize_activations",
            ),
            (json!({"k_decay_from": 64}), "k_decay_from", "k_decay_steps"),
            (json!({"adam_beta1": 0.5}), "adam_beta1", "optimizer"),
            (
                json!({"lr_warmup_from_zero": false}),
                "lr_warmup_from_zero",
                "optimizer",
            ),
            (
                json!({"lr_scheduler": "cosine"}),
                "lr_scheduler",
                "optimizer",
            ),
            (
                json!({"optimizer": "adam", "lr_decay_steps": 0.2}),
                "lr_decay_steps",
                "lr_scheduler",
            ),
            (
                json!({"activation": "relu", "p_anneal_start": 3}),
                "p_anneal_start",
                "p_anneal_end",
            ),
            (
                json!({"activation": "batchtopk", "threshold_start_step": 3}),
                "threshold_start_step",
                "threshold_ema",
            ),
            (
                jumprelu("target_l0", json!(8)),
                "target_l0",
                "jumprelu_sparsity_loss_mode",
            ),
            (
                jumprelu("jumprelu_tanh_scale", json!(2)),
                "jumprelu_tanh_scale",
                "jumprelu_sparsity_loss_mode",
            ),
            (
                jumprelu("jumprelu_sparsity_loss_mode", json!("quadratic")),
                "jumprelu_sparsity_loss_mode",
                "target_l0",
            ),
            (
                jumprelu("jumprelu_sparsity_loss_mode", json!("mean_quadratic")),
                "jumprelu_sparsity_loss_mode",
                "target_l0",
            ),
        ] {
            assert_refused(settings, key, other);
        }
    }

    #[test]
    fn contradictions_name_both() {
        for (settings, key, other) in [
            (
                json!({"matryoshka_widths": [4], "matryoshka_prefixes": 4}),
                "matryoshka_prefixes",
                "matryoshka_widths",
            ),
            (
                json!({"matryoshka_widths": [4], "hierarchical_topk": true}),
                "hierarchical_topk",
                "matryoshka_widths",
            ),
            (
                json!({"auxk_alpha": 0.1, "hierarchical_topk": true}),
                "hierarchical_topk",
                "auxk_alpha",
            ),
            (
                json!({"multi_topk": true, "hierarchical_topk": true}),
                "multi_topk",
                "hierarchical_topk",
            ),
            (
                json!({"matryoshka_prefixes": 4, "hierarchical_topk": true}),
                "hierarchical_topk",
                "matryoshka_prefixes",
            ),
            (
                json!({"activation": "relu", "p_anneal_end": 2}),
                "p_anneal_end",
                "lp_norm",
            ),
            (
                json!({"activation": "relu", "p_anneal_end": 0, "p_anneal_start": 5, "p_anneal_until": 5}),
                "p_anneal_until",
                "p_anneal_start",
            ),
            (
                json!({"activation": "batchtopk", "loss_fn": "ce"}),
                "activation",
                "loss_fn",
            ),
            (json!({"k": 32.5}), "k", "activation"),
            (
                json!({"activation": "groupmax", "k": 32.5}),
                "k",
                "activation",
            ),
            (json!({"activation": "relu", "k": 32.5}), "k", "activation"),
            (
                json!({"auxk_alpha": 0.1, "auxk_norm": "residual"}),
                "auxk_norm",
                "loss_fn",
            ),
            (
                json!({"activation": "gated", "auxk_alpha": 0.1}),
                "auxk_alpha",
                "activation",
            ),
            (
                json!({"activation": "gated", "loss_fn": "kl"}),
                "activation",
                "loss_fn",
            ),
            (
                json!({"matryoshka_widths": [4], "loss_fn": "kl"}),
                "matryoshka_widths",
                "loss_fn",
            ),
        ] {
            assert_refused(settings, key, other);
        }
    }

    #[test]
    fn a_skip_connection_of_a_kind_in_saelens_layout_needs_a_transcoder() {
        for activation in ["relu", "jumprelu", "batchtopk", "gated"] {
            let settings = json!({"activation": activation, "skip_connection": true});
            assert_refused(settings.clone(), "skip_connection", "transcode");
            assert_refused(settings, "skip_connection", "activation");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (key, values) in [
            ("l1_coefficient", &[-1.0][..]),
            ("l0_warm_up_steps", &[-0.1]),
            ("lp_norm", &[0.0]),
            ("jumprelu_bandwidth", &[0.0, -1.0]),
            ("jumprelu_init_threshold", &[-0.1]),
            ("adam_beta1", &[1.0, -0.1]),
            ("adam_beta2", &[1.0]),
            ("topk_threshold_lr", &[0.0, 1.1]),
            ("max_grad_norm", &[0.0]),
            ("k", &[0.0, -1.0, 1e10]),
            ("decoder_init_norm", &[0.0]),
            ("init_l0", &[0.0]),
            ("target_l0", &[0.0]),
            ("k_decay_from", &[0.5]),
            ("lr_decay_steps", &[-1.0]),
        ] {
            for value in values {
                let error = config(json!({key: value})).validate().unwrap_err();
                assert_eq!(error.setting_key(), Some(key), "{error}");
                assert!(error.to_string().contains("must be"), "{error}");
            }
        }
        let infinite = TrainConfig {
            l0_coefficient: f64::INFINITY,
            ..config(json!({}))
        };
        let not_a_number = TrainConfig {
            k: f64::NAN.into(),
            ..config(json!({"activation": "batchtopk"}))
        };
        assert_eq!(
            not_a_number.validate().unwrap_err().setting_key(),
            Some("k")
        );
        assert_eq!(
            infinite.validate().unwrap_err().setting_key(),
            Some("l0_coefficient")
        );
        assert!(config(json!({"p_anneal_updates": 0})).validate().is_err());
    }

    #[test]
    fn each_kind_takes_its_settings() {
        for settings in [
            json!({"activation": "batchtopk", "threshold_ema": "dictionary_learning", "threshold_start_step": 3}),
            json!({"activation": "batchtopk", "matryoshka_widths": [0.25, 0.5], "k_decay_steps": 5}),
            json!({"activation": "batchtopk", "k": 32.5}),
            json!({"activation": "batchtopk", "k": 0.5}),
            json!({"k": 32.0}),
            json!({"activation": "relu", "l1_coefficient": 3, "p_anneal_end": 0, "p_anneal_form": "lp", "k": 9999}),
            json!({"activation": "gated", "l1_warm_up_steps": 0.5, "transcode": true, "apply_b_dec_to_input": false}),
            json!({"activation": "jumprelu", "jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 32}),
            json!({"activation": "jumprelu", "matryoshka_prefixes": 10, "pre_act_loss_on": "all"}),
            json!({"hierarchical_topk": true, "encoder_dtype": "bfloat16"}),
            json!({"loss_fn": "mse", "auxk_alpha": 0.1, "auxk_norm": "residual", "skip_connection": true}),
            json!({"activation": "relu", "transcode": true, "skip_connection": true}),
            json!({"normalize_decoder": false, "rescale_acts_by_decoder_norm": true, "auxk_alpha": 1.0}),
            json!({"optimizer": "adam", "lr_scheduler": "cosine", "lr_decay_steps": 0.2, "loss_fn": "mse"}),
            json!({"normalize_activations": "covariance_whitening", "norm_estimate_tokens": 1000}),
        ] {
            config(settings).validate().unwrap();
        }
    }

    #[test]
    fn no_more_latents_are_asked_for_than_there_are() {
        let checked = |settings| config(settings).check_latents(256, "layers.0");
        for (settings, key) in [
            (json!({"k": 257}), "k"),
            (json!({"activation": "batchtopk", "k": 256.5}), "k"),
            (json!({"activation": "groupmax", "k": 3}), "k"),
            (json!({"init_l0": 300}), "init_l0"),
            (json!({"target_l0": 300}), "target_l0"),
            (json!({"matryoshka_prefixes": 300}), "matryoshka_prefixes"),
            (json!({"matryoshka_widths": [300]}), "matryoshka_widths"),
        ] {
            let error = checked(settings).unwrap_err();
            assert_eq!(error.setting_key(), Some(key));
            let named = error.to_string();
            assert!(named.contains(key) && named.contains("256"), "{named}");
        }
        for key in ["k", "init_l0", "target_l0", "matryoshka_prefixes"] {
            let error = checked(json!({key: 300})).unwrap_err().to_string();
            assert!(
                error.contains("num_latents") && error.contains("300"),
                "{error}"
            );
        }
        checked(json!({"activation": "relu", "k": 300})).unwrap();
    }
}
