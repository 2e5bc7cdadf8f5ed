//! `sae-run extend JOB|SWEEP`: the same jobs on more tokens or for more epochs, each from the state that it has kept.

use super::run_loaded;
use crate::error::CliError;
use crate::run::launch::{Leader, OwnSettings, with_ranks};
use crate::run::past_job;
use crate::show::as_toml::{line, train_table};
use crate::show::job::open_in;
use crate::show::table;
use crate::sweep::config::{self, LoadedSweep, Recorded, load_recorded};
use crate::sweep::paths::Folders;
use args::ExtendArgs;
use plan::{Launch, TrainConfig, runs_layout};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use store::{JobDetails, Store, Subject, SweepDetails, SweepVersionRow};
use tokens::{BatchSpec, Shard, Tokens};

/// How long jobs are to be trained: one setting.
#[derive(Clone, Copy, Debug)]
struct Length {
    key: &'static str,
    value: u64,
}

/// Runs the jobs again for more tokens or epochs.
///
/// # Errors
/// No such job, not more than it had, or as running its sweep.
pub(crate) async fn extend(args: &ExtendArgs) -> Result<u8, CliError> {
    let own = || {
        let runs_dir = config::runs_dir(&args.store)?;
        let launch = Launch::default();
        Ok(OwnSettings { runs_dir, launch })
    };
    with_ranks(&own, async |leader| extend_in(args, leader).await).await
}

async fn extend_in(args: &ExtendArgs, leader: Option<&Leader>) -> Result<u8, CliError> {
    let runs_dir = config::runs_dir(&args.store)?;
    let folders = Folders::of_this_machine()?;
    let sweep = longer(args, &runs_dir, &folders).await?;
    run_loaded(sweep, folders, &args.options, leader).await
}

/// The sweep of what the user named, trained longer.
async fn longer(
    args: &ExtendArgs,
    runs_dir: &Path,
    folders: &Folders,
) -> Result<LoadedSweep, CliError> {
    let store = open_in(runs_dir).await?;
    let (recorded, length) = match store.subject(&args.target).await? {
        Subject::Job(job_id) => {
            let job = store.job(&job_id).await?;
            let length = length(&past_job::config(&job)?, args)?;
            check_data(args, length, (runs_dir, folders), &[&job])?;
            note_without_state(runs_dir, &[&job]);
            let mut recorded = of_job(&store, &job, length).await?;
            recorded.folders = folders_of(&store, &job.job_id).await?;
            (recorded, length)
        }
        Subject::Sweep(name) => {
            let sweep = store.sweep(&name).await?;
            let config = config_of(&sweep)?;
            let length = length(&config, args)?;
            let mut jobs = Vec::new();
            for row in &sweep.jobs {
                jobs.push(store.job(&row.job_id).await?);
            }
            let jobs: Vec<_> = jobs.iter().collect();
            check_data(args, length, (runs_dir, folders), &jobs)?;
            note_without_state(runs_dir, &jobs);
            let mut recorded = of_sweep(&sweep, &config)?;
            if let Some(job) = jobs.first() {
                recorded.folders = folders_of(&store, &job.job_id).await?;
            }
            (recorded, length)
        }
    };
    let own = [
        format!("train.{}={}", length.key, length.value),
        format!(
            "runs_dir={}",
            toml::Value::from(&*runs_dir.to_string_lossy())
        ),
    ];
    let set: Vec<_> = own.into_iter().chain(args.set.iter().cloned()).collect();
    load_recorded(recorded, &set, folders)
}

/// The setting that the user asks for more of.
fn key(args: &ExtendArgs) -> &'static str {
    if args.epochs.is_some() {
        "epochs"
    } else {
        "max_examples"
    }
}

/// What the user asks for, which is more than `config` has.
fn length(config: &TrainConfig, args: &ExtendArgs) -> Result<Length, CliError> {
    let (target, before) = (&args.target, config.epochs);
    let refuse = |message: String, hint: String| Err(CliError::input(message).with_hint(hint));
    let value = match args.epochs {
        Some(epochs) if epochs > before => epochs,
        Some(_) => {
            let message = format!("`{target}` is trained for {} already", count_epochs(before));
            let hint = format!(
                "`--epochs` is how many in all, such as {}",
                before.saturating_mul(2)
            );
            return refuse(message, hint);
        }
        None if before > 1 => {
            let message = format!(
                "`{target}` is trained for {before} epochs: `--tokens` does not say which tokens are to come again"
            );
            let hint = format!("`--epochs {}` trains for one more", before + 1);
            return refuse(message, hint);
        }
        None => examples(config, args)?,
    };
    let key = key(args);
    Ok(Length { key, value })
}

