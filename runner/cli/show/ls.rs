//! `sae-run ls`: sweeps, or their SAEs.

use crate::error::CliError;
use crate::show::answer;
use crate::show::{job, table};
use args::LsArgs;
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
    let mut shown: Vec<(&str, &str, Option<usize>)> = SHOWN.to_vec();
    shown.retain(|(name, ..)| match *name {
        "sweep" => args.sweep.is_none(),
        "kind" => table::has_kinds(values(&found, name).filter_map(Value::as_str)),
        "threshold" | "l0_calibrated" => values(&found, name).any(|value| !value.is_null()),
        _ => true,
    });
    // What is sorted by is shown.
    for key in &args.sort {
        let column = key.trim_start_matches('-');
        if !shown.iter().any(|(known, ..)| *known == column) {
            shown.push((column, column, Some(4)));
        }
    }
    table::print(&as_table(&found, &shown))
}

/// Columns of the view `result` in the table, their headings, and the digits that fractions are rounded to.
const SHOWN: [(&str, &str, Option<usize>); 12] = [
    ("sweep", "sweep", None),
    ("job", "job", None),
    ("status", "status", None),
    ("sae", "hookpoint", None),
    ("kind", "kind", None),
    ("k", "k", None),
    ("num_latents", "latents", None),
    ("fvu", "FVU", Some(4)),
    ("l0", "L0", Some(1)),
    ("threshold", "threshold", Some(4)),
    ("l0_calibrated", "its L0", Some(1)),
    ("tokens_per_s", "tokens/s", Some(0)),
];

/// The values of a column of `result`.
fn values<'a>(found: &'a QueryTable, name: &str) -> impl Iterator<Item = &'a Value> {
    let index = found.columns.iter().position(|column| column == name);
    let rows = found.rows.iter();
    rows.filter_map(move |row| row.get(index?))
}

fn as_table(found: &QueryTable, shown: &[(&str, &str, Option<usize>)]) -> String {
    let index = |name: &str| found.columns.iter().position(|column| column == name);
    let columns: Vec<_> = shown
        .iter()
        .filter_map(|(name, heading, digits)| Some((index(name)?, *heading, *digits)))
        .collect();
    let cell = |value: &Value, digits: Option<usize>| match (value, digits) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Number(number), Some(digits)) if number.is_f64() => {
            table::number(number.as_f64(), digits)
        }
        (other, _) => answer::plain(other),
    };
    let rows = found.rows.iter().map(|row| {
        let cells = columns
            .iter()
            .map(|(index, _, digits)| cell(&row[*index], *digits));
        cells.collect()
    });
    let header: Vec<_> = columns.iter().map(|(_, heading, _)| *heading).collect();
    let first_number = header.iter().position(|heading| *heading == "k");
    table::render(&header, rows.collect(), first_number.unwrap_or(usize::MAX))
}
