//! The rounds of a recipe: it is asked for jobs, and may ask to be called again with their results.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::config::{self, LoadedSweep};
use crate::sweep::expand::{Expanded, Inputs, add_jobs};
use crate::sweep::paths::Folders;
use plan::{
    JobDraft, JobResult, Plan, PlanRequest, RecipeIdentity, RecipeLimits, Round, digest_json,
};
use recipe::{Host, HostOptions, Limits, Recipe};
use std::path::{Path, PathBuf};
use store::{JobStatus, ResultRow};

/// What stands for the recipe of a job without one.
const ONE_JOB: &str = "train";
/// Rounds behind the first, where nobody says.
const MAX_ROUNDS: u32 = 20;

/// What planning begins with.
pub(crate) struct First {
    pub(crate) drafts: Vec<JobDraft>,
    pub(crate) recipe: RecipeIdentity,
    /// Its text, where it has one.
    pub(crate) recipe_source: Option<String>,
    /// `None`: no recipe was asked.
    pub(crate) round: Option<Round>,
}

/// The job of options, which need no recipe.
pub(crate) fn one_job(sweep: &LoadedSweep) -> First {
    let draft = JobDraft {
        name: None,
        note: None,
        overrides: Default::default(),
    };
    First {
        drafts: vec![draft],
        recipe: RecipeIdentity {
            recipe: ONE_JOB.into(),
            recipe_digest: digest_json(&ONE_JOB),
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
/// A model that is not there.
pub(crate) fn first_request(
    sweep: &LoadedSweep,
    inputs: &mut Inputs,
) -> Result<PlanRequest, CliError> {
    let train = &sweep.sweep.train;
    Ok(PlanRequest {
        sweep: sweep.sweep.name.clone(),
        train: train.to_map(),
        vary: sweep.sweep.vary.clone(),
        model: inputs.facts(train)?.clone(),
        seed: sweep.sweep.seed,
        round: 0,
        results: Vec::new(),
    })
}

fn ask(
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

/// Says that the next call of a recipe takes a while, where it does.
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

fn limits(set: RecipeLimits) -> Limits {
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

impl Expanded {
    /// What the recipe may use.
    pub(crate) fn recipe_limits(&self) -> Limits {
        limits(self.sweep.sweep.recipe_limits)
    }

    /// Whether the recipe asks to be called again when the jobs so far have ended.
    pub(crate) fn wants_another_round(&self) -> bool {
        let last = self.plan.rounds.last();
        last.is_some_and(|round| !round.response.done)
    }

    /// Adds a round that was recorded by an earlier run.
    ///
    /// # Errors
    /// As [`Expanded::next_round`].
    pub(crate) fn replay(&mut self, round: Round) -> Result<(), CliError> {
        let (sweep, drafts) = (&self.sweep, &round.response.jobs);
        refuse_known_names(&self.plan, &round)?;
        add_jobs(&mut self.plan, drafts, sweep, &mut self.inputs)
            .map_err(|error| sweep.locate(error))?;
        self.plan.rounds.push(round);
        Ok(())
    }

    /// Asks the recipe for another round. False: it has been asked as often as it may.
    ///
    /// # Errors
    /// The recipe's own, or jobs that cannot be.
    pub(crate) fn next_round(&mut self, results: Vec<JobResult>) -> Result<bool, CliError> {
        let number = self.plan.rounds.len() as u32;
        let most = self.sweep.sweep.recipe_limits.max_rounds;
        let most = most.unwrap_or(MAX_ROUNDS);
        if number > most {
            table::note(&format!(
                "recipe `{}` asks for round {number}; `recipe_limits.max_rounds` is {most}",
                self.plan.recipe.recipe
            ));
            return Ok(false);
        }
        let request = PlanRequest {
            round: number,
            results,
            ..self.plan.rounds[0].request.clone()
        };
        let (round, identity, _) = ask(&self.sweep, request, &self.folders)?;
        if identity.recipe_digest != self.plan.recipe.recipe_digest {
            let message = format!("recipe `{}` was changed meanwhile", identity.recipe);
            return Err(CliError::input(message)
                .with_hint("run the sweep again: it is another version now".to_owned()));
        }
        let n_jobs = table::count(round.response.jobs.len(), "job");
        table::note(&format!("round {number}: the recipe asks for {n_jobs}"));
        self.replay(round)?;
        Ok(true)
    }
}

fn refuse_known_names(plan: &Plan, round: &Round) -> Result<(), CliError> {
    let names = round
        .response
        .jobs
        .iter()
        .filter_map(|job| job.name.as_ref());
    let known = |name: &&String| plan.jobs.iter().any(|job| job.name == **name);
    let Some(name) = names.into_iter().find(known) else {
        return Ok(());
    };
    let (recipe, number) = (&plan.recipe.recipe, round.request.round);
    Err(CliError::input(format!(
        "recipe `{recipe}`, round {number}: a job is called `{name}` as one of an earlier round"
    )))
}

/// The results so far as a recipe gets them, in the order of the plan. SAEs of jobs that are not done, or whose
/// numbers are not finite, have none.
pub(crate) fn results(plan: &Plan, rows: &[ResultRow]) -> Vec<JobResult> {
    let result = |row: &ResultRow| {
        let job = plan.jobs.iter().find(|job| job.name == row.job)?;
        Some(JobResult {
            job: row.job.clone(),
            overrides: job.overrides.clone(),
            hookpoint: row.hookpoint.clone(),
            seed: row.seed,
            k: row.k,
            num_latents: row.num_latents,
            fvu: row.fvu.filter(|fvu| fvu.is_finite())?,
            l0: row.l0.filter(|l0| l0.is_finite())?,
            dead_pct: row.dead_pct?,
            ce_recovered: row.ce_recovered,
        })
    };
    let is_done = |row: &&ResultRow| row.status == JobStatus::Done;
    rows.iter().filter(is_done).filter_map(result).collect()
}

/// The folder of the recipes of a project.
pub(crate) fn project_dir() -> &'static Path {
    Path::new("recipes")
}
