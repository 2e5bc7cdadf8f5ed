//! What takes a model or a data set by name.

use std::path::PathBuf;

/// `sae-run hookpoints` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A pattern is a shell pattern: `*`, `?`, `[seq]` and `[!seq]`. As in sparsify, `*` \
                  crosses dots: `layers.1*` matches `layers.10.mlp`."
)]
pub struct HookpointsArgs {
    /// Folder of a Hugging Face model, or the id of a model on the Hub.
    pub model: String,
    /// Only hookpoints that match one of these patterns, as in `train.hookpoints`.
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// The same, with commas between them; may be repeated.
    #[arg(long, alias = "hookpoint", value_name = "PATTERN,...")]
    pub hookpoints: Vec<String>,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long)]
    pub revision: Option<String>,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
}

/// `sae-run data` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The tokens are kept in the cache, where a sweep with the same settings finds them. \
                  A `.bin` file holds the sequences one after the other, in training order, as uint16 \
                  (uint32 for vocabularies of more than 65 536), without a header; sparsify's \
                  MemmapDataset reads it."
)]
pub struct DataArgs {
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub.
    pub dataset: String,
    /// The model whose tokenizer to use: folder, or id on the Hub.
    #[arg(long)]
    pub model: String,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long)]
    pub revision: Option<String>,
    /// Split of the data set.
    #[arg(long, default_value = "train")]
    pub split: String,
    /// Further arguments of Python's `load_dataset`: `name`, `data_dir`, `data_files`, `revision`.
    #[arg(long, value_name = "KEY=VALUE,...", default_value = "")]
    pub data_args: String,
    /// Column with the text; `a.b` is the column `b` in `a`.
    #[arg(long, default_value = "text")]
    pub text_column: String,
    /// `file`: tokenizer.json unchanged; `transformers`: as transformers 5 changes it.
    #[arg(long, default_value = "file")]
    pub tokenizer_class: String,
    /// Length of a sequence, in tokens.
    #[arg(long, default_value_t = 2048)]
    pub ctx_len: usize,
    /// What to do with a row that cannot be used: `fail` or `skip`.
    #[arg(long, default_value = "fail")]
    pub on_bad_row: String,
    /// Width of the token ids of a data set that is a `.bin` file: `auto`, `uint16` or `uint32`.
    #[arg(long, default_value = "auto")]
    pub bin_dtype: String,
    /// Seed of the shuffle of the sequences.
    #[arg(long, default_value_t = 42)]
    pub shuffle_seed: u64,
    /// Use only the first N sequences after shuffling.
    #[arg(long, value_name = "N")]
    pub max_examples: Option<u64>,
    /// Fraction of the sequences to hold out from training.
    #[arg(long, value_parser = finite)]
    pub eval_fraction: Option<f64>,
    /// Write the sequences in the training order of the first epoch to this file; `-` is standard output.
    #[arg(long, value_name = "FILE.bin")]
    pub out: Option<PathBuf>,
    /// Write the held-out sequences to this file; `-` is standard output.
    #[arg(long, value_name = "FILE.bin", requires = "eval_fraction")]
    pub out_eval: Option<PathBuf>,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Hide progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// How the data set that is named is read.
#[derive(Debug, clap::Args)]
pub struct NamedDataArgs {
    /// Split of the data set [default: train].
    #[arg(long, requires = "dataset")]
    pub split: Option<String>,
    /// Further arguments of Python's `load_dataset`: `name`, `data_dir`, `data_files`, `revision`.
    #[arg(long, value_name = "KEY=VALUE,...", requires = "dataset")]
    pub data_args: Option<String>,
    /// Column with the text [default: text].
    #[arg(long, requires = "dataset")]
    pub text_column: Option<String>,
}

/// As JSON, another number would be null.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_finite = number.is_finite();
    is_finite.then_some(number).ok_or("not finite".to_owned())
}
