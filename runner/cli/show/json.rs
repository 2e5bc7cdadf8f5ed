//! What `--json` prints: one object, whose first key says which shapes of docs/json.md it follows.

use crate::error::CliError;
use crate::show::table;
use serde::Serialize;
use serde_json::{Map, Value};

/// The version of the shapes. A key that is added keeps it; one that vanishes or changes its meaning raises it.
pub(crate) const SCHEMA: u32 = 1;

/// Prints an object after its version.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print(object: &impl Serialize) -> Result<u8, CliError> {
    table::print(&text(object))
}

/// An object after its version, as text.
pub(crate) fn text(object: &impl Serialize) -> String {
    format!("{:#}\n", versioned(object))
}

fn versioned(object: &impl Serialize) -> Value {
    let value = serde_json::to_value(object).expect("plain fields serialise to JSON");
    let mut versioned = Map::from_iter([("schema".to_owned(), SCHEMA.into())]);
    match value {
        Value::Object(fields) => versioned.extend(fields),
        other => versioned.extend([("value".to_owned(), other)]),
    }
    Value::Object(versioned)
}
