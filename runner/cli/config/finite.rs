//! Numbers of TOML and of variables may be NaN or infinite; as JSON they would be null, which stands for the
//! default.

use figment::error::{Actual, Error, Kind};
use figment::value::{Dict, Num, Value};
use figment::{Figment, Provider};

/// Refuses the first number that is not finite.
///
/// # Errors
/// There is one; or a layer that cannot be read.
pub(super) fn check(figment: &Figment) -> Result<(), Error> {
    let tables = figment.data()?;
    tables.values().try_for_each(|table| check_table(table, ""))
}

fn check_table(table: &Dict, path: &str) -> Result<(), Error> {
    let mut values = table.iter();
    values.try_for_each(|(key, value)| check_value(value, &below(path, key)))
}

fn check_value(value: &Value, path: &str) -> Result<(), Error> {
    match value {
        Value::Num(_, Num::F64(number)) => must_be_finite(*number, path),
        Value::Num(_, Num::F32(number)) => must_be_finite(f64::from(*number), path),
        Value::Dict(_, table) => check_table(table, path),
        Value::Array(_, items) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(idx, item)| check_value(item, &below(path, &idx.to_string())))
        }
        _ => Ok(()),
    }
}

fn must_be_finite(number: f64, path: &str) -> Result<(), Error> {
    if number.is_finite() {
        return Ok(());
    }
    let kind = Kind::InvalidValue(Actual::Float(number), "a finite number".into());
    Err(Error::from(kind).with_path(path))
}

fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}
