//! The options of `sae-run train` as the layer on top of all others.

use super::check::check_sweep;
use super::source::SourceFile;
use super::{Layers, LoadedSweep, Origin, common_files};
use crate::error::CliError;
use crate::sweep::paths::Folders;
use args::Given;
use plan::{Sweep, WITHOUT_EFFECT};
use std::path::PathBuf;
use toml::{Table, Value};

/// sparsify's.
const DEFAULT_NAME: &str = "unnamed";

/// The one job that options describe, as a sweep, with all layers below them.
///
/// # Errors
/// As [`load`](super::load).
pub(crate) fn load_given(given: &[Given], folders: &Folders) -> Result<LoadedSweep, CliError> {
    let mut files = vec![defaults()];
    files.extend(common_files(folders)?);
    let layers = Layers {
        files,
        sets: given.iter().map(layer).collect(),
        origin: Origin::Options,
        name: None,
    };
    let sweep = layers.sweep()?;
    check_sweep(&sweep, "--run-name")?;
    Ok(LoadedSweep {
        text: as_sweep_file(&sweep, given),
        sweep,
        dir: PathBuf::new(),
        current: PathBuf::new(),
        origin: layers.origin,
        job: None,
        layers,
    })
}

fn layer(given: &Given) -> SourceFile {
    SourceFile {
        name: given.option.clone(),
        text: given.line(),
        has_lines: false,
    }
}

/// What a sweep file has to say and options need not.
fn defaults() -> SourceFile {
    let defaults = Table::from_iter([("name".into(), DEFAULT_NAME.into())]);
    SourceFile {
        name: "defaults".into(),
        text: defaults.to_string(),
        has_lines: false,
    }
}

/// A sweep file that asks for the same job.
fn as_sweep_file(sweep: &Sweep, given: &[Given]) -> String {
    let name = Given::new("", &["name"], sweep.name.as_str()).line();
    let lines = given.iter().filter(|given| given.path.len() > 1);
    name + &lines.map(Given::line).collect::<String>()
}

/// Arguments that each command has.
const NOT_IN_NAMES: [&str; 2] = ["model", "dataset"];

/// A name made of the settings that were given: `k=16,optimizer=adam`; `job` without one.
pub(super) fn job_name(options: &[SourceFile]) -> String {
    let settings = options.iter().filter_map(|option| {
        let mut table: Table = toml::from_str(&option.text).ok()?;
        let train = table.remove("train")?.as_table()?.clone();
        train.into_iter().next()
    });
    let named = settings.filter(|(key, _)| {
        !NOT_IN_NAMES.contains(&key.as_str()) && !WITHOUT_EFFECT.contains(&key.as_str())
    });
    let parts: Vec<_> = named
        .map(|(key, value)| format!("{key}={}", shown(&value)))
        .collect();
    if parts.is_empty() {
        "job".to_owned()
    } else {
        parts.join(",")
    }
}

/// A value as the recipe `grid` has it in names.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_called_by_the_settings_that_were_given() {
        let name = |given: &[Given]| job_name(&given.iter().map(layer).collect::<Vec<_>>());
        let model = Given::new("MODEL", &["train", "model"], "m");
        assert_eq!(name(std::slice::from_ref(&model)), "job");
        let hookpoints = Value::from(vec!["layers.0", "layers.1"]);
        let given = [
            model,
            Given::new("-k 16", &["train", "k"], 16),
            Given::new("--lr 0.001", &["train", "lr"], 1e-3),
            Given::new("--hookpoints", &["train", "hookpoints"], hookpoints),
            Given::new("--save-every 5", &["train", "save_every"], 5),
            Given::new("--run-name", &["name"], "mine"),
        ];
        assert_eq!(name(&given), "k=16,lr=0.001,hookpoints=layers.0+layers.1");
    }
}
