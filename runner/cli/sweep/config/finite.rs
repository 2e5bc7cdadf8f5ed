//! Numbers of TOML and of variables may be NaN or infinite; as JSON they would be null, which means the default.

use figment::error::{Actual, Error, Kind};
use figment::value::{Dict, Num, Value};

/// A number that is not finite, and the dotted key it is at.
pub(super) struct NotFinite {
    number: f64,
    path: String,
}

impl From<NotFinite> for Error {
    fn from(found: NotFinite) -> Self {
        let expected = "a finite number".to_owned();
        let kind = Kind::InvalidValue(Actual::Float(found.number), expected);
        Self::from(kind).with_path(&found.path)
    }
}

/// The first number in `table` that is not finite. `path`: the dotted key of the table.
pub(super) fn first_not_finite(table: &Dict, path: &str) -> Option<NotFinite> {
    let mut values = table.iter();
    values.find_map(|(key, value)| in_value(value, below(path, key)))
}

fn in_value(value: &Value, path: String) -> Option<NotFinite> {
    match value {
        Value::Num(_, Num::F64(number)) => not_finite(*number, path),
        Value::Num(_, Num::F32(number)) => not_finite(f64::from(*number), path),
        Value::Dict(_, table) => first_not_finite(table, &path),
        Value::Array(_, items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(idx, item)| in_value(item, below(&path, &idx.to_string())))
        }
        _ => None,
    }
}

fn not_finite(number: f64, path: String) -> Option<NotFinite> {
    (!number.is_finite()).then_some(NotFinite { number, path })
}

fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}
