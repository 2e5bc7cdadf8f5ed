//! The settings of one job, under sparsify's names and with its defaults.

use crate::{
    Activation, AuxkNorm, BDecInit, BinDtype, CrosscoderNorm, DataArgs, DataName, Dtype,
    EncoderDtype, K, LossFn, LrScheduler, NormalizeActivations, OnBadRow, Optimizer, PAnnealForm,
    PlanError, PreActLossOn, SparsityLoss, ThresholdEma, TokenizerClass,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most latents that an SAE may have: above any use.
pub(crate) const MOST_LATENTS: usize = 1 << 31;

/// The settings of one job. Defaults are sparsify 1.3.3's unless said otherwise; kinds of SAEs that sparsify lacks,
/// and what belongs to them, have SAELens 6.54's names and defaults unless said otherwise.
///
/// A number of latents that may be a fraction is one if it is below 1, and a number of updates if it is at most 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Folder of a Hugging Face model (config.json, model.safetensors, tokenizer.json), or the id of
    /// a model on the Hub.
    pub model: String,
    /// Branch, tag or commit of a model on the Hub; `None`: its main branch.
    pub revision: Option<String>,
    /// What the language model computes in. Ours, not sparsify's.
    pub dtype: Dtype,
    /// Hold the weights of the language model's linear modules in 8 bit (LLM.int8()).
    pub load_in_8bit: bool,
    /// File, folder or pattern of files of this machine (JSON, Parquet, Arrow, CSV, text, `.bin`), or
    /// the id of a data set on the Hub.
    pub dataset: String,
    /// Split of the data set.
    pub split: String,
    /// Further arguments of Python's `load_dataset`: `name`, `data_dir`, `data_files`, `revision`.
    pub data_args: DataArgs,
    /// Column that holds the text; dots lead into nested ones. A column `input_ids` is taken before
    /// it: the data set is tokenised already.
    pub text_column: String,
    /// Whether the tokenizer is tokenizer.json as it is, or what transformers 5 turns it into. Ours, not
    /// sparsify's.
    pub tokenizer_class: TokenizerClass,
    /// What to do about a row that cannot be used. Ours, not sparsify's.
    pub on_bad_row: OnBadRow,
    /// Width of the token ids in a `.bin` file. Ours, not sparsify's.
    pub bin_dtype: BinDtype,
    /// Length of a sequence, in tokens.
    pub ctx_len: usize,
    /// Fraction of the sequences that is held out for evaluation and never trained on; the same ones
    /// for all jobs on the same data. Ours, not sparsify's.
    pub eval_fraction: f64,
    /// Data set to evaluate on, named as `dataset` is, in place of `eval_fraction`. Ours, not
    /// sparsify's.
    pub eval_dataset: Option<String>,
    /// Split to evaluate on; `None`: `train` of `eval_dataset`. Without `eval_dataset` it is one of
    /// `dataset`. Ours, not sparsify's.
    pub eval_split: Option<String>,
    /// As `data_args`, for `eval_dataset`. Ours, not sparsify's.
    pub eval_data_args: DataArgs,
    /// Evaluate on this number of the sequences that are held out or of `eval_dataset`, the first in an order that is the
    /// same for all jobs on the same data; `None`: on a tenth of the number of an epoch. Ours, not sparsify's.
    pub eval_max_examples: Option<u64>,
    /// Train on this number of sequences, the first after shuffling; `None`: on all. With `epochs`, of each epoch.
    pub max_examples: Option<u64>,
    /// How often the sequences are trained on, each time in another order. Ours, not sparsify's.
    pub epochs: u64,
    /// Seed of the shuffle of the sequences, also of those after the first epoch.
    pub shuffle_seed: u64,

    /// Name of a preset: settings of another trainer, which those that you give go above. Ours.
    pub preset: Option<String>,
    /// How pre-activations become sparse.
    pub activation: Activation,
    /// Latents per input dimension; used when `num_latents` is 0.
    pub expansion_factor: usize,
    /// Keep the decoder's rows at unit norm.
    pub normalize_decoder: bool,
    /// Number of latents; 0: `expansion_factor` times the input width.
    pub num_latents: usize,
    /// Latents a token may use; with batchtopk on average, which may have a fraction. Without effect with relu,
    /// jumprelu and gated.
    pub k: K,
    /// Numbers or fractions of latents that also reconstruct alone, the first ones each time; increasing, and the
    /// last is all latents even if it is left out. Empty: no such reconstructions (Matryoshka).
    pub matryoshka_widths: Vec<f64>,
    /// Weight of the error of each of `matryoshka_widths`, the last of which is all latents; empty: 1 for each.
    pub matryoshka_weights: Vec<f64>,
    /// In place of `matryoshka_widths`, this number of widths, drawn again in each update, all latents among them;
    /// their mean error is the loss. 0: none. saev's.
    pub matryoshka_prefixes: usize,
    /// The loss is the mean error of a token's `1, 2, ..., k` largest latents, with topk only (HierarchicalTopK).
    pub hierarchical_topk: bool,
    /// Choose the active latents by pre-activation times the norm of the decoder's row; without `normalize_decoder`.
    pub rescale_acts_by_decoder_norm: bool,
    /// Subtract the decoder's bias before encoding; transcoders never do.
    pub apply_b_dec_to_input: bool,
    /// Norm of the decoder's rows at the start, and the encoder begins as the decoder's transpose. `None`: sparsify's
    /// start, in which the decoder begins as the encoder's transpose with rows of unit norm.
    pub decoder_init_norm: Option<f64>,
    /// The encoder begins as this number times the decoder's transpose; with `decoder_init_norm`. Ours.
    pub encoder_init_scale: Option<f64>,
    /// The encoder's bias begins such that each latent fires on `init_l0 / num_latents` of the first batch, so that
    /// `init_l0` latents fire on a token; `None`: it begins at 0. Anthropic's, January 2025.
    pub init_l0: Option<f64>,
    /// What the decoder's bias is at the start. Our name.
    pub b_dec_init_method: BDecInit,
    /// What is done to the activations before the SAE; every saved SAE takes them as they are.
    pub normalize_activations: NormalizeActivations,
    /// Tokens at the beginning of training that `normalize_activations` is estimated on. Ours.
    pub norm_estimate_tokens: u64,
    /// Add an eighth of the FVU that `4 * k` latents give to the loss (Multi-TopK).
    pub multi_topk: bool,
    /// A linear path from input to output next to the latents.
    pub skip_connection: bool,
    /// Predict the output of the hookpoint from its input, in place of reconstructing the output.
    pub transcode: bool,
    /// Train one SAE on the activations of all hookpoints side by side, with latents that they share (crosscoder). Ours.
    pub crosscoder: bool,
    /// By what the activation of a crosscoder's latent is multiplied, where its size counts: in penalties, and with
    /// `rescale_acts_by_decoder_norm` in the choice of latents. With decoupled, each hookpoint chooses its own latents.
    /// crosscoder_learning's `code_normalization`.
    pub crosscoder_norm: CrosscoderNorm,
    /// A second model with the tokenizer of `model`: the crosscoder is on the hookpoints of both. Folder, or id on the
    /// Hub. Ours.
    pub crosscoder_model: Option<String>,
    /// Its branch, tag or commit on the Hub. Ours.
    pub crosscoder_revision: Option<String>,
    /// Let the latents at a hookpoint write to its output and to those of all hookpoints after it, whose
    /// reconstructions are sums over hookpoints (cross-layer transcoder); with `transcode`. Ours.
    pub cross_layer: bool,
    /// What finds the active latents in training; their activations are float32's. Ours, not sparsify's.
    pub encoder_dtype: EncoderDtype,

    /// Sequences in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one optimizer update.
    pub grad_acc_steps: usize,
    /// Tokens of one optimizer update, of all processes together. `None`: those that the processes make which
    /// there are when the job is planned; a resolved job has the number. Ours, not sparsify's.
    pub tokens_per_update: Option<u64>,
    /// Parts into which a batch's activations are cut for the SAE, to save memory. The result
    /// does not depend on it.
    pub micro_acc_steps: usize,
    /// What is minimised.
    pub loss_fn: LossFn,
    /// Weight of the penalty on the size of the activations, times the norm of the decoder's row, with relu and gated.
    pub l1_coefficient: f64,
    /// Updates, or fraction of all, over which `l1_coefficient` rises from 0.
    pub l1_warm_up_steps: f64,
    /// Whether that penalty multiplies activations by the norm of the decoder's row. dictionary_learning does not.
    pub l1_scaled_by_decoder_norm: bool,
    /// The penalty is this norm of a token's activations, with relu and gated.
    pub lp_norm: f64,
    /// The exponent of the penalty falls from `lp_norm` to this one, with relu and gated; `None`: it stays (p-anneal).
    pub p_anneal_end: Option<f64>,
    /// Update at which it begins to fall.
    pub p_anneal_start: u64,
    /// Update at which it ends; 0: the last.
    pub p_anneal_until: u64,
    /// Number of steps in which it falls.
    pub p_anneal_updates: usize,
    /// The form of the penalty with such an exponent.
    pub p_anneal_form: PAnnealForm,
    /// Whether the second reconstruction of gated SAEs leaves the decoder alone, as in its paper; in SAELens it does not.
    pub gated_aux_is_detached: bool,
    /// Weight of the penalty on the number of active latents, with jumprelu.
    pub l0_coefficient: f64,
    /// Updates, or fraction of all, over which `l0_coefficient` rises from 0.
    pub l0_warm_up_steps: f64,
    /// The penalty on the number of active latents, with jumprelu.
    pub jumprelu_sparsity_loss_mode: SparsityLoss,
    /// Active latents of a token that quadratic and mean_quadratic aim at.
    pub target_l0: Option<f64>,
    /// The factor `c` of tanh.
    pub jumprelu_tanh_scale: f64,
    /// Width of the window around a threshold in which it has a gradient, with jumprelu.
    pub jumprelu_bandwidth: f64,
    /// Thresholds at the start, with jumprelu.
    pub jumprelu_init_threshold: f64,
    /// In the window, pre-activations have the threshold's gradient, too, with jumprelu.
    pub jumprelu_ste_to_input: bool,
    /// Weight of the penalty on pre-activations below their threshold, with jumprelu; 0: none.
    pub pre_act_loss_coefficient: f64,
    /// The latents that it is on.
    pub pre_act_loss_on: PreActLossOn,
    /// How the weights are updated.
    pub optimizer: Optimizer,
    /// Learning rate; `None`: by the optimizer's law, `5e-3 / sqrt(num_latents / 2^14)` for signum,
    /// `2e-4 / sqrt(num_latents / 2^14)` for adam, 2e-3 for muon. 0 is zero.
    pub lr: Option<f64>,
    /// Optimizer updates over which Adam's learning rate rises from 0.
    pub lr_warmup_steps: u64,
    /// Whether the rate of the first of several such updates is 0, as in sparsify and dictionary_learning; in SAELens
    /// that of the last is the full one.
    pub lr_warmup_from_zero: bool,
    /// How the learning rate of Adam and Muon changes after that.
    pub lr_scheduler: LrScheduler,
    /// Last updates, or fraction of all, over which the learning rate of constant and cosine falls linearly to 0.
    pub lr_decay_steps: f64,
    /// Adam's decay of the mean of gradients.
    pub adam_beta1: f64,
    /// Adam's decay of the mean of their squares.
    pub adam_beta2: f64,
    /// Scale an SAE's gradient down to this norm where it is larger; `None`: leave it. 1 in SAELens.
    pub max_grad_norm: Option<f64>,
    /// Optimizer updates over which the active latents of a token fall from `10 * d_in`, or all, to
    /// `k`; 0: `k` from the start.
    pub k_decay_steps: u64,
    /// Active latents of a token from which they fall, in place of `10 * d_in`; dictionary_learning has `d_in`.
    pub k_decay_from: Option<f64>,
    /// Weight of the loss that lets dead latents predict what the others leave over (AuxK); 0: none.
    pub auxk_alpha: f64,
    /// What that loss is relative to. Ours.
    pub auxk_norm: AuxkNorm,
    /// How the threshold of batchtopk is estimated in training. Ours.
    pub threshold_ema: ThresholdEma,
    /// Weight of an update's value in that estimate.
    pub topk_threshold_lr: f64,
    /// Updates before which dictionary_learning estimates none.
    pub threshold_start_step: u64,
    /// At the end, choose the threshold of batchtopk with which held-out tokens have `k` active latents on average,
    /// if there is data to evaluate on. Ours.
    pub calibrate_threshold: bool,
    /// Tokens whose activations are not trained on.
    pub exclude_tokens: Vec<u32>,
    /// A latent that has not fired for more than this number of tokens counts as dead.
    pub dead_feature_threshold: u64,
    /// Patterns (`fnmatch`) of the submodules to train on; empty: every block.
    pub hookpoints: Vec<String>,
    /// Indices of the blocks to train on; not with `hookpoints` or `layer_stride`.
    pub layers: Vec<usize>,
    /// Take every N-th of the hookpoints, in natural order.
    pub layer_stride: usize,
    /// Seeds of the initial weights; one SAE per hookpoint and seed.
    pub init_seeds: Vec<i64>,
    /// Folder of SAEs to begin with: what an earlier job has saved.
    pub finetune: Option<String>,
    /// Hold each SAE on one rank only, in place of a copy on each, and send it the activations of all ranks.
    /// Nothing changes if there is only one rank.
    pub distribute_modules: bool,

    /// Optimizer updates from one checkpoint to the next; there is one at the end, too.
    pub save_every: u64,
    /// States for a resume that are kept of a job in training, the newest ones. Ours, not sparsify's.
    pub save_total_limit: usize,
    /// Keep the state at the end of training, or before the first update that depends on it, so that a longer training
    /// continues from there; `None`: if no update depends on the end. Ours, not sparsify's.
    pub keep_state: Option<bool>,
    /// Keep, besides the newest checkpoint, the one that had the lowest loss since the one before it.
    pub save_best: bool,
    /// Evaluate the SAEs at the end if there is data to evaluate on. Ours, not sparsify's.
    pub evaluate: bool,
    /// Optimizer updates from one report of statistics to the next. Ours, not sparsify's.
    pub log_every: u64,
}

