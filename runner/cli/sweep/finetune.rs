//! SAEs that a job begins with, looked for when it is planned.

use crate::error::CliError;
use plan::Job;
use std::path::Path;

/// Checks that there is an SAE in `dir` for each of a job's.
///
/// # Errors
/// The first that is missing.
pub(crate) fn check(job: &Job, dir: &Path) -> Result<(), CliError> {
    let mut saes = job.saes.iter();
    let Some(missing) = saes.find(|sae| !dir.join(&sae.name).is_dir()) else {
        return Ok(());
    };
    let (name, path) = (&missing.name, dir.join(&missing.name));
    let message = format!(
        "`finetune` has no SAE for `{name}`: `{}` does not exist",
        path.display()
    );
    let found = sae_files::find_saes(dir).unwrap_or_default();
    let found: Vec<_> = found
        .iter()
        .take(5)
        .map(|sae| format!("`{}`", sae.name))
        .collect();
    let hint = if found.is_empty() {
        "`finetune` is a folder with one for each SAE of the job".to_owned()
    } else {
        format!(
            "it has {}; choose `hookpoints` and `init_seeds` that are there",
            found.join(", ")
        )
    };
    Err(CliError::input(message)
        .with_hint(hint)
        .about("finetune".to_owned()))
}
