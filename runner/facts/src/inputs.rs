//! What planning needs to know of a model and its data, without loading either.

use crate::{FactsError, check, read_config, read_facts, weight_files};
use files::DigestCache;
use plan::{ModelFacts, digest_json};
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

/// Reads the facts of the model in `dir`. One of the Hub is known by its `commit`, whichever files are
/// there by now; of any other the files are digested.
///
/// # Errors
/// A folder that is not a model of a known architecture.
pub fn read_model(
    dir: &Path,
    commit: Option<&str>,
    digests: &DigestCache,
) -> Result<ModelInputs, FactsError> {
    Ok(ModelInputs {
        dir: dir.into(),
        facts: Arc::new(read_facts(dir)?),
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
) -> Result<String, FactsError> {
    if let Some(commit) = commit {
        return Ok(commit.to_owned());
    }
    let files = weight_files(dir)?;
    let of_file = |path: &PathBuf| digests.file(path);
    let files = files.iter().map(of_file).collect::<Result<Vec<_>, _>>()?;
    Ok(digest_json(&files))
}

/// Checks, by the headers of the weight files, that the first `n_layers` blocks of the model in
/// `dir` are there with the right shapes. Gives the names of tensors that do not belong to such a
/// model.
///
/// # Errors
/// The first tensor that is missing or wrong.
pub fn check_model(dir: &Path, n_layers: usize) -> Result<Vec<String>, FactsError> {
    let config = read_config(dir)?;
    check::check_weights(dir, &config, n_layers)
}

/// Checks, by the headers of the weight files, that the model in `dir` has a head: for losses on its
/// output.
///
/// # Errors
/// A head that is missing or wrong.
pub fn check_head(dir: &Path) -> Result<(), FactsError> {
    check::check_head(dir, &read_config(dir)?)
}

/// Checks, by the headers of the weight files, that the whole model in `dir` is there, with its head:
/// an evaluation needs it.
///
/// # Errors
/// The first tensor that is missing or wrong.
pub fn check_whole_model(dir: &Path, n_layers: usize) -> Result<Vec<String>, FactsError> {
    check_head(dir)?;
    check_model(dir, n_layers)
}
