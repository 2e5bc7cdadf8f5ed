//! A plan in the database: recorded, and brought up to what workers of earlier runs did.

use crate::error::CliError;
use crate::run::claims::Claims;
use crate::run::fresh;
use crate::run::runs_folder::RunsFolder;
use crate::show::table;
use crate::sweep::expand::Expanded;
use crate::sweep::git;
use args::RunOptions;
use fault::Fault;
use plan::runs_layout;
use sae_files::check_sae;
use std::collections::BTreeSet;
use std::path::Path;
use store::{BegunOtherwise, JobStatus, RecordedJob, RecordedPlan, Store, SweepOrigin};

/// Records the plan, takes in what killed processes and their workers left, and says what is left to do. `None`: the
/// user does not wish to start again.
///
/// # Errors
/// The database or the runs folder cannot be written, or a worker does not end.
pub(crate) async fn recover(
    claims: &Claims<'_>,
    expanded: &mut Expanded,
    options: &RunOptions,
) -> Result<Option<RecordedPlan>, CliError> {
    let (store, folder) = (claims.store, claims.folder);
    let recorded = record(store, expanded).await?;
    claims.expect(&store.open_streams().await?);
    let origin = origin(expanded);
    store
        .record_origin(&expanded.sweep.text, &expanded.plan, &origin)
        .await?;
    if options.fresh {
        if !fresh::start_again(claims, (expanded, &recorded), options).await? {
            return Ok(None);
        }
    } else {
        for stream in &recorded.streams {
            let stream = (stream.stream_id.as_str(), stream.dir.as_str());
            claims.recover_stream(stream, true).await?;
        }
    }
    for open in store.open_streams().await? {
        let is_own = open.job_ids.iter().any(|id| recorded.job(id).is_some());
        claims
            .recover_stream((&open.stream_id, &open.dir), is_own)
            .await?;
    }
    let mut recorded = record(store, expanded).await?;
    if queue_lost(store, folder, (expanded, &recorded)).await? {
        recorded = record(store, expanded).await?;
    }
    if let Some(begun) = store.begun_otherwise(&expanded.plan.sweep).await? {
        note_other_updates(&begun);
    }
    remove_states(store, folder, &recorded).await?;
    Ok(Some(recorded))
}

/// Removes the states of jobs that are done: a worker may have died between the last event about a job and this.
async fn remove_states(
    store: &Store,
    folder: &RunsFolder,
    recorded: &RecordedPlan,
) -> Result<(), CliError> {
    let is_done = |job: &&RecordedJob| job.status == JobStatus::Done;
    for job in recorded.jobs.iter().filter(is_done) {
        if !folder.has_state(&job.dir) {
            continue;
        }
        let Some(_lock) = folder.claim(&job.job_id)? else {
            continue;
        };
        if store.job_status(&job.job_id).await? == Some(JobStatus::Done) {
            folder.remove_state(&job.dir)?;
        }
    }
    Ok(())
}

/// Queues jobs again that are done by the database and whose SAEs are no longer on the disk, and says so. Looks
/// at settings and headers alone. Gives whether there are any.
async fn queue_lost(
    store: &Store,
    folder: &RunsFolder,
    (expanded, recorded): (&Expanded, &RecordedPlan),
) -> Result<bool, CliError> {
    // A plan may name a job twice.
    let mut lost = BTreeSet::new();
    for job in &recorded.jobs {
        let planned = expanded.plan.job(&job.job_id);
        let Some(planned) = planned.filter(|_| job.status == JobStatus::Done) else {
            continue;
        };
        let dir = folder.path().join(&job.dir);
        if lost.contains(&job.job_id) || check_saes(planned, &dir).is_ok() {
            continue;
        }
        // Another process that has it may have found the same, and trains it again.
        let Some(_lock) = folder.claim(&job.job_id)? else {
            continue;
        };
        let is_done = store.job_status(&job.job_id).await? == Some(JobStatus::Done);
        let Some(error) = check_saes(planned, &dir).err().filter(|_| is_done) else {
            continue;
        };
        folder.remove_state(&job.dir)?;
        store.reset_jobs(&[&job.job_id]).await?;
        let why = fault::message_chain(&error);
        table::note(&format!(
            "`{}` was done, and is trained again: {why}",
            planned.name
        ));
        lost.insert(&job.job_id);
    }
    Ok(!lost.is_empty())
}

/// Checks that all SAEs of a job are in its folder, and whole.
fn check_saes(job: &plan::Job, dir: &Path) -> Result<(), Fault> {
    let saes = job.saes.iter();
    saes.map(|sae| dir.join(&sae.name))
        .try_for_each(|dir| check_sae(&dir))
}

/// Says that jobs start from the beginning again, because another number of processes makes updates of another size.
fn note_other_updates(begun: &BegunOtherwise) {
    let BegunOtherwise {
        job,
        tokens_before,
        tokens_now,
    } = begun;
    table::note_with_hint(
        &format!(
            "job `{job}` was begun with {tokens_before} tokens per step; with {tokens_now} it is another job, which starts from the beginning"
        ),
        &format!(
            "`--set train.tokens_per_update={tokens_before}` continues with it, in any number of processes"
        ),
    );
}

/// Records the plan; recording it again changes nothing. Gives the state of its jobs.
///
/// # Errors
/// The database cannot be written.
pub(crate) async fn record(store: &Store, expanded: &Expanded) -> Result<RecordedPlan, CliError> {
    let sweep = &expanded.plan.sweep;
    let job_dir = |job: &plan::Job| runs_layout::job_dir(sweep, &job.folder());
    let stream_dir = |stream: &plan::Stream| runs_layout::stream_dir(sweep, &stream.stream_id);
    Ok(store
        .record_plan(&expanded.sweep.text, &expanded.plan, job_dir, stream_dir)
        .await?)
}

/// What a sweep is run with, as far as it can be found out.
fn origin(expanded: &Expanded) -> SweepOrigin {
    SweepOrigin {
        sae_run: env!("CARGO_PKG_VERSION").into(),
        git_commit: git::commit_of(&expanded.sweep.dir),
        recipe_source: expanded.recipe_source.clone(),
        folder: absolute(&expanded.sweep.dir),
        current_folder: absolute(&expanded.sweep.current),
    }
}

/// A folder as text, from the root on; `None`: it cannot be written as text.
fn absolute(dir: &Path) -> Option<String> {
    let current = std::env::current_dir().ok()?;
    let dir = current.join(dir);
    let dir = dir.canonicalize().unwrap_or(dir);
    dir.to_str().map(str::to_owned)
}
