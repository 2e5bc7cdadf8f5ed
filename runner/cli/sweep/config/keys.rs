//! Which keys a sweep may have; a misspelt one is an error, not a silent default.

use super::secrets;
use super::source::SourceFile;
use crate::error::CliError;
use plan::{TrainConfig, nearest};
use toml::de::{DeTable, DeValue};

const TOP: [&str; 8] = [
    "name",
    "recipe",
    "seed",
    "runs_dir",
    "train",
    "vary",
    "launch",
    "recipe_limits",
];
const RECIPE_LIMITS: [&str; 7] = [
    "fuel",
    "memory_bytes",
    "output_bytes",
    "max_jobs",
    "max_nesting",
    "stack_bytes",
    "max_rounds",
];
const LAUNCH: [&str; 14] = [
    "launcher",
    "nproc_per_node",
    "device",
    "libtorch",
    "devices",
    "jobs",
    "threads",
    "memory_bytes",
    "retries",
    "timeout_minutes",
    "overlap_forward",
    "log_to",
    "slurm",
    "pool",
];
const POOL: [&str; 1] = ["lease_s"];
const SLURM: [&str; 14] = [
    "max_jobs",
    "nnodes",
    "partition",
    "account",
    "qos",
    "constraint",
    "time",
    "gres",
    "mem",
    "cpus_per_task",
    "poll_s",
    "signal_s",
    "setup",
    "sbatch",
];

/// The keys of a table, or `None` if they are for the recipe to check.
fn keys_of(table: &[&str]) -> Option<Vec<String>> {
    match table {
        [] => Some(TOP.map(str::to_owned).to_vec()),
        ["train"] => Some(TrainConfig::keys()),
        ["recipe_limits"] => Some(RECIPE_LIMITS.map(str::to_owned).to_vec()),
        ["launch"] => Some(LAUNCH.map(str::to_owned).to_vec()),
        ["launch", "pool"] => Some(POOL.map(str::to_owned).to_vec()),
        ["launch", "slurm"] => Some(SLURM.map(str::to_owned).to_vec()),
        _ => None,
    }
}

/// Checks every key of a file.
pub(super) fn check(file: &SourceFile) -> Result<(), CliError> {
    let root = file.table()?;
    check_table(file, root.get_ref(), &mut Vec::new())
}

fn check_table<'a>(
    file: &SourceFile,
    table: &'a DeTable<'_>,
    path: &mut Vec<&'a str>,
) -> Result<(), CliError> {
    for (key, value) in table {
        path.push(key.get_ref());
        let location = || format!("{}:{}", file.name, file.line_of(key.span().start));
        check_last(path).map_err(|error| error.at(&location()))?;
        if let DeValue::Table(inner) = value.get_ref() {
            check_table(file, inner, path)?;
        }
        path.pop();
    }
    Ok(())
}

/// Checks a dotted key from the environment or the command line.
pub(super) fn check_path(path: &[&str]) -> Result<(), CliError> {
    (1..=path.len()).try_for_each(|depth| check_last(&path[..depth]))
}

/// Checks the last key of `path`; those before it are known.
fn check_last(path: &[&str]) -> Result<(), CliError> {
    let Some((key, table)) = path.split_last() else {
        return Ok(());
    };
    let Some(known) = keys_of(table) else {
        return Ok(());
    };
    if known.iter().any(|known| known == key) {
        return Ok(());
    }
    let dotted = |key: &str| [table, &[key]].concat().join(".");
    let nearest = nearest(key, known.iter().map(String::as_str), 1).pop();
    let hint = secrets::hint_on(key).unwrap_or_else(|| match nearest {
        Some(nearest) => format!("did you mean `{}`?", dotted(&nearest)),
        None => format!("known keys: {}", known.join(", ")),
    });
    Err(CliError::input(format!("unknown key `{}`", dotted(key))).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Sweep;

    #[test]
    fn the_known_keys_are_those_of_a_sweep() {
        let sweep: Sweep = toml::from_str("name = 'x'").unwrap();
        let keys = |value: serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let value = serde_json::to_value(&sweep).unwrap();
        assert_eq!(keys(value["launch"].clone()), LAUNCH);
        assert_eq!(keys(value["launch"]["pool"].clone()), POOL);
        assert_eq!(keys(value["launch"]["slurm"].clone()), SLURM);
        assert_eq!(keys(value["recipe_limits"].clone()), RECIPE_LIMITS);
        assert_eq!(keys(value), TOP);
    }

    #[test]
    fn keys_below_vary_are_the_recipes_business() {
        assert!(check_path(&["vary", "anything"]).is_ok());
        assert!(check_path(&["train", "anything"]).is_err());
    }
}
