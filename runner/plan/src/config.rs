//! The settings of one job, under sparsify's names and with its defaults.

use crate::{BinDtype, DataArgs, DataName, OnBadRow, PlanError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How the pre-activations become sparse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// ReLU, then the `k` largest a token.
    #[default]
    TopK,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossFn {
    /// Fraction of variance unexplained: squared error over total variance.
    #[default]
    Fvu,
}

/// How the weights are updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Schedule-free sign descent with momentum 0.95.
    #[default]
    Signum,
}

/// What the language model computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// The checkpoint's own on a GPU, with `load_in_8bit` float16; on a CPU float32, unless the
    /// checkpoint is in bfloat16 and the CPU has instructions for it.
    #[default]
    Auto,
    /// 32 bit.
    Float32,
    /// 16 bit with the exponent of 32.
    BFloat16,
    /// 16 bit.
    Float16,
}

/// The settings of one job. Defaults are sparsify 1.3.3's unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Train on the first so many sequences after shuffling; `None`: on all.
    pub max_examples: Option<u64>,
    /// Seed of the shuffle of the sequences.
    pub shuffle_seed: u64,

    /// How pre-activations become sparse.
    pub activation: Activation,
    /// Latents per input dimension; used when `num_latents` is 0.
    pub expansion_factor: usize,
    /// Keep the decoder's rows at unit norm.
    pub normalize_decoder: bool,
    /// Number of latents; 0: `expansion_factor` times the input width.
    pub num_latents: usize,
    /// Latents a token may use.
    pub k: usize,

    /// Sequences in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one optimizer update.
    pub grad_acc_steps: usize,
    /// Parts into which a batch's activations are cut for the SAE, to save memory. The result
    /// does not depend on it.
    pub micro_acc_steps: usize,
    /// What is minimised.
    pub loss_fn: LossFn,
    /// How the weights are updated.
    pub optimizer: Optimizer,
    /// Learning rate; `None`: by the optimizer's law, `5e-3 / sqrt(num_latents / 2^14)` for
    /// signum. 0 is zero.
    pub lr: Option<f64>,
    /// A latent that has not fired for more than so many tokens counts as dead.
    pub dead_feature_threshold: u64,
    /// Patterns (`fnmatch`) of the submodules to train on; empty: every block.
    pub hookpoints: Vec<String>,
    /// Indices of the blocks to train on; not with `hookpoints` or `layer_stride`.
    pub layers: Vec<usize>,
    /// Take every so-manieth of the hookpoints, in natural order.
    pub layer_stride: usize,
    /// Seeds of the initial weights; one SAE per hookpoint and seed.
    pub init_seeds: Vec<i64>,

    /// Checkpoint after every so many optimizer updates, and at the end.
    pub save_every: u64,
    /// Report statistics after every so many optimizer updates. Ours, not sparsify's.
    pub log_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            revision: None,
            dtype: Dtype::default(),
            load_in_8bit: false,
            dataset: String::new(),
            split: "train".into(),
            data_args: DataArgs::default(),
            text_column: "text".into(),
            on_bad_row: OnBadRow::default(),
            bin_dtype: BinDtype::default(),
            ctx_len: 2048,
            eval_fraction: 0.0,
            eval_dataset: None,
            eval_split: None,
            eval_data_args: DataArgs::default(),
            max_examples: None,
            shuffle_seed: 42,
            activation: Activation::default(),
            expansion_factor: 32,
            normalize_decoder: true,
            num_latents: 0,
            k: 32,
            batch_size: 32,
            grad_acc_steps: 1,
            micro_acc_steps: 1,
            loss_fn: LossFn::default(),
            optimizer: Optimizer::default(),
            lr: None,
            dead_feature_threshold: 10_000_000,
            hookpoints: Vec::new(),
            layers: Vec::new(),
            layer_stride: 1,
            init_seeds: vec![0],
            save_every: 1000,
            log_every: 1,
        }
    }
}

/// The most that a count may be: above any use, and low enough that products of three fit.
const MOST: usize = 1 << 20;
/// Likewise, for latents.
pub(crate) const MOST_LATENTS: usize = 1 << 31;

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

    /// The learning rate for an SAE with `num_latents` latents.
    pub fn lr_for(&self, num_latents: usize) -> f64 {
        let by_law = || match self.optimizer {
            Optimizer::Signum => 5e-3 / (num_latents as f64 / 16384.0).sqrt(),
        };
        self.lr.unwrap_or_else(by_law)
    }

    /// The data to train on.
    pub fn train_data(&self) -> DataName {
        DataName {
            dataset: self.dataset.clone(),
            split: self.split.clone(),
            args: self.data_args.clone(),
        }
    }

    /// The data to evaluate on, where it is not held out of that to train on.
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
            ("layer_stride", self.layer_stride, 1..=MOST),
            ("expansion_factor", self.expansion_factor, 0..=MOST),
            ("num_latents", self.num_latents, 0..=MOST_LATENTS),
            ("k", self.k, 1..=MOST_LATENTS),
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
        self.validate_choices()
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
        if let Some(lr) = self.lr
            && !(lr.is_finite() && lr >= 0.0)
        {
            let problem = format!("must be finite and not negative, got {lr}");
            return Err(PlanError::setting("lr", &problem));
        }
        self.train_data().request("split")?;
        self.validate_eval_data()
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
        if eval_data == self.train_data() {
            let key = match self.eval_split {
                Some(_) => "eval_split",
                None => "eval_dataset",
            };
            return Err(PlanError::setting(key, "is what is trained on"));
        }
        eval_data.request("eval_split").map(drop)
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
            (json!({"eval_data_args": "name=fr"}), "eval_data_args"),
        ] {
            let error = config(settings.clone()).validate().unwrap_err();
            assert_eq!(error.setting_key(), Some(key), "{settings}");
        }
        for settings in [
            json!({"eval_dataset": "e"}),
            json!({"eval_dataset": "d", "eval_data_args": "name=fr"}),
            json!({"eval_split": "test"}),
            json!({"eval_fraction": 0.01}),
        ] {
            config(settings).validate().unwrap();
        }
    }
}