/// The sequences that have the tokens.
fn examples(config: &TrainConfig, args: &ExtendArgs) -> Result<u64, CliError> {
    let max_examples = n_tokens(args).div_ceil(config.ctx_len.max(1) as u64);
    match config.max_examples {
        Some(before) if before < max_examples => Ok(max_examples),
        Some(before) => {
            let n_tokens = before.saturating_mul(config.ctx_len as u64);
            let message = format!("`{}` is trained on {n_tokens} tokens already", args.target);
            Err(CliError::input(message).with_hint(format!(
                "`--tokens` is how many in all, such as {}",
                2 * n_tokens
            )))
        }
        None => {
            let message = format!("`{}` is trained on all its data already", args.target);
            Err(CliError::input(message).with_hint(
                "`--epochs 2` trains on it twice; more data is another job: name it in the sweep's `dataset`"
                    .to_owned(),
            ))
        }
    }
}

fn n_tokens(args: &ExtendArgs) -> u64 {
    args.tokens.unwrap_or_default()
}

fn count_epochs(n: u64) -> String {
    table::count(n as usize, "epoch")
}

/// Checks that the data of jobs has the tokens that are asked for, as far as it is in the cache.
fn check_data(
    args: &ExtendArgs,
    length: Length,
    (runs_dir, folders): (&Path, &Folders),
    jobs: &[&JobDetails],
) -> Result<(), CliError> {
    if args.epochs.is_some() {
        return Ok(());
    }
    for job in jobs {
        let Some((n_sequences, ctx_len)) = n_sequences(job, runs_dir, &folders.cache) else {
            continue;
        };
        if n_sequences < length.value {
            let n_all = n_sequences * ctx_len;
            let name = job.newest_name().map_or(&job.job_id, |name| &name.job);
            let message = format!(
                "the data of `{name}` has {n_all} tokens to train on, fewer than {}",
                n_tokens(args)
            );
            return Err(CliError::input(message).with_hint(format!(
                "`--tokens {n_all}` takes all; `--epochs 2` trains on the same tokens again; more data is another job: \
                 name it in the sweep's `dataset`"
            )));
        }
    }
    Ok(())
}

/// How many sequences a job could be trained on, and of how many tokens, if its data is in the cache.
fn n_sequences(job: &JobDetails, runs_dir: &Path, cache: &Path) -> Option<(u64, u64)> {
    let key = past_job::last_order(runs_dir, job).ok()?.key;
    let tokens = Tokens::find(cache, &key.token_digest).ok()?;
    let all = BatchSpec {
        max_examples: None,
        ..BatchSpec::of_stream(&key, Shard::WHOLE)
    };
    let n_sequences = tokens::n_selected(tokens.n_sequences() as u64, &all);
    Some((n_sequences, key.ctx_len as u64))
}

/// The folders that a job's relative paths were relative to.
async fn folders_of(store: &Store, job_id: &str) -> Result<[Option<PathBuf>; 2], CliError> {
    let folders = store.folders_of_job(job_id).await?;
    Ok(folders.map(|dir| dir.map(PathBuf::from)))
}

/// A sweep file with a job alone, which is added to those of a sweep.
async fn of_job(store: &Store, job: &JobDetails, length: Length) -> Result<Recorded, CliError> {
    let id = &job.job_id;
    let (sweep, name) = job.newest_name().map_or_else(
        || ("extended".to_owned(), id.clone()),
        |name| (name.sweep.clone(), name.job.clone()),
    );
    let newest = store.sweep(&sweep).await.ok();
    let newest = newest.as_ref().and_then(|sweep| sweep.versions.last());
    let accumulates = newest.is_some_and(|version| version.accumulates);
    let sweep = if accumulates {
        sweep
    } else {
        format!("{sweep}-extended")
    };
    let key = |part: &str| part.split_once('=').map(|(key, _)| key.to_owned());
    let is_other = |part: &&str| key(part).as_deref() != Some(length.key);
    let parts = name.split(',').filter(is_other);
    let length = format!("{}={}", length.key, length.value);
    let name: Vec<_> = parts.chain([length.as_str()]).collect();
    Ok(Recorded {
        source: format!("job {id}"),
        text: line("name", &sweep.into())?
            + &train_table(&past_job::config(job)?)?
            + &newest.map(launch_table).unwrap_or_default(),
        job: Some(name.join(",")),
        folders: [None, None],
    })
}

