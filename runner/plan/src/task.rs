//! What a worker does besides training a stream: a task in a file, answers in lines of JSON on its standard
//! output.

use crate::{Dtype, EvalStats, GpuTask, StoreAddress, TokenizerClass};
use fault::FailureKind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a worker is asked for. Every name is resolved to a local path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Which libtorch there is, and what it sees of this machine: answered with [`Machine`].
    Machine,
    /// Active latents of texts or sequences, to a file: answered with [`EncodeSummary`].
    Encode(EncodeTask),
    /// What SAEs do on held-out sequences: answered with a list of [`Evaluated`], in the order of the SAEs.
    Evaluate(EvaluateTask),
    /// SAEs written in other layouts, each read back to check that it computes the same: answered with `null`.
    Prove(Vec<ProveTask>),
    /// What a GPU can do, and its kernels: answered with [`crate::GpuReport`].
    Gpu(GpuTask),
    /// The store of ranks, for the life of the worker: answers a line for each line of [`StoreRequest`].
    Store(StoreTask),
}

/// A line of a worker's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is so far.
    Progress {
        /// Done, of whatever the task counts.
        n_done: u64,
        /// All of them, if that is known.
        n_total: Option<u64>,
    },
    /// It waits for another process.
    Waiting {
        /// For which, and since when.
        message: String,
    },
    /// It has done what it was asked for; the value depends on the task.
    Done(serde_json::Value),
    /// It failed, and has ended.
    Failed {
        /// What went wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// Whose fault it is.
        kind: FailureKind,
    },
}

impl Answer {
    /// That a task is done, with its value.
    pub fn done(value: &impl Serialize) -> Self {
        Self::Done(serde_json::to_value(value).expect("values of tasks serialise to JSON"))
    }
}

/// libtorch, and the machine as it sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The shared library, if the operating system tells.
    pub library: Option<PathBuf>,
    /// Its version, or `unknown`.
    pub libtorch: String,
    /// GPUs.
    pub cuda: CudaStatus,
    /// Threads that it computes with on the CPU by default.
    pub n_threads: usize,
}

/// Whether CUDA can be used, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CudaStatus {
    /// libtorch sees at least one device.
    Available {
        /// Devices, numbered from 0.
        n_devices: usize,
    },
    /// There is no CUDA.
    Unavailable {
        /// What is missing, with the system's own message if there is one.
        reason: String,
    },
}

impl fmt::Display for CudaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available { n_devices: 1 } => write!(f, "1 device"),
            Self::Available { n_devices } => write!(f, "{n_devices} devices"),
            Self::Unavailable { reason } => write!(f, "none: {reason}"),
        }
    }
}

/// A language model, and which parts to load onto which device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelUse {
    /// Its folder.
    pub dir: PathBuf,
    /// That of the second model, if crosscoders are on two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<PathBuf>,
    /// What it computes in.
    pub dtype: Dtype,
    /// Whether its linear modules are held in 8 bit.
    pub load_in_8bit: bool,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
}

/// Token data that is in the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedTokens {
    /// Folder of the token cache.
    pub cache_dir: PathBuf,
    /// The digest of what the tokens were made from.
    pub digest: String,
}

/// An SAE's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundSae {
    /// The folder's name, or in a repository its path; if there are several seeds, with
    /// `/seed{n}` at the end.
    pub name: String,
    /// The submodule it was trained on, as far as the folder says: its name is the hookpoint's in
    /// sparsify's layout; in SAELens's, `cfg.json` has one, which may be TransformerLens's.
    pub hookpoint: String,
    /// The folder.
    pub dir: PathBuf,
}

/// What to encode, with what, and where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EncodeTask {
    /// The language model; its head is not needed, nor what comes after the last hookpoint. SAEs compute in
    /// 32 bit.
    pub model: ModelUse,
    /// What goes through it.
    pub input: EncodeInput,
    /// The SAEs, in the order of their rows. Their decoders are not loaded.
    pub saes: Vec<FoundSae>,
    /// Active latents of a token that are kept, the strongest; `None`: all.
    pub top: Option<usize>,
    /// Tokens in a forward pass, or those of one sequence if that has more. The file does not
    /// depend on it, beyond the rounding of sums.
    pub batch_tokens: usize,
    /// The file to write.
    pub out: PathBuf,
    /// Its format.
    pub format: EncodeFormat,
}

