//! Further rounds of a recipe: it is asked again with the results so far.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::expand::{Expanded, add_jobs};
use crate::sweep::rounds::{ask, limits};
use plan::{JobResult, Plan, PlanRequest, Round};
use recipe::Limits;
use store::{JobStatus, ResultRow};

/// Rounds after the first, if no number is given.
const MAX_ROUNDS: u32 = 20;

impl Expanded {
    /// What the recipe may use.
    pub(crate) fn recipe_limits(&self) -> Limits {
        limits(self.sweep.sweep.recipe_limits)
    }

    /// Whether the recipe plans another round when the jobs so far have ended.
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
            let message = format!(
                "recipe `{}` has changed since this sweep was planned",
                identity.recipe
            );
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
        "recipe `{recipe}`, round {number}: job name `{name}` was already used in an earlier round"
    )))
}

/// The results so far as a recipe gets them, in the order of the plan. SAEs of jobs that are not done, or whose
/// numbers are not finite, have no result.
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
