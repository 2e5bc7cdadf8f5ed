//! SAEs that patterns choose.

use crate::error::CliError;
use plan::{FoundSae, fnmatch};

/// Those of `target` whose name or hookpoint matches one of the patterns; all, if there is no pattern.
///
/// # Errors
/// A pattern that matches none.
pub(super) fn matching(
    mut found: Vec<FoundSae>,
    target: &str,
    patterns: &[String],
) -> Result<Vec<FoundSae>, CliError> {
    let matches = |sae: &FoundSae, pattern: &str| {
        fnmatch(&sae.name, pattern) || fnmatch(&sae.hookpoint, pattern)
    };
    for pattern in patterns {
        if !found.iter().any(|sae| matches(sae, pattern)) {
            let names: Vec<_> = found.iter().map(|sae| sae.name.as_str()).collect();
            return Err(sae_files::no_such_sae(target, pattern, &names).into());
        }
    }
    let is_chosen = |sae: &FoundSae| patterns.iter().any(|pattern| matches(sae, pattern));
    found.retain(|sae| patterns.is_empty() || is_chosen(sae));
    Ok(found)
}
