//! The tables of a sweep: its plan, and its results.

use crate::error::CliError;
use crate::show::fitted::{Column, Fitted, fit, width};
use crate::show::table::{self, count, has_kinds, k_of, megabytes, number};
use plan::{Job, Plan, Stream};
use std::collections::HashSet;
use store::ResultRow;

/// Prints the jobs and streams of a plan, and `more`.
///
/// # Errors
/// Standard output that cannot be written.
pub(crate) fn print_plan(plan: &Plan, more: &str) -> Result<u8, CliError> {
    let shown = tables(plan);
    let code = table::print(&(shown.text.clone() + more))?;
    shown.note("`--json`");
    Ok(code)
}

fn tables(plan: &Plan) -> Fitted {
    let mut shown = fit(jobs(&plan.jobs), width()).and(fit(streams(plan), width()));
    let plan::RecipeIdentity { recipe, fuel, .. } = &plan.recipe;
    let counts = [
        count(plan.jobs.len(), "job"),
        count(plan.streams.len(), "stream"),
    ]
    .join(" in ");
    shown.text += &per_process(plan);
    shown.text += &format!("\n{counts}, by recipe `{recipe}` ({fuel} fuel)\n");
    shown
}

fn jobs(jobs: &[Job]) -> Vec<Column> {
    let names = |job: &Job| {
        let names: Vec<_> = job.saes.iter().map(|sae| sae.name.as_str()).collect();
        names.join(" ")
    };
    let k = |job: &Job| {
        let config = &job.config;
        let k = config.activation.has_k().then(|| config.k.to_string());
        k.unwrap_or_else(|| "-".to_owned())
    };
    let latents = |job: &Job| job.saes.iter().map(|sae| sae.num_latents).max();
    let n_saes = jobs.iter().map(|job| job.saes.len().to_string());
    let mut columns = vec![
        Column::text("job", jobs.iter().map(|job| job.name.clone())),
        Column::text("id", jobs.iter().map(|job| job.job_id.clone())),
        Column::text("hookpoints", jobs.iter().map(names))
            .or_short(n_saes.collect())
            .rank(1),
    ];
    columns.extend(
        Column::number("k", jobs.iter().map(k))
            .rank(2)
            .with_values(),
    );
    let latents = jobs.iter().map(|job| latents(job).unwrap_or(0).to_string());
    columns.push(Column::number("latents", latents).rank(3));
    columns
}

fn streams(plan: &Plan) -> Vec<Column> {
    let of = |heading: &str, cell: &dyn Fn(&Stream) -> String| {
        Column::number(heading, plan.streams.iter().map(cell))
    };
    let n_saes = |stream: &Stream| {
        let jobs = plan.jobs_of(stream);
        let n: usize = jobs.iter().map(|job| job.saes.len()).sum();
        n.to_string()
    };
    vec![
        Column::text(
            "stream",
            plan.streams.iter().map(|stream| stream.stream_id.clone()),
        ),
        of("jobs", &|stream| stream.job_ids.len().to_string()).rank(1),
        of("SAEs", &n_saes).rank(2),
        of("layers run", &blocks_run).rank(3),
        of("model", &|stream| megabytes(stream.memory.model_bytes)).rank(5),
        of("SAE state", &|stream| megabytes(stream.memory.sae_bytes)).rank(4),
        of("workspace", &|stream| {
            megabytes(stream.memory.workspace_bytes)
        })
        .rank(6),
        of("memory", &|stream| megabytes(stream.memory.total_bytes())),
    ]
}

/// Blocks of the model that are run, and of the second one if there is one: `3`, `3 + 2`.
fn blocks_run(stream: &Stream) -> String {
    let first = stream.n_layers_run;
    match stream.second_n_layers_run {
        Some(second) => format!("{first} + {second}"),
        None => first.to_string(),
    }
}

/// Which process the memory is of, if several train a stream.
fn per_process(plan: &Plan) -> String {
    match plan.n_ranks() {
        n_ranks @ 2.. => {
            format!("memory is per process: of that one of {n_ranks} which needs the most\n")
        }
        _ => String::new(),
    }
}

/// One row per SAE, with the results on held-out sequences if some were evaluated.
pub(crate) fn results(rows: &[ResultRow]) -> Fitted {
    let texts = |heading: &str, cell: fn(&ResultRow) -> String| {
        Column::text(heading, rows.iter().map(cell))
    };
    let numbers = |heading: &str, digits, value: fn(&ResultRow) -> Option<f64>| {
        Column::number(heading, rows.iter().map(|row| number(value(row), digits)))
    };
    let jobs: HashSet<_> = rows.iter().map(|row| row.job.as_str()).collect();
    let is_evaluated = rows.iter().any(|row| row.fvu_eval.is_some());
    // Else the job does not say which SAE a row is of.
    let rank_of_sae = usize::from(jobs.len() == rows.len());
    let mut columns = vec![
        texts("job", |row| row.job.clone()),
        texts("hookpoint", |row| row.sae.clone()).rank(rank_of_sae),
    ];
    if has_kinds(rows.iter().map(|row| row.kind.as_str())) {
        columns.push(texts("kind", |row| row.kind.clone()).rank(3));
    }
    let k = rows.iter().map(|row| k_of(&row.kind, row.k));
    let n_latents = rows.iter().map(|row| row.num_latents.to_string());
    columns.extend(Column::number("k", k).rank(4).with_values());
    columns.extend([
        Column::number("latents", n_latents).rank(8),
        numbers("FVU", 4, |row| row.fvu).rank(if is_evaluated { 6 } else { 0 }),
        numbers("L0", 1, |row| row.l0).rank(2),
        numbers("dead %", 1, |row| row.dead_pct).rank(7),
    ]);
    if is_evaluated {
        columns.push(numbers("FVU held out", 4, |row| row.fvu_eval));
        columns.push(numbers("CE recovered", 4, |row| row.ce_recovered).rank(5));
    }
    columns.push(numbers("tokens/s", 0, |row| row.tokens_per_s).rank(9));
    fit(columns, width())
}
