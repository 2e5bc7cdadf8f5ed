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

/// The same for a plan alone, which needs of a model its shapes, and can do without anything else.
///
/// # Errors
/// As [`expand`], except for missing files.
pub(crate) fn expand_plan(args: &SweepArgs) -> Result<Expanded, CliError> {
    let folders = Folders::of_this_machine()?;
    let sweep = config::load(args, &folders)?;
    expand_sweep_plan(sweep, folders)
}

/// [`expand_plan`] for a sweep that was read.
///
/// # Errors
/// As [`expand_plan`].
pub(crate) fn expand_sweep_plan(
    sweep: LoadedSweep,
    folders: Folders,
) -> Result<Expanded, CliError> {
    let inputs = Inputs::for_plan(&sweep.near(), &folders);
    expand_with(inputs, sweep, folders)
}

/// Asks the recipe of a sweep that was read, and resolves its answer.
///
/// # Errors
/// As [`expand`].
pub(crate) fn expand_sweep(sweep: LoadedSweep, folders: Folders) -> Result<Expanded, CliError> {
    let inputs = Inputs::new(&sweep.near(), &folders);
    expand_with(inputs, sweep, folders)
}

fn expand_with(
    mut inputs: Inputs,
    sweep: LoadedSweep,
    folders: Folders,
) -> Result<Expanded, CliError> {
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
    note_too_large(plan, &streams, most_bytes);
    let mut noted = BTreeSet::new();
    for stream in &streams {
        // What is on the Hub is checked when it is here.
        let used = inputs.used_models(plan, stream).into_iter();
        for used in used.filter(|used| inputs.has_weights_here(used)) {
            let left_over = used.check(&plan.jobs_of(stream))?;
            if noted.insert(used.name.clone()) {
                used.note_left_over(&left_over);
            }
        }
    }
    plan.streams.extend(streams);
    Ok(())
}

/// Says which jobs are alone predicted to take more memory than there is.
fn note_too_large(plan: &Plan, streams: &[Stream], most_bytes: Option<u64>) {
    let Some(most_bytes) = most_bytes else {
        return;
    };
    let too_large = |stream: &&Stream| stream.memory.total_bytes() > most_bytes;
    let too_large: Vec<&Stream> = streams.iter().filter(too_large).collect();
    let Some(largest) = too_large
        .iter()
        .map(|stream| stream.memory.total_bytes())
        .max()
    else {
        return;
    };
    let names = too_large
        .iter()
        .map(|stream| first_job(plan, stream).name.clone());
    let names: Vec<String> = names.collect();
    let jobs = match &names[..] {
        [name] => format!("job `{name}` is predicted to take"),
        _ => format!(
            "{} are predicted to take up to",
            table::count(names.len(), "job")
        ),
    };
    let of_several = match names.len() {
        1 => String::new(),
        _ => format!(" ({})", table::first_of(&names)),
    };
    table::note_with_hint(
        &format!(
            "{jobs} {}, and a worker may take {}: memory may run out{of_several}",
            table::bytes(largest),
            table::bytes(most_bytes)
        ),
        "raise `micro_acc_steps`, or lower `batch_size`, `expansion_factor` or the number of hookpoints; \
         `launch.memory_bytes` sets what it may take",
    );
}
