//! Settings without effect: those of another kind of SAE, and those that need another setting.

use crate::Activation::{self, BatchTopK, Gated, GroupMax, JumpRelu, Relu, TopK};
use crate::{
    LossFn, LrScheduler, NormalizeActivations, Optimizer, SparsityLoss, ThresholdEma, TrainConfig,
};

/// Settings that have an effect with some activations only, and those.
const OF_ACTIVATIONS: [(&[&str], &[Activation]); 10] = [
    (&["gated_aux_is_detached"], &[Gated]),
    (&["hierarchical_topk"], &[TopK]),
    (&["multi_topk"], &[TopK, GroupMax]),
    (&["k_decay_steps", "k_decay_from"], &[TopK, BatchTopK]),
    (&["rescale_acts_by_decoder_norm"], &[TopK, BatchTopK]),
    (
        &[
            "matryoshka_widths",
            "matryoshka_weights",
            "matryoshka_prefixes",
        ],
        &[TopK, BatchTopK, Relu, JumpRelu],
    ),
    (
        &[
            "threshold_ema",
            "topk_threshold_lr",
            "threshold_start_step",
            "calibrate_threshold",
        ],
        &[BatchTopK],
    ),
    (
        &[
            "l1_coefficient",
            "l1_warm_up_steps",
            "l1_scaled_by_decoder_norm",
            "lp_norm",
        ],
        &[Relu, Gated],
    ),
    (
        &[
            "p_anneal_end",
            "p_anneal_start",
            "p_anneal_until",
            "p_anneal_updates",
            "p_anneal_form",
        ],
        &[Relu, Gated],
    ),
    (
        &[
            "l0_coefficient",
            "l0_warm_up_steps",
            "jumprelu_sparsity_loss_mode",
            "target_l0",
            "jumprelu_tanh_scale",
            "jumprelu_bandwidth",
            "jumprelu_init_threshold",
            "jumprelu_ste_to_input",
            "pre_act_loss_coefficient",
            "pre_act_loss_on",
        ],
        &[JumpRelu],
    ),
];

/// Settings that need another one, whether it is as they need it, and what to say if it is not.
type Need = (
    &'static [&'static str],
    fn(&TrainConfig) -> bool,
    &'static str,
);

const NEEDS: [Need; 15] = [
    (
        &["crosscoder_norm", "crosscoder_model"],
        |config| config.crosscoder,
        "needs `crosscoder`",
    ),
    (
        &["crosscoder_revision"],
        |config| config.crosscoder_model.is_some(),
        "needs `crosscoder_model`",
    ),
    (
        &["auxk_alpha", "auxk_norm"],
        |config| config.activation != Gated,
        "cannot be used with the `activation` gated, whose loss has a second reconstruction",
    ),
    (
        &["auxk_norm"],
        |config| config.loss_fn == LossFn::Mse,
        "needs the `loss_fn` mse if it is residual",
    ),
    (
        &["matryoshka_weights"],
        |config| !config.matryoshka_widths.is_empty(),
        "needs `matryoshka_widths`",
    ),
    (
        &["rescale_acts_by_decoder_norm"],
        |config| !config.normalize_decoder,
        "needs `normalize_decoder = false`: the norms are all 1",
    ),
    (
        &["encoder_init_scale"],
        |config| config.decoder_init_norm.is_some(),
        "needs `decoder_init_norm`",
    ),
    (
        &["norm_estimate_tokens"],
        |config| config.normalize_activations != NormalizeActivations::None,
        "needs `normalize_activations`",
    ),
    (
        &[
            "p_anneal_start",
            "p_anneal_until",
            "p_anneal_updates",
            "p_anneal_form",
        ],
        |config| config.p_anneal_end.is_some(),
        "needs `p_anneal_end`",
    ),
    (
        &["target_l0"],
        |config| config.jumprelu_sparsity_loss_mode.has_target(),
        "needs the `jumprelu_sparsity_loss_mode` quadratic or mean_quadratic",
    ),
    (
        &["jumprelu_tanh_scale"],
        |config| config.jumprelu_sparsity_loss_mode == SparsityLoss::Tanh,
        "needs the `jumprelu_sparsity_loss_mode` tanh",
    ),
    (
        &["threshold_start_step"],
        |config| config.threshold_ema == ThresholdEma::DictionaryLearning,
        "needs the `threshold_ema` dictionary_learning",
    ),
    (
        &["k_decay_from"],
        |config| config.k_decay_steps > 0,
        "needs `k_decay_steps`",
    ),
    (
        &[
            "lr_warmup_from_zero",
            "lr_scheduler",
            "lr_decay_steps",
            "adam_beta1",
            "adam_beta2",
        ],
        |config| config.optimizer != Optimizer::Signum,
        "has no effect with the `optimizer` signum",
    ),
    (
        &["lr_decay_steps"],
        |config| config.lr_scheduler != LrScheduler::Linear,
        "needs the `lr_scheduler` constant or cosine",
    ),
];

/// A setting that is not its default and cannot have an effect, and why.
pub(crate) struct WithoutEffect {
    pub(crate) key: &'static str,
    pub(crate) problem: String,
}

impl TrainConfig {
    /// The settings that are not their defaults and cannot have an effect with the others.
    pub(crate) fn without_effect(&self) -> Vec<WithoutEffect> {
        let (settings, defaults) = (self.to_map(), Self::default().to_map());
        let activation = settings["activation"].as_str().unwrap_or_default();
        let of_others = OF_ACTIVATIONS
            .iter()
            .filter(|(_, activations)| !activations.contains(&self.activation))
            .flat_map(|(keys, _)| *keys)
            .map(|key| {
                (
                    *key,
                    format!("has no effect with the `activation` {activation}"),
                )
            });
        let in_need = NEEDS
            .iter()
            .filter(|(_, is_met, _)| !is_met(self))
            .flat_map(|(keys, _, problem)| keys.iter().map(|key| (*key, (*problem).to_owned())));
        of_others
            .chain(in_need)
            .filter(|(key, _)| settings[*key] != defaults[*key])
            .map(|(key, problem)| WithoutEffect { key, problem })
            .collect()
    }
}