impl TrainConfig {
    /// The names of all settings, in the order of their declaration.
    pub fn keys() -> Vec<String> {
        Self::default().to_map().keys().cloned().collect()
    }

    /// The settings as a JSON object.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("a struct of plain fields serialises to an object"),
        }
    }

    /// The number of latents for an input of width `d_in`.
    pub fn num_latents_for(&self, d_in: usize) -> usize {
        if self.num_latents > 0 {
            self.num_latents
        } else {
            d_in.saturating_mul(self.expansion_factor)
        }
    }

    /// The same at `hookpoint`.
    ///
    /// # Errors
    /// There are too many, or too few for another setting.
    pub(crate) fn latents_at(&self, d_in: usize, hookpoint: &str) -> Result<usize, PlanError> {
        let num_latents = self.num_latents_for(d_in);
        if num_latents > MOST_LATENTS {
            let problem = format!("gives {hookpoint} more than {MOST_LATENTS} latents");
            return Err(PlanError::setting("expansion_factor", &problem));
        }
        self.check_latents(num_latents, hookpoint)?;
        Ok(num_latents)
    }

    /// What an SAE is called: by its hookpoint, and its seed if there are several.
    pub(crate) fn sae_name(&self, hookpoint: &str, seed: i64) -> String {
        match self.init_seeds.len() {
            1 => hookpoint.to_owned(),
            _ => format!("{hookpoint}/seed{seed}"),
        }
    }

    /// The learning rate for an SAE with `num_latents` latents.
    pub fn lr_for(&self, num_latents: usize) -> f64 {
        let width = (num_latents as f64 / 16384.0).sqrt();
        let by_law = || match self.optimizer {
            Optimizer::Signum => 5e-3 / width,
            Optimizer::Adam => 2e-4 / width,
            Optimizer::Muon => 2e-3,
        };
        self.lr.unwrap_or_else(by_law)
    }

    /// SAELens's name of how SAEs are trained, if they are saved as another of its architectures.
    pub fn training_architecture(&self) -> Option<String> {
        let is_nested = !self.matryoshka_widths.is_empty() || self.matryoshka_prefixes > 0;
        match (self.activation, is_nested) {
            (Activation::BatchTopK, false) => Some("batchtopk".into()),
            (Activation::BatchTopK, true) => Some("matryoshka_batchtopk".into()),
            _ => None,
        }
    }

    /// The data to train on.
    pub fn train_data(&self) -> DataName {
        DataName {
            dataset: self.dataset.clone(),
            split: self.split.clone(),
            args: self.data_args.clone(),
        }
    }

    /// The data to evaluate on, if it is not held out of that to train on.
    pub fn eval_data(&self) -> Option<DataName> {
        let split = self.eval_split.clone();
        match &self.eval_dataset {
            Some(dataset) => Some(DataName {
                dataset: dataset.clone(),
                split: split.unwrap_or_else(|| "train".into()),
                args: self.eval_data_args.clone(),
            }),
            None => split.map(|split| DataName {
                split,
                ..self.train_data()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(settings: Value) -> TrainConfig {
        let mut all = json!({"model": "m", "dataset": "d"});
        let settings = settings.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(settings);
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn data_to_evaluate_on_is_another_data_set_or_split() {
        let eval_data = |settings| {
            let data = config(settings).eval_data();
            data.map(|data| [data.dataset, data.split])
        };
        assert_eq!(eval_data(json!({})), None);
        assert_eq!(eval_data(json!({"eval_fraction": 0.5})), None);
        let expected = |dataset: &str, split: &str| Some([dataset.into(), split.into()]);
        let other = json!({"eval_dataset": "e", "split": "all"});
        assert_eq!(eval_data(other), expected("e", "train"));
        assert_eq!(
            eval_data(json!({"eval_split": "test"})),
            expected("d", "test")
        );
        let both = config(json!({
            "data_args": "name=en", "eval_split": "test",
            "eval_dataset": "e", "eval_data_args": "name=fr",
        }));
        let eval_data = both.eval_data().unwrap();
        assert_eq!(eval_data.request("").unwrap().config.unwrap(), "fr");
        let same = config(json!({"data_args": "name=en", "eval_split": "test"}));
        let eval_data = same.eval_data().unwrap();
        assert_eq!(eval_data.request("").unwrap().config.unwrap(), "en");
    }
}
