//! The settings of a job as options of `sae-run train`, under sparsify's names with dashes.

use crate::Given;
use crate::patterns::listed;
use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use plan::default_of;
use toml::Value;

/// What a setting is on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Numbers,
    Text,
    Texts,
}

/// A setting as an option.
struct Setting {
    key: &'static str,
    kind: Kind,
    value_name: &'static str,
    help: &'static str,
}

/// All settings but `model` and `dataset`, which need no option, in the order of `--help`.
#[rustfmt::skip]
const SETTINGS: &[(&str, &[Setting])] = &[
    ("SAE", &[
        Setting::new("preset", Kind::Text, "NAME", "Settings of another trainer, such as saelens-batchtopk; your own settings override them"),
        Setting::new("activation", Kind::Text, "topk|groupmax|batchtopk|relu|jumprelu|gated", "How pre-activations become sparse"),
        Setting::new("expansion_factor", Kind::Number, "N", "Latents per input dimension, if `num_latents` is 0"),
        Setting::new("num_latents", Kind::Number, "N", "Number of latents; 0: by `expansion_factor`"),
        Setting::new("k", Kind::Number, "N", "Latents a token may use; with batchtopk on average, such as 32.5"),
        Setting::flag("normalize_decoder", "Keep the decoder's rows at unit norm"),
        Setting::flag("rescale_acts_by_decoder_norm", "Choose active latents by pre-activation times norm of the decoder's row"),
        Setting::flag("skip_connection", "A linear path from input to output in addition to the latents"),
        Setting::flag("transcode", "Predict the output of the hookpoint from its input"),
        Setting::flag("apply_b_dec_to_input", "Subtract the decoder's bias before encoding; transcoders never do"),
        Setting::new("normalize_activations", Kind::Text, "none|expected_average_only_in|mean_centering|covariance_whitening", "What is done to the activations before the SAE"),
        Setting::new("norm_estimate_tokens", Kind::Number, "N", "Tokens that `normalize_activations` is estimated on"),
        Setting::new("encoder_dtype", Kind::Text, "auto|float32|bfloat16", "What finds the active latents in training"),
        Setting::new("hookpoints", Kind::Texts, "PATTERN,...", "Modules to train on, as `fnmatch` patterns; by default every block"),
        Setting::new("layers", Kind::Numbers, "N,...", "Blocks to train on; not with `hookpoints` or `layer_stride`"),
        Setting::new("layer_stride", Kind::Number, "N", "Take every N-th hookpoint"),
    ]),
    ("Start", &[
        Setting::new("init_seeds", Kind::Numbers, "SEED,...", "Seeds of the initial weights; one SAE per hookpoint and seed"),
        Setting::new("finetune", Kind::Text, "FOLDER", "Start from the SAEs in this folder"),
        Setting::new("decoder_init_norm", Kind::Number, "X", "Norm of the decoder's rows; the encoder is its transpose; by default as sparsify does"),
        Setting::new("encoder_init_scale", Kind::Number, "X", "The encoder is this number times the decoder's transpose"),
        Setting::new("init_l0", Kind::Number, "N", "Latents that fire on a token of the first batch, by the encoder's bias"),
        Setting::new("b_dec_init_method", Kind::Text, "mean|geometric_median|zeros", "The decoder's bias, of the first batch"),
    ]),
    ("Nested reconstructions", &[
        Setting::new("matryoshka_widths", Kind::Numbers, "N,...", "Numbers or fractions of latents that also reconstruct alone (Matryoshka)"),
        Setting::new("matryoshka_weights", Kind::Numbers, "X,...", "Weights of their errors, and of that of all latents; by default 1 each"),
        Setting::new("matryoshka_prefixes", Kind::Number, "N", "Draw N widths again in each step; their mean error is the loss"),
        Setting::flag("hierarchical_topk", "The mean error of the 1, 2, ..., `k` largest latents is the loss (HierarchicalTopK)"),
        Setting::flag("multi_topk", "Add an eighth of the FVU of 4 k latents to the loss (Multi-TopK)"),
    ]),
    ("Several hookpoints in one dictionary", &[
        Setting::flag("crosscoder", "Train one SAE on all hookpoints side by side, with latents that they share"),
        Setting::new("crosscoder_norm", Kind::Text, "crosscoder|sae|mixed|none|decoupled", "What the activation of its latent is multiplied by where its size counts"),
        Setting::new("crosscoder_model", Kind::Text, "MODEL", "A second model with the same tokenizer, whose hookpoints are added"),
        Setting::new("crosscoder_revision", Kind::Text, "REVISION", "Its branch, tag or commit on the Hub"),
        Setting::flag("cross_layer", "Let transcoders write to all later hookpoints, too (cross-layer transcoder)"),
    ]),
    ("Loss", &[
        Setting::new("loss_fn", Kind::Text, "ce|fvu|kl|mse", "What is minimised: FVU or squared error, or cross-entropy or KL divergence at the model's output"),
        Setting::new("auxk_alpha", Kind::Number, "X", "Weight of the auxiliary loss that revives dead latents (AuxK)"),
        Setting::new("auxk_norm", Kind::Text, "target|residual", "What the auxiliary loss is relative to; residual with the `loss_fn` mse"),
        Setting::new("dead_feature_threshold", Kind::Number, "N", "Tokens without firing after which a latent counts as dead"),
        Setting::new("exclude_tokens", Kind::Numbers, "ID,...", "Tokens whose activations are not trained on"),
    ]),
    ("Penalty on the size of activations (relu, gated)", &[
        Setting::new("l1_coefficient", Kind::Number, "X", "Weight of the penalty"),
        Setting::new("l1_warm_up_steps", Kind::Number, "N", "Steps, or fraction of all, over which the weight rises"),
        Setting::flag("l1_scaled_by_decoder_norm", "Multiply activations by the norm of the decoder's row in it"),
        Setting::new("lp_norm", Kind::Number, "P", "The penalty is the `P`-norm of the activations"),
        Setting::new("p_anneal_end", Kind::Number, "P", "Let the exponent fall to this one"),
        Setting::new("p_anneal_start", Kind::Number, "N", "Step at which it begins to fall"),
        Setting::new("p_anneal_until", Kind::Number, "N", "Step at which it ends; 0: the last"),
        Setting::new("p_anneal_updates", Kind::Number, "N", "Number of steps in which it falls"),
        Setting::new("p_anneal_form", Kind::Text, "lp^p|lp", "The form of a penalty whose exponent falls"),
        Setting::flag("gated_aux_is_detached", "With gated, the gate's own reconstruction leaves the decoder alone"),
    ]),
    ("Penalty on the number of activations (jumprelu)", &[
        Setting::new("l0_coefficient", Kind::Number, "X", "Weight of the penalty"),
        Setting::new("l0_warm_up_steps", Kind::Number, "N", "Steps, or fraction of all, over which the weight rises"),
        Setting::new("jumprelu_sparsity_loss_mode", Kind::Text, "step|tanh|quadratic|mean_quadratic", "The form of the penalty"),
        Setting::new("target_l0", Kind::Number, "N", "Active latents of a token that the quadratic forms aim at"),
        Setting::new("jumprelu_tanh_scale", Kind::Number, "C", "The factor in tanh"),
        Setting::new("jumprelu_bandwidth", Kind::Number, "X", "Width of the window in which a threshold has a gradient"),
        Setting::new("jumprelu_init_threshold", Kind::Number, "X", "Thresholds at the start"),
        Setting::flag("jumprelu_ste_to_input", "In the window, pre-activations have the threshold's gradient, too"),
        Setting::new("pre_act_loss_coefficient", Kind::Number, "X", "Weight of the penalty on pre-activations below their threshold"),
        Setting::new("pre_act_loss_on", Kind::Text, "dead|all", "The latents that it is on"),
    ]),
    ("Threshold (batchtopk)", &[
        Setting::new("threshold_ema", Kind::Text, "saelens|dictionary_learning|saev|overcomplete", "How the threshold is estimated in training"),
        Setting::new("topk_threshold_lr", Kind::Number, "X", "Weight of a step in that estimate"),
        Setting::new("threshold_start_step", Kind::Number, "N", "Steps before which dictionary_learning estimates none"),
        Setting::flag("calibrate_threshold", "At the end, choose the threshold that gives `k` on held-out tokens"),
    ]),
    ("Optimizer", &[
        Setting::new("optimizer", Kind::Text, "adam|muon|signum", "How the weights are updated"),
        Setting::new("lr", Kind::Number, "X", "Learning rate; the default depends on the optimizer and `num_latents`"),
        Setting::new("lr_warmup_steps", Kind::Number, "N", "Steps over which Adam's learning rate rises"),
        Setting::flag("lr_warmup_from_zero", "The first of these has rate 0; in SAELens, the last has the full one"),
        Setting::new("lr_scheduler", Kind::Text, "linear|constant|cosine", "Schedule of the learning rate of adam and muon after the warm-up"),
        Setting::new("lr_decay_steps", Kind::Number, "N", "Last steps, or fraction of all, over which constant and cosine fall to 0"),
        Setting::new("adam_beta1", Kind::Number, "X", "Adam's decay of the mean of gradients"),
        Setting::new("adam_beta2", Kind::Number, "X", "Adam's decay of the mean of their squares"),
        Setting::new("max_grad_norm", Kind::Number, "X", "Clip gradients to this norm"),
        Setting::new("k_decay_steps", Kind::Number, "N", "Steps over which the active latents fall from 10 d_in to `k`"),
        Setting::new("k_decay_from", Kind::Number, "N", "Active latents from which they fall, instead of 10 d_in"),
    ]),
    ("Training", &[
        Setting::new("batch_size", Kind::Number, "N", "Sequences in a forward pass"),
        Setting::new("grad_acc_steps", Kind::Number, "N", "Forward passes in an optimizer step"),
        Setting::new("tokens_per_update", Kind::Number, "N", "Tokens of an optimizer step, of all processes together"),
        Setting::new("micro_acc_steps", Kind::Number, "N", "Parts into which a batch's activations are cut, to save memory"),
        Setting::flag("distribute_modules", "Keep each SAE on one device only, instead of a copy on each"),
        Setting::flag("evaluate", "Evaluate at the end, if there is data to evaluate on"),
    ]),
    ("Model and data", &[
        Setting::new("revision", Kind::Text, "REVISION", "Branch, tag or commit of a model on the Hub"),
        Setting::new("dtype", Kind::Text, "auto|float32|bfloat16|float16", "What the language model computes in"),
        Setting::flag("load_in_8bit", "Keep the language model's linear weights in 8 bit"),
        Setting::new("split", Kind::Text, "SPLIT", "Split of the data set"),
        Setting::new("data_args", Kind::Text, "KEY=VALUE,...", "Further arguments of `load_dataset`: `name`, `data_dir`, `data_files`, `revision`"),
        Setting::new("text_column", Kind::Text, "COLUMN", "Column with the text"),
        Setting::new("tokenizer_class", Kind::Text, "file|transformers", "file: tokenizer.json unchanged; transformers: as transformers 5 changes it"),
        Setting::new("ctx_len", Kind::Number, "N", "Length of a sequence, in tokens"),
        Setting::new("max_examples", Kind::Number, "N", "Use only the first N sequences after shuffling"),
        Setting::new("epochs", Kind::Number, "N", "Train on these sequences N times, each time in another order"),
        Setting::new("shuffle_seed", Kind::Number, "SEED", "Seed of the shuffle"),
        Setting::new("on_bad_row", Kind::Text, "fail|skip", "What to do with a row that cannot be used"),
        Setting::new("bin_dtype", Kind::Text, "auto|uint16|uint32", "Width of the token ids in a `.bin` file"),
        Setting::new("eval_fraction", Kind::Number, "X", "Fraction of the sequences to hold out for evaluation"),
        Setting::new("eval_dataset", Kind::Text, "DATASET", "Data set to evaluate on"),
        Setting::new("eval_split", Kind::Text, "SPLIT", "Split to evaluate on"),
        Setting::new("eval_data_args", Kind::Text, "KEY=VALUE,...", "As `data_args`, for `eval_dataset`"),
        Setting::new("eval_max_examples", Kind::Number, "N", "Evaluate on N held-out sequences at most; by default a tenth of the number of an epoch"),
    ]),
    ("Run", &[
        Setting::new("save_every", Kind::Number, "N", "Checkpoint after every N steps, and at the end"),
        Setting::new("save_total_limit", Kind::Number, "N", "States for a resume that a job in training keeps"),
        Setting::new("keep_state", Kind::Text, "true|false", "Keep a state that a longer training continues from; by default if no update depends on how many there will be"),
        Setting::flag("save_best", "Keep the best checkpoint as well as the newest"),
        Setting::new("log_every", Kind::Number, "N", "Report statistics after every N steps"),
    ]),
];

