//! `sae-run ls`: sweeps, or their SAEs.

use crate::error::CliError;
use crate::show::answer;
use crate::show::fitted::{Column, fit, width};
use crate::show::{job, table};
use args::LsArgs;
use plan::kind_has_k;
use serde_json::Value;
use store::{Listing, QueryLimits, QueryTable, Store};

/// `sae-run ls`.
///
/// # Errors
/// No database, no such sweep or column, a condition that SQLite does not understand.
pub(crate) async fn ls(args: &LsArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let wants_saes = args.sweep.is_some()
        || args.condition.is_some()
        || !args.sort.is_empty()
        || args.limit.is_some()
        || args.all;
    if wants_saes {
        saes(&store, args).await
    } else {
        sweeps(&store, args).await
    }
}

async fn sweeps(store: &Store, args: &LsArgs) -> Result<u8, CliError> {
    let sweeps = store.sweeps().await?;
    if args.format.json || args.format.csv {
        let columns = [
            "sweep",
            "recipe",
            "n_jobs",
            "n_done",
            "n_failed",
            "n_running",
            "created_ms",
            "last_activity_ms",
        ];
        let rows = sweeps.into_iter().map(|sweep| -> Vec<Value> {
            vec![
                sweep.sweep.into(),
                sweep.recipe.into(),
                sweep.n_jobs.into(),
                sweep.n_done.into(),
                sweep.n_failed.into(),
                sweep.n_running.into(),
                sweep.created_ms.into(),
                sweep.last_activity_ms.into(),
            ]
        });
        let found = QueryTable {
            columns: columns.map(str::to_owned).into(),
            rows: rows.collect(),
            is_cut: false,
        };
        return answer::print(&found, args.format);
    }
    let row = |sweep: &store::SweepSummary| {
        vec![
            sweep.sweep.clone(),
            sweep.recipe.clone(),
            format!("{}/{}", sweep.n_done, sweep.n_jobs),
            sweep.n_failed.to_string(),
            sweep.n_running.to_string(),
            job::time(sweep.last_activity_ms),
        ]
    };
    let header = [
        "sweep",
        "recipe",
        "done",
        "failed",
        "running",
        "last activity (UTC)",
    ];
    table::print(&table::render(&header, sweeps.iter().map(row).collect(), 2))
}

async fn saes(store: &Store, args: &LsArgs) -> Result<u8, CliError> {
    let listing = Listing {
        sweep: args.sweep.clone(),
        condition: args.condition.clone(),
        sort: args.sort.clone(),
        limit: args.limit,
        with_earlier: args.all,
    };
    let found = store.listing(&listing, &QueryLimits::default()).await?;
    if args.format.json || args.format.csv {
        return answer::print(&found, args.format);
    }
    let mut shown = SHOWN.to_vec();
    shown.retain(|shown| match shown.name {
        "sweep" => args.sweep.is_none(),
        "kind" => table::has_kinds(values(&found, shown.name).filter_map(Value::as_str)),
        "threshold" | "l0_calibrated" => values(&found, shown.name).any(|value| !value.is_null()),
        _ => true,
    });
    for key in &args.sort {
        let name = key.trim_start_matches('-');
        match shown.iter_mut().find(|shown| shown.name == name) {
            // What is sorted by is shown.
            Some(known) => known.rank = 0,
            None => shown.push(Shown::new(name, name, Some(4), 0)),
        }
    }
    let fitted = fit(columns(&found, &shown), width());
    let code = table::print(&fitted.text)?;
    fitted.note("`--json`");
    Ok(code)
}

/// A column of the view `result`, as the table has it.
#[derive(Clone, Copy)]
struct Shown<'a> {
    name: &'a str,
    heading: &'a str,
    /// That fractions are rounded to; `None`: it is a text or a whole number.
    digits: Option<usize>,
    /// As in [`Column`].
    rank: usize,
}

impl<'a> Shown<'a> {
    const fn new(name: &'a str, heading: &'a str, digits: Option<usize>, rank: usize) -> Self {
        Self {
            name,
            heading,
            digits,
            rank,
        }
    }
}

const SHOWN: [Shown<'_>; 12] = [
    Shown::new("sweep", "sweep", None, 4),
    Shown::new("job", "job", None, 0),
    Shown::new("status", "status", None, 3),
    Shown::new("sae", "hookpoint", None, 0),
    Shown::new("kind", "kind", None, 2),
    Shown::new("k", "k", None, 5),
    Shown::new("num_latents", "latents", None, 7),
    Shown::new("fvu", "FVU", Some(4), 0),
    Shown::new("l0", "L0", Some(1), 1),
    Shown::new("threshold", "threshold", Some(4), 6),
    Shown::new("l0_calibrated", "its L0", Some(1), 8),
    Shown::new("tokens_per_s", "tokens/s", Some(0), 9),
];

/// The values of a column of `result`.
fn values<'a>(found: &'a QueryTable, name: &str) -> impl Iterator<Item = &'a Value> {
    let index = found.columns.iter().position(|column| column == name);
    let rows = found.rows.iter();
    rows.filter_map(move |row| row.get(index?))
}

fn columns(found: &QueryTable, shown: &[Shown<'_>]) -> Vec<Column> {
    let kinds: Vec<_> = values(found, "kind").collect();
    let has_k = |row: usize| kinds[row].as_str().is_none_or(kind_has_k);
    let columns = shown.iter().filter_map(|shown| {
        let cells = values(found, shown.name).enumerate();
        let cells = cells.map(|(row, value)| match shown.name {
            "k" if !has_k(row) => "-".to_owned(),
            _ => cell(value, shown.digits),
        });
        let is_text = ["sweep", "job", "status", "sae", "kind"].contains(&shown.name);
        let column = if is_text {
            Column::text(shown.heading, cells)
        } else {
            Column::number(shown.heading, cells)
        };
        match shown.name {
            "k" => column.rank(shown.rank).with_values(),
            _ => Some(column.rank(shown.rank)),
        }
    });
    columns.collect()
}

fn cell(value: &Value, digits: Option<usize>) -> String {
    match (value, digits) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Number(number), Some(digits)) if number.is_f64() => {
            table::number(number.as_f64(), digits)
        }
        (other, _) => answer::plain(other),
    }
}
