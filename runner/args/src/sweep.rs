//! What takes a sweep: running it, planning it, its recipe.

use crate::trackers::tracker;
use plan::TrackerKind;
use std::path::PathBuf;

/// A sweep file and the settings that override it.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// The sweep file (TOML).
    #[arg(value_name = "SWEEP.toml")]
    pub sweep: PathBuf,
    /// Override a setting of the file, such as `train.k=64`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `sae-run SWEEP.toml` as typed.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    // Not `SweepArgs`: required, but not if there is a subcommand, and clap cannot say that of
    // flattened arguments.
    /// The sweep file (TOML).
    #[arg(value_name = "SWEEP.toml", required = true)]
    sweep: Option<PathBuf>,
    /// Override a setting of the file, such as `train.k=64`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Device of the workers: `auto`, `cpu`, `cuda` or `cuda:N`; overrides `launch.device`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Train streams in parallel on these devices, such as `cuda:0,cuda:1`; overrides `launch.devices`.
    #[arg(
        long,
        value_name = "DEVICE,...",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    devices: Vec<String>,
    /// Number of workers at a time [default: one for each device].
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Folder of the database and the jobs; overrides `runs_dir`.
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<String>,
    /// Trackers that get the curves while it runs; overrides `launch.log_to`.
    #[arg(long, value_name = "TRACKER,...", value_delimiter = ',', value_parser = tracker())]
    log_to: Vec<TrackerKind>,
    /// How its jobs are run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// How jobs are run.
#[derive(Debug, clap::Args)]
pub struct RunOptions {
    /// Show the plan as `sae-run plan` does, and train nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Delete the results and checkpoints of all jobs, and train them again from the start. It asks first, and keeps
    /// jobs that another sweep also has.
    #[arg(long)]
    pub fresh: bool,
    /// With `--fresh`: do not ask.
    #[arg(long, short, requires = "fresh")]
    pub yes: bool,
    /// Also train jobs that failed before and would fail again with the same settings, such as with a loss of NaN.
    /// Without this option they are skipped, and the reason is shown.
    #[arg(long)]
    pub retry_failed: bool,
    /// Stop a worker that an earlier `sae-run` left running, instead of waiting until it has saved.
    #[arg(long)]
    pub take_over: bool,
    /// With `launcher = "slurm"` or `"pool"`: submit the jobs and exit. `sae-run status` shows them; running the sweep
    /// again takes up their results.
    #[arg(long)]
    pub detach: bool,
    /// Hide progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Print one object at the end: the jobs and SAEs of the sweep, and what came of them. With `--dry-run`, the plan.
    #[arg(long)]
    pub json: bool,
    /// How progress is shown: `auto` draws bars in a terminal and prints a line now and then elsewhere; `json` prints
    /// one object per line on standard output for the plan, each event of a worker and the end, and nothing else.
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "auto",
        conflicts_with_all = ["quiet", "json"]
    )]
    pub progress: ProgressArg,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressArg {
    /// For people.
    Auto,
    /// For programs.
    Json,
}

impl RunArgs {
    /// The sweep file and the settings that override it.
    pub fn sweep(&self) -> SweepArgs {
        let device = only_device(self.device.as_deref());
        let devices = toml::Value::from(self.devices.clone());
        let devices = (!self.devices.is_empty()).then(|| format!("launch.devices={devices}"));
        let jobs = self.jobs.map(|jobs| format!("launch.jobs={jobs}"));
        let runs_dir = in_folder(self.runs_dir.as_deref());
        let names: Vec<_> = self.log_to.iter().map(|kind| kind.name()).collect();
        let log_to = (!names.is_empty()).then(|| toml::Value::from(names));
        let log_to = log_to.map(|log_to| format!("launch.log_to={log_to}"));
        let own = [device, devices, jobs, runs_dir, log_to]
            .into_iter()
            .flatten();
        SweepArgs {
            sweep: self.sweep.clone().unwrap_or_default(),
            set: self.set.iter().cloned().chain(own).collect(),
        }
    }
}