/// The settings that were given on the command line.
#[derive(Clone, Debug, Default)]
pub struct SettingArgs(Vec<Given>);

impl SettingArgs {
    pub(crate) fn given(&self) -> &[Given] {
        &self.0
    }
}

impl clap::Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        // Python's argparse takes the last of several, too. Lists are added up.
        let command = command.args_override_self(true);
        let args = SETTINGS.iter().flat_map(|(heading, settings)| {
            let args = settings.iter().flat_map(Setting::args);
            args.map(|arg| arg.help_heading(*heading))
        });
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = all_settings().filter_map(|setting| setting.given(matches));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn all_settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().flat_map(|(_, settings)| *settings)
}

impl Setting {
    const fn new(
        key: &'static str,
        kind: Kind,
        value_name: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            key,
            kind,
            value_name,
            help,
        }
    }

    const fn flag(key: &'static str, help: &'static str) -> Self {
        Self::new(key, Kind::Flag, "true|false", help)
    }

    /// The option, and for a flag the one that turns it off.
    fn args(&self) -> impl Iterator<Item = Arg> {
        let off = (self.kind == Kind::Flag).then(|| self.off());
        [self.arg()].into_iter().chain(off)
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.key)
            .long(self.dashed())
            .value_name(self.value_name)
            .help(self.help_text());
        let arg = if self.key == "k" { arg.short('k') } else { arg };
        match self.kind {
            Kind::Flag => arg
                .num_args(0..=1)
                .default_missing_value("true")
                .value_parser(BoolishValueParser::new())
                .overrides_with(self.off_id()),
            Kind::Number => arg.allow_negative_numbers(true),
            Kind::Numbers => list(arg).allow_negative_numbers(true),
            Kind::Text => arg,
            Kind::Texts => list(arg),
        }
    }

    /// The option that turns a flag off.
    fn off(&self) -> Arg {
        Arg::new(self.off_id())
            .long(format!("no-{}", self.dashed()))
            // As sparsify has it.
            .alias(format!("no{}", self.dashed()))
            .action(ArgAction::SetTrue)
            .overrides_with(self.key)
            .hide(true)
    }

    fn off_id(&self) -> String {
        format!("no{}", self.key)
    }

    /// The option's name.
    fn dashed(&self) -> String {
        self.key.replace('_', "-")
    }

    fn help_text(&self) -> String {
        let default = default_of(&["train", self.key]).unwrap_or_default();
        let default = default.trim_matches(['"', '[', ']']);
        let default = if default.is_empty() {
            String::new()
        } else {
            format!(" [default: {default}]")
        };
        let off = match self.kind {
            Kind::Flag => format!(" [off: --no-{}]", self.dashed()),
            _ => String::new(),
        };
        format!("{}{default}{off}", self.help)
    }

    /// The setting as it was given; `None` if it was not.
    fn given(&self, matches: &ArgMatches) -> Option<Given> {
        let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        if self.kind == Kind::Flag {
            let is_on = is_given(self.key).then(|| matches.get_one::<bool>(self.key));
            let is_off = is_given(&self.off_id());
            let value = is_on.flatten().copied().or(is_off.then_some(false))?;
            return Some(self.with(&value.to_string(), Value::Boolean(value)));
        }
        if !is_given(self.key) {
            return None;
        }
        let texts = matches.get_many::<String>(self.key).unwrap_or_default();
        let is_list = matches!(self.kind, Kind::Numbers | Kind::Texts);
        let texts: Vec<&str> = if is_list {
            texts.flat_map(|text| listed(text)).collect()
        } else {
            texts.map(String::as_str).collect()
        };
        let mut values = texts.iter().map(|text| match self.kind {
            Kind::Number | Kind::Numbers => number(text),
            _ => Value::from(*text),
        });
        let value = match self.kind {
            Kind::Numbers | Kind::Texts => Value::Array(values.collect()),
            _ => values.next_back()?,
        };
        Some(self.with(&texts.join(" "), value))
    }

    fn with(&self, shown: &str, value: Value) -> Given {
        let option = format!("--{} {shown}", self.dashed());
        Given::new(option.trim_end(), &["train", self.key], value)
    }
}

