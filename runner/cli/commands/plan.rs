//! `sae-run plan`: what a sweep adds up to, before anything runs.

use crate::commands::plan_diff;
use crate::error::CliError;
use crate::run::launch::Processes;
use crate::show::{sweep, table};
use crate::sweep::expand::{self, Expanded};
use args::PlanArgs;
use plan::{Plan, sae_memory};
use serde_json::{Value, json};
use std::fmt::Write;

/// Shows a plan, or what changes with it.
///
/// # Errors
/// Whatever is wrong with the sweep, or with the database for a comparison.
pub(crate) async fn plan(args: &PlanArgs) -> Result<u8, CliError> {
    let expanded = expand::expand(&args.sweep)?;
    Processes::of(&expanded.sweep.sweep.launch)?.note();
    if args.diff {
        return plan_diff::print(&expanded, args.json).await;
    }
    if args.json {
        let plan = as_json(&expanded.plan);
        return table::print(
            &(serde_json::to_string_pretty(&plan).expect("JSON serialises") + "\n"),
        );
    }
    if expanded.wants_another_round() {
        table::note("the recipe asks to be called again with the results of these jobs");
    }
    let provenance = args.verbose.then(|| provenance(&expanded));
    sweep::print_plan(&expanded.plan, &provenance.unwrap_or_default())
}

/// The plan, with the predicted memory of each job's SAEs.
fn as_json(plan: &Plan) -> Value {
    let mut value = serde_json::to_value(plan).expect("a plan serialises to JSON");
    let jobs = value["jobs"].as_array_mut().into_iter().flatten();
    for (job, value) in plan.jobs.iter().zip(jobs) {
        let of_sae = |sae| json!(sae_memory(&job.config, sae, plan.n_ranks()));
        value["sae_memory"] = job.saes.iter().map(of_sae).collect();
    }
    value
}

/// What the plan was made of and at what cost.
fn provenance(expanded: &Expanded) -> String {
    let recipe = &expanded.plan.recipe;
    let limits = expanded.recipe_limits();
    let mut text = String::from("\n");
    for (what, value) in [
        ("recipe", recipe.recipe.clone()),
        ("recipe digest", recipe.recipe_digest.clone()),
        ("request digest", recipe.request_digest.clone()),
        ("fuel", format!("{} of {}", recipe.fuel, limits.fuel)),
        ("memory", format!("at most {} bytes", limits.memory_bytes)),
        (
            "answer",
            format!(
                "at most {} bytes, {} jobs",
                limits.output_bytes, limits.max_jobs
            ),
        ),
    ] {
        let _ = writeln!(text, "{what:<15} {value}");
    }
    text
}
