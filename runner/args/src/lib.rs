//! The command line as typed.
//!
//! A separate crate, which knows neither libtorch nor what the commands do: what the command line
//! alone says (help, versions, mistakes, completions) is then answered without loading anything.
//!
//! - `train.rs`, `settings.rs`: the options of `sae-run train`; `given.rs`: one as typed
//! - `sweep.rs`: sweeps, plans and recipes; `past.rs`: what asks for past jobs
//! - `jobs.rs`: what is about one job or two; `first.rs`: a first sweep, man pages, completions
//! - `data.rs`, `eval.rs`, `encode.rs`, `publish.rs`, `watch.rs`, `trackers.rs`: one command each
//! - `patterns.rs`: lists of them; `spelling.rs`: dashes for underscores; `mistakes.rs`: what was typed and is neither command nor sweep

mod cluster;
mod data;
mod encode;
mod eval;
mod first;
mod given;
mod jobs;
mod mistakes;
mod past;
mod patterns;
mod publish;
mod settings;
mod spelling;
mod sweep;
mod trackers;
mod train;
mod watch;

use clap::{CommandFactory, Parser, Subcommand};
use std::{env, process};

pub use cluster::{CancelArgs, StatusArgs, WorkerPoolArgs};
pub use data::{DataArgs, HookpointsArgs, NamedDataArgs};
pub use encode::{EncodeArgs, EncodeInputArgs};
pub use eval::{EvalArgs, Most};
pub use first::{CompletionsArgs, InitArgs, ManArgs};
pub use given::Given;
pub use jobs::{DiffArgs, ExtendArgs, LogsArgs, NoteArgs, TagArgs};
pub use past::{
    DoctorArgs, Format, LsArgs, MergeArgs, ReportArgs, RmArgs, ShowArgs, SqlArgs, StoreArgs,
    StoresArgs, VerifyResumeArgs,
};
pub use patterns::patterns;
pub use publish::{LayoutArg, PublishArgs};
pub use settings::SettingArgs;
pub use sweep::{
    ManifestArg, PlanArgs, ProgressArg, RecipesArgs, RecipesCommand, RunArgs, RunOptions, SweepArgs,
};
pub use trackers::ExportLogArgs;
pub use train::TrainArgs;
pub use watch::WatchArgs;

/// The program's name, as users type it.
const NAME: &str = "sae-run";

/// What a run ends with.
const AFTER_RUN: &str = "Exit codes: 0 all done, 1 some job failed, 2 bad input or environment before any job began, \
                         130 stopped by a signal.\n\nColumns of the table at the end, with their names in SQL: `id` is \
                         `job_id`, `hookpoint` is `sae`, `latents` is `num_latents`, `dead %` is `dead_pct`, `FVU held out` is \
                         `fvu_eval`, `CE recovered` is `ce_recovered`.";

