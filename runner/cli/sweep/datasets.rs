//! Data sets by the names that sweeps have for them: files of this machine, or a data set of the
//! Hugging Face Hub.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::download;
use crate::sweep::hub_access::{Asked, hub, hub_asked, remember_reach};
use crate::sweep::models::of_hub_or_folder;
use crate::sweep::paths::{self, Near};
use datasets::{ChosenFile, DatasetError, files_of_hub, find_files};
use hub::{DatasetListing, HubError};
use plan::DataFiles;
use plan::{DataName, DatasetRequest};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the Hub keeps a copy in Parquet of data sets in other formats.
const PARQUET_BRANCH: &str = "refs/convert/parquet";

/// Ends of the names of files that are compressed.
const PACKED: [&str; 4] = [".parquet", ".gz", ".zst", ".xz"];
/// Bytes for a token there, about.
const PACKED_BYTES: f64 = 2.0;

/// A data set that was found.
#[derive(Debug)]
pub(crate) struct FoundDataset {
    /// Its files; those of the Hub need not be there yet.
    pub(crate) files: DataFiles,
    /// Its listing, if it is one of the Hub.
    remote: Option<RemoteFiles>,
}

#[derive(Debug)]
struct RemoteFiles {
    listing: DatasetListing,
    names: Vec<String>,
}

/// Finds the data set `wanted`: a file, folder or pattern in the folders `near`; else, if the name can be the id of one, a data set of the Hub. Of the latter, only the
/// list of its files is asked for.
///
/// # Errors
/// The data set, or the part that is asked for, does not exist.
pub(crate) fn find_dataset(
    wanted: &DataName,
    near: &Near,
    asked: Asked,
) -> Result<FoundDataset, CliError> {
    let request = wanted.request("split")?;
    let name = &wanted.dataset;
    let missing = match find_local(name, near) {
        Ok(path) => return of_this_machine(wanted, &path, &request),
        Err(missing) => missing,
    };
    // A repository could have such a name; who types one means a file.
    if datasets::is_data_file_name(name) || !hub::is_repo_id(name) {
        return Err(missing.about("dataset".to_owned()));
    }
    let revision = wanted.args.revision();
    let remote = hub_asked(asked).and_then(|hub| hub.dataset_listing(name, revision));
    let listing = remote.map_err(|error| {
        remember_reach(&error);
        of_hub_or_folder(error, &missing, "dataset", "data_args")
    })?;
    if let Some(notice) = &listing.notice {
        table::note(&notice.to_string());
    }
    match choose(name, &listing, &request) {
        Ok(chosen) => of_hub(name, &request, listing, chosen),
        Err(error) => match lack_of_files(name, &listing, &request) {
            Some(lack) if revision.is_none() => {
                of_parquet_branch(name, &request)?.ok_or_else(|| of_data(lack))
            }
            _ => Err(of_data(error)),
        },
    }
}

/// A path, or a pattern below a folder that exists.
fn find_local(name: &str, near: &Near) -> Result<PathBuf, CliError> {
    let missing = match paths::find("dataset", name, near, None) {
        Ok(path) => return Ok(path),
        Err(missing) => missing,
    };
    let mut patterns = near.paths(name).into_iter();
    patterns
        .find(|pattern| datasets::is_pattern(pattern))
        .ok_or(missing)
}

fn of_this_machine(
    wanted: &DataName,
    path: &Path,
    request: &DatasetRequest,
) -> Result<FoundDataset, CliError> {
    if let Some(revision) = wanted.args.revision() {
        let (name, path) = (&wanted.dataset, path.display());
        let message = format!("`{name}` is `{path}`, which has no revision `{revision}`");
        return Err(CliError::input(message)
            .with_hint("leave `revision` out of `data_args`".to_owned())
            .about("data_args".to_owned()));
    }
    let files = find_files(path, request).map_err(of_data)?;
    let remote = None;
    Ok(FoundDataset { files, remote })
}

fn of_data(error: DatasetError) -> CliError {
    CliError::from(error).about("dataset".to_owned())
}

fn choose(
    name: &str,
    listing: &DatasetListing,
    request: &DatasetRequest,
) -> Result<Vec<ChosenFile>, DatasetError> {
    let names: Vec<_> = listing.files.iter().map(|file| file.name.clone()).collect();
    datasets::choose_files(name, &names, listing.card.as_deref(), request)
}

