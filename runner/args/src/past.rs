//! Commands that look at past runs, and others that take a job of a past run.

use plan::UpdateShape;
use std::path::PathBuf;

/// Where the database is.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// Folder of the database and the checkpoints; by default `SAE_RUN_RUNS_DIR`, `runs_dir` of
    /// `sae-run.toml`, or `runs`.
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<PathBuf>,
}

/// Where the databases are.
#[derive(Debug, clap::Args)]
pub struct StoresArgs {
    /// Folder of the database and the checkpoints; by default `SAE_RUN_RUNS_DIR`, `runs_dir` of
    /// `sae-run.toml`, or `runs`. May be repeated: several folders are read as if they were merged.
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Vec<PathBuf>,
}

/// `sae-run merge` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The other folder is only read. A job that is in both is kept once; unfinished jobs continue here when \
                  their sweep is run here. A sweep whose name another sweep has here gets a number: `tiny-2`."
)]
pub struct MergeArgs {
    /// The runs folder whose results, checkpoints and sweeps become part of this one.
    #[arg(value_name = "OTHER_RUNS_FOLDER")]
    pub other: PathBuf,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Say only what went wrong.
    #[arg(long, short)]
    pub quiet: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run doctor` as typed.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Check and measure an NVIDIA GPU: copies, products, and each of the project's kernels next to libtorch.
    #[arg(long)]
    pub gpu: bool,
    /// Which one: `auto`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value = "auto", requires = "gpu")]
    pub device: String,
    /// Sizes that kernels are measured at: tokens, latents, d_in, k.
    #[arg(
        long,
        value_name = "N,F,D,K",
        default_value = "4096,32768,2304,64",
        requires = "gpu"
    )]
    pub shape: UpdateShape,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run show` as typed.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name or id of a job, the beginning of its id, SWEEP/JOB, or name of a sweep.
    #[arg(value_name = "JOB|SWEEP")]
    pub target: String,
    /// Print one object, with every row that is known.
    #[arg(long)]
    pub json: bool,
    /// Print a sweep file that asks for the same job again.
    #[arg(long, conflicts_with = "json")]
    pub toml: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Format {
    /// Print one object, with the rows as objects.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print comma-separated values with a header.
    #[arg(long)]
    pub csv: bool,
}

/// `sae-run ls` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a sweep or an option, sweeps are listed; with one, SAEs, also those that have no result yet. \
                  The columns are those of the view `result`; `--json` and `--csv` print all of them."
)]
pub struct LsArgs {
    /// Only the SAEs of this sweep.
    #[arg(value_name = "SWEEP")]
    pub sweep: Option<String>,
    #[arg(
        long = "sweep",
        value_name = "NAME",
        hide = true,
        conflicts_with = "sweep"
    )]
    named_sweep: Option<String>,
    /// Only SAEs of jobs that have this tag.
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Only SAEs for which this SQL expression is true, such as "k <= 64 AND fvu < 0.1".
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Columns to sort by; `-` in front is descending.
    #[arg(
        long,
        value_name = "COLUMN,...",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub sort: Vec<String>,
    /// At most N SAEs.
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Also SAEs that only earlier versions of a sweep asked for.
    #[arg(long)]
    pub all: bool,
    /// How the rows are printed.
    #[command(flatten)]
    pub format: Format,
    /// Where the databases are.
    #[command(flatten)]
    pub store: StoresArgs,
}

impl LsArgs {
    /// The sweep whose SAEs are listed.
    pub fn sweep(&self) -> Option<&str> {
        self.sweep.as_deref().or(self.named_sweep.as_deref())
    }
}

/// `sae-run rm` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A job that another sweep asks for is kept; sweeps are named together to delete what they \
                  share. What is deleted is trained again when its sweep is run again."
)]
pub struct RmArgs {
    /// Name of a sweep; or name or id of a job, the beginning of its id, or SWEEP/JOB.
    #[arg(value_name = "JOB|SWEEP", required = true)]
    pub targets: Vec<String>,
    /// Delete without asking.
    #[arg(long, short)]
    pub yes: bool,
    /// Print one object: what was deleted and what was kept.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run sql` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a statement, and at a terminal, it asks for one after the other. Views to begin with: `result` (one row per SAE) and `curve` (one row per \
                        SAE and report). `SELECT sql FROM sqlite_schema` explains every column."
)]
pub struct SqlArgs {
    /// One statement, such as "SELECT job, hookpoint, k, fvu FROM result ORDER BY fvu".
    pub statement: Option<String>,
    /// Read the statement from a file; `-` is standard input.
    #[arg(short, long, value_name = "FILE.sql", conflicts_with = "statement")]
    pub file: Option<PathBuf>,
    /// Print at most N rows, and say so if there are more.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_rows: usize,
    /// End a statement that takes longer than this; 0: let it take any time. Ctrl-C ends one, too.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// How the rows are printed.
    #[command(flatten)]
    pub format: Format,
    /// Where the databases are.
    #[command(flatten)]
    pub store: StoresArgs,
}

/// `sae-run report` as typed.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Name of a sweep; by default all sweeps.
    pub sweep: Option<String>,
    /// The file to write; `-` is standard output.
    #[arg(long, short, value_name = "FILE.html", default_value = "report.html")]
    pub out: PathBuf,
    /// Where the databases are.
    #[command(flatten)]
    pub store: StoresArgs,
}

/// `sae-run verify-resume` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The job's model, data and settings are used, with fewer updates and in a separate \
                  folder that is removed afterwards; the job itself is not touched. It is trained once \
                  undisturbed, and once with a worker that is killed (SIGKILL) at random moments and \
                  started again. Exit code 1 if the weights differ in any bit."
)]
pub struct VerifyResumeArgs {
    /// Name or id of a job that was begun, the beginning of its id, or SWEEP/JOB.
    pub job: String,
    /// Optimizer updates to train for, or fewer if the data ends before.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub steps: u64,
    /// How often to kill.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub kills: u64,
    /// Seed for the times of the kills.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Device: `auto`, `cpu`, `cuda` or `cuda:N`; by default that of the job's last worker.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
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