/// Train sweeps of k-sparse autoencoders on the activations of a language model, from one file.
///
/// Running a sweep again resumes it: jobs that are done stay done, the others continue from
/// their last checkpoint.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    // Not the file that was started, which users do not see.
    bin_name = NAME,
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(after_help = AFTER_RUN)]
pub struct Args {
    /// What to do; `None`: run a sweep.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The sweep to run, if no command is named.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do instead of running a sweep.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a sweep, as `sae-run SWEEP.toml` does.
    #[command(after_help = AFTER_RUN)]
    Run(RunArgs),
    /// Write a first sweep file for a model and a data set.
    Init(InitArgs),
    /// Expand a sweep and show its jobs, streams and predicted memory; train nothing.
    Plan(PlanArgs),
    /// Train one job from options, as `python -m sparsify` does.
    Train(Box<TrainArgs>),
    /// Train a job, or all jobs of a sweep, for longer: each continues from its end.
    Extend(Box<ExtendArgs>),
    /// List recipes, write a new one, or test one.
    Recipes(RecipesArgs),
    /// List the hookpoints of a language model with their widths; no weights are read.
    Hookpoints(HookpointsArgs),
    /// Tokenise a data set as a sweep would, and describe the tokens; train nothing.
    Data(Box<DataArgs>),
    /// Evaluate SAEs on held-out sequences.
    Eval(Box<EvalArgs>),
    /// Encode texts or a data set with SAEs, and write the active latents to a Parquet or safetensors file.
    Encode(Box<EncodeArgs>),
    /// Check, on one of your jobs, that killed and resumed training is bit-identical.
    VerifyResume(VerifyResumeArgs),
    /// List the sweeps of a runs folder, or their SAEs.
    Ls(LsArgs),
    /// Follow a sweep that another `sae-run` is running on this machine.
    Watch(WatchArgs),
    /// Train streams of sweeps that are shared by several machines.
    WorkerPool(WorkerPoolArgs),
    /// Show where Slurm or the pool has the jobs of a sweep, and how far they are.
    Status(StatusArgs),
    /// Cancel the jobs of a sweep in Slurm or in the pool; they save first.
    Cancel(CancelArgs),
    /// Show everything recorded about a job or a sweep.
    Show(ShowArgs),
    /// Compare two jobs: the settings in which they differ, and their results.
    Diff(DiffArgs),
    /// Print the logs of a job's workers.
    Logs(LogsArgs),
    /// Add a note to a job or a sweep, or list its notes.
    Note(NoteArgs),
    /// Tag a job or a sweep, or list its tags.
    Tag(TagArgs),
    /// Query the database in SQL, read-only.
    Sql(SqlArgs),
    /// Write a page of results, plots and provenance: one HTML file that works offline.
    Report(ReportArgs),
    /// Write the curves of a past sweep to trackers such as TensorBoard.
    ExportLog(ExportLogArgs),
    /// Publish SAEs on the Hugging Face Hub, with a model card.
    Publish(Box<PublishArgs>),
    /// Delete jobs or whole sweeps, from the database and from disk.
    Rm(RmArgs),
    /// Merge another runs folder into this one: results, checkpoints and sweeps.
    Merge(MergeArgs),
    /// Check this machine: libtorch, devices, engine, folders, database.
    Doctor(DoctorArgs),
    /// Print the JSON schema of sweep files, for editors.
    Schema,
    /// Print shell completions, which know commands, settings, jobs and sweeps.
    Completions(CompletionsArgs),
    /// Print the man page, or write one for each command.
    Man(ManArgs),
}

impl Args {
    /// The command line of this process. If it asks for help or the version, or is mistaken, that is
    /// said, and the process ends.
    pub fn of_process() -> Self {
        let words = spelling::with_dashes(env::args_os());
        match Self::try_parse_from(&words) {
            Ok(args) if args.command.is_some() => args,
            parsed => {
                let words = words.iter().skip(1);
                let words: Vec<String> = words
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect();
                if let Some(mistake) = mistakes::explained(parsed.as_ref().err(), &words) {
                    print_mistake(&shown(&mistake));
                    process::exit(2);
                }
                parsed.unwrap_or_else(|error| end_with(&error))
            }
        }
    }
}

/// Prints what clap says and ends the process. A mistake repeats what was typed, or what a pattern of the
/// shell found: that steers no terminal, and no secret is repeated.
fn end_with(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let shown = shown(&text);
    if error.use_stderr() && shown != text {
        print_mistake(&shown);
        process::exit(error.exit_code());
    }
    error.exit()
}

/// A message that repeats what was typed, as it may be printed.
fn shown(text: &str) -> String {
    let shown = plan::escaped_lines(&plan::redacted(text));
    shown.split_inclusive('\n').map(plan::brief).collect()
}

#[expect(clippy::print_stderr, reason = "the one place that prints mistakes")]
fn print_mistake(text: &str) {
    eprint!("{text}");
}

/// The whole command line, for completions and man pages.
pub fn command() -> clap::Command {
    Args::command()
}
