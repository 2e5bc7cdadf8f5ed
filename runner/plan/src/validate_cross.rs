//! What is wrong with the settings of SAEs that are on several hookpoints: crosscoders and cross-layer transcoders.

use crate::{Activation, NormalizeActivations, PlanError, TrainConfig};

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
        if self.cross_layer {
            refuse("cross_layer", &self.against_cross_layer())?;
        }
        Ok(())
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
