//! The SAEs of a repository on the Hugging Face Hub.

use crate::cfg_file::{CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE};
use crate::error::{code_list, no_saes, no_such_sae};
use crate::folders::found;
use crate::folders::select;
use crate::{CROSSCODER_WEIGHTS_FILE, SAELENS_WEIGHTS_FILE};
use fault::Fault;
use hub::{Hub, HubError, ListedFile, ModelListing, Notice, Progress};
use plan::FoundSae;
use std::collections::{HashMap, HashSet};

/// The settings of the training that made a repository's SAEs, as sparsify leaves them.
const TRAINING_CONFIG: &str = "config.json";

/// The weights of an SAE's folder, in each layout that has a folder for each.
const WEIGHTS: [&str; 3] = [WEIGHTS_FILE, SAELENS_WEIGHTS_FILE, CROSSCODER_WEIGHTS_FILE];

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
    /// with `cfg.json` and weights in sparsify's layout, SAELens's or crosscoder_learning's. Only the list of files is
    /// asked for.
    ///
    /// # Errors
    /// No such repository, no access, no network; a repository without SAEs, or with a `cfg.json` of
    /// more than a megabyte.
    pub fn list(hub: &Hub, repo: &str, revision: Option<&str>) -> Result<Self, Fault> {
        let listing = hub.model_listing(repo, revision)?;
        let mut saes = listed_saes(&listing);
        saes.sort_by(|a, b| natord::compare(&a.name, &b.name));
        if saes.is_empty() {
            let there = listing.files.into_iter().map(|file| file.name);
            return Err(no_saes(&listing.repo, &there.collect::<Vec<_>>()));
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

    /// The names that match any of the shell patterns; all of them if there is no pattern.
    ///
    /// # Errors
    /// A pattern that matches nothing.
    pub fn select(&self, patterns: &[String]) -> Result<Vec<String>, Fault> {
        let selected = select(&self.listing.repo, &self.names(), patterns)?;
        Ok(selected.into_iter().map(str::to_owned).collect())
    }

    /// The name of the SAE called `name`, or of the only one.
    ///
    /// # Errors
    /// No such SAE, or several.
    pub fn one(&self, name: Option<&str>) -> Result<String, Fault> {
        let (location, names) = (&self.listing.repo, self.names());
        let Some(wanted) = name else {
            // As sparsify does, the one at the top if there are others.
            let at_top = self.saes.iter().find(|sae| sae.folder.is_empty());
            return match (at_top, &names[..]) {
                (Some(sae), _) => Ok(sae.name.clone()),
                (None, [only]) => Ok((*only).to_owned()),
                (None, _) => Err(
                    Fault::input(format!("`{location}` has {} SAEs", names.len()))
                        .with_hint(format!("choose one of {}", code_list(&names))),
                ),
            };
        };
        if names.contains(&wanted) {
            Ok(wanted.into())
        } else {
            Err(no_such_sae(location, wanted, &names))
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
            found(sae.name.clone(), dir)
        });
        Ok(found.collect())
    }
}

/// Folders with settings and weights. What is within the folder of an SAE is the same SAE in another
/// layout.
fn listed_saes(listing: &ModelListing) -> Vec<ListedSae> {
    let mut folders: HashMap<&str, Vec<(&str, &ListedFile)>> = HashMap::new();
    for file in &listing.files {
        let (folder, name) = file.name.rsplit_once('/').unwrap_or(("", &file.name));
        folders.entry(folder).or_default().push((name, file));
    }
    let of_folder = |(folder, files): (&str, Vec<(&str, &ListedFile)>)| {
        let find = |wanted: &str| files.iter().find(|(name, _)| *name == wanted);
        let (_, config) = find(CONFIG_FILE)?;
        let (_, weights) = WEIGHTS.into_iter().find_map(find)?;
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
