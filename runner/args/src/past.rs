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
    /// `sae-run.toml`, or `runs`. May be repeated: several folders are shown together.
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
    /// The runs folder to merge into this one.
    #[arg(value_name = "OTHER_RUNS_FOLDER")]
    pub other: PathBuf,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Hide remarks.
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
    /// Which GPU: `auto`, `cuda` or `cuda:N`.
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
#[command(
    after_help = "Columns with another name in SQL: `latents` is `num_latents`, `dead %` is `dead_pct`; of what is held out, \
                  `FVU` is `fvu_eval`, `L0` is `l0_eval`, `dead %` is `dead_pct_eval`, `CE clean` is `ce_clean`, `CE spliced` is \
                  `ce_spliced`, `CE recovered` is `ce_recovered`, `KL` is `kl`."
)]
pub struct ShowArgs {
    /// Name or id of a job, the beginning of its id, SWEEP/JOB, or name of a sweep.
    #[arg(value_name = "JOB|SWEEP")]
    pub target: String,
    /// Print one object, with every row about it.
    #[arg(long)]
    pub json: bool,
    /// Print a sweep file that repeats the job.
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
    after_help = "Without a sweep or an option, sweeps are listed; with one, SAEs, also those without a result so far. \
                  `--sort` and `--where` take the columns of the view `result`, and `--json` and `--csv` print all of \
                  them. Columns of the table under another name: `id` is `job_id`, `latents` is `num_latents`, `its L0` is \
                  `l0_calibrated`, `tokens/s` is `tokens_per_s`."
)]
pub struct LsArgs {
    /// Show only the SAEs of this sweep.
    #[arg(value_name = "SWEEP")]
    pub sweep: Option<String>,
    #[arg(
        long = "sweep",
        value_name = "NAME",
        hide = true,
        conflicts_with = "sweep"
    )]
    named_sweep: Option<String>,
    /// Show only SAEs of jobs with this tag.
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Show only SAEs for which this SQL expression is true, such as "k <= 64 AND fvu < 0.1".
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
    /// Show at most N SAEs.
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Show also SAEs that only earlier versions of a sweep had.
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
    after_help = "Without a statement, a terminal gets a prompt. Views to begin with: `result` (one row per SAE) and `curve` (one row per \
                        SAE and report). `SELECT sql FROM sqlite_schema` explains every column."
)]
pub struct SqlArgs {
    /// One statement, such as "SELECT job, hookpoint, k, fvu FROM result ORDER BY fvu".
    pub statement: Option<String>,
    /// Read the statement from a file; `-` is standard input.
    #[arg(short, long, value_name = "FILE.sql", conflicts_with = "statement")]
    pub file: Option<PathBuf>,
    /// Print at most N rows; a remark says if there are more.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_rows: usize,
    /// Time limit of a statement; 0: none. Ctrl-C also ends a statement.
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
    /// Print one object: the file, and how much is in it.
    #[arg(long)]
    pub json: bool,
    /// Where the databases are.
    #[command(flatten)]
    pub store: StoresArgs,
}

/// `sae-run verify-resume` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The job's model, data and settings are used, with fewer steps and in a separate \
                  folder that is removed afterwards; the job itself is not touched. It is trained twice: once \
                  without interruption, and once with a worker that is killed (SIGKILL) at random moments and \
                  restarted. Exit code 1 if the weights differ in any bit."
)]
pub struct VerifyResumeArgs {
    /// Name or id of a job that was begun, the beginning of its id, or SWEEP/JOB.
    pub job: String,
    /// Steps to train for, or fewer if the data ends before.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub steps: u64,
    /// Number of kills.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub kills: u64,
    /// Seed for the kill times.
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
