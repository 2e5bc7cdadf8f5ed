//! `sae-run completions`: a script for a shell, which asks this program what may come next.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::config;
use args::{CompletionsArgs, StoreArgs};
use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use plan::TrainConfig;
use plan::runs_layout::DATABASE;
use std::env;
use std::ffi::OsStr;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use store::{Listing, QueryLimits, Store};

/// With which the script asks. No setting: those begin with `SAE_RUN_`.
const VARIABLE: &str = "_SAE_RUN_COMPLETE";
/// The program's name, as users type it.
const NAME: &str = "sae-run";
/// Jobs that are proposed, at most.
const MOST_JOBS: u32 = 500;

/// Answers a shell that asks what may come next, and ends the process; if none asks, nothing happens.
pub(crate) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Prints the script for a shell.
///
/// # Errors
/// Standard output that cannot be written.
pub(crate) fn print(args: &CompletionsArgs) -> Result<u8, CliError> {
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let completer = shells.completer(&shell);
    let completer =
        completer.ok_or_else(|| CliError::input(format!("no completions for `{shell}`")))?;
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, NAME, NAME, &this_program(), &mut script);
    written.map_err(|error| CliError::environment(format!("cannot write the script: {error}")))?;
    table::print(&String::from_utf8_lossy(&script))
}

/// How the script starts this program: as it was started, from any folder.
fn this_program() -> String {
    let typed = env::args_os()
        .next()
        .map_or_else(|| NAME.into(), PathBuf::from);
    let is_path = typed.components().count() > 1;
    let whole = env::current_dir().ok().filter(|_| is_path);
    let program = whole.map_or(typed.clone(), |dir| dir.join(&typed));
    program.display().to_string()
}

/// The command line, with what may be the values.
fn command() -> Command {
    with_values(args::command())
}

fn with_values(command: Command) -> Command {
    let command = command.mut_args(with_value);
    let names: Vec<_> = command
        .get_subcommands()
        .map(|own| own.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, with_values)
    })
}

/// Adds to an option or an argument what may be its value, if its name for it says so.
fn with_value(arg: Arg) -> Arg {
    let name = arg.get_value_names().and_then(|names| names.first());
    let name = name.map(ToString::to_string).unwrap_or_default();
    let id = arg.get_id().to_string();
    match name.as_str() {
        "JOB" | "JOB|SWEEP" => arg.add(ArgValueCandidates::new(jobs_and_sweeps)),
        _ if ["job", "target"].contains(&id.as_str()) => {
            arg.add(ArgValueCandidates::new(jobs_and_sweeps))
        }
        "SWEEP" => arg.add(ArgValueCandidates::new(sweeps)),
        "SWEEP.toml" => arg.add(ArgValueCompleter::new(sweep_files)),
        "KEY=VALUE" => arg.add(ArgValueCandidates::new(settings)),
        "DEVICE" => arg.add(ArgValueCandidates::new(|| {
            ["auto", "cpu", "cuda", "cuda:0"]
                .map(CompletionCandidate::new)
                .into()
        })),
        "COLUMN,..." => arg.add(ArgValueCandidates::new(columns)),
        choice if choice.contains('|') && choice == choice.to_lowercase() => {
            let values: Vec<_> = choice.split('|').map(str::to_owned).collect();
            arg.add(ArgValueCandidates::new(move || candidates(&values)))
        }
        _ => arg,
    }
}

/// Reads the usual runs folder; without a database there is nothing to propose.
fn ask<T>(question: impl AsyncFnOnce(Store) -> Option<T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let path = config::runs_dir(&StoreArgs { runs_dir: None })
            .ok()?
            .join(DATABASE);
        question(Store::open_read_only(&path).await.ok()?).await
    })
}

fn candidates(names: &[String]) -> Vec<CompletionCandidate> {
    names.iter().map(CompletionCandidate::new).collect()
}

fn sweeps() -> Vec<CompletionCandidate> {
    let names = ask(async |store| {
        let sweeps = store.sweeps().await.ok()?;
        Some(sweeps.into_iter().map(|own| own.sweep).collect::<Vec<_>>())
    });
    candidates(&names.unwrap_or_default())
}

/// Jobs as `SWEEP/JOB` and by their ids, and sweeps.
fn jobs_and_sweeps() -> Vec<CompletionCandidate> {
    let listed = ask(async |store| {
        let newest = Listing {
            limit: Some(MOST_JOBS),
            ..Listing::default()
        };
        store.listing(&newest, &QueryLimits::default()).await.ok()
    });
    let mut found = sweeps();
    let Some(listed) = listed else { return found };
    let column = |name: &str| listed.columns.iter().position(|column| column == name);
    let (Some(sweep), Some(job), Some(job_id)) = (column("sweep"), column("job"), column("job_id"))
    else {
        return found;
    };
    let mut rows: Vec<_> = listed
        .rows
        .iter()
        .map(|row| [sweep, job, job_id].map(|index| row[index].as_str()))
        .collect();
    rows.dedup();
    for row in rows {
        if let [Some(sweep), Some(job), Some(job_id)] = row {
            let name = format!("{sweep}/{job}");
            found.push(CompletionCandidate::new(job_id).help(Some(name.clone().into())));
            found.push(CompletionCandidate::new(name).help(Some(job_id.to_owned().into())));
        }
    }
    found
}

fn columns() -> Vec<CompletionCandidate> {
    let names = ask(async |store| store.columns("result").await.ok());
    candidates(&names.unwrap_or_default())
}

fn settings() -> Vec<CompletionCandidate> {
    let keys = TrainConfig::keys();
    let of = |table: &'static str| {
        keys.iter()
            .map(move |key| CompletionCandidate::new(format!("{table}.{key}=")))
    };
    of("train").chain(of("vary")).collect()
}

/// TOML files, and folders on the way to them.
fn sweep_files(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let (dir, start) = match typed.rsplit_once(MAIN_SEPARATOR) {
        Some((dir, start)) => (format!("{dir}{MAIN_SEPARATOR}"), start),
        None => (String::new(), &*typed),
    };
    let folder = if dir.is_empty() {
        Path::new(".")
    } else {
        Path::new(&dir)
    };
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let fits = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_dir = entry.path().is_dir();
        let is_wanted = name.starts_with(start) && (is_dir || name.ends_with(".toml"));
        let end = if is_dir { "/" } else { "" };
        is_wanted.then(|| CompletionCandidate::new(format!("{dir}{name}{end}")))
    });
    fits.collect()
}
