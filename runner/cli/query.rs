//! `sae-run sql`: one read-only statement.

use crate::args::SqlArgs;
use crate::error::CliError;
use crate::{inspect, table};
use serde_json::{Map, Value};
use store::QueryTable;

/// `sae-run sql`.
///
/// # Errors
/// No database, a statement that is wrong or would write.
pub(crate) async fn sql(args: &SqlArgs) -> Result<u8, CliError> {
    let result = inspect::open(&args.store)
        .await?
        .query(&args.statement)
        .await?;
    let text = match () {
        () if args.json => as_json(result),
        () if args.csv => as_csv(&result)?,
        () => as_table(&result),
    };
    table::print(&text)
}

fn as_json(result: QueryTable) -> String {
    let QueryTable { columns, rows } = result;
    let object = |row: Vec<Value>| columns.iter().cloned().zip(row).collect::<Map<_, _>>();
    let objects: Vec<_> = rows.into_iter().map(object).collect();
    serde_json::to_string_pretty(&objects).expect("JSON serialises") + "\n"
}

fn as_csv(result: &QueryTable) -> Result<String, CliError> {
    let failed = |error: csv::Error| CliError::environment(format!("cannot write CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&result.columns).map_err(failed)?;
    for row in &result.rows {
        writer.write_record(row.iter().map(plain)).map_err(failed)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| failed(error.into_error().into()))?;
    Ok(String::from_utf8(bytes).expect("all fields are UTF-8"))
}

fn as_table(result: &QueryTable) -> String {
    let header: Vec<&str> = result.columns.iter().map(String::as_str).collect();
    let rows = result
        .rows
        .iter()
        .map(|row| row.iter().map(plain).collect())
        .collect();
    table::render(&header, rows, usize::MAX)
}

/// A value without quotes; NULL is empty.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
