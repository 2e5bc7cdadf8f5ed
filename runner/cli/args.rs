//! The command line as typed.

use crate::config;
use crate::error::CliError;
use crate::paths::Folders;
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
    /// Show the plan as `sae-run plan` does, and train nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Train all jobs anew; what they had done and saved is forgotten.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Device of the workers: `auto`, `cpu`, `cuda` or `cuda:N`; over `launch.device`.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Draw no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl RunArgs {
    /// The sweep file and what is laid over it.
    pub(crate) fn sweep(&self) -> SweepArgs {
        SweepArgs {
            sweep: self.sweep.clone().unwrap_or_default(),
            set: self.set.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Expand a sweep and show its jobs, streams and predicted memory; train nothing.
    Plan(PlanArgs),
    /// List the hookpoints of a language model with their widths; no weights are read.
    Hookpoints(HookpointsArgs),
    /// List the sweeps of a runs folder.
    Ls(StoreArgs),
    /// Show all that is known of a job.
    Show(ShowArgs),
    /// Query the database in SQL, read-only.
    Sql(SqlArgs),
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
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Views to begin with: `result` (one row per SAE) and `curve` (one row per \
                        SAE and report). `SELECT sql FROM sqlite_schema` explains every column."
)]
pub(crate) struct SqlArgs {
    /// One statement, such as "SELECT job, hookpoint, k, fvu FROM result ORDER BY fvu".
    pub(crate) statement: String,
    /// Print an array of objects.
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// Print comma-separated values with a header.
    #[arg(long)]
    pub(crate) csv: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
