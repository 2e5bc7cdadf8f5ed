//! `sae-run eval` as typed.

use crate::{NamedDataArgs, StoreArgs};

/// How many sequences are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// All.
    All,
    /// This number, if there are more; at least 1.
    Of(u64),
}

fn most(text: &str) -> Result<Most, String> {
    match text.parse() {
        Ok(n @ 1..) => Ok(Most::Of(n)),
        _ if text == "all" => Ok(Most::All),
        _ => Err("write a number from 1 on, or `all`".to_owned()),
    }
}

/// `sae-run eval` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A job is evaluated at its newest checkpoint on the sequences that its sweep held out, and \
                  the result is recorded. With a model or data named here, and for a folder, it is printed \
                  only. Columns, with their SQL names in the view `result`: FVU (`fvu_eval`); L0 (`l0_eval`); latents that \
                  never fired, in percent (`dead_pct_eval`); cross-entropy of the next token in nats by the \
                  model unchanged (`ce_clean`), with the SAE's output instead of the hookpoint's (`ce_spliced`), and with the \
                  output's mean there (`ce_ablated`); the share of the difference that the SAE recovers \
                  (`ce_recovered`); KL divergence from the model's own predictions (`kl`)."
)]
pub struct EvalArgs {
    /// Name or id of a job, or the beginning of its id; or a folder: of an SAE (cfg.json and
    /// sae.safetensors), or with one for each hookpoint.
    #[arg(value_name = "JOB|PATH")]
    pub target: String,
    /// Only the SAEs whose names match one of these patterns; may be repeated.
    #[arg(long, alias = "hookpoint", value_name = "PATTERN,...")]
    pub hookpoints: Vec<String>,
    /// Folder of a Hugging Face model, or the id of a model on the Hub.
    #[arg(long, requires = "dataset")]
    pub model: Option<String>,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long, requires = "model")]
    pub revision: Option<String>,
    /// The second model of a crosscoder on two: folder or id on the Hub.
    #[arg(long, value_name = "MODEL", requires = "dataset")]
    pub crosscoder_model: Option<String>,
    /// Its branch, tag or commit on the Hub.
    #[arg(long, value_name = "REVISION", requires = "crosscoder_model")]
    pub crosscoder_revision: Option<String>,
    /// What the model computes in: `auto`, `float32`, `bfloat16` or `float16`.
    #[arg(long, requires = "dataset")]
    pub dtype: Option<String>,
    /// Keep the weights of the model's linear modules in 8 bit.
    #[arg(long, requires = "dataset")]
    pub load_in_8bit: bool,
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub.
    #[arg(long)]
    pub dataset: Option<String>,
    /// How the data set is read.
    #[command(flatten)]
    pub data: NamedDataArgs,
    /// `file`: tokenizer.json unchanged; `transformers`: as transformers 5 changes it [default: file, or that
    /// of the job].
    #[arg(long, value_name = "file|transformers", requires = "dataset")]
    pub tokenizer_class: Option<String>,
    /// Length of a sequence, in tokens [default: 2048, or that of the job].
    #[arg(long, requires = "dataset")]
    pub ctx_len: Option<usize>,
    /// Tokens to leave out: they do not count, and the SAE does not replace their activations.
    #[arg(
        long,
        value_name = "ID,...",
        value_delimiter = ',',
        requires = "dataset"
    )]
    pub exclude_tokens: Option<Vec<u32>>,
    /// At most N sequences of the data set, always the same sample; `all`: all of it [default: 1000, or
    /// `eval_max_examples` of the job].
    #[arg(long, value_name = "N|all", requires = "dataset", value_parser = most)]
    pub max_examples: Option<Most>,
    /// Sequences in a forward pass; the result does not depend on it [default: that of the training,
    /// or fewer if the logits are large].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
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
