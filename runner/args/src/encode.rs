//! `sae-run encode` as typed.

use crate::{NamedDataArgs, StoreArgs};
use std::path::PathBuf;

/// `sae-run encode` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One row for each latent that is active at a token, the strongest first, in the order of the \
                  texts: `sequence` (index of the text or sequence), `position` and `token_id` of the token, \
                  `sae`, `hookpoint`, `latent`, `activation`. A .parquet file is a table, which is written as it \
                  comes; a .safetensors file has a tensor for each column, and in its metadata the names that \
                  the numbers in `sae` refer to. Of the model, only what the SAEs need is loaded; of the SAEs, \
                  only the encoders."
)]
pub struct EncodeArgs {
    /// A folder of an SAE (cfg.json and weights as sparsify or SAELens writes them), or with one for each
    /// hookpoint; the id of a repository on the Hub; or name or id of a job, or the beginning of its id.
    #[arg(value_name = "PATH|REPO|JOB")]
    pub target: String,
    /// The file to write: .parquet or .safetensors.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Only the SAEs whose names match one of these patterns; may be repeated. If there is only one SAE: the
    /// module of the model that it is for.
    #[arg(long, alias = "hookpoint", value_name = "PATTERN,...")]
    pub hookpoints: Vec<String>,
    /// Branch, tag or commit of the SAEs' repository.
    #[arg(long, value_name = "REVISION")]
    pub sae_revision: Option<String>,
    /// Folder of a Hugging Face model, or the id of a model on the Hub [default: what the SAEs were trained
    /// on, as far as their files or the database say].
    #[arg(long)]
    pub model: Option<String>,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long, requires = "model")]
    pub revision: Option<String>,
    /// The second model of a crosscoder on two: folder or id on the Hub [default: as for
    /// `--model`].
    #[arg(long, value_name = "MODEL")]
    pub crosscoder_model: Option<String>,
    /// Its branch, tag or commit on the Hub.
    #[arg(long, value_name = "REVISION", requires = "crosscoder_model")]
    pub crosscoder_revision: Option<String>,
    /// What the model computes in: `auto`, `float32`, `bfloat16` or `float16`.
    #[arg(long)]
    pub dtype: Option<String>,
    /// Keep the weights of the model's linear modules in 8 bit.
    #[arg(long)]
    pub load_in_8bit: bool,
    /// What is encoded.
    #[command(flatten)]
    pub input: EncodeInputArgs,
    /// How the data set is read.
    #[command(flatten)]
    pub data: NamedDataArgs,
    /// `file`: tokenizer.json unchanged; `transformers`: as transformers 5 changes it [default: file, or that
    /// of the job].
    #[arg(long, value_name = "file|transformers")]
    pub tokenizer_class: Option<String>,
    /// Use only the first N sequences of the data set.
    #[arg(long, value_name = "N", requires = "dataset", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_examples: Option<u64>,
    /// Length of a data set's sequences, in tokens [default: 2048, or that of the job]; or the most that a
    /// text may have [default: what the model's positions were made for].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_len: Option<u32>,
    /// Only the N strongest latents of each token.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,
    /// Tokens in a forward pass; the result does not depend on it.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_tokens: u32,
    /// Device: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Hide progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What is encoded.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct EncodeInputArgs {
    /// A text; may be repeated.
    #[arg(long)]
    pub text: Vec<String>,
    /// A file with a text on each line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub text_file: Option<PathBuf>,
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub, cut into
    /// sequences as for training.
    #[arg(long)]
    pub dataset: Option<String>,
}
