//! The command line as typed.

use crate::config;
use crate::encode_args::EncodeArgs;
use crate::error::CliError;
use crate::named_data::NamedDataArgs;
use crate::paths::Folders;
use crate::publish::PublishArgs;
use crate::train_args::TrainArgs;
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// Train sweeps of k-sparse autoencoders on the activations of a language model, from one file.
///
/// Running a sweep again resumes it: jobs that are done stay done, the others go on from their
/// last checkpoint.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(
    after_help = "Exit codes: 0 all done, 1 some job failed, 2 bad input or environment, \
                        130 stopped by a signal."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// A sweep file and what is laid over it.
#[derive(Debug, clap::Args)]
pub(crate) struct SweepArgs {
    /// The sweep file (TOML).
    #[arg(value_name = "SWEEP.toml")]
    pub(crate) sweep: PathBuf,
    /// Lay a value over the file, such as `train.k=64`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    // Not `SweepArgs`: required, but not where there is a subcommand, and clap cannot say that of
    // flattened arguments.
    /// The sweep file (TOML).
    #[arg(value_name = "SWEEP.toml", required = true)]
    sweep: Option<PathBuf>,
    /// Lay a value over the file, such as `train.k=64`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Device of the workers: `auto`, `cpu`, `cuda` or `cuda:N`; over `launch.device`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Devices to train streams on side by side, such as `cuda:0,cuda:1`; over `launch.devices`.
    #[arg(
        long,
        value_name = "DEVICE,...",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    devices: Vec<String>,
    /// Workers at the same time; by default one for each device.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

/// How jobs are run.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    /// Show the plan as `sae-run plan` does, and train nothing.
    #[arg(long, alias = "dry_run")]
    pub(crate) dry_run: bool,
    /// Train all jobs anew; what they had done and saved is forgotten.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Draw no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl RunArgs {
    /// The sweep file and what is laid over it.
    pub(crate) fn sweep(&self) -> SweepArgs {
        let device = self.device.as_deref().map(toml::Value::from);
        // A device by itself is the only one, whatever the sweep says.
        let device = device.map(|device| format!("launch.devices=[{device}]"));
        let devices = toml::Value::from(self.devices.clone());
        let devices = (!self.devices.is_empty()).then(|| format!("launch.devices={devices}"));
        let jobs = self.jobs.map(|jobs| format!("launch.jobs={jobs}"));
        let own = [device, devices, jobs].into_iter().flatten();
        SweepArgs {
            sweep: self.sweep.clone().unwrap_or_default(),
            set: self.set.iter().cloned().chain(own).collect(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Expand a sweep and show its jobs, streams and predicted memory; train nothing.
    Plan(PlanArgs),
    /// Train one job from options, as `python -m sparsify` does.
    Train(Box<TrainArgs>),
    /// List recipes; write a new one, or try one out.
    Recipes(RecipesArgs),
    /// List the hookpoints of a language model with their widths; no weights are read.
    Hookpoints(HookpointsArgs),
    /// Tokenise a data set as a sweep would, and describe the tokens; train nothing.
    Data(Box<DataArgs>),
    /// Evaluate SAEs on held-out sequences.
    Eval(Box<EvalArgs>),
    /// Encode texts or a data set with SAEs, and write the active latents to a Parquet or safetensors file.
    Encode(Box<EncodeArgs>),
    /// Prove on a job of yours that training which is killed ends in the same bits.
    VerifyResume(VerifyResumeArgs),
    /// List the sweeps of a runs folder, or their SAEs.
    Ls(LsArgs),
    /// Show all that is known of a job.
    Show(ShowArgs),
    /// Query the database in SQL, read-only.
    Sql(SqlArgs),
    /// Write a page of results, plots and provenance: one HTML file that works offline.
    Report(ReportArgs),
    /// Publish SAEs on the Hugging Face Hub, with a model card.
    Publish(Box<PublishArgs>),
    /// Delete jobs or whole sweeps: what the database knows of them, and their folders.
    Rm(RmArgs),
    /// Say what was found on this machine: libtorch, devices, engine, folders, database.
    Doctor(StoreArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Train one stream by an order file; the program starts this itself.
    #[command(hide = true)]
    Worker {
        /// The order file.
        order: PathBuf,
        /// Save and end when standard input ends.
        #[arg(long)]
        attached: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
    /// Print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show what the plan was made of and what its recipe used.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Show what would change against the sweep as it was last run: jobs that appear, vanish or change.
    #[arg(long)]
    pub(crate) diff: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A sweep's `recipe` is looked for next to the sweep, in `recipes` of the current folder, in \
                  `~/.config/sae-run/recipes`, and among the built-in ones."
)]
pub(crate) struct RecipesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RecipesCommand>,
    /// Print an array of objects.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecipesCommand {
    /// Write a commented recipe into `recipes`, to begin with.
    New {
        /// Its name, as a sweep's `recipe` has it.
        name: String,
    },
    /// Print what a sweep's recipe is asked, as JSON, to try recipes on.
    Request(SweepArgs),
    /// Run a recipe and print the jobs it proposes and the fuel it used; nothing is trained.
    Test {
        /// A `.py` or `.wasm` file, or the name of a recipe.
        recipe: String,
        /// What to ask: a JSON file as `sae-run recipes request` prints.
        #[arg(long, value_name = "FILE.json")]
        request: PathBuf,
        /// Print one object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A pattern is a shell pattern: `*`, `?`, `[seq]` and `[!seq]`. As in sparsify, `*` \
                  crosses dots: `layers.1*` matches `layers.10.mlp`."
)]
pub(crate) struct HookpointsArgs {
    /// Folder of a Hugging Face model, or the id of a model on the Hub.
    pub(crate) model: String,
    /// Only hookpoints that match one of these patterns, as in `train.hookpoints`.
    #[arg(value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Print an array of objects.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The tokens are kept in the cache, where a sweep with the same settings finds them. \
                  A `.bin` file holds the sequences one after the other, in training order, as uint16 \
                  (uint32 for vocabularies of more than 65 536), without a header; sparsify's \
                  MemmapDataset reads it."
)]
pub(crate) struct DataArgs {
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub.
    pub(crate) dataset: String,
    /// Folder of a Hugging Face model, or the id of a model on the Hub: whose tokenizer to use.
    #[arg(long)]
    pub(crate) model: String,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Split of the data set.
    #[arg(long, default_value = "train")]
    pub(crate) split: String,
    /// Further arguments of Python's `load_dataset`: `name`, `data_dir`, `data_files`, `revision`.
    #[arg(
        long,
        alias = "data_args",
        value_name = "KEY=VALUE,...",
        default_value = ""
    )]
    pub(crate) data_args: String,
    /// Column that holds the text; dots lead into nested ones.
    #[arg(long, alias = "text_column", default_value = "text")]
    pub(crate) text_column: String,
    /// Length of a sequence, in tokens.
    #[arg(long, alias = "ctx_len", default_value_t = 2048)]
    pub(crate) ctx_len: usize,
    /// What to do about a row that cannot be used: `fail` or `skip`.
    #[arg(long, alias = "on_bad_row", default_value = "fail")]
    pub(crate) on_bad_row: String,
    /// Width of the token ids of a data set that is a `.bin` file: `auto`, `uint16` or `uint32`.
    #[arg(long, alias = "bin_dtype", default_value = "auto")]
    pub(crate) bin_dtype: String,
    /// Seed of the shuffle of the sequences.
    #[arg(long, alias = "shuffle_seed", default_value_t = 42)]
    pub(crate) shuffle_seed: u64,
    /// Only the first so many sequences after shuffling.
    #[arg(long, alias = "max_examples")]
    pub(crate) max_examples: Option<u64>,
    /// Fraction of the sequences to hold out from training.
    #[arg(long, alias = "eval_fraction")]
    pub(crate) eval_fraction: Option<f64>,
    /// Write the sequences in training order to this file.
    #[arg(long, value_name = "FILE.bin")]
    pub(crate) out: Option<PathBuf>,
    /// Write the sequences that are held out to this file.
    #[arg(long, value_name = "FILE.bin", requires = "eval_fraction")]
    pub(crate) out_eval: Option<PathBuf>,
    /// Print one object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A job is evaluated at its newest checkpoint on the sequences that its sweep held out, and \
                  the result is recorded. With a model or data named here, and for a folder, it is printed \
                  only. Columns: FVU on the held-out tokens; L0; latents that never fired, in percent; \
                  cross-entropy of the next token (nats) by the model as it is, with the SAE's output in \
                  place of the hookpoint's, and with the output's mean there; the share of the difference \
                  that the SAE recovers; KL divergence from the model's own predictions."
)]
pub(crate) struct EvalArgs {
    /// Name or id of a job, or the beginning of its id; or a folder: of an SAE (cfg.json and
    /// sae.safetensors), or with one for each hookpoint.
    #[arg(value_name = "JOB|PATH")]
    pub(crate) target: String,
    /// Folder of a Hugging Face model, or the id of a model on the Hub.
    #[arg(long, requires = "dataset")]
    pub(crate) model: Option<String>,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
    /// What the model computes in: `auto`, `float32`, `bfloat16` or `float16`.
    #[arg(long, requires = "dataset")]
    pub(crate) dtype: Option<String>,
    /// Hold the weights of the model's linear modules in 8 bit.
    #[arg(long, alias = "load_in_8bit", requires = "dataset")]
    pub(crate) load_in_8bit: bool,
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub: all of it
    /// is evaluated on.
    #[arg(long)]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) data: NamedDataArgs,
    /// Length of a sequence, in tokens [default: 2048, or that of the job].
    #[arg(long, alias = "ctx_len", requires = "dataset")]
    pub(crate) ctx_len: Option<usize>,
    /// Tokens that do not count, and whose positions the SAE leaves alone.
    #[arg(
        long,
        alias = "exclude_tokens",
        value_name = "ID,...",
        value_delimiter = ',',
        requires = "dataset"
    )]
    pub(crate) exclude_tokens: Option<Vec<u32>>,
    /// Only so many sequences of the data set, a sample that is always the same.
    #[arg(long, alias = "max_examples", requires = "dataset", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_examples: Option<u64>,
    /// Sequences in a forward pass; the result does not depend on it [default: as many as in training,
    /// or fewer where the logits are large].
    #[arg(long, alias = "batch_size", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: Option<u32>,
    /// Device: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Print an array of objects.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The job's model, data and settings are used, with fewer updates and in a folder of its \
                  own that is removed afterwards; the job itself is not touched. It is trained once \
                  undisturbed, and once with a worker that is killed (SIGKILL) at random moments and \
                  started again. Exit code 1 where the weights differ in a bit."
)]
pub(crate) struct VerifyResumeArgs {
    /// Name or id of a job that was begun, or the beginning of its id.
    pub(crate) job: String,
    /// Optimizer updates to train for, or fewer where the data ends before.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) steps: u64,
    /// How often to kill.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) kills: u64,
    /// Seed of the moments.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Device: `auto`, `cpu`, `cuda` or `cuda:N`; by default that of the job's last worker.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Where the database lies.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Folder of the database and the checkpoints; by default `SAE_RUN_RUNS_DIR`, `runs_dir` of
    /// `sae-run.toml`, or `runs`.
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<PathBuf>,
}

