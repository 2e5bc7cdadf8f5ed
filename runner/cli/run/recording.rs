//! A plan in the database: recorded, and brought up to what workers of earlier runs did.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::run::orphan;
use crate::run::runs_folder::RunsFolder;
use crate::show::table;
use crate::sweep::expand::Expanded;
use crate::sweep::git;
use args::RunOptions;
use fault::Fault;
use plan::runs_layout;
use sae_files::check_sae;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use store::{BegunOtherwise, JobStatus, RecordedPlan, Store, SweepOrigin};

/// Records the plan, takes in what workers wrote after an earlier `sae-run` died, and says what is
/// left to do.
///
/// # Errors
/// The database or the runs folder cannot be written, or a worker does not end.
pub(crate) async fn recover(
    store: &Store,
    folder: &RunsFolder,
    expanded: &mut Expanded,
    options: &RunOptions,
) -> Result<RecordedPlan, CliError> {
    let recorded = record(store, expanded).await?;
    let origin = origin(expanded);
    store
        .record_origin(&expanded.sweep.text, &expanded.plan, &origin)
        .await?;
    let left_open = store.open_streams().await?;
    for stream in &left_open {
        let dir = folder.path().join(&stream.dir);
        orphan::wait_for_worker(&dir, options.take_over).await?;
    }
    let planned = recorded.streams.iter().map(|s| (&s.stream_id, &s.dir));
    let left_open = left_open.iter().map(|s| (&s.stream_id, &s.dir));
    // By their ids: a stream may be both.
    let streams: BTreeMap<_, _> = planned.chain(left_open).collect();
    for (stream_id, dir) in streams {
        // What `--fresh` forgets it need not read.
        if !(options.fresh && recorded.stream(stream_id).is_some()) {
            fold_all(store, folder.tail(dir), stream_id).await?;
        }
    }
    store.abandon_dead_attempts().await?;
    if options.fresh {
        forget(store, folder, &recorded).await?;
        let (text, plan) = (&expanded.sweep.text, &mut expanded.plan);
        store.forget_later_rounds(text, plan).await?;
        plan.keep_first_round();
    }
    let mut recorded = record(store, expanded).await?;
    if queue_lost(store, folder, (expanded, &recorded)).await? {
        recorded = record(store, expanded).await?;
    }
    if let Some(begun) = store.begun_otherwise(&expanded.plan.sweep).await? {
        note_other_updates(&begun);
    }
    // A worker may have died between the last event about a job and this.
    for job in recorded
        .jobs
        .iter()
        .filter(|job| job.status == JobStatus::Done)
    {
        folder.remove_state(&job.dir)?;
    }
    Ok(recorded)
}

/// Queues jobs again that are done by the database and whose SAEs are no longer on the disk, and says so. Looks
/// at settings and headers alone. Gives whether there are any.
async fn queue_lost(
    store: &Store,
    folder: &RunsFolder,
    (expanded, recorded): (&Expanded, &RecordedPlan),
) -> Result<bool, CliError> {
    let mut lost = BTreeSet::new();
    for job in &recorded.jobs {
        let planned = expanded.plan.job(&job.job_id);
        let Some(planned) = planned.filter(|_| job.status == JobStatus::Done) else {
            continue;
        };
        let Err(error) = check_saes(planned, &folder.path().join(&job.dir)) else {
            continue;
        };
        // A plan may name a job twice.
        if lost.insert(job.job_id.as_str()) {
            folder.remove_state(&job.dir)?;
            let why = fault::message_chain(&error);
            table::note(&format!(
                "`{}` was done, and is trained again: {why}",
                planned.name
            ));
        }
    }
    let lost: Vec<_> = lost.into_iter().collect();
    store.reset_jobs(&lost).await?;
    Ok(!lost.is_empty())
}

/// Checks that all SAEs of a job are in its folder, and whole.
fn check_saes(job: &plan::Job, dir: &Path) -> Result<(), Fault> {
    let saes = job.saes.iter();
    saes.map(|sae| dir.join(&sae.name))
        .try_for_each(|dir| check_sae(&dir))
}

/// Takes in what workers wrote about a stream, and says which parts cannot be read.
async fn fold_all(store: &Store, mut tail: EventTail, stream_id: &str) -> Result<(), CliError> {
    while tail.fold_next(store, stream_id).await?.is_some() {}
    let (_, note) = tail.end(store, stream_id).await?;
    if let Some(note) = note {
        table::note(&note);
    }
    Ok(())
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
            "job `{job}` was begun with updates of {tokens_before} tokens; with {tokens_now} it is another job, which \
             starts from the beginning"
        ),
        &format!(
            "`--set train.tokens_per_update={tokens_before}` continues with it, in any number of processes"
        ),
    );
}

/// Forgets what the jobs had done and saved.
async fn forget(
    store: &Store,
    folder: &RunsFolder,
    recorded: &RecordedPlan,
) -> Result<(), CliError> {
    for job in &recorded.jobs {
        folder.remove_state(&job.dir)?;
    }
    let job_ids = recorded.jobs.iter().map(|job| job.job_id.as_str());
    store.reset_jobs(&job_ids.collect::<Vec<_>>()).await?;
    for stream in &recorded.streams {
        folder.remove_events(&stream.dir)?;
    }
    Ok(())
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
    }
}