/// `sae-run plan` as typed.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// The sweep.
    #[command(flatten)]
    sweep: SweepArgs,
    /// Device of the workers, whose memory is predicted: `auto`, `cpu`, `cuda` or `cuda:N`; overrides `launch.device`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Folder of the database and the jobs; overrides `runs_dir`.
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<String>,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Hide remarks, such as what is missing.
    #[arg(long, short)]
    pub quiet: bool,
    /// Also show how the plan was made: recipe, digests, limits.
    #[arg(long, short)]
    pub verbose: bool,
    /// Show what would change compared with the last run of the sweep: jobs that are new, gone or changed.
    #[arg(long)]
    pub diff: bool,
    /// Print a file that runs the sweep on a cluster, with the memory, processes and time that are planned: an sbatch
    /// script, a task of SkyPilot, or a JobSet for Kubernetes.
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["json", "verbose", "diff"])]
    pub manifest: Option<ManifestArg>,
    /// With `--manifest`: nodes that train each stream together [default: 1].
    #[arg(long, value_name = "N", requires = "manifest", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub nodes: Option<u16>,
}

/// What a sweep is run by on a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ManifestArg {
    /// Slurm.
    Slurm,
    /// SkyPilot.
    Skypilot,
    /// JobSet, in Kubernetes.
    Jobset,
}

impl ManifestArg {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slurm => "slurm",
            Self::Skypilot => "skypilot",
            Self::Jobset => "jobset",
        }
    }
}

impl PlanArgs {
    /// The same sweep with the same settings, as arguments of `sae-run`.
    pub fn run_words(&self) -> Vec<String> {
        let mut words = vec![self.sweep.sweep.display().to_string()];
        let sets = self.sweep.set.iter().map(|set| ("--set", set));
        let device = self.device.iter().map(|device| ("--device", device));
        let runs_dir = self.runs_dir.iter().map(|dir| ("--runs-dir", dir));
        for (option, value) in sets.chain(device).chain(runs_dir) {
            words.extend([option.to_owned(), value.clone()]);
        }
        words
    }

    /// Whether the folder of the results was given.
    pub fn names_runs_dir(&self) -> bool {
        let in_settings = |set: &String| set.trim_start().starts_with("runs_dir");
        self.runs_dir.is_some() || self.sweep.set.iter().any(in_settings)
    }

    /// The sweep file and the settings that override it.
    pub fn sweep(&self) -> SweepArgs {
        let own = [
            only_device(self.device.as_deref()),
            in_folder(self.runs_dir.as_deref()),
        ];
        let own = own.into_iter().flatten();
        SweepArgs {
            sweep: self.sweep.sweep.clone(),
            set: self.sweep.set.iter().cloned().chain(own).collect(),
        }
    }
}

/// A device by itself is the only one, whatever the sweep says.
fn only_device(device: Option<&str>) -> Option<String> {
    let device = device.map(toml::Value::from);
    device.map(|device| format!("launch.devices=[{device}]"))
}

fn in_folder(runs_dir: Option<&str>) -> Option<String> {
    let runs_dir = runs_dir.map(toml::Value::from);
    runs_dir.map(|runs_dir| format!("runs_dir={runs_dir}"))
}

/// `sae-run recipes` as typed.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A sweep's `recipe` is looked for next to the sweep, in `recipes` of the current folder, in \
                  `~/.config/sae-run/recipes`, and among the built-in ones."
)]
pub struct RecipesArgs {
    /// What to do; `None`: list them.
    #[command(subcommand)]
    pub command: Option<RecipesCommand>,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
}

/// What to do about recipes.
#[derive(Debug, clap::Subcommand)]
pub enum RecipesCommand {
    /// Write a commented recipe into the folder `recipes`, as a start.
    New {
        /// Its name, as a sweep's `recipe` has it.
        name: String,
    },
    /// Print the request that a sweep's recipe receives, as JSON, to test recipes with.
    Request(SweepArgs),
    /// Run a recipe on a request and print the jobs that it proposes; train nothing.
    Test {
        /// A `.py` or `.wasm` file, or the name of a recipe.
        recipe: String,
        /// The request: a JSON file that `sae-run recipes request` printed.
        #[arg(long, value_name = "FILE.json")]
        request: PathBuf,
        /// Also show the fuel that it used.
        #[arg(long, short)]
        verbose: bool,
        /// Print one object.
        #[arg(long)]
        json: bool,
    },
}
