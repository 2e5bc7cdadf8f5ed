//! `sae-run train` as typed.

use crate::trackers::tracker;
use crate::{Given, RunOptions, SettingArgs};
use clap::builder::BoolishValueParser;
use hub::Token;
use plan::TrackerKind;

/// `sae-run train` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The options are those of `python -m sparsify` and mean the same. `-` and `_` are the same in the \
                  options of all commands: `--ctx_len` is `--ctx-len`. Settings that are not given come from `sae-run.toml` and variables such as \
                  `SAE_RUN_TRAIN__K`, then from the defaults shown. SAEs are written to \
                  DIR/RUN_NAME/JOB/HOOKPOINT, where JOB is made of the settings that are given, such as `k=16`. The \
                  same command continues its job; other settings begin another one of the same run."
)]
pub struct TrainArgs {
    /// Folder of a Hugging Face model, or the id of a model on the Hub.
    pub model: String,
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub.
    pub dataset: String,
    /// The job's settings.
    #[command(flatten)]
    pub settings: SettingArgs,
    /// Token for the Hub; `HF_TOKEN` keeps it out of the list of processes. It is never stored.
    #[arg(
        long,
        value_name = "TOKEN",
        help_heading = "Model and data",
        value_parser = parse_token
    )]
    pub hf_token: Option<Token>,
    #[command(flatten)]
    folder: FolderArgs,
    /// How its jobs are run.
    #[command(flatten, next_help_heading = "Run")]
    pub options: RunOptions,
    #[command(flatten)]
    launch: LaunchArgs,
    #[command(flatten)]
    compatibility: CompatibilityArgs,
}

/// Where the job is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Run")]
struct FolderArgs {
    /// Name of the run and of its folder [default: unnamed]
    #[arg(long, value_name = "NAME")]
    run_name: Option<String>,
    /// Folder of the database and the jobs, as of all commands [default: runs]
    #[arg(long, visible_alias = "save-dir", value_name = "DIR")]
    runs_dir: Option<String>,
}

/// How the worker is started.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Launch")]
struct LaunchArgs {
    /// `auto`, `cpu`, `cuda` or `cuda:N` [default: auto]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads on the CPU; 0: all cores [default: 0]
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Trackers that get the curves while it runs
    #[arg(long, value_name = "TRACKER,...", value_delimiter = ',', value_parser = tracker())]
    log_to: Vec<TrackerKind>,
    /// The same as `--log-to wandb` [default: off] [off: --no-log-to-wandb]
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        overrides_with = "nolog_to_wandb"
    )]
    log_to_wandb: Option<bool>,
    #[arg(long = "no-log-to-wandb", alias = "nolog-to-wandb", hide = true)]
    nolog_to_wandb: bool,
}

impl LaunchArgs {
    /// The trackers, if any option is about them.
    fn log_to(&self) -> Option<Given> {
        let wandb = match (self.nolog_to_wandb, self.log_to_wandb) {
            (true, _) => Some(false),
            (false, wandb) => wandb,
        };
        if self.log_to.is_empty() && wandb.is_none() {
            return None;
        }
        let mut kinds = self.log_to.clone();
        if wandb == Some(true) && !kinds.contains(&TrackerKind::Wandb) {
            kinds.push(TrackerKind::Wandb);
        }
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let option = if self.log_to.is_empty() {
            "--log-to-wandb"
        } else {
            "--log-to"
        };
        Some(Given::new(option, &["launch", "log_to"], names))
    }
}

/// What sparsify has and this program has no use for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Accepted for compatibility with sparsify, and ignored")]
struct CompatibilityArgs {
    /// A job always continues from its last checkpoint; `--fresh` starts it again [off: --no-resume]
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        overrides_with = "noresume"
    )]
    resume: Option<bool>,
    #[arg(long = "no-resume", alias = "noresume", hide = true)]
    noresume: bool,
    /// Trackers get what is in SQLite, as often as `--log-every` says
    #[arg(long = "wandb-log-frequency", value_name = "N")]
    _wandb_log_frequency: Option<u64>,
    /// Tokenising takes all cores; the tokens are those of one process of sparsify
    #[arg(long = "data-preprocessing-num-proc", value_name = "N")]
    _data_preprocessing_num_proc: Option<u64>,
}

impl TrainArgs {
    /// Everything that was given and belongs in a sweep.
    pub fn given(&self) -> Vec<Given> {
        let text = |option: &str, path: &[&'static str], value: &Option<String>| {
            let value = value.as_deref()?;
            Some(Given::new(&format!("{option} {value}"), path, value))
        };
        let threads = self.launch.threads.map(|threads| {
            let option = format!("--threads {threads}");
            Given::new(&option, &["launch", "threads"], i64::from(threads))
        });
        let names = [
            Given::new("MODEL", &["train", "model"], self.model.as_str()),
            Given::new("DATASET", &["train", "dataset"], self.dataset.as_str()),
        ];
        let others = [
            text("--run-name", &["name"], &self.folder.run_name),
            text("--runs-dir", &["runs_dir"], &self.folder.runs_dir),
            text("--device", &["launch", "device"], &self.launch.device),
            threads,
            self.launch.log_to(),
        ];
        let settings = self.settings.given().iter().cloned();
        names
            .into_iter()
            .chain(settings)
            .chain(others.into_iter().flatten())
            .collect()
    }

    /// Whether the user asked for a job that does not resume from where it was.
    pub fn refuses_to_resume(&self) -> bool {
        self.compatibility.noresume || self.compatibility.resume == Some(false)
    }
}

fn parse_token(text: &str) -> Result<Token, &'static str> {
    Token::new(text).ok_or("it is blank")
}
