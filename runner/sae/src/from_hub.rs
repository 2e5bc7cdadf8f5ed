//! SAEs of the Hugging Face Hub.

use crate::{LoadOptions, Sae, SaeError};
use hub::{Hub, HubSettings};
use plan::FoundSae;
use sae_files::HubSaes;

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
}

/// The SAEs of a repository that the options choose, downloaded.
pub(crate) fn download(repo: &str, options: &LoadOptions) -> Result<Vec<FoundSae>, SaeError> {
    let hub = options.hub()?;
    let saes = HubSaes::list(&hub, repo, options.revision.as_deref())?;
    let names = saes.select(&options.patterns)?;
    Ok(saes.download(&hub, &names, &mut |_| {})?)
}

#[cfg(test)]
mod tests;
