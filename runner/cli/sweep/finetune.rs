//! The SAEs that a job begins with, looked at before anything is trained.

use crate::error::CliError;
use fault::message_chain;
use plan::{Job, SaeSpec};
use sae_files::{CONFIG_FILE, SaeConfig, check_sae};
use std::path::Path;

const HINT: &str = "`finetune` is a folder with one for each SAE of the job, each with `cfg.json` and `sae.safetensors`";
const SIZES_HINT: &str = "set `activation`, `num_latents`, `transcode` and `skip_connection` as they were for the SAEs in `finetune`";

/// Checks that the folder `dir` has an SAE for each of a job's, whole and of the same size. All else is found out when
/// they are loaded.
///
/// # Errors
/// The first SAE that is missing, not whole, or of another size.
pub(super) fn check(job: &Job, dir: &Path) -> Result<(), CliError> {
    check_all_there(job, dir)?;
    let checked = job
        .saes
        .iter()
        .try_for_each(|sae| check_one(sae, &dir.join(&sae.name)));
    checked.map_err(|error| error.about("finetune".to_owned()))
}

fn check_one(sae: &SaeSpec, dir: &Path) -> Result<(), CliError> {
    let hinted = |error: CliError| error.with_hint(HINT.to_owned());
    check_sae(dir).map_err(|fault| hinted(CliError::input(message_chain(&fault))))?;
    // SAELens has other files.
    let Ok(cfg) = SaeConfig::of_folder(dir) else {
        return Ok(());
    };
    let (expected, got) = (
        vec![sae.num_latents as i64, sae.d_in as i64],
        cfg.shape("encoder.weight"),
    );
    if expected == got || !dir.join(CONFIG_FILE).is_file() {
        return Ok(());
    }
    let message = format!(
        "the SAE in `{}` has encoder.weight {got:?}; the job needs encoder.weight {expected:?}",
        dir.display()
    );
    Err(CliError::input(message).with_hint(SIZES_HINT.to_owned()))
}

/// Checks that there is an SAE in `dir` for each of a job's.
///
/// # Errors
/// The first that is missing.
fn check_all_there(job: &Job, dir: &Path) -> Result<(), CliError> {
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