/// What to encode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodeInput {
    /// Texts, each a separate sequence: the tokenizer's tokens, with those that it adds to a text.
    Texts {
        /// Where they are.
        texts: Texts,
        /// What makes the tokenizer.
        tokenizer_class: TokenizerClass,
        /// Tokens that a text may have; `None`: the number of positions that the model was made for.
        ctx_len: Option<usize>,
    },
    /// The sequences of a data set, in their order.
    Sequences {
        /// All of them.
        tokens: CachedTokens,
        /// How many to take from the first on; `None`: all.
        most: Option<u64>,
    },
}

/// Where texts are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// Here.
    Given(Vec<String>),
    /// The lines of a file.
    File(PathBuf),
    /// The lines of the worker's standard input.
    StandardInput,
}

/// What a file of latents is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodeFormat {
    /// A table, with the columns of the rows.
    Parquet,
    /// A tensor for each column.
    Safetensors,
}

impl EncodeFormat {
    /// By the end of a file's name; `None`: it is another.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "parquet" => Some(Self::Parquet),
            "safetensors" => Some(Self::Safetensors),
            _ => None,
        }
    }
}

/// What an encoding came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeSummary {
    /// Sequences or texts.
    pub n_sequences: u64,
    /// Tokens of all of them.
    pub n_tokens: u64,
    /// Active latents written, of each SAE.
    pub n_rows: Vec<u64>,
}

/// What to evaluate, on what, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// The language model; its head is needed too.
    pub model: ModelUse,
    /// The data.
    pub tokens: CachedTokens,
    /// Which fraction of its sequences is held out; 1: all of them.
    pub eval_fraction: f64,
    /// How many of these to take at most, in the order that was drawn for them.
    pub most: Option<u64>,
    /// Sequences in a forward pass. The result does not depend on it, beyond the rounding of sums.
    pub batch_size: usize,
    /// The SAEs.
    pub saes: Vec<EvalSae>,
}

/// An SAE on disk to evaluate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvalSae {
    /// What it is called in reports.
    pub name: String,
    /// The submodule whose output it replaces.
    pub hookpoint: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Tokens at whose positions the output stays as it is, and nothing is counted.
    pub exclude_tokens: Vec<u32>,
    /// Where to write the fraction of the evaluated tokens on which each latent's activation is above 0,
    /// `[num_latents]`, Float.
    pub density: Option<PathBuf>,
}

/// What an evaluation found of one SAE.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluated {
    /// What it is called.
    pub name: String,
    /// The submodule.
    pub hookpoint: String,
    /// Number of latents.
    pub num_latents: usize,
    /// The sums.
    pub stats: EvalStats,
}

/// A number of sequences for a forward pass whose logits are not too large, and at most `most`.
pub fn eval_batch_size(most: usize, ctx_len: usize, vocab_size: usize) -> usize {
    const MOST_LOGITS_BYTES: usize = 1 << 30;
    let of_sequence = 4 * ctx_len * vocab_size;
    (MOST_LOGITS_BYTES / of_sequence.max(1)).clamp(1, most.max(1))
}

/// An SAE to be written in a layout, with proof.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProveTask {
    /// Its folder.
    pub dir: PathBuf,
    /// How it is written.
    pub form: SaeForm,
    /// The folder to write.
    pub out: PathBuf,
    /// Whether that folder stays; else it is removed when it is proven, for there may be no space for a copy of
    /// every SAE.
    pub is_kept: bool,
}

