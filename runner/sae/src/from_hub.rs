//! SAEs of the Hugging Face Hub, and several at once.

use crate::{LoadOptions, Sae, SaeError};
use hub::{Hub, HubSettings};
use plan::FoundSae;
use sae_files::{HubSaes, find_saes, select};
use std::path::Path;

impl LoadOptions {
    /// The Hub to ask.
    fn hub(&self) -> Result<Hub, SaeError> {
        let hub = match &self.hub {
            Some(hub) => hub.clone(),
            None => Hub::from_env()?,
        };
        let settings = hub.settings();
        Ok(Hub::new(HubSettings {
            offline: settings.offline || self.offline,
            ..settings.clone()
        })?)
    }
}

impl Sae {
    /// The SAE `hookpoint` of the repository `repo` on the Hub; `None`: the one at its top, or its only
    /// one. Only what is needed is downloaded, into the cache that Python's tools share.
    ///
    /// ```no_run
    /// use sae::{LoadOptions, Sae};
    ///
    /// let options = LoadOptions { decoder: false, ..LoadOptions::default() };
    /// let sae = Sae::load_from_hub("EleutherAI/sae-llama-3-8b-32x", Some("layers.10"), options)?;
    /// # Ok::<(), sae::SaeError>(())
    /// ```
    ///
    /// # Errors
    /// No such repository, no access, no network; no such SAE, or none at all; and those of
    /// [`Sae::load_from_disk`].
    pub fn load_from_hub(
        repo: &str,
        hookpoint: Option<&str>,
        options: impl Into<LoadOptions>,
    ) -> Result<Self, SaeError> {
        let options = options.into();
        let hub = options.hub()?;
        let saes = HubSaes::list(&hub, repo, options.revision.as_deref())?;
        let name = saes.one(hookpoint)?;
        let found = saes.download(&hub, &[name], &mut |_| {})?;
        let found = found.first().expect("the one that was selected");
        Self::load_from_disk(&found.dir, options)
    }

    /// All SAEs of `name`, or those that match [`LoadOptions::patterns`], in natural order of their
    /// names (`layers.2` before `layers.10`). `name` is a folder as [`find_saes`] takes it, or else a
    /// repository on the Hub.
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
    /// As [`Sae::load_from_hub`], and a pattern that matches nothing.
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
    if name.is_dir() || !hub::is_repo_id(&text) {
        let saes = find_saes(name)?;
        let names: Vec<_> = saes.iter().map(|sae| sae.name.as_str()).collect();
        let selected = select(&text, &names, &options.patterns)?;
        let is_selected = |sae: &&FoundSae| selected.contains(&sae.name.as_str());
        return Ok(saes.iter().filter(is_selected).cloned().collect());
    }
    let hub = options.hub()?;
    let saes = HubSaes::list(&hub, &text, options.revision.as_deref())?;
    let names = saes.select(&options.patterns)?;
    Ok(saes.download(&hub, &names, &mut |_| {})?)
}

#[cfg(test)]
mod tests;