/// The settings that the jobs of a sweep share.
fn config_of(sweep: &SweepDetails) -> Result<TrainConfig, CliError> {
    let newest = sweep.versions.last();
    if newest.is_some_and(|version| version.accumulates) {
        let jobs: Vec<_> = sweep.jobs.iter().map(|job| job.job.as_str()).collect();
        let message = format!("each job of `{}` was asked for by itself", sweep.sweep);
        let first = jobs.first().copied().unwrap_or("JOB");
        return Err(CliError::input(message)
            .with_hint(format!("name one of them: `{}/{first}`", sweep.sweep)));
    }
    let request = request_of(sweep);
    let lengths = ["max_examples", "epochs"];
    if let Some(key) = lengths.iter().find(|key| !request["vary"][key].is_null()) {
        let message = format!("the jobs of `{}` differ in `{key}`", sweep.sweep);
        return Err(CliError::input(message).with_hint("name a job".to_owned()));
    }
    serde_json::from_value(request["train"].clone()).map_err(|error| {
        CliError::environment(format!(
            "the record of the sweep `{}` is damaged: {error}",
            sweep.sweep
        ))
    })
}

/// A sweep file that asks for what the newest version asked, with all its overrides.
fn of_sweep(sweep: &SweepDetails, config: &TrainConfig) -> Result<Recorded, CliError> {
    let newest = sweep.versions.last();
    let recipe = newest.map_or("grid", |version| version.recipe.as_str());
    let mut text = line("name", &json!(sweep.sweep))? + &line("recipe", &json!(recipe))?;
    let vary = request_of(sweep)["vary"].clone();
    text += &train_table(config)?;
    text += &newest.map(launch_table).unwrap_or_default();
    if vary.as_object().is_some_and(|vary| !vary.is_empty()) {
        text += "[vary]\n";
        for (key, value) in vary.as_object().into_iter().flatten() {
            text += &line(&toml_key(key), value)?;
        }
    }
    Ok(Recorded {
        source: format!("sweep `{}`", sweep.sweep),
        text,
        job: None,
        folders: [None, None],
    })
}

/// `[launch]` of the sweep file: the recipe was not asked with it.
fn launch_table(version: &SweepVersionRow) -> String {
    let table = toml::from_str::<toml::Table>(&version.text).ok();
    let launch = table.and_then(|mut table| table.remove("launch"));
    let launch = launch.map(|launch| toml::Table::from_iter([("launch".to_owned(), launch)]));
    launch.map_or_else(String::new, |launch| launch.to_string())
}

/// A key in quotes.
fn toml_key(key: &str) -> String {
    toml::Value::from(key).to_string()
}

fn request_of(sweep: &SweepDetails) -> Value {
    let request = sweep
        .versions
        .last()
        .map(|version| version.request.as_str());
    serde_json::from_str(request.unwrap_or_default()).unwrap_or_default()
}

/// Says which jobs have kept nothing to continue from.
fn note_without_state(runs_dir: &Path, jobs: &[&JobDetails]) {
    let has_none = |job: &&&JobDetails| {
        !runs_dir
            .join(runs_layout::kept_state_dir(&job.dir))
            .is_dir()
    };
    let without: Vec<_> = jobs.iter().filter(has_none).collect();
    let [first, ..] = without[..] else {
        return;
    };
    let name = first.newest_name().map_or(&first.job_id, |name| &name.job);
    let (who, is) = match without.len() {
        1 => (format!("`{name}` has"), "is"),
        n => (format!("{n} jobs, such as `{name}`, have"), "are"),
    };
    table::note(&format!(
        "{who} kept no state, and {is} trained from the start; `keep_state = true` keeps one"
    ));
}
