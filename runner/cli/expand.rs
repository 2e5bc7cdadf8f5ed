//! From a sweep file to a plan: the recipe is asked, its answer resolved against model and data.

use crate::args::{PlanArgs, SweepArgs};
use crate::config::{self, LoadedSweep};
use crate::error::CliError;
use crate::paths::{self, Folders};
use crate::table;
use plan::{
    Job, JobDraft, JobInputs, Plan, PlanRequest, RecipeIdentity, RecipeLimits, TrainConfig,
};
use plan::{PlanError, group_streams, resolve_jobs};
use recipe::{Host, HostOptions, Limits, Recipe};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use train::{DigestCache, ModelInputs};

/// A plan, and where its inputs lie on this machine.
#[derive(Debug)]
pub(crate) struct Expanded {
    pub(crate) sweep: LoadedSweep,
    pub(crate) plan: Plan,
    pub(crate) inputs: Inputs,
    pub(crate) folders: Folders,
}

/// Models and data sets by the names that the sweep has for them, each looked at once.
#[derive(Debug)]
pub(crate) struct Inputs {
    models: BTreeMap<String, ModelInputs>,
    datasets: BTreeMap<String, PathBuf>,
    /// Models whose left-over tensors were told of.
    noted: BTreeSet<String>,
    digests: DigestCache,
    sweep_dir: PathBuf,
    model_shelf: PathBuf,
}

/// `sae-run plan`.
///
/// # Errors
/// Whatever is wrong with the sweep.
pub(crate) fn print_plan(args: &PlanArgs) -> Result<u8, CliError> {
    let expanded = expand(&args.sweep)?;
    let text = if args.json {
        serde_json::to_string_pretty(&expanded.plan).expect("a plan serialises to JSON") + "\n"
    } else {
        table::plan(&expanded.plan)
    };
    table::print(&text)
}

/// Reads the sweep, asks the recipe and resolves its answer.
///
/// # Errors
/// Whatever is wrong with the sweep, its recipe, its model or its data.
pub(crate) fn expand(args: &SweepArgs) -> Result<Expanded, CliError> {
    let folders = Folders::of_this_machine()?;
    let sweep = config::load(args, &folders)?;
    let mut inputs = Inputs::new(&sweep, &folders);
    let plan = make_plan(&sweep, &mut inputs, &folders).map_err(|error| sweep.locate(error))?;
    Ok(Expanded {
        sweep,
        plan,
        inputs,
        folders,
    })
}

fn make_plan(
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
    folders: &Folders,
) -> Result<Plan, CliError> {
    let (drafts, recipe) = ask_recipe(sweep, inputs, folders)?;
    if drafts.is_empty() {
        let recipe = recipe.recipe;
        return Err(PlanError::NoJobs { recipe }.into());
    }
    let jobs = resolve_jobs(&sweep.sweep.train, &drafts, |config| inputs.of(config))?;
    let streams = group_streams(&jobs, |job| &inputs.models[&job.config.model].facts);
    let plan = Plan {
        sweep: sweep.sweep.name.clone(),
        recipe,
        jobs,
        streams,
    };
    for stream in &plan.streams {
        let job = plan
            .job(&stream.job_ids[0])
            .expect("a stream is made of the plan's jobs");
        let left_over = train::check_model(inputs.model_dir(job), stream.n_layers_run)?;
        inputs.note_left_over(job, left_over);
    }
    Ok(plan)
}

