//! `sae-run`: trains a sweep of sparse autoencoders from one file. What computes is `sae-run-worker`.
//!
//! - `sweep/`: from a sweep file to a plan
//! - `run/`: from a plan to trained SAEs
//! - `show/`: what was done: tables, queries, reports
//! - `slurm/`: streams as jobs of a cluster; `pool/`: streams that any machine takes
//! - `publish/`: SAEs to the Hub; `track/`: curves to trackers
//! - `libtorch/`: the PyTorch that workers run on; `installed.rs`: what a wheel installs besides the programs
//! - `commands/`: all other commands, one a file

mod commands;
mod error;
mod installed;
mod libtorch;
mod pool;
mod publish;
mod run;
mod show;
mod slurm;
mod sweep;
mod track;

use args::{Args, Command};
use commands::{completions, data, diff, doctor, encode, eval, export_log, hookpoints, init, logs};
use commands::{man, merge, notes, plan, recipes, rm, schema, verify_resume};
use error::CliError;
use show::{job, ls, report, sql, status, watch};
use std::future::Future;
use std::process::ExitCode;

fn main() -> ExitCode {
    completions::answer();
    let args = Args::of_process();
    let outcome = dispatch(args);
    ExitCode::from(outcome.unwrap_or_else(|error| {
        error.print();
        error.exit_code()
    }))
}

fn dispatch(args: Args) -> Result<u8, CliError> {
    match args.command {
        None => block_on(run::run(&args.run)),
        Some(Command::Run(args)) => block_on(run::run(&args)),
        Some(Command::Plan(plan)) => block_on(plan::plan(&plan)),
        Some(Command::Train(args)) => block_on(run::train(*args)),
        Some(Command::Extend(args)) => block_on(run::extend::extend(&args)),
        Some(Command::Recipes(args)) => recipes::recipes(&args),
        Some(Command::Hookpoints(args)) => hookpoints::hookpoints(&args),
        Some(Command::Data(args)) => data::data(&args),
        Some(Command::Encode(args)) => block_on(encode::encode(&args)),
        Some(Command::Eval(args)) => block_on(eval::eval(&args)),
        Some(Command::VerifyResume(args)) => block_on(verify_resume::verify_resume(&args)),
        Some(Command::Ls(ls)) => block_on(ls::ls(&ls)),
        Some(Command::WorkerPool(args)) => block_on(pool::worker_pool(&args)),
        Some(Command::Status(args)) => block_on(status::status(&args)),
        Some(Command::Cancel(args)) => block_on(status::cancel(&args)),
        Some(Command::Watch(args)) => block_on(watch::watch(&args)),
        Some(Command::Show(show)) => block_on(job::show(&show)),
        Some(Command::Sql(sql)) => block_on(sql::sql(&sql)),
        Some(Command::Report(report)) => block_on(report::report(&report)),
        Some(Command::ExportLog(args)) => block_on(export_log::export_log(&args)),
        Some(Command::Publish(args)) => block_on(publish::publish(&args)),
        Some(Command::Rm(rm)) => block_on(rm::rm(&rm)),
        Some(Command::Merge(merge)) => block_on(merge::merge(&merge)),
        Some(Command::Doctor(doctor)) => doctor::doctor(&doctor),
        Some(Command::Schema) => schema::schema(),
        Some(Command::Init(init)) => init::init(&init),
        Some(Command::Diff(diff)) => block_on(diff::diff(&diff)),
        Some(Command::Logs(logs)) => block_on(logs::logs(&logs)),
        Some(Command::Note(note)) => block_on(notes::note(&note)),
        Some(Command::Tag(tag)) => block_on(notes::tag(&tag)),
        Some(Command::Completions(args)) => completions::print(&args),
        Some(Command::Man(args)) => man::man(&args),
    }
}

/// Only the commands that wait for several things at once pay for a runtime.
fn block_on(command: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|error| CliError::environment(format!("cannot start: {error}")))?
        .block_on(command)
}
