//! From a sweep file to a plan: the recipe is asked, its answer resolved against model and data.

use crate::args::{PlanArgs, SweepArgs};
use crate::config::{self, LoadedSweep};
use crate::error::CliError;
use crate::models::{FoundModel, fetch_weights, find_model};
use crate::paths::{self, Folders};
use crate::table;
use plan::{
    Job, JobDraft, JobInputs, Plan, PlanRequest, RecipeIdentity, RecipeLimits, Stream, TrainConfig,
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
    models: BTreeMap<ModelName, Model>,
    datasets: BTreeMap<String, PathBuf>,
    digests: DigestCache,
    sweep_dir: PathBuf,
    model_shelf: PathBuf,
}

/// How a job names its model: `model` and `revision`.
type ModelName = (String, Option<String>);

/// A model, where it lies and what planning knows of it.
#[derive(Debug)]
struct Model {
    found: FoundModel,
    inputs: ModelInputs,
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
    let streams = group_streams(&jobs, |job| &inputs.model_of(job).inputs.facts);
    let plan = Plan {
        sweep: sweep.sweep.name.clone(),
        recipe,
        jobs,
        streams,
    };
    let mut noted = BTreeSet::new();
    for stream in &plan.streams {
        let job = first_job(&plan, stream);
        // What is on the Hub is checked when it is here.
        if inputs.model_of(job).found.commit().is_none() {
            let left_over = inputs.check_model(job, stream)?;
            if noted.insert(name_of(&job.config)) {
                note_left_over(job, inputs, &left_over);
            }
        }
    }
    Ok(plan)
}

fn first_job<'a>(plan: &'a Plan, stream: &Stream) -> &'a Job {
    plan.job(&stream.job_ids[0])
        .expect("a stream is made of the plan's jobs")
}

/// Says which tensors of a model nobody reads.
fn note_left_over(job: &Job, inputs: &Inputs, tensors: &[String]) {
    if tensors.is_empty() {
        return;
    }
    let count = table::count(tensors.len(), "tensor");
    let first = tensors.iter().take(5).map(|tensor| format!("`{tensor}`"));
    let first: Vec<_> = first.collect();
    let more = if tensors.len() > 5 { ", ..." } else { "" };
    let (model, facts) = (&job.config.model, &inputs.model_of(job).inputs.facts);
    table::note(&format!(
        "`{model}` has {count} that a {} model does not use: {}{more}",
        facts.model_type,
        first.join(", ")
    ));
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
        model: inputs.model(train)?.inputs.facts.clone(),
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
            digests: DigestCache::new(&folders.cache),
            sweep_dir: sweep.dir.clone(),
            model_shelf: folders.models(),
        }
    }

    /// The folder of a job's model, and its commit where it is one of the Hub.
    pub(crate) fn model_dir(&self, job: &Job) -> (&PathBuf, Option<&str>) {
        let found = &self.model_of(job).found;
        (&found.dir, found.commit())
    }

    /// The file or folder of a job's data set.
    pub(crate) fn dataset(&self, job: &Job) -> &PathBuf {
        &self.datasets[&job.config.dataset]
    }

    /// Brings the weights of the models of the Hub that those streams of `plan` need which
    /// `is_wanted` picks, and checks them.
    ///
    /// # Errors
    /// Weights that cannot be had, or do not fit their config.json.
    pub(crate) fn fetch_weights(
        &self,
        plan: &Plan,
        quiet: bool,
        is_wanted: impl Fn(&Stream) -> bool,
    ) -> Result<(), CliError> {
        let mut noted = BTreeSet::new();
        for stream in plan.streams.iter().filter(|stream| is_wanted(stream)) {
            let job = first_job(plan, stream);
            let model = self.model_of(job);
            if model.found.commit().is_none() {
                continue;
            }
            fetch_weights(&model.found, quiet)?;
            let left_over = self.check_model(job, stream)?;
            if noted.insert(name_of(&job.config)) {
                note_left_over(job, self, &left_over);
            }
        }
        Ok(())
    }

    fn check_model(&self, job: &Job, stream: &Stream) -> Result<Vec<String>, CliError> {
        let dir = &self.model_of(job).found.dir;
        Ok(train::check_model(dir, stream.n_layers_run)?)
    }

    fn model_of(&self, job: &Job) -> &Model {
        &self.models[&name_of(&job.config)]
    }

    fn of(&mut self, config: &TrainConfig) -> Result<JobInputs, CliError> {
        let dataset = self.find_dataset(&config.dataset)?;
        let digests = self.digests.clone();
        let model = &self.model(config)?.inputs;
        Ok(JobInputs {
            facts: model.facts.clone(),
            model_digest: model.digest.clone(),
            token_digest: train::token_digest(config, &dataset, model, &digests)?,
        })
    }

    fn model(&mut self, config: &TrainConfig) -> Result<&Model, CliError> {
        if config.model.is_empty() {
            return Err(CliError::input("`train.model` is missing")
                .with_hint("name the folder or the Hub id of a Hugging Face model".to_owned()));
        }
        let name = name_of(config);
        if !self.models.contains_key(&name) {
            let found = find_model(
                &name.0,
                name.1.as_deref(),
                &self.sweep_dir,
                &self.model_shelf,
            )?;
            let inputs = train::read_model(&found.dir, found.commit(), &self.digests)?;
            self.models.insert(name.clone(), Model { found, inputs });
        }
        Ok(&self.models[&name])
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

fn name_of(config: &TrainConfig) -> ModelName {
    (config.model.clone(), config.revision.clone())
}
