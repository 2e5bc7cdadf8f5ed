//! The options of `sae-run train` as the layer on top of all others.

use super::check::check_sweep;
use super::source::SourceFile;
use super::{Layers, LoadedSweep, Origin, common_files};
use crate::error::CliError;
use crate::sweep::paths::Folders;
use args::Given;
use plan::Sweep;
use std::path::PathBuf;
use toml::Table;

/// sparsify's.
const DEFAULT_NAME: &str = "unnamed";
/// sparsify's.
const DEFAULT_RUNS_DIR: &str = "checkpoints";

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
    check_sweep(&sweep, "--run_name")?;
    Ok(LoadedSweep {
        text: as_sweep_file(&sweep, given),
        sweep,
        dir: PathBuf::new(),
        origin: layers.origin,
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
    let name = [("name", DEFAULT_NAME), ("runs_dir", DEFAULT_RUNS_DIR)];
    let defaults: Table = name
        .map(|(key, value)| (key.into(), value.into()))
        .into_iter()
        .collect();
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
