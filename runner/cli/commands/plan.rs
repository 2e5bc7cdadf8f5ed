//! `sae-run plan`: what a sweep adds up to, before anything runs.

use crate::commands::{manifest, plan_diff};
use crate::error::CliError;
use crate::run::launch::Processes;
use crate::show::forecast::{self as shown_forecast, text as forecast_text};
use crate::show::{json, sweep, table};
use crate::sweep::expand::{self, Expanded};
use crate::sweep::forecast::{Forecast, forecast};
use args::PlanArgs;
use plan::{Plan, sae_memory};
use serde_json::{Value, json};
use std::fmt::Write;

/// Shows a plan, or what changes with it.
///
/// # Errors
/// Whatever is wrong with the sweep, or with the database for a comparison.
pub(crate) async fn plan(args: &PlanArgs) -> Result<u8, CliError> {
    if let Some(kind) = args.manifest {
        return manifest::print(args, kind).await;
    }
    if args.diff {
        // Ids are compared, so everything that they hash has to be available.
        let expanded = expand::expand(&args.sweep())?;
        Processes::of(&expanded.sweep.sweep.launch)?.note();
        return plan_diff::print(&expanded, args.json).await;
    }
    let mut expanded = expand::expand_plan(&args.sweep())?;
    let shown = match args {
        PlanArgs { json: true, .. } => Shown::Json,
        PlanArgs { verbose: true, .. } => Shown::Verbose,
        _ => Shown::Brief,
    };
    print(&mut expanded, shown, args.quiet).await
}

/// How a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// For people.
    Brief,
    /// For people, with what it was made of.
    Verbose,
    /// For programs.
    Json,
}

impl Shown {
    /// `as_json`: whether an object was asked for.
    pub(crate) fn of(as_json: bool) -> Self {
        if as_json { Self::Json } else { Self::Brief }
    }
}

/// Prints a plan.
///
/// # Errors
/// Processes that make no sense, or standard output that cannot be written.
pub(crate) async fn print(
    expanded: &mut Expanded,
    shown: Shown,
    is_quiet: bool,
) -> Result<u8, CliError> {
    let processes = Processes::of(&expanded.sweep.sweep.launch)?;
    if !is_quiet {
        processes.note();
    }
    if expanded.wants_another_round() && shown != Shown::Json && !is_quiet {
        table::note("the recipe plans another round from the results of these jobs");
    }
    let forecast = forecast(expanded).await?;
    if !is_quiet {
        note_too_short(&forecast);
    }
    if shown == Shown::Json {
        if !is_quiet {
            note_lacking(expanded);
        }
        return json::print(&as_json(expanded, &forecast));
    }
    let mut more = forecast_text(&forecast);
    if shown == Shown::Verbose {
        more += &provenance(expanded);
    }
    let code = sweep::print_plan(&expanded.plan, &more)?;
    if !is_quiet {
        note_lacking(expanded);
    }
    Ok(code)
}

/// Says if the data seems to be too short for an update.
fn note_too_short(forecast: &Forecast) {
    let lengths = forecast.streams.iter().filter_map(|stream| stream.length);
    let n_sequences = lengths
        .filter(|length| length.n_updates == 0)
        .map(|length| length.n_sequences);
    let Some(n_sequences) = n_sequences.min() else {
        return;
    };
    let n_sequences = table::count(n_sequences as usize, "sequence");
    table::note_with_hint(
        &format!("there are about {n_sequences} to train on, and one step takes more"),
        "lower `batch_size` or `grad_acc_steps`, or take more data",
    );
}

/// Says what was not available, and what that means.
fn note_lacking(expanded: &Expanded) {
    let lacking = expanded.inputs.lacking();
    for line in lacking {
        table::note(line);
    }
    if !lacking.is_empty() {
        table::note("job ids are not final: they hash the content of what is missing");
    }
}

/// The plan, with the predicted memory of each job's SAEs, and with time and space.
fn as_json(expanded: &Expanded, forecast: &Forecast) -> Value {
    let plan: &Plan = &expanded.plan;
    let mut value = serde_json::to_value(plan).expect("a plan serialises to JSON");
    let jobs = value["jobs"].as_array_mut().into_iter().flatten();
    for (job, value) in plan.jobs.iter().zip(jobs) {
        if let Some(fields) = value.as_object_mut() {
            fields.remove("name");
            fields.insert("job".to_owned(), json!(job.name));
        }
        let of_sae = |sae| json!(sae_memory(&job.config, sae, plan.n_ranks()));
        value["sae_memory"] = job.saes.iter().map(of_sae).collect();
    }
    value["forecast"] = shown_forecast::as_json(forecast);
    let lacking = expanded.inputs.lacking();
    value["missing"] = json!(lacking);
    value["ids_are_final"] = lacking.is_empty().into();
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
