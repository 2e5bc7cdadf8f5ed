//! The tables of a sweep: its plan, and its results.

use crate::error::CliError;
use crate::show::fitted::{Column, Fitted, fit, width};
use crate::show::names::{RowNames, ShortNames, hookpoints, short_id};
use crate::show::table::{self, bytes, count, has_kinds, k_of, number};
use plan::{Job, Plan, Stream};
use std::collections::{HashMap, HashSet};
use store::SaeOutcome;

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
    let names = ShortNames::of(plan.jobs.iter().map(|job| job.name.as_str()));
    let mut shown = fit(jobs(&plan.jobs, &names), width());
    shown.text += &names.remark();
    shown = shown.and(fit(streams(plan), width()));
    let recipe = &plan.recipe.recipe;
    let counts = [
        count(plan.jobs.len(), "job"),
        count(plan.streams.len(), "stream"),
    ]
    .join(" in ");
    shown.text += &per_process(plan);
    shown.text += &format!("\n{counts}, by recipe `{recipe}`\n");
    shown
}

fn jobs(jobs: &[Job], names: &ShortNames) -> Vec<Column> {
    let hookpoints = |job: &Job| {
        let names: Vec<_> = job.saes.iter().map(|sae| sae.name.as_str()).collect();
        hookpoints(&names)
    };
    let k = |job: &Job| {
        let config = &job.config;
        let k = config.activation.has_k().then(|| config.k.to_string());
        k.unwrap_or_else(|| "-".to_owned())
    };
    let latents = |job: &Job| job.saes.iter().map(|sae| sae.num_latents).max();
    let n_saes = jobs.iter().map(|job| job.saes.len().to_string());
    let short_ids = jobs.iter().map(|job| short_id(&job.job_id));
    let mut columns = vec![
        Column::text("job", jobs.iter().map(|job| names.shortened(&job.name))).or_cut(),
        Column::text("id", jobs.iter().map(|job| job.job_id.clone())).or_short(short_ids.collect()),
        Column::text("hookpoints", jobs.iter().map(hookpoints))
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
        of("model", &|stream| bytes(stream.memory.model_bytes)).rank(5),
        of("SAE state", &|stream| bytes(stream.memory.sae_bytes)).rank(4),
        of("workspace", &|stream| bytes(stream.memory.workspace_bytes)).rank(6),
        of(
            "evaluation",
            &|stream| match stream.memory.evaluation_bytes {
                0 => "-".to_owned(),
                n_bytes => bytes(n_bytes),
            },
        )
        .rank(7),
        of("memory", &|stream| bytes(stream.memory.total_bytes())),
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
            format!("memory is per process (the largest of {n_ranks})\n")
        }
        _ => String::new(),
    }
}

/// The rows of a results table: the best first within each hookpoint, hookpoints in the order of the plan.
fn best_first(rows: &[SaeOutcome]) -> Vec<&SaeOutcome> {
    let mut order: HashMap<&str, usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        order.entry(&row.sae).or_insert(index);
    }
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by(|left, right| {
        let fvu = |row: &SaeOutcome| row.best_known_fvu().unwrap_or(f64::INFINITY);
        let by_hookpoint = order[left.sae.as_str()].cmp(&order[right.sae.as_str()]);
        by_hookpoint.then(fvu(left).total_cmp(&fvu(right)))
    });
    sorted
}

/// One row per SAE, with the results on held-out sequences if some were evaluated.
pub(crate) fn results(rows: &[SaeOutcome]) -> Fitted {
    let names = RowNames::of(rows.iter().map(|row| (row.job.as_str(), row.sae.as_str())));
    let rows = best_first(rows);
    let texts = |heading: &str, cell: &dyn Fn(&SaeOutcome) -> String| {
        Column::text(heading, rows.iter().map(|row| cell(row)))
    };
    let numbers = |heading: &str, digits, value: fn(&SaeOutcome) -> Option<f64>| {
        Column::number(heading, rows.iter().map(|row| number(value(row), digits)))
    };
    let jobs: HashSet<_> = rows.iter().map(|row| row.job.as_str()).collect();
    let is_evaluated = rows.iter().any(|row| row.fvu_eval.is_some());
    // Else the job does not say which SAE a row is of.
    let rank_of_sae = usize::from(jobs.len() == rows.len() && !names.need_hookpoint());
    let short_ids = rows.iter().map(|row| short_id(&row.job_id));
    let mut columns = vec![
        texts("job", &|row| names.of_row(&row.job, &row.sae)).or_cut(),
        texts("id", &|row| row.job_id.clone())
            .or_short(short_ids.collect())
            .rank(1),
        texts("hookpoint", &|row| row.sae.clone()).rank(rank_of_sae),
        texts("status", &|row| row.status.to_string()).rank(1),
    ];
    if has_kinds(rows.iter().map(|row| row.kind.as_str())) {
        columns.push(texts("kind", &|row| row.kind.clone()).rank(3));
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
    let mut shown = fit(columns, width());
    shown.text += &names.remark();
    shown
}
