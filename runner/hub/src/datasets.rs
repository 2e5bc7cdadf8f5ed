//! Data sets by their id: which files they have, their card, and the files that are chosen.

use crate::hub::Found;
use crate::listing::ListedFile;
use crate::{Hub, HubError, Notice, Progress, RepoKind, listed};
use fault::Fault;
use std::fs;
use std::path::PathBuf;

/// The file that describes a data set, and may say what belongs to which of its parts.
const CARD: &str = "README.md";

/// Longest card that is read. From 10 MB on the Hub takes a file for data.
const MAX_CARD_BYTES: u64 = 16 << 20;

/// A data set at a commit: which files it has. Of the files themselves, only the card is in the
/// cache.
#[derive(Clone, Debug)]
pub struct DatasetListing {
    /// The repository's id.
    pub repo: String,
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Its folder in the cache. It may not exist yet.
    pub dir: PathBuf,
    /// All files, in the order of their names.
    pub files: Vec<ListedFile>,
    /// The text of README.md.
    pub card: Option<String>,
    /// What the user should know about how it was found.
    pub notice: Option<Notice>,
}

impl Hub {
    /// The commit that `revision` (a branch, tag or commit; `None`: `main`) of the data set `repo`
    /// means, which files it has, and its card. No other file is downloaded. The revision
    /// `refs/convert/parquet` has the files that the Hub makes of many data sets by itself.
    ///
    /// Of a commit that was listed before, by this program or by Python's `snapshot_download`,
    /// nothing is asked. Offline, or when the Hub cannot say, a branch or tag means what it meant
    /// when it was last asked for.
    ///
    /// # Errors
    /// No such data set, or no access to it; no network, and not in the cache; a file whose path
    /// leads elsewhere; a card that is damaged, too long or no text.
    pub fn dataset_listing(
        &self,
        repo: &str,
        revision: Option<&str>,
    ) -> Result<DatasetListing, HubError> {
        let found = self.find(RepoKind::Dataset, repo, revision)?;
        let files = listed::files_of(self, &found)?;
        let files = files.ok_or_else(|| listed::not_listed(self, &found))?;
        let card = card_of(self, &found, &files)?;
        found.remember();
        Ok(DatasetListing {
            repo: found.repo().into(),
            dir: found.cache.snapshot(&found.commit),
            commit: found.commit,
            files,
            card,
            notice: found.notice,
        })
    }

    /// Downloads the files `names` of a data set as far as they are not in the cache, and gives
    /// their paths in the same order. What an interrupted download left is taken up. `progress` is
    /// called on this thread.
    ///
    /// # Errors
    /// A name that `listing` does not have; no access; no network, and not in the cache; a damaged
    /// file.
    pub fn download_dataset_files(
        &self,
        listing: &DatasetListing,
        names: &[String],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>, HubError> {
        let found = self.find(RepoKind::Dataset, &listing.repo, Some(&listing.commit))?;
        listed::bring_named(self, &found, (&listing.files, names), progress)
    }
}

/// The text of the card, if there is one. It is downloaded if it is not in the cache.
fn card_of(hub: &Hub, found: &Found, files: &[ListedFile]) -> Result<Option<String>, HubError> {
    let Some(card) = files.iter().find(|file| file.name == CARD) else {
        return Ok(None);
    };
    if card.n_bytes > MAX_CARD_BYTES {
        return Err(bad_card(found, "it is longer than 17 MB"));
    }
    if !found.cache.has(&found.commit, CARD) {
        listed::bring_named(hub, found, (files, &[CARD.to_owned()]), &mut |_| {})?;
    }
    found.cache.check(&found.commit, CARD)?;
    let path = found.cache.snapshot(&found.commit).join(CARD);
    let text = fs::read(&path).map_err(HubError::io("read", &path))?;
    let text = String::from_utf8(text);
    Ok(Some(
        text.map_err(|_| bad_card(found, "it is not UTF-8 text"))?,
    ))
}

fn bad_card(found: &Found, reason: &str) -> HubError {
    let repo = found.repo();
    let text = format!("README.md of `{repo}` cannot be read as the data set's card: {reason}");
    let hint = "copy the data set's files into a folder, and name that";
    HubError::Fault(Fault::input(text).with_hint(hint))
}
