//! What the types of a sweep do not say.

use crate::error::CliError;
use plan::runs_layout::DATABASE;
use plan::{Sweep, TrainConfig};
use serde_json::{Map, Value};

/// What the types do not say: the name becomes a folder, and workers and threads are real.
pub(super) fn check_sweep(sweep: &Sweep, location: &str) -> Result<(), CliError> {
    /// File systems hold names of 255 bytes; sqlite and locks put something after it.
    const MOST_NAME_BYTES: usize = 200;
    const MOST_THREADS: usize = 4096;
    const MOST_LANES: usize = 1024;
    let is_portable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = &sweep.name;
    let is_taken = name.starts_with('.') || name.starts_with(DATABASE);
    let at_file = |message: String| CliError::input(message).at(location);
    if name.is_empty() || is_taken || !name.chars().all(is_portable) {
        let hint = "it names a folder: use letters, digits, `_`, `-` and `.`, and begin neither \
                    with `.` nor with the name of the database";
        return Err(at_file(format!("`name` is `{name}`")).with_hint(hint.to_owned()));
    }
    if name.len() > MOST_NAME_BYTES {
        return Err(at_file(format!("`name` has {} bytes", name.len()))
            .with_hint(format!("it names a folder: the most is {MOST_NAME_BYTES}")));
    }
    let most_lanes = sweep.launch.jobs.max(sweep.launch.devices.len());
    if most_lanes > MOST_LANES {
        let key = if sweep.launch.jobs > MOST_LANES {
            "jobs"
        } else {
            "devices"
        };
        return Err(at_file(format!(
            "`launch.{key}` asks for {most_lanes} workers at a time"
        ))
        .with_hint(format!("the most is {MOST_LANES}")));
    }
    let threads = sweep.launch.threads;
    if threads > MOST_THREADS {
        return Err(at_file(format!("`launch.threads` is {threads}"))
            .with_hint(format!("0 means all cores; the most is {MOST_THREADS}")));
    }
    let slurm = sweep.launch.slurm.check();
    let checked = slurm.and_then(|()| sweep.launch.pool.check());
    checked.map_err(|error| CliError::from(error).at(location))
}

/// The recipe that takes lists side by side.
const SIDE_BY_SIDE: &str = "zip";

/// A setting of `[vary]` that has a value twice would be two jobs of one name. A recipe's own keys may have it, and lists
/// that are taken side by side.
pub(super) fn check_vary(vary: &Map<String, Value>, recipe: &str) -> Result<(), CliError> {
    if recipe == SIDE_BY_SIDE {
        return Ok(());
    }
    let settings = TrainConfig::keys();
    for (key, values) in vary.iter().filter(|(key, _)| settings.contains(key)) {
        let values = values.as_array().map_or(&[][..], Vec::as_slice);
        let is_repeated = |(index, value): &(usize, &Value)| values[..*index].contains(value);
        if let Some((_, value)) = values.iter().enumerate().find(is_repeated) {
            return Err(CliError::input(format!("`vary.{key}` has {value} twice"))
                .with_hint("remove one: they would be the same job".to_owned())
                .about(key.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_setting_has_each_value_once() {
        let check = |vary: Value| {
            check_vary(vary.as_object().unwrap(), "grid")
                .map_err(|error| (error.to_string(), error.setting().unwrap().to_owned()))
        };
        for good in [
            json!({"k": [4, 8], "hookpoints": [["a"], ["a", "b"]]}),
            json!({"k": [], "rounds": 2, "own": [1, 1]}),
        ] {
            assert_eq!(check(good), Ok(()));
        }
        for (key, values, value) in [
            ("k", json!([4, 8, 4]), "4"),
            ("hookpoints", json!([["a"], ["a"]]), "[\"a\"]"),
            ("loss_fn", json!(["ce", "fvu", "ce"]), "\"ce\""),
        ] {
            let error = format!("`vary.{key}` has {value} twice");
            let vary = json!({ key: values });
            assert!(check_vary(vary.as_object().unwrap(), "zip").is_ok());
            assert_eq!(check(vary), Err((error, key.to_owned())));
        }
    }
}
