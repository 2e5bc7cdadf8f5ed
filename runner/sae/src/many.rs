//! Several SAEs at once.

use crate::{LoadOptions, Sae, SaeError};
use plan::FoundSae;
use sae_files::{find_saes, select};
use std::path::Path;

impl Sae {
    /// All SAEs of `name`, or those that match [`LoadOptions::patterns`], in natural order of their
    /// names (`layers.2` before `layers.10`). `name` is a folder as [`find_saes`] takes it, or else, with the
    /// feature `hub`, a repository on the Hub.
    ///
    /// ```no_run
    /// use sae::{LoadOptions, Sae};
    ///
    /// let patterns = vec!["layers.*.mlp".to_owned()];
    /// let options = LoadOptions { patterns, ..LoadOptions::default() };
    /// for (hookpoint, sae) in Sae::load_many("EleutherAI/sae-llama-3-8b-32x", options)? {
    ///     let _ = (hookpoint, sae.num_latents());
    /// }
    /// # Ok::<(), sae::SaeError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Sae::load_from_disk`], and of the Hub; a pattern that matches nothing.
    pub fn load_many(
        name: impl AsRef<Path>,
        options: impl Into<LoadOptions>,
    ) -> Result<Vec<(String, Self)>, SaeError> {
        let options = options.into();
        let found = find(name.as_ref(), &options)?;
        let load = |sae: FoundSae| Ok((sae.name, Self::load_from_disk(&sae.dir, options.clone())?));
        found.into_iter().map(load).collect()
    }
}

/// The SAEs of a folder or repository that the options choose; a repository's are downloaded.
fn find(name: &Path, options: &LoadOptions) -> Result<Vec<FoundSae>, SaeError> {
    let text = name.to_string_lossy();
    #[cfg(feature = "hub")]
    if !name.is_dir() && hub::is_repo_id(&text) {
        return crate::from_hub::download(&text, options);
    }
    let saes = find_saes(name)?;
    let names: Vec<_> = saes.iter().map(|sae| sae.name.as_str()).collect();
    let selected = select(&text, &names, &options.patterns)?;
    let is_selected = |sae: &&FoundSae| selected.contains(&sae.name.as_str());
    Ok(saes.iter().filter(is_selected).cloned().collect())
}
