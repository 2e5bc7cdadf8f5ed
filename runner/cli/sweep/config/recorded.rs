//! A sweep that the database has, as the layer below `--set`.

use super::source::SourceFile;
use super::{Layers, LoadedSweep, Origin, check, common_files, keys, parse_set, restore_order};
use crate::error::CliError;
use crate::sweep::paths::Folders;
use std::path::PathBuf;

/// A sweep file that no file is.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Where it is from, for errors: "sweep `demo`".
    pub(crate) source: String,
    /// Its text.
    pub(crate) text: String,
    /// The name of its job, if it is one job, which is added to those of the sweep.
    pub(crate) job: Option<String>,
    /// The folder of the sweep file when it was run, and the current folder then, as far as they are known.
    pub(crate) folders: [Option<PathBuf>; 2],
}

/// Reads it and all layers below and above it. Its paths are relative to the folders that they were relative to, or if
/// these are gone, to the current one.
///
/// # Errors
/// As [`load`](super::load).
pub(crate) fn load_recorded(
    recorded: Recorded,
    set: &[String],
    folders: &Folders,
) -> Result<LoadedSweep, CliError> {
    let Recorded {
        source, text, job, ..
    } = recorded;
    let is_there = |dir: Option<PathBuf>| dir.filter(|dir| dir.is_dir()).unwrap_or_default();
    let [dir, current] = recorded.folders.map(is_there);
    let file = SourceFile {
        name: source,
        text,
        has_lines: false,
    };
    keys::check(&file)?;
    let mut files = common_files(folders)?;
    files.push(file);
    let sets = set.iter().map(|set| parse_set(set));
    let origin = if job.is_some() {
        Origin::Options
    } else {
        Origin::File
    };
    let layers = Layers {
        files,
        sets: sets.collect::<Result<_, _>>()?,
        origin,
        name: None,
    };
    let mut sweep = layers.sweep()?;
    restore_order(&mut sweep, &layers);
    let file = layers.files.last().expect("it was put there");
    check::check_sweep(&sweep, &file.name)?;
    let loaded = LoadedSweep {
        text: file.text.clone(),
        sweep,
        dir,
        current,
        origin,
        job,
        layers,
    };
    check::check_vary(&loaded.sweep.vary, &loaded.sweep.recipe)
        .map_err(|error| loaded.locate(error))?;
    Ok(loaded)
}