/// That a data set has no files that can be read, if that is so. It may have a loading script that
/// knows its configurations and splits, so the request for one does not count. Files and folders that
/// the request names do: the copy in Parquet has others.
fn lack_of_files(
    name: &str,
    listing: &DatasetListing,
    request: &DatasetRequest,
) -> Option<DatasetError> {
    if !request.data_files.is_empty() || request.data_dir.is_some() {
        return None;
    }
    choose(name, listing, &DatasetRequest::default())
        .err()
        .filter(|error| matches!(error, DatasetError::NoFiles(_)))
}

/// The copy in Parquet of a data set without files that can be read; `None` if the
/// Hub has no such copy.
fn of_parquet_branch(
    name: &str,
    request: &DatasetRequest,
) -> Result<Option<FoundDataset>, CliError> {
    let listing = hub().and_then(|hub| hub.dataset_listing(name, Some(PARQUET_BRANCH)));
    let listing = match listing {
        Err(HubError::NoSuchRevision { .. } | HubError::NotCached { .. }) => return Ok(None),
        listing => listing?,
    };
    let names: Vec<_> = listing.files.iter().map(|file| file.name.clone()).collect();
    let copy = datasets::choose_parquet_copy(name, &names, request).map_err(of_data)?;
    let split = &request.split;
    let text = if copy.is_partial {
        format!(
            "`{name}` has no readable files; taking the Hub's copy of it in Parquet, which \
             has only the beginning of split `{split}`"
        )
    } else {
        format!("`{name}` has no readable files; taking the Hub's copy of it in Parquet")
    };
    table::note(&text);
    of_hub(name, request, listing, copy.files).map(Some)
}

fn of_hub(
    name: &str,
    request: &DatasetRequest,
    listing: DatasetListing,
    chosen: Vec<ChosenFile>,
) -> Result<FoundDataset, CliError> {
    // A split may take a file twice.
    let names: BTreeSet<_> = chosen.iter().map(|file| file.name.clone()).collect();
    let names = names.into_iter().collect();
    let hash_of = |name: &str| {
        let mut files = listing.files.iter();
        let file = files.find(|file| file.name == name);
        file.expect("what is chosen is listed").content_hash.clone()
    };
    let located = chosen.into_iter().map(|file| {
        let (path, hash) = (listing.dir.join(&file.name), hash_of(&file.name));
        (file, path, hash)
    });
    let files = files_of_hub(name, request, located.collect()).map_err(of_data)?;
    Ok(FoundDataset {
        files,
        remote: Some(RemoteFiles { listing, names }),
    })
}

impl FoundDataset {
    /// About how many tokens it has, by the size of its files; `None`: that is not known of one of them.
    pub(crate) fn n_tokens_by_size(&self) -> Option<u64> {
        let files = self.files.files.iter().map(|file| {
            let name = file.path.to_string_lossy();
            let is_packed = PACKED.iter().any(|ending| name.ends_with(ending));
            let bytes_per_token = if is_packed {
                PACKED_BYTES
            } else {
                tokens::BYTES_PER_TOKEN
            };
            Some(self.n_bytes_of(&name)? as f64 / bytes_per_token)
        });
        Some(files.sum::<Option<f64>>()? as u64)
    }

    /// Bytes of the file at `path`, which need not be there yet if it is one of the Hub.
    fn n_bytes_of(&self, path: &str) -> Option<u64> {
        match &self.remote {
            None => Some(Path::new(path).metadata().ok()?.len()),
            Some(RemoteFiles { listing, names }) => {
                // It ends in the name that the repository has.
                let name = names.iter().find(|name| path.ends_with(*name))?;
                let file = listing.files.iter().find(|file| file.name == *name)?;
                Some(file.n_bytes)
            }
        }
    }

    /// Downloads its files, as far as they are not in the cache.
    ///
    /// # Errors
    /// A download that fails.
    pub(crate) fn fetch(&self, quiet: bool) -> Result<(), CliError> {
        let Some(RemoteFiles { listing, names }) = &self.remote else {
            return Ok(());
        };
        download::shown(&listing.repo, quiet, |show| {
            hub()?.download_dataset_files(listing, names, show)
        })?;
        Ok(())
    }
}
