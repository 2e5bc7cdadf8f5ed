//! Rows of the database as a table, JSON or CSV.

use crate::error::CliError;
use crate::table;
use args::Format;
use serde_json::{Map, Value};
use store::QueryTable;

/// Prints rows as asked for.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print(found: &QueryTable, format: Format) -> Result<u8, CliError> {
    table::print(&match format {
        Format { json: true, .. } => as_json(found),
        Format { csv: true, .. } => as_csv(found)?,
        _ => as_table(found),
    })
}

fn as_json(found: &QueryTable) -> String {
    let columns = || found.columns.iter().cloned();
    let object = |row: &Vec<Value>| columns().zip(row.iter().cloned()).collect::<Map<_, _>>();
    let objects: Vec<_> = found.rows.iter().map(object).collect();
    serde_json::to_string_pretty(&objects).expect("JSON serialises") + "\n"
}

fn as_csv(found: &QueryTable) -> Result<String, CliError> {
    let failed = |error: csv::Error| CliError::environment(format!("cannot write CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&found.columns).map_err(failed)?;
    for row in &found.rows {
        writer.write_record(row.iter().map(plain)).map_err(failed)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| failed(error.into_error().into()))?;
    Ok(String::from_utf8(bytes).expect("all fields are UTF-8"))
}

fn as_table(found: &QueryTable) -> String {
    let header: Vec<&str> = found.columns.iter().map(String::as_str).collect();
    let rows = found
        .rows
        .iter()
        .map(|row| row.iter().map(plain).collect())
        .collect();
    table::render(&header, rows, usize::MAX)
}

/// A value without quotes; NULL is empty.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
