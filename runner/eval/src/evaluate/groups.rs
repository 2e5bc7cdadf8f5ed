//! SAEs that are put into the model together: the layers of a cross-layer transcoder. Others are alone.

use super::Subject;
use crate::EvalError;
use fault::Fault;
use std::path::PathBuf;

/// The indices of the SAEs of each group; those of layers from the first on. A group is where its first SAE is in
/// `subjects`.
///
/// # Errors
/// A cross-layer transcoder that has layers which are not in `subjects`.
pub(super) fn groups(subjects: &[Subject]) -> Result<Vec<Vec<usize>>, EvalError> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (sae_idx, subject) in subjects.iter().enumerate() {
        if !subject.sae.cfg.is_layer() {
            groups.push(vec![sae_idx]);
        } else if !groups.iter().any(|group| group.contains(&sae_idx)) {
            groups.push(layers(subjects, subject)?);
        }
    }
    Ok(groups)
}

/// The layers of the cross-layer transcoder that `subject` is a layer of.
fn layers(subjects: &[Subject], subject: &Subject) -> Result<Vec<usize>, EvalError> {
    let dirs = subjects.iter().map(|other| other.spec.dir.canonicalize());
    let dirs: Vec<Option<PathBuf>> = dirs.map(Result::ok).collect();
    let find = |dir: &PathBuf| {
        let found = dirs.iter().position(|other| other.as_ref() == Some(dir));
        found.ok_or_else(|| missing(subject, dir).into())
    };
    sae_files::layers_of(&subject.spec.dir)?
        .iter()
        .map(find)
        .collect()
}

fn missing(subject: &Subject, dir: &std::path::Path) -> Fault {
    let (name, dir) = (&subject.spec.name, dir.display());
    let message = format!(
        "`{name}` is a layer of a cross-layer transcoder, and the one in `{dir}` is missing"
    );
    Fault::input(message).with_hint("evaluate all its layers: name the folder that they are in")
}