impl StoreArgs {
    /// The folder.
    ///
    /// # Errors
    /// A damaged `sae-run.toml`.
    pub(crate) fn runs_dir(&self) -> Result<PathBuf, CliError> {
        match &self.runs_dir {
            Some(dir) => Ok(dir.clone()),
            None => config::runs_dir(&Folders::of_this_machine()?),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Name or id of the job, or the beginning of its id.
    pub(crate) job: String,
    /// Print one object, with every row that is known.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Format {
    /// Print an array of objects.
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// Print comma-separated values with a header.
    #[arg(long)]
    pub(crate) csv: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without an option, sweeps are listed; with one, SAEs, also those that have no result yet. \
                  The columns are those of the view `result`; `--json` and `--csv` print all of them."
)]
pub(crate) struct LsArgs {
    /// Only the SAEs of this sweep.
    #[arg(long, value_name = "NAME")]
    pub(crate) sweep: Option<String>,
    /// Only SAEs for which this SQL expression is true, such as "k <= 64 AND fvu < 0.1".
    #[arg(long = "where", value_name = "SQL")]
    pub(crate) condition: Option<String>,
    /// Columns to sort by; `-` in front is descending.
    #[arg(
        long,
        value_name = "COLUMN,...",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub(crate) sort: Vec<String>,
    /// So many SAEs at most.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// Also SAEs that only earlier versions of a sweep asked for.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A job that another sweep asks for is kept; sweeps are named together to delete what they \
                  share. What is deleted is trained anew when its sweep is run again."
)]
pub(crate) struct RmArgs {
    /// Name of a sweep; or name or id of a job, or the beginning of its id.
    #[arg(value_name = "JOB|SWEEP", required = true)]
    pub(crate) targets: Vec<String>,
    /// Delete without asking.
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a statement, and at a terminal, it asks for one after the other. Views to begin with: `result` (one row per SAE) and `curve` (one row per \
                        SAE and report). `SELECT sql FROM sqlite_schema` explains every column."
)]
pub(crate) struct SqlArgs {
    /// One statement, such as "SELECT job, hookpoint, k, fvu FROM result ORDER BY fvu".
    pub(crate) statement: Option<String>,
    /// Read the statement from a file; `-` is standard input.
    #[arg(short, long, value_name = "FILE.sql", conflicts_with = "statement")]
    pub(crate) file: Option<PathBuf>,
    /// Print so many rows at most, and say so where there are more.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) max_rows: usize,
    /// End a statement that takes longer than this [default: none; Ctrl-C ends one at any time].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// Name of a sweep; all sweeps where there is none.
    pub(crate) sweep: Option<String>,
    /// The file to write.
    #[arg(long, short, value_name = "FILE.html", default_value = "report.html")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
