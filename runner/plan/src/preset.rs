//! What other trainers use, as settings under one name. What the user sets goes above it.
//!
//! Sources: `sae-lens` 6.54, `dictionary_learning` 0.1.0, github.com/science-of-finetuning/crosscoder_learning
//! (b2363ed), transformer-circuits.pub/2025/january-update, and arXiv 2408.05147 for Gemma Scope. None sets the number
//! of latents, the length of sequences or the tokens of an update: SAELens has 4096 of these, Gemma Scope too.

use crate::overrides::{apply_overrides, parsed};
use crate::{PlanError, Sweep, TrainConfig, nearest};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What the settings of a job begin with.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    config: &'a TrainConfig,
    /// The settings that the user gave; the others are a preset's or the defaults. `None`: all.
    given: Option<&'a BTreeSet<String>>,
}

impl<'a> From<&'a TrainConfig> for Base<'a> {
    /// All settings count as given, so that no preset changes them.
    fn from(config: &'a TrainConfig) -> Self {
        Self {
            config,
            given: None,
        }
    }
}

impl<'a> From<&'a Sweep> for Base<'a> {
    fn from(sweep: &'a Sweep) -> Self {
        Self {
            config: &sweep.train,
            given: Some(&sweep.given),
        }
    }
}

impl Base<'_> {
    /// The settings after `overrides`, and those of the preset that results under both. A preset's
    /// settings that have no effect with the others are left out.
    ///
    /// # Errors
    /// An unknown setting or preset, or a value of the wrong type.
    pub fn with(self, overrides: &Map<String, Value>) -> Result<TrainConfig, PlanError> {
        let config = apply_overrides(self.config, overrides)?;
        let (Some(given), Some(name)) = (self.given, &config.preset) else {
            return Ok(config);
        };
        let is_set = |key: &str| given.contains(key) || overrides.contains_key(key);
        // A preset's weights are of its widths.
        let is_given =
            |key: &str| is_set(key) || key == "matryoshka_weights" && is_set("matryoshka_widths");
        let mut settings = config.to_map();
        let preset = settings_of(name)?;
        settings.extend(preset.into_iter().filter(|(key, _)| !is_given(key)));
        let mut config = parsed(&settings)?;
        while let Some(found) = config
            .without_effect()
            .into_iter()
            .find(|found| !is_given(found.key))
        {
            let default = TrainConfig::default().to_map()[found.key].take();
            settings.insert(found.key.into(), default);
            config = parsed(&settings)?;
        }
        Ok(config)
    }
}

