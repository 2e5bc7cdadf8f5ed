//! What is wrong with the settings of SAEs that are on several hookpoints: crosscoders and cross-layer transcoders.

use crate::{Activation, CrosscoderNorm, NormalizeActivations, PlanError, TrainConfig};

/// Settings that a kind cannot be used with: the key, and whether it is set.
type Sets = Vec<(&'static str, bool)>;

impl TrainConfig {
    /// Checks them.
    pub(crate) fn validate_cross(&self) -> Result<(), PlanError> {
        if self.cross_layer && !self.transcode {
            return Err(PlanError::setting("cross_layer", "needs `transcode`"));
        }
        if self.crosscoder {
            refuse("crosscoder", &self.against_crosscoders())?;
        }
        if self.is_decoupled() {
            self.validate_decoupled()?;
        }
        if self.cross_layer {
            refuse("cross_layer", &self.against_cross_layer())?;
        }
        Ok(())
    }

    /// Whether each hookpoint of a crosscoder chooses its own latents.
    pub fn is_decoupled(&self) -> bool {
        self.crosscoder && self.crosscoder_norm == CrosscoderNorm::Decoupled
    }

    fn validate_decoupled(&self) -> Result<(), PlanError> {
        let problem = if self.activation != Activation::BatchTopK {
            ("activation", "must be batchtopk")
        } else if !self.rescale_acts_by_decoder_norm {
            (
                "rescale_acts_by_decoder_norm",
                "must be true, with `normalize_decoder = false`,",
            )
        } else if self.normalize_activations == NormalizeActivations::CovarianceWhitening {
            // Norms of whitened rows are not those of the file's by one factor for a hookpoint.
            ("normalize_activations", "cannot be covariance_whitening")
        } else {
            return Ok(());
        };
        let (key, what) = problem;
        let problem = format!("{what} with the `crosscoder_norm` decoupled");
        Err(PlanError::setting(key, &problem))
    }

    fn against_crosscoders(&self) -> Sets {
        vec![
            ("transcode", self.transcode),
            ("skip_connection", self.skip_connection),
            ("loss_fn", self.loss_fn.is_end_to_end()),
            ("activation", self.has_no_layout()),
            ("finetune", self.finetune.is_some()),
        ]
    }

    fn against_cross_layer(&self) -> Sets {
        let normalize = self.normalize_activations;
        let shifts = !matches!(
            normalize,
            NormalizeActivations::None | NormalizeActivations::ExpectedAverageOnlyIn
        );
        vec![
            ("loss_fn", self.loss_fn.is_end_to_end()),
            ("activation", self.has_no_layout()),
            ("multi_topk", self.multi_topk),
            ("hierarchical_topk", self.hierarchical_topk),
            ("matryoshka_widths", !self.matryoshka_widths.is_empty()),
            ("matryoshka_prefixes", self.matryoshka_prefixes > 0),
            ("normalize_activations", shifts),
            ("auxk_norm", self.auxk_norm == crate::AuxkNorm::Residual),
            ("jumprelu_sparsity_loss_mode", self.needs_mean_l0()),
            ("finetune", self.finetune.is_some()),
        ]
    }

    /// Whether the activation has a name in no layout of such SAEs.
    fn has_no_layout(&self) -> bool {
        matches!(self.activation, Activation::GroupMax | Activation::Gated)
    }

    fn needs_mean_l0(&self) -> bool {
        self.activation == Activation::JumpRelu
            && self.jumprelu_sparsity_loss_mode == crate::SparsityLoss::MeanQuadratic
    }
}

/// Refuses the first of `others` that is set.
fn refuse(key: &str, others: &Sets) -> Result<(), PlanError> {
    match others.iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((other, _)) => {
            let problem = match *other {
                "activation" => {
                    format!("must be topk, batchtopk, relu or jumprelu with `{key}`")
                }
                "loss_fn" => format!("must be fvu or mse with `{key}`"),
                "normalize_activations" => {
                    format!("must be none or expected_average_only_in with `{key}`")
                }
                "auxk_norm" => format!("must be target with `{key}`"),
                "jumprelu_sparsity_loss_mode" => {
                    format!("must be step, tanh or quadratic with `{key}`")
                }
                _ => format!("cannot be used with `{key}`"),
            };
            Err(PlanError::setting(other, &problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Asserts that these settings are refused for `key`, and that the message names `other`, too.
    fn assert_refused(all: &Value, key: &str, other: &str) {
        let config: TrainConfig = serde_json::from_value(all.clone()).unwrap();
        let error = config.validate().unwrap_err();
        assert_eq!(error.setting_key(), Some(key), "{all}: {error}");
        let names_both = error.to_string().contains(&format!("`{other}`"));
        assert!(names_both, "{all}: {error}");
    }

    fn with(base: &Value, settings: &Value) -> Value {
        let mut all = json!({"model": "m", "dataset": "d"});
        for part in [base, settings] {
            let part = part.as_object().unwrap().clone();
            all.as_object_mut().unwrap().extend(part);
        }
        all
    }

    #[test]
    fn crosscoders_refuse_what_has_no_meaning_for_them() {
        for (settings, key) in [
            (json!({"transcode": true}), "transcode"),
            (json!({"skip_connection": true}), "skip_connection"),
            (json!({"loss_fn": "kl"}), "loss_fn"),
            (json!({"activation": "gated"}), "activation"),
            (json!({"finetune": "folder"}), "finetune"),
        ] {
            let all = with(&json!({"crosscoder": true}), &settings);
            assert_refused(&all, key, "crosscoder");
        }
        for key in ["crosscoder_model", "crosscoder_norm"] {
            let all = with(&json!({}), &json!({key: "sae"}));
            assert_refused(&all, key, "crosscoder");
        }
        let all = with(
            &json!({"crosscoder": true}),
            &json!({"crosscoder_revision": "v1"}),
        );
        assert_refused(&all, "crosscoder_revision", "crosscoder_model");
    }

    #[test]
    fn decoupled_crosscoders_need_batchtopk_and_norms() {
        let norms = json!({"normalize_decoder": false, "rescale_acts_by_decoder_norm": true});
        let decoupled = with(
            &json!({"crosscoder": true, "crosscoder_norm": "decoupled"}),
            &norms,
        );
        let whole = with(&decoupled, &json!({"activation": "batchtopk"}));
        let config: TrainConfig = serde_json::from_value(whole.clone()).unwrap();
        config.validate().unwrap();
        for activation in ["topk", "relu", "jumprelu"] {
            let mut all = with(&decoupled, &json!({"activation": activation}));
            if activation != "topk" {
                all["rescale_acts_by_decoder_norm"] = false.into();
            }
            assert_refused(&all, "activation", "crosscoder_norm");
        }
        for (settings, key) in [
            (
                json!({"rescale_acts_by_decoder_norm": false}),
                "rescale_acts_by_decoder_norm",
            ),
            (
                json!({"normalize_activations": "covariance_whitening"}),
                "normalize_activations",
            ),
        ] {
            assert_refused(&with(&whole, &settings), key, "crosscoder_norm");
        }
    }

    #[test]
    fn cross_layer_transcoders_refuse_what_has_no_meaning_for_them() {
        let base = json!({"transcode": true, "cross_layer": true});
        for (settings, key) in [
            (json!({"loss_fn": "ce"}), "loss_fn"),
            (json!({"activation": "groupmax"}), "activation"),
            (json!({"multi_topk": true}), "multi_topk"),
            (json!({"hierarchical_topk": true}), "hierarchical_topk"),
            (json!({"matryoshka_widths": [4]}), "matryoshka_widths"),
            (json!({"matryoshka_prefixes": 4}), "matryoshka_prefixes"),
            (
                json!({"normalize_activations": "mean_centering"}),
                "normalize_activations",
            ),
            (
                json!({"loss_fn": "mse", "auxk_alpha": 0.1, "auxk_norm": "residual"}),
                "auxk_norm",
            ),
            (
                json!({
                    "activation": "jumprelu",
                    "jumprelu_sparsity_loss_mode": "mean_quadratic",
                    "target_l0": 8
                }),
                "jumprelu_sparsity_loss_mode",
            ),
            (json!({"finetune": "folder"}), "finetune"),
        ] {
            assert_refused(&with(&base, &settings), key, "cross_layer");
        }
        assert_refused(
            &with(&json!({}), &json!({"cross_layer": true})),
            "cross_layer",
            "transcode",
        );
        let both = json!({"crosscoder": true});
        assert_refused(&with(&base, &both), "transcode", "crosscoder");
    }
}