/// A list is given as `--layers 0 4`, as in sparsify, as `--layers 0,4`, or with the option once for each.
fn list(arg: Arg) -> Arg {
    arg.num_args(0..).action(ArgAction::Append)
}

/// A number as Python reads it; anything else stays text, which is refused with the setting's type.
fn number(text: &str) -> Value {
    let digits = text.replace('_', "");
    let whole = digits.parse().map(Value::Integer);
    let number = whole.or_else(|_| digits.parse().map(Value::Float));
    number.unwrap_or_else(|_| Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::TrainConfig;
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_has_an_option() {
        let options = all_settings().map(|setting| setting.key.to_owned());
        let options: BTreeSet<_> = options.chain(["model".into(), "dataset".into()]).collect();
        assert_eq!(options, TrainConfig::keys().into_iter().collect());
    }

    #[test]
    fn kinds_are_those_of_the_defaults() {
        let defaults = TrainConfig::default().to_map();
        for Setting { key, kind, .. } in all_settings() {
            let fits = match &defaults[*key] {
                serde_json::Value::Bool(_) => *kind == Kind::Flag,
                serde_json::Value::Number(_) => *kind == Kind::Number,
                serde_json::Value::Array(_) => matches!(kind, Kind::Numbers | Kind::Texts),
                serde_json::Value::Null => matches!(kind, Kind::Number | Kind::Text),
                serde_json::Value::String(_) | serde_json::Value::Object(_) => *kind == Kind::Text,
            };
            assert!(fits, "{key} is {kind:?}, its default {}", defaults[*key]);
        }
    }

    #[test]
    fn numbers_are_read_as_in_python() {
        assert_eq!(number("10_000"), Value::Integer(10_000));
        assert_eq!(number("-3"), Value::Integer(-3));
        assert_eq!(number("5e-3"), Value::Float(0.005));
        assert_eq!(number("many"), Value::from("many"));
    }
}
