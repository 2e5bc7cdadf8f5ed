//! Which files a commit has, and the files that are chosen.

use crate::digest::Etag;
use crate::download::Download;
use crate::hub::{Found, GO_ONLINE};
use crate::listing::ListedFile;
use crate::name::is_path_of_file;
use crate::tree::{self, RemoteFile};
use crate::words::cut;
use crate::{Hub, HubError, Progress, refusal};
use fault::Fault;
use std::collections::HashMap;
use std::path::PathBuf;

/// The files of a commit, from the cache or else from the Hub; `None`: offline, and it was not listed.
pub(crate) fn files_of(hub: &Hub, found: &Found) -> Result<Option<Vec<ListedFile>>, HubError> {
    let Found { cache, commit, .. } = found;
    if let Some(files) = cache.listed_files(commit) {
        return Ok(Some(files));
    }
    if hub.settings().offline {
        return Ok(None);
    }
    let mut files = hub.fetch(cache, commit, &mut |_| {}, async |download| {
        let files = tree::all_files(download.context, commit).await?;
        let listed = |file| listed_file(&download, file);
        files.into_iter().map(listed).collect::<Result<Vec<_>, _>>()
    })?;
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    cache.remember_files(commit, &files);
    Ok(Some(files))
}

/// Offline, and it is not known which files a commit has.
pub(crate) fn not_listed(hub: &Hub, found: &Found) -> HubError {
    let (repo, commit) = (found.repo(), &found.commit);
    let folder = hub.settings().cache_dir.display();
    let fault = Fault::input(format!(
        "offline, and the list of the files of `{repo}` at commit {commit} is not in the cache \
         `{folder}`"
    ));
    HubError::Fault(fault.with_hint(GO_ONLINE))
}

/// Downloads the files `names`, which are among `files`, as far as they are not in the cache; checks
/// the length of the others. Their paths in the same order.
pub(crate) fn bring_named(
    hub: &Hub,
    found: &Found,
    (files, names): (&[ListedFile], &[String]),
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PathBuf>, HubError> {
    let Found { cache, commit, .. } = found;
    let chosen = chosen(found, files, names)?;
    let (present, missing): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .partition(|file| cache.has(commit, &file.name));
    for file in present {
        cache.check_file_length(commit, &file.name, file.n_bytes)?;
    }
    if let Some(first) = missing.first() {
        hub.check_online(cache, commit, Some(&first.name))?;
        let all = async |download: Download<'_>| download.all(&missing).await;
        hub.fetch(cache, commit, progress, all)?;
    }
    let dir = cache.snapshot(commit);
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

/// What to download for `names`, which are among the listed `files` of a commit.
fn chosen(
    found: &Found,
    files: &[ListedFile],
    names: &[String],
) -> Result<Vec<RemoteFile>, HubError> {
    let files = files.iter().map(|file| (file.name.as_str(), file));
    let files: HashMap<_, _> = files.collect();
    let chosen = |name: &String| match files.get(name.as_str()) {
        // No matter who made this listing, a path is checked before it is joined.
        Some(file) if is_path_of_file(name) => Ok(RemoteFile {
            name: file.name.clone(),
            n_bytes: file.n_bytes,
            etag: file.etag(),
        }),
        _ => {
            let (repo, commit) = (found.repo(), &found.commit);
            let text = format!("`{repo}` has no file `{name}` at commit {commit}");
            let hint = "look at the repository's page for its files";
            Err(HubError::Fault(Fault::input(text).with_hint(hint)))
        }
    };
    names.iter().map(chosen).collect()
}

fn listed_file(download: &Download<'_>, file: RemoteFile) -> Result<ListedFile, HubError> {
    if !is_path_of_file(&file.name) {
        let (repo, file) = (download.context.repo.as_str(), cut(&file.name));
        return Err(HubError::Fault(Fault::input(format!(
            "`{repo}` lists a file called {file:?}, which is not a path in a repository"
        ))));
    }
    let content_hash = file.etag.as_ref().and_then(Etag::content_hash);
    let nameless = || refusal::nameless(download.context, &file.name);
    Ok(ListedFile {
        content_hash: content_hash.ok_or_else(nameless)?,
        n_bytes: file.n_bytes,
        name: file.name,
    })
}
