//! From a sweep file to a plan: the recipe is asked, its answer resolved against model and data.

use crate::error::CliError;
use crate::run::launch::Processes;
use crate::show::table;
use crate::sweep::config::{self, LoadedSweep, Origin};
use crate::sweep::device_memory;
use crate::sweep::finetune;
use crate::sweep::inputs::{Inputs, first_job};
use crate::sweep::paths::Folders;
use crate::sweep::rounds;
use args::SweepArgs;
use indicatif::HumanBytes;
use plan::{Job, JobDraft, Plan, PlanError, Stream, group_streams, resolve_jobs};
use std::collections::BTreeSet;
use tokens::Shard;

/// A plan, and where its inputs are on this machine.
#[derive(Debug)]
pub(crate) struct Expanded {
    pub(crate) sweep: LoadedSweep,
    /// Grows with every round that the recipe asks for.
    pub(crate) plan: Plan,
    /// The recipe's text, if it has one.
    pub(crate) recipe_source: Option<String>,
    pub(crate) inputs: Inputs,
    pub(crate) folders: Folders,
}

/// Reads the sweep, asks the recipe and resolves its answer.
///
/// # Errors
/// Whatever is wrong with the sweep, its recipe, its model or its data.
pub(crate) fn expand(args: &SweepArgs) -> Result<Expanded, CliError> {
    let folders = Folders::of_this_machine()?;
    let sweep = config::load(args, &folders)?;
    expand_sweep(sweep, folders)
}

/// Asks the recipe of a sweep that was read, and resolves its answer.
///
/// # Errors
/// As [`expand`].
pub(crate) fn expand_sweep(sweep: LoadedSweep, folders: Folders) -> Result<Expanded, CliError> {
    let mut inputs = Inputs::new(&sweep.dir, &folders);
    let made = make_plan(&sweep, &mut inputs, &folders);
    let (plan, recipe_source) = made.map_err(|error| sweep.locate(error))?;
    Ok(Expanded {
        sweep,
        plan,
        recipe_source,
        inputs,
        folders,
    })
}

/// The plan of round 0, and the recipe's text.
fn make_plan(
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
    folders: &Folders,
) -> Result<(Plan, Option<String>), CliError> {
    let first = match sweep.origin {
        Origin::File => rounds::ask_first(sweep, inputs, folders)?,
        Origin::Options => rounds::one_job(sweep),
    };
    if first.drafts.is_empty() {
        let recipe = first.recipe.recipe;
        return Err(
            PlanError::new(format!("recipe `{recipe}` proposed no jobs"))
                .with_hint("look at `[vary]`: is a list empty?")
                .into(),
        );
    }
    let mut plan = Plan {
        sweep: sweep.sweep.name.clone(),
        recipe: first.recipe,
        jobs: Vec::new(),
        streams: Vec::new(),
        rounds: first.round.into_iter().collect(),
    };
    add_jobs(&mut plan, &first.drafts, sweep, inputs)?;
    Ok((plan, first.recipe_source))
}

/// Resolves what a recipe has proposed, and adds it to a plan. Jobs that the plan has already, under
/// another name, are in its streams already.
///
/// # Errors
/// Whatever is wrong with the jobs, their model or their data, or more processes than can share the jobs.
pub(crate) fn add_jobs(
    plan: &mut Plan,
    drafts: &[JobDraft],
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
) -> Result<(), CliError> {
    let processes = Processes::of(&sweep.sweep.launch)?;
    let inputs_of = |config: &_| inputs.of(config, processes.n_ranks);
    let jobs = resolve_jobs(&sweep.sweep, drafts, inputs_of)?;
    let is_new = |job: &&Job| plan.job(&job.job_id).is_none();
    let new: Vec<Job> = jobs.iter().filter(is_new).cloned().collect();
    let shard = Shard {
        rank: 0,
        n_ranks: processes.n_ranks,
    };
    for job in &new {
        if let Some(dir) = inputs.finetune_dir(&job.config)? {
            finetune::check(job, &dir)?;
        }
        inputs.look_at_data(job, shard)?;
    }
    let most_bytes = device_memory::most_bytes(&sweep.sweep.launch, &processes);
    let models_of = |job: &Job| inputs.models_of(job);
    let streams = group_streams(&new, models_of, processes.n_ranks, most_bytes)?;
    plan.jobs.extend(jobs);
    let mut noted = BTreeSet::new();
    for stream in &streams {
        let job = first_job(plan, stream);
        note_too_large(job, stream, most_bytes);
        // What is on the Hub is checked when it is here.
        let used = inputs.used_models(plan, stream).into_iter();
        for used in used.filter(|used| used.found.commit().is_none()) {
            let left_over = used.check(&plan.jobs_of(stream))?;
            if noted.insert(used.name.clone()) {
                used.note_left_over(&left_over);
            }
        }
    }
    plan.streams.extend(streams);
    Ok(())
}

/// Says of a job that alone is predicted to take more memory than there is.
fn note_too_large(job: &Job, stream: &Stream, most_bytes: Option<u64>) {
    let n_bytes = stream.memory.total_bytes();
    let Some(most_bytes) = most_bytes.filter(|&most_bytes| n_bytes > most_bytes) else {
        return;
    };
    let (name, n_bytes, most_bytes) = (&job.name, HumanBytes(n_bytes), HumanBytes(most_bytes));
    table::note_with_hint(
        &format!(
            "job `{name}` is predicted to take {n_bytes}, and its worker may take {most_bytes}: memory may run \
             out"
        ),
        "raise `micro_acc_steps`, or lower `batch_size`, `expansion_factor` or the number of hookpoints; \
         `launch.memory_bytes` sets what it may take",
    );
}
