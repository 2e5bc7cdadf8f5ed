//! A recipe is asked for jobs.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::config::{self, LoadedSweep};
use crate::sweep::inputs::Inputs;
use crate::sweep::paths::Folders;
use plan::{
    Base, JobDraft, OF_OPTIONS, PlanRequest, RecipeIdentity, RecipeLimits, Round, digest_json,
};
use recipe::{Host, HostOptions, Limits, Recipe};
use serde_json::Map;
use std::path::{Path, PathBuf};

/// What planning begins with.
pub(crate) struct First {
    pub(crate) drafts: Vec<JobDraft>,
    pub(crate) recipe: RecipeIdentity,
    /// Its text, if it has one.
    pub(crate) recipe_source: Option<String>,
    /// `None`: no recipe was asked.
    pub(crate) round: Option<Round>,
}

/// The job of options, which need no recipe.
pub(crate) fn one_job(sweep: &LoadedSweep) -> First {
    let draft = JobDraft {
        name: Some(sweep.job_name()),
        note: None,
        overrides: Default::default(),
    };
    First {
        drafts: vec![draft],
        recipe: RecipeIdentity {
            recipe: OF_OPTIONS.into(),
            recipe_digest: digest_json(&OF_OPTIONS),
            request_digest: digest_json(&sweep.sweep.train),
            fuel: 0,
        },
        recipe_source: None,
        round: None,
    }
}

/// Asks a sweep's recipe for the first time.
///
/// # Errors
/// No such recipe, or its own error.
pub(crate) fn ask_first(
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
    folders: &Folders,
) -> Result<First, CliError> {
    let (round, recipe, source) = ask(sweep, first_request(sweep, inputs)?, folders)?;
    Ok(First {
        drafts: round.response.jobs.clone(),
        recipe,
        recipe_source: source,
        round: Some(round),
    })
}

/// What a sweep's recipe is asked first.
///
/// # Errors
/// An unknown preset, or a model that is not there.
pub(crate) fn first_request(
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
) -> Result<PlanRequest, CliError> {
    let train = Base::from(&sweep.sweep).with(&Map::new())?;
    Ok(PlanRequest {
        sweep: sweep.sweep.name.clone(),
        train: train.to_map(),
        vary: sweep.sweep.vary.clone(),
        model: inputs.facts(&train)?.clone(),
        seed: sweep.sweep.seed,
        round: 0,
        results: Vec::new(),
    })
}

pub(super) fn ask(
    sweep: &LoadedSweep,
    request: PlanRequest,
    folders: &Folders,
) -> Result<(Round, RecipeIdentity, Option<String>), CliError> {
    let recipe = Recipe::find(&sweep.sweep.recipe, &sweep.dir, &search_dirs(folders))?;
    config::check_recipe(recipe.name(), recipe.source().unwrap_or_default())?;
    let host = host(folders, limits(sweep.sweep.recipe_limits))?;
    note_compiling(&host, &recipe)?;
    let (response, identity) = host.plan(&recipe, &request)?;
    let round = Round {
        request,
        response,
        request_digest: identity.request_digest.clone(),
        fuel: identity.fuel,
    };
    Ok((round, identity, recipe.source().map(str::to_owned)))
}

/// Where recipes are looked for, next to the sweep.
pub(crate) fn search_dirs(folders: &Folders) -> [PathBuf; 2] {
    [PathBuf::from("recipes"), folders.config.join("recipes")]
}

/// Runs recipes within `limits`.
///
/// # Errors
/// A machine that cannot run WebAssembly.
pub(crate) fn host(folders: &Folders, limits: Limits) -> Result<Host, CliError> {
    Ok(Host::new(HostOptions {
        cache_dir: Some(folders.cache.clone()),
        engine_path: folders.engine(),
        limits,
    })?)
}

/// Says that the next call of a recipe takes a while, if it does.
///
/// # Errors
/// No engine.
pub(crate) fn note_compiling(host: &Host, recipe: &Recipe) -> Result<(), CliError> {
    if !host.is_compiled(recipe)? {
        if let Some(path) = host.distrusted(recipe)? {
            let path = path.display();
            table::note(&format!(
                "`{path}` is not used: others can write to it or to its folder"
            ));
        }
        table::note("compiling the recipe engine for this machine (once, some 20 seconds)");
    }
    Ok(())
}

pub(super) fn limits(set: RecipeLimits) -> Limits {
    let default = Limits::default();
    Limits {
        fuel: set.fuel.unwrap_or(default.fuel),
        memory_bytes: set.memory_bytes.unwrap_or(default.memory_bytes),
        output_bytes: set.output_bytes.unwrap_or(default.output_bytes),
        max_jobs: set.max_jobs.unwrap_or(default.max_jobs),
        max_nesting: set.max_nesting.unwrap_or(default.max_nesting),
        stack_bytes: set.stack_bytes.unwrap_or(default.stack_bytes),
    }
}

/// The folder of the recipes of a project.
pub(crate) fn project_dir() -> &'static Path {
    Path::new("recipes")
}