/// The layout that an SAE is written in, with what its files say besides the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaeForm {
    /// Nothing else.
    Sparsify,
    /// Where and how it was trained.
    SaeLens(SaeLensMetadata),
    /// The layer whose MLP a transcoder has the input and the output of: its file is called after it.
    CircuitTracer {
        /// From 0.
        layer: usize,
    },
    /// A crosscoder, as training writes it.
    Crosscoder,
    /// The layer of a cross-layer transcoder.
    CrossLayer {
        /// From 0.
        layer: usize,
    },
}

impl SaeForm {
    /// The layout.
    pub fn layout(&self) -> SaeLayout {
        match self {
            Self::Sparsify => SaeLayout::Sparsify,
            Self::SaeLens(_) => SaeLayout::SaeLens,
            Self::Crosscoder => SaeLayout::CrosscoderLearning,
            Self::CircuitTracer { .. } | Self::CrossLayer { .. } => SaeLayout::CircuitTracer,
        }
    }
}

/// How an SAE is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaeLayout {
    /// `cfg.json` and `sae.safetensors`, as Python's sparsify reads them.
    Sparsify,
    /// `cfg.json` and `sae_weights.safetensors`, as SAELens reads them.
    SaeLens,
    /// `layer_{i}.safetensors` for each layer's MLP and one `config.yaml`, as circuit-tracer reads them; for a
    /// cross-layer transcoder, `W_enc_{i}.safetensors` and `W_dec_{i}.safetensors`.
    CircuitTracer,
    /// `cfg.json`, `model.safetensors` and `config.json`: crosscoders, as crosscoder_learning reads them.
    CrosscoderLearning,
}

impl SaeLayout {
    /// All of them, in the order in which they are named and shown.
    pub const ALL: [Self; 4] = [
        Self::Sparsify,
        Self::SaeLens,
        Self::CircuitTracer,
        Self::CrosscoderLearning,
    ];

    /// Its name in options and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sparsify => "sparsify",
            Self::SaeLens => "saelens",
            Self::CircuitTracer => "circuit-tracer",
            Self::CrosscoderLearning => "crosscoder-learning",
        }
    }
}

impl fmt::Display for SaeLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What SAELens keeps of an SAE in addition to its weights. Unknown values are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SaeLensMetadata {
    /// The language model, by a name that TransformerLens or Hugging Face has.
    pub model_name: Option<String>,
    /// TransformerLens's name of where it was trained, such as `blocks.3.hook_resid_post`.
    pub hook_name: Option<String>,
    /// Hugging Face's name for it: the hookpoint.
    pub hf_hook_name: Option<String>,
    /// Length of the sequences it was trained on, in tokens.
    pub context_size: Option<usize>,
    /// The data it was trained on.
    pub dataset_path: Option<String>,
    /// Whether every sequence began with a BOS token.
    pub prepend_bos: Option<bool>,
    /// SAELens's name of how it was trained, if that is not the architecture it is saved as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_architecture: Option<String>,
    /// The threshold that training estimated. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_ema: Option<f64>,
    /// Those of a crosscoder's hookpoints, if each has its own; `threshold_ema` is their mean. Ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub threshold_ema_by_hookpoint: Vec<f64>,
}

/// Which store of ranks to serve or to connect to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreTask {
    /// Where it is.
    pub address: StoreAddress,
    /// Whether to serve it, for the life of the worker.
    pub is_server: bool,
    /// What all keys begin with.
    pub prefix: String,
    /// This process's number.
    pub rank: usize,
    /// How long to look for it.
    pub timeout_ms: u64,
}

/// One call of the store of ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreRequest {
    /// Sets a key: answered with `null`.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Waits for a key: answered with its value, or `null` if it is not there in time.
    Get {
        /// The key.
        key: String,
        /// How long to wait.
        timeout_ms: u64,
    },
    /// Asks whether a key is there now: answered with true or false.
    Has {
        /// The key.
        key: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_large_as_their_logits_allow() {
        assert_eq!(eval_batch_size(32, 64, 300), 32);
        assert_eq!(eval_batch_size(32, 2048, 128_256), 1);
        assert_eq!(eval_batch_size(32, 1024, 49_152), 5);
        assert_eq!(eval_batch_size(0, 8, 10), 1);
    }
}
