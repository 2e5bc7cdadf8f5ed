//! What planning needs to know of a model and its data, without loading either.

use crate::TrainError;
use data::DigestCache;
use plan::{ModelFacts, digest_json};
use sae::{CONFIG_FILE, WEIGHTS_FILE};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model as planning sees it.
#[derive(Clone, Debug)]
pub struct ModelInputs {
    /// Its folder.
    pub dir: PathBuf,
    /// What its config.json says.
    pub facts: Arc<ModelFacts>,
    /// The Hub's commit, or the digest of config.json and all weights.
    pub digest: String,
}

/// Reads the facts of the model in `dir`. One of the Hub is known by its `commit`, whatever of it is
/// there by now; of any other the files are digested.
///
/// # Errors
/// A folder that is no model of a known architecture.
pub fn read_model(
    dir: &Path,
    commit: Option<&str>,
    digests: &DigestCache,
) -> Result<ModelInputs, TrainError> {
    Ok(ModelInputs {
        dir: dir.into(),
        facts: Arc::new(facts::read_facts(dir)?),
        digest: digest_model(dir, commit, digests)?,
    })
}

/// The digest of the model in `dir`, as [`read_model`] gives it.
///
/// # Errors
/// A file that is missing or cannot be read.
pub fn digest_model(
    dir: &Path,
    commit: Option<&str>,
    digests: &DigestCache,
) -> Result<String, TrainError> {
    if let Some(commit) = commit {
        return Ok(commit.to_owned());
    }
    let files = facts::weight_files(dir)?;
    let of_file = |path: &PathBuf| digests.file(path);
    let files = files.iter().map(of_file).collect::<Result<Vec<_>, _>>()?;
    Ok(digest_json(&files))
}

/// Checks, by the headers of the weight files, that the first `n_layers` blocks of the model in
/// `dir` are there with the right shapes. Gives the names of tensors that are no part of such a
/// model.
///
/// # Errors
/// The first tensor that is missing or wrong.
pub fn check_model(dir: &Path, n_layers: usize) -> Result<Vec<String>, TrainError> {
    let config = facts::read_config(dir)?;
    Ok(facts::check_weights(dir, &config, n_layers)?)
}

/// Checks, by the headers of the weight files, that the model in `dir` has a head: for losses on its
/// output.
///
/// # Errors
/// A head that is missing or wrong.
pub fn check_head(dir: &Path) -> Result<(), TrainError> {
    Ok(facts::check_head(dir, &facts::read_config(dir)?)?)
}

/// Checks, by the headers of the weight files, that the whole model in `dir` is there, with its head:
/// an evaluation needs it.
///
/// # Errors
/// The first tensor that is missing or wrong.
pub fn check_whole_model(dir: &Path, n_layers: usize) -> Result<Vec<String>, TrainError> {
    check_head(dir)?;
    check_model(dir, n_layers)
}

/// The digest of all SAEs in the folder `dir`: of what they are called and of their files.
///
/// # Errors
/// A folder that cannot be read.
pub fn digest_saes(dir: &Path, digests: &DigestCache) -> Result<String, TrainError> {
    let mut files = Vec::new();
    collect_saes(dir, &mut files)?;
    files.sort();
    let digest_of = |path: &PathBuf| {
        let name = path.strip_prefix(dir).unwrap_or(path);
        Ok((name.to_path_buf(), digests.file(path)?))
    };
    let files = files.iter().map(digest_of);
    Ok(digest_json(&files.collect::<Result<Vec<_>, TrainError>>()?))
}

fn collect_saes(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), TrainError> {
    for entry in fs::read_dir(dir).map_err(TrainError::io("read", dir))? {
        let path = entry.map_err(TrainError::io("read", dir))?.path();
        if path.is_dir() {
            collect_saes(&path, files)?;
        } else if path.ends_with(CONFIG_FILE) || path.ends_with(WEIGHTS_FILE) {
            files.push(path);
        }
    }
    Ok(())
}
