//! `sae-run-torch`, which `sae-run` becomes: trains a sweep of sparse autoencoders from one file.
//!
//! A sweep:
//!
//! - `run.rs`: `run()` expands, locks, records, schedules and concludes
//! - `config/`: figment layers become a sweep; unknown keys and wrong types with file and line. `given.rs`: the
//!   options of `sae-run train`; `finite.rs`, `secrets.rs`: what is refused
//! - `expand.rs`: drafts of a recipe become jobs and streams; `rounds.rs`: asks the recipe, and again
//! - `models.rs`, `datasets.rs`: from a name to a folder or files, here or in the Hub's cache
//! - `device_memory.rs`: what a worker may take
//! - `recording.rs`: a plan in the database, and what earlier workers did
//! - `schedule.rs`: a worker process for each stream, and another where it dies; `queue.rs`: which stream is next
//!   on which device; `worker_process.rs`: starting one; `orphan.rs`: a worker that was left
//! - `watch.rs`: folds a worker's events, ends its attempt; `event_tail.rs`: reads events.jsonl; `unreadable.rs`:
//!   puts aside what cannot be read
//! - `launch/`: what starts a worker. `torchrun.rs`; `company.rs`: rank 0 leads, others follow; `seal.rs`: whose
//!   orders they take; `processes.rs`: how many
//!
//! Other commands:
//!
//! - `plan_command.rs`, `plan_diff.rs`, `recipes_command.rs`, `data_command.rs`, `verify_resume.rs`
//! - `query.rs`: `sql`; `prompt.rs`: its prompt; `listing.rs`: `ls`; `inspect.rs`: `show`; `remove_command.rs`:
//!   `rm`
//! - `eval.rs`, `encode.rs`; `named_data.rs`: what both take in place of a job's own; `past_job.rs`: what a job
//!   left
//! - `publish/`: `selection.rs` (which SAEs, and where to), `mod.rs` (files, record), `staging.rs`, `public.rs`
//!   (what of a name is told), `card.rs` (fills card.md), `saelens.rs`
//! - `report/`: `columns.rs` (table), `plots.rs` (JSON), `provenance.rs`, `page.rs` (fills page.html); `page.js`
//!   draws it with uPlot, which is vendored

mod answer;
mod config;
mod data_command;
mod datasets;
mod device_memory;
mod doctor;
mod download;
mod encode;
mod error;
mod eval;
mod event_tail;
mod expand;
mod git;
mod hookpoints;
mod hub_access;
mod inspect;
mod launch;
mod listing;
mod models;
mod named_data;
mod orphan;
mod past_job;
mod paths;
mod plan_command;
mod plan_diff;
mod plot;
mod progress;
mod prompt;
mod publish;
mod query;
mod queue;
mod recipes_command;
mod recording;
mod remove_command;
mod report;
mod rounds;
mod run;
mod runs_folder;
mod schedule;
mod signals;
mod table;
mod unreadable;
mod verify_resume;
mod watch;
mod worker_process;

use args::{Args, Command};
use error::CliError;
use std::env;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::of_process();
    let is_worker = matches!(args.command, Some(Command::Worker { .. }));
    let outcome = dispatch(args);
    let code = outcome.unwrap_or_else(|error| {
        error.print();
        error.exit_code()
    });
    // Profilers of the training, and coverage, write what they have in handlers.
    if !is_worker && env::var_os("LLVM_PROFILE_FILE").is_none() {
        end(code);
    }
    ExitCode::from(code)
}

/// Ends the process without its exit handlers: libtorch takes its tables of operators down there, one by one,
/// in 70 ms or more. All that is ours was dropped before.
fn end(code: u8) -> ! {
    // As at any other exit, there is nobody left to tell.
    let _ = io::stdout().flush();
    signal_hook::low_level::exit(code.into())
}

fn dispatch(args: Args) -> Result<u8, CliError> {
    match args.command {
        None => block_on(run::run(&args.run)),
        Some(Command::Plan(plan)) => block_on(plan_command::plan(&plan)),
        Some(Command::Train(args)) => block_on(run::train(*args)),
        Some(Command::Recipes(args)) => recipes_command::recipes(&args),
        Some(Command::Hookpoints(args)) => hookpoints::hookpoints(&args),
        Some(Command::Data(args)) => data_command::data(&args),
        Some(Command::Encode(args)) => block_on(encode::encode(&args)),
        Some(Command::Eval(args)) => block_on(eval::eval(&args)),
        Some(Command::VerifyResume(args)) => block_on(verify_resume::verify_resume(&args)),
        Some(Command::Ls(ls)) => block_on(listing::ls(&ls)),
        Some(Command::Show(show)) => block_on(inspect::show(&show)),
        Some(Command::Sql(sql)) => block_on(query::sql(&sql)),
        Some(Command::Report(report)) => block_on(report::report(&report)),
        Some(Command::Publish(args)) => block_on(publish::publish(&args)),
        Some(Command::Rm(rm)) => block_on(remove_command::rm(&rm)),
        Some(Command::Doctor(doctor)) => doctor::doctor(&doctor),
        Some(Command::Completions { shell }) => {
            args::print_completions(shell);
            Ok(0)
        }
        Some(Command::Worker { order, attached }) => Ok(train::run_worker(&order, attached)?),
    }
}

/// Only the commands that wait for several things at once pay for a runtime; a worker has none.
fn block_on(command: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|error| CliError::environment(format!("cannot start: {error}")))?
        .block_on(command)
}