fn settings_of(name: &str) -> Result<Map<String, Value>, PlanError> {
    let mut presets = presets();
    if let Some(idx) = presets.iter().position(|(known, _)| *known == name) {
        return Ok(presets.swap_remove(idx).1);
    }
    let names: Vec<&str> = presets.iter().map(|(name, _)| *name).collect();
    let near = nearest(name, names.iter().copied(), 3);
    let hint = if near.is_empty() {
        format!("the presets are {}", names.join(", "))
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    Err(PlanError::about("preset", format!("unknown preset `{name}`")).with_hint(hint))
}

/// The presets with their settings, by name.
pub fn presets() -> Vec<(&'static str, Map<String, Value>)> {
    [
        saelens(),
        dictionary_learning(),
        crosscoder_learning(),
        papers(),
    ]
    .concat()
}

/// Several objects as one; later ones win.
fn together<const N: usize>(parts: [&Value; N]) -> Map<String, Value> {
    let parts = parts.into_iter().filter_map(Value::as_object);
    parts
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn saelens() -> Vec<(&'static str, Map<String, Value>)> {
    let common = json!({
        "loss_fn": "mse",
        "normalize_decoder": false,
        "decoder_init_norm": 0.1,
        "b_dec_init_method": "zeros",
        "optimizer": "adam",
        "lr": 3e-4,
        "lr_warmup_steps": 0,
        "lr_warmup_from_zero": false,
        "lr_scheduler": "constant",
        "max_grad_norm": 1.0,
        // 1000 updates of 4096 tokens.
        "dead_feature_threshold": 4_096_000,
    });
    let gated = json!({"activation": "gated", "gated_aux_is_detached": false});
    let topk = json!({
        "activation": "topk",
        "k": 100,
        "rescale_acts_by_decoder_norm": true,
        "auxk_alpha": 1.0,
    });
    let batchtopk = json!({"activation": "batchtopk"});
    // SAELens has no default: those of huggingface.co/chanind-goodfire/baseline-saes.
    let matryoshka = json!({"matryoshka_widths": [0.25]});
    vec![
        (
            "saelens-standard",
            together([&common, &json!({"activation": "relu"})]),
        ),
        ("saelens-topk", together([&common, &topk])),
        ("saelens-batchtopk", together([&common, &topk, &batchtopk])),
        (
            "saelens-matryoshka",
            together([&common, &topk, &batchtopk, &matryoshka]),
        ),
        (
            "saelens-jumprelu",
            together([&common, &json!({"activation": "jumprelu"})]),
        ),
        ("saelens-gated", together([&common, &gated])),
    ]
}

fn dictionary_learning() -> Vec<(&'static str, Map<String, Value>)> {
    let common = json!({
        "loss_fn": "mse",
        "decoder_init_norm": 1.0,
        "b_dec_init_method": "zeros",
        "optimizer": "adam",
        "lr_scheduler": "constant",
    });
    let clipped = json!({"max_grad_norm": 1.0});
    // Its learning rate is that of our law.
    let topk = json!({
        "activation": "topk",
        "b_dec_init_method": "geometric_median",
        "auxk_alpha": 0.03125,
        "auxk_norm": "residual",
    });
    let batchtopk = json!({
        "activation": "batchtopk",
        "threshold_ema": "dictionary_learning",
        "topk_threshold_lr": 0.001,
    });
    // It has no default: groups of 1/32, 1/16, 1/8, 1/4 and the rest. Its weights are 1/5, and so is their mean.
    let matryoshka = json!({
        "matryoshka_widths": [0.03125, 0.09375, 0.21875, 0.46875],
        "matryoshka_weights": [0.04, 0.04, 0.04, 0.04, 0.04],
    });
    let penalty = json!({"l1_coefficient": 0.1, "l1_warm_up_steps": 2000});
    // The decoder's rows have unit norm from the first update on; the encoder's begin with 0.1.
    let standard = json!({"activation": "relu", "lr": 1e-3, "encoder_init_scale": 0.1});
    let unscaled = json!({"l1_scaled_by_decoder_norm": false});
    let p_anneal = json!({"p_anneal_end": 0.0, "p_anneal_start": 15_000, "p_anneal_form": "lp"});
    let april = json!({
        "activation": "relu",
        "lr": 1e-3,
        "normalize_decoder": false,
        "decoder_init_norm": 0.1,
    });
    let gated = json!({"activation": "gated", "lr": 5e-5, "adam_beta1": 0.0});
    let jumprelu = json!({
        "activation": "jumprelu",
        "apply_b_dec_to_input": false,
        "lr": 7e-5,
        "adam_beta1": 0.0,
        "jumprelu_sparsity_loss_mode": "mean_quadratic",
        "target_l0": 20.0,
        "l0_warm_up_steps": 2000,
        "jumprelu_bandwidth": 0.001,
        "jumprelu_init_threshold": 0.001,
    });
    let topk = json!(together([&common, &clipped, &topk]));
    let batchtopk = json!(together([&topk, &batchtopk]));
    let standard = json!(together([&common, &penalty, &unscaled, &standard]));
    vec![
        ("dictionary_learning-topk", together([&topk])),
        ("dictionary_learning-batchtopk", together([&batchtopk])),
        (
            "dictionary_learning-matryoshka",
            together([&batchtopk, &matryoshka]),
        ),
        (
            "dictionary_learning-jumprelu",
            together([&common, &clipped, &jumprelu]),
        ),
        (
            "dictionary_learning-gated",
            together([&common, &penalty, &unscaled, &gated]),
        ),
        ("dictionary_learning-standard", together([&standard])),
        (
            "dictionary_learning-p_anneal",
            together([&standard, &p_anneal]),
        ),
        (
            "dictionary_learning-april-update",
            together([&common, &clipped, &penalty, &april]),
        ),
    ]
}

fn crosscoder_learning() -> Vec<(&'static str, Map<String, Value>)> {
    // Its loss is the norm of errors, not squared. Its learning rate is that of our law.
    let batchtopk = json!({
        "crosscoder": true,
        "activation": "batchtopk",
        "loss_fn": "mse",
        "normalize_decoder": false,
        "rescale_acts_by_decoder_norm": true,
        "apply_b_dec_to_input": false,
        // At each hookpoint.
        "decoder_init_norm": 0.005,
        "b_dec_init_method": "geometric_median",
        "optimizer": "adam",
        "lr_scheduler": "constant",
        "max_grad_norm": 1.0,
        "auxk_alpha": 0.03125,
        "auxk_norm": "residual",
        "threshold_ema": "dictionary_learning",
        "topk_threshold_lr": 0.001,
    });
    vec![("crosscoder_learning-batchtopk", together([&batchtopk]))]
}

fn papers() -> Vec<(&'static str, Map<String, Value>)> {
    let common = json!({
        "activation": "jumprelu",
        "loss_fn": "mse",
        "normalize_activations": "expected_average_only_in",
        "b_dec_init_method": "zeros",
        "optimizer": "adam",
        "lr_scheduler": "constant",
    });
    let anthropic = json!({
        "normalize_decoder": false,
        // Rows of uniform numbers between -1 and 1 over the root of d_in have this norm.
        "decoder_init_norm": 0.577,
        // d_in / num_latents with the default expansion factor.
        "encoder_init_scale": 0.03125,
        "init_l0": 10_000.0,
        // SAELens's choice for it.
        "l0_coefficient": 5.0,
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_bandwidth": 2.0,
        "jumprelu_init_threshold": 0.1,
        "jumprelu_ste_to_input": true,
        "l0_warm_up_steps": 1.0,
        "pre_act_loss_coefficient": 3e-6,
        "pre_act_loss_on": "all",
        "lr": 2e-4,
        "lr_warmup_steps": 0,
        "lr_decay_steps": 0.2,
        "max_grad_norm": 1.0,
    });
    // There, inputs have a mean squared norm of 1, and the window and the thresholds are 0.001: here times the root
    // of 2304, the width of Gemma 2 2B. The learning rate rises along a cosine there.
    let gemma_scope = json!({
        "apply_b_dec_to_input": false,
        "decoder_init_norm": 1.0,
        "l0_warm_up_steps": 10_000,
        "jumprelu_bandwidth": 0.048,
        "jumprelu_init_threshold": 0.048,
        "lr": 7e-5,
        "adam_beta1": 0.0,
    });
    // One of its targets between 30 and 60. Of its penalty on frequent latents and its nested widths, no numbers are
    // published.
    let gemma_scope_2 = json!({"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 50.0});
    vec![
        ("anthropic-2025-01", together([&common, &anthropic])),
        ("gemma-scope", together([&common, &gemma_scope])),
        (
            "gemma-scope-2",
            together([&common, &gemma_scope, &gemma_scope_2]),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep whose user gave `train`.
    fn sweep(train: Value) -> Sweep {
        let given = train.as_object().unwrap().keys().cloned().collect();
        let sweep = serde_json::from_value(json!({"name": "s", "train": train}));
        Sweep {
            given,
            ..sweep.unwrap()
        }
    }

    fn with(train: Value, overrides: Value) -> Result<TrainConfig, PlanError> {
        Base::from(&sweep(train)).with(overrides.as_object().unwrap())
    }

    #[test]
    fn each_preset_is_a_job_in_which_all_it_sets_has_an_effect() {
        let defaults = TrainConfig::default().to_map();
        for (name, preset) in presets() {
            let train = json!({"model": "m", "dataset": "d", "preset": name});
            let config = with(train, json!({})).unwrap();
            config.validate().unwrap();
            config.check_latents(16_384, "layers.0").unwrap();
            let settings = config.to_map();
            for (key, value) in preset {
                let is_default = value == defaults[&key];
                assert!(!is_default || key == "activation", "{name}: {key}");
                let as_number = |value: &Value| value.as_f64();
                let is_same =
                    settings[&key] == value || as_number(&settings[&key]) == as_number(&value);
                assert!(is_same, "{name}: {key} is {}", settings[&key]);
            }
        }
    }

    #[test]
    fn what_the_user_gives_goes_above_a_preset() {
        let of_sweep = |train, key: &str| with(train, json!({})).unwrap().to_map()[key].clone();
        let preset = "saelens-batchtopk";
        assert_eq!(of_sweep(json!({"preset": preset}), "k"), 100);
        assert_eq!(of_sweep(json!({"preset": preset}), "preset"), preset);
        assert_eq!(
            of_sweep(json!({"preset": preset, "k": 32}), "k"),
            32,
            "though it is the default"
        );
        let of_job = |overrides, key: &str| {
            let train = json!({"lr": 1e-3, "preset": "saelens-topk"});
            with(train, overrides).unwrap().to_map()[key].clone()
        };
        assert_eq!(of_job(json!({"preset": preset}), "activation"), "batchtopk");
        assert_eq!(of_job(json!({"preset": preset}), "lr"), 1e-3);
        assert_eq!(of_job(json!({"preset": preset, "k": 32}), "k"), 32);
        let widths = json!({"preset": "dictionary_learning-matryoshka", "matryoshka_widths": [8]});
        assert_eq!(of_job(widths, "matryoshka_weights"), json!([]));
        let other = json!({"preset": "dictionary_learning-topk"});
        assert_eq!(
            of_job(other, "k"),
            32,
            "nothing of the sweep's preset is left"
        );
    }

    #[test]
    fn what_has_no_effect_with_the_users_settings_is_left_out_of_a_preset() {
        for settings in [
            json!({"preset": "saelens-topk", "normalize_decoder": true}),
            json!({"preset": "gemma-scope-2", "jumprelu_sparsity_loss_mode": "step"}),
            json!({"preset": "anthropic-2025-01", "optimizer": "signum"}),
            json!({"preset": "dictionary_learning-topk", "loss_fn": "fvu"}),
            json!({"preset": "saelens-topk", "activation": "gated"}),
            json!({"preset": "dictionary_learning-matryoshka", "activation": "groupmax"}),
        ] {
            let config = with(settings, json!({"model": "m", "dataset": "d"})).unwrap();
            config.validate().unwrap();
        }
        let given =
            json!({"model": "m", "dataset": "d", "preset": "saelens-topk", "l0_coefficient": 2});
        let error = with(given, json!({})).unwrap().validate().unwrap_err();
        assert_eq!(error.setting_key(), Some("l0_coefficient"));
    }

    #[test]
    fn an_unknown_preset_is_an_error_with_the_nearest() {
        let error = with(json!({"preset": "saelens-topkk"}), json!({})).unwrap_err();
        assert_eq!(error.setting_key(), Some("preset"));
        assert_eq!(error.to_string(), "unknown preset `saelens-topkk`");
        let unlike = with(json!({}), json!({"preset": "+"})).unwrap_err();
        assert!(
            fault::Remedy::hint(&unlike)
                .unwrap()
                .contains("gemma-scope-2")
        );
    }

    #[test]
    fn a_whole_configuration_is_left_as_it_is() {
        let config = TrainConfig {
            preset: Some("saelens-topk".into()),
            ..Default::default()
        };
        assert_eq!(Base::from(&config).with(&Map::new()).unwrap(), config);
    }
}