fn ask_recipe(
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
    folders: &Folders,
) -> Result<(Vec<JobDraft>, RecipeIdentity), CliError> {
    let search = [PathBuf::from("recipes"), folders.config.join("recipes")];
    let recipe = Recipe::find(&sweep.sweep.recipe, &sweep.dir, &search)?;
    let options = HostOptions {
        cache_dir: Some(folders.cache.clone()),
        engine_path: folders.engine(),
        limits: limits(sweep.sweep.recipe_limits),
    };
    let host = Host::new(options)?;
    let train = &sweep.sweep.train;
    let request = PlanRequest {
        sweep: sweep.sweep.name.clone(),
        train: train.to_map(),
        vary: sweep.sweep.vary.clone(),
        model: inputs.model(&train.model)?.facts.clone(),
        seed: sweep.sweep.seed,
        round: 0,
        results: Vec::new(),
    };
    if !host.is_compiled(&recipe)? {
        table::note("compiling the recipe engine for this machine (once, some 20 seconds)");
    }
    let (answer, identity) = host.plan(&recipe, &request)?;
    if !answer.done {
        let message = format!("recipe `{}` asks for another round", identity.recipe);
        return Err(CliError::input(message)
            .with_hint("recipes with several rounds are not supported yet".to_owned()));
    }
    Ok((answer.jobs, identity))
}

fn limits(set: RecipeLimits) -> Limits {
    let default = Limits::default();
    Limits {
        fuel: set.fuel.unwrap_or(default.fuel),
        memory_bytes: set.memory_bytes.unwrap_or(default.memory_bytes),
        output_bytes: set.output_bytes.unwrap_or(default.output_bytes),
        max_jobs: set.max_jobs.unwrap_or(default.max_jobs),
    }
}

impl Inputs {
    fn new(sweep: &LoadedSweep, folders: &Folders) -> Self {
        Self {
            models: BTreeMap::new(),
            datasets: BTreeMap::new(),
            noted: BTreeSet::new(),
            digests: DigestCache::new(&folders.cache),
            sweep_dir: sweep.dir.clone(),
            model_shelf: folders.models(),
        }
    }

    /// The folder of a job's model.
    pub(crate) fn model_dir(&self, job: &Job) -> &PathBuf {
        &self.models[&job.config.model].dir
    }

    /// The file or folder of a job's data set.
    pub(crate) fn dataset(&self, job: &Job) -> &PathBuf {
        &self.datasets[&job.config.dataset]
    }

    /// Says once a model which of its tensors nobody reads.
    fn note_left_over(&mut self, job: &Job, tensors: Vec<String>) {
        let name = &job.config.model;
        if tensors.is_empty() || !self.noted.insert(name.clone()) {
            return;
        }
        let count = table::count(tensors.len(), "tensor");
        let first: Vec<_> = tensors
            .iter()
            .take(5)
            .map(|tensor| format!("`{tensor}`"))
            .collect();
        let more = if tensors.len() > 5 { ", ..." } else { "" };
        let model_type = &self.models[name].facts.model_type;
        table::note(&format!(
            "`{name}` has {count} that a {model_type} model does not use: {}{more}",
            first.join(", ")
        ));
    }

    fn of(&mut self, config: &TrainConfig) -> Result<JobInputs, CliError> {
        let dataset = self.find_dataset(&config.dataset)?;
        let digests = self.digests.clone();
        let model = self.model(&config.model)?;
        Ok(JobInputs {
            facts: model.facts.clone(),
            model_digest: model.digest.clone(),
            token_digest: train::token_digest(config, &dataset, model, &digests)?,
        })
    }

    fn model(&mut self, name: &str) -> Result<&ModelInputs, CliError> {
        if name.is_empty() {
            return Err(CliError::input("`train.model` is missing")
                .with_hint("name the folder of a Hugging Face model".to_owned()));
        }
        if !self.models.contains_key(name) {
            let dir = paths::find("model", name, &self.sweep_dir, Some(&self.model_shelf));
            let dir = dir.map_err(|error| error.about("model".to_owned()))?;
            self.models.insert(
                name.to_owned(),
                train::read_model(&dir, None, &self.digests)?,
            );
        }
        Ok(&self.models[name])
    }

    fn find_dataset(&mut self, name: &str) -> Result<PathBuf, CliError> {
        if let Some(path) = self.datasets.get(name) {
            return Ok(path.clone());
        }
        let path = paths::find("dataset", name, &self.sweep_dir, None)
            .map_err(|error| error.about("dataset".to_owned()))?;
        self.datasets.insert(name.to_owned(), path.clone());
        Ok(path)
    }
}
