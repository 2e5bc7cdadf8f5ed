//! `sae-run show JOB --toml`: a sweep file that asks for a job again.

use crate::error::CliError;
use crate::run::past_job;
use plan::TrainConfig;
use serde_json::{Map, Value};
use store::JobDetails;

/// A sweep file with the settings of a job that are not defaults.
///
/// # Errors
/// A record that is damaged.
pub(crate) fn as_toml(job: &JobDetails) -> Result<String, CliError> {
    let table = train_table(&past_job::config(job)?)?;
    let name = job.newest_name().map_or_else(String::new, |name| {
        format!(", `{}/{}`", name.sweep, name.job)
    });
    let id = &job.job_id;
    Ok(format!(
        "# Repeats job {id}{}. Paths are looked for next to this file, then in the current folder.\n\n\
         {table}",
        plan::escaped(&name)
    ))
}

/// `[train]` with the settings that are not defaults.
///
/// # Errors
/// A value that TOML cannot have.
pub(crate) fn train_table(config: &TrainConfig) -> Result<String, CliError> {
    let defaults = TrainConfig::default().to_map();
    let is_needed = |key: &str, value: &Value| {
        let is_input = ["model", "dataset"].contains(&key);
        is_input || defaults.get(key) != Some(value)
    };
    let mut table = "[train]\n".to_owned();
    for (key, value) in &config.to_map() {
        // What a preset has set is here under its own keys.
        if key != "preset" && is_needed(key, value) {
            table += &line(key, value)?;
        }
    }
    Ok(table)
}

/// `key = value`; nothing for a setting without a value.
///
/// # Errors
/// A value that TOML cannot have.
pub(crate) fn line(key: &str, value: &Value) -> Result<String, CliError> {
    let Some(value) = without_nulls(value) else {
        return Ok(String::new());
    };
    let value = toml::Value::try_from(value).map_err(|error| {
        CliError::environment(format!("`{key}` cannot be written as TOML: {error}"))
    })?;
    Ok(format!("{key} = {value}\n"))
}

/// TOML has no null.
fn without_nulls(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(table) => {
            let kept = table
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), without_nulls(value)?)));
            let kept: Map<_, _> = kept.collect();
            (!kept.is_empty()).then(|| kept.into())
        }
        other => Some(other.clone()),
    }
}
