//! SAEs of the Hugging Face Hub, and several at once.

use crate::disk::MAX_CONFIG_BYTES;
use crate::folders::{no_such, select};
use crate::{CONFIG_FILE, FoundSae, LoadOptions, Sae, SaeError, WEIGHTS_FILE, find_saes, saelens};
use hub::{Hub, HubError, HubSettings, ListedFile, ModelListing, Notice, Progress};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The settings of the training that made a repository's SAEs, as sparsify leaves them.
const TRAINING_CONFIG: &str = "config.json";

/// The SAEs of a repository on the Hub, which need not be here yet.
#[derive(Clone, Debug)]
pub struct HubSaes {
    listing: ModelListing,
    saes: Vec<ListedSae>,
}

/// An SAE of a repository.
#[derive(Clone, Debug)]
struct ListedSae {
    name: String,
    /// Its folder in the repository; empty at the top.
    folder: String,
    /// Paths of `cfg.json` and the weights.
    files: [String; 2],
}

impl HubSaes {
    /// Finds the SAEs of `repo` at `revision` (a branch, tag or commit; `None`: `main`): every folder
    /// with `cfg.json` and weights in sparsify's layout or SAELens's. Only the list of files is asked
    /// for.
    ///
    /// # Errors
    /// No such repository, no access, no network; a repository without SAEs, or with a `cfg.json` of
    /// more than a megabyte.
    pub fn list(hub: &Hub, repo: &str, revision: Option<&str>) -> Result<Self, SaeError> {
        let listing = hub.model_listing(repo, revision)?;
        let mut saes = listed_saes(&listing);
        saes.sort_by(|a, b| natord::compare(&a.name, &b.name));
        if saes.is_empty() {
            let place = listing.repo;
            let there = listing.files.into_iter().map(|file| file.name).collect();
            return Err(SaeError::NoSaes { place, there });
        }
        Ok(Self { listing, saes })
    }

    /// Their names: paths of their folders, in natural order. An SAE at the top is called after the
    /// repository.
    pub fn names(&self) -> Vec<&str> {
        self.saes.iter().map(|sae| sae.name.as_str()).collect()
    }

    /// The commit that was listed.
    pub fn commit(&self) -> &str {
        &self.listing.commit
    }

    /// What the user should know of how it was found.
    pub fn notice(&self) -> Option<&Notice> {
        self.listing.notice.as_ref()
    }

    /// The names that match any of the shell patterns; all where there are none.
    ///
    /// # Errors
    /// A pattern that matches nothing.
    pub fn select(&self, patterns: &[String]) -> Result<Vec<String>, SaeError> {
        let selected = select(&self.listing.repo, &self.names(), patterns)?;
        Ok(selected.into_iter().map(str::to_owned).collect())
    }

    /// The name of the SAE called `name`, or of the only one.
    fn one(&self, name: Option<&str>) -> Result<String, SaeError> {
        let (place, names) = (&self.listing.repo, self.names());
        let Some(wanted) = name else {
            // As sparsify does, the one at the top where there are others.
            let at_top = self.saes.iter().find(|sae| sae.folder.is_empty());
            return match (at_top, &names[..]) {
                (Some(sae), _) => Ok(sae.name.clone()),
                (None, [only]) => Ok((*only).to_owned()),
                (None, _) => Err(SaeError::SeveralSaes {
                    place: place.clone(),
                    names: names.into_iter().map(str::to_owned).collect(),
                }),
            };
        };
        match names.contains(&wanted) {
            true => Ok(wanted.into()),
            false => Err(no_such(place, wanted, &names)),
        }
    }

    /// Downloads the SAEs called `names`, which [`HubSaes::select`] gave: settings and weights, and
    /// nothing else but the settings of their training; what is in the cache is not asked for.
    /// `progress` is called on this thread.
    ///
    /// # Errors
    /// No access, no network, a damaged file.
    pub fn download(
        &self,
        hub: &Hub,
        names: &[String],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<FoundSae>, HubError> {
        let wanted = self.saes.iter().filter(|sae| names.contains(&sae.name));
        let wanted: Vec<_> = wanted.collect();
        let own = wanted.iter().flat_map(|sae| sae.files.iter().cloned());
        let files = self.listing.files.iter();
        let of_training =
            files.filter(|file| file.name == TRAINING_CONFIG && file.n_bytes <= MAX_CONFIG_BYTES);
        let files: Vec<String> = own
            .chain(of_training.map(|file| file.name.clone()))
            .collect();
        hub.download_listed(&self.listing, &files, progress)?;
        let found = wanted.into_iter().map(|sae| {
            let dir = self.listing.dir.join(&sae.folder);
            FoundSae::new(sae.name.clone(), dir)
        });
        Ok(found.collect())
    }
}

/// Folders with settings and weights. What lies within the folder of an SAE is the same SAE in another
/// layout.
fn listed_saes(listing: &ModelListing) -> Vec<ListedSae> {
    let mut folders: HashMap<&str, Vec<(&str, &ListedFile)>> = HashMap::new();
    for file in &listing.files {
        let (folder, name) = file.name.rsplit_once('/').unwrap_or(("", &file.name));
        folders.entry(folder).or_default().push((name, file));
    }
    let of_folder = |(folder, files): (&str, Vec<(&str, &ListedFile)>)| {
        let find = |wanted| files.iter().find(|(name, _)| *name == wanted);
        let (_, config) = find(CONFIG_FILE)?;
        let (_, weights) = find(WEIGHTS_FILE).or_else(|| find(saelens::WEIGHTS_FILE))?;
        let name = match folder {
            "" => listing.repo.rsplit('/').next().unwrap_or(&listing.repo),
            folder => folder,
        };
        // Settings are small; a server may say what it likes.
        (config.n_bytes <= MAX_CONFIG_BYTES).then(|| ListedSae {
            name: name.into(),
            folder: folder.into(),
            files: [config.name.clone(), weights.name.clone()],
        })
    };
    let saes: Vec<_> = folders.into_iter().filter_map(of_folder).collect();
    let names: HashSet<_> = saes.iter().map(|sae| sae.folder.clone()).collect();
    let is_own = |sae: &ListedSae| {
        let above = sae.folder.rsplit_once('/');
        !above.is_some_and(|(above, _)| names.contains(above))
    };
    saes.into_iter().filter(is_own).collect()
}

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
