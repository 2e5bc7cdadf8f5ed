//! Which commit a revision means and which files a commit has, by the Hub. hf-hub 1.0.0 asks the same,
//! and loses how large files hash.

use crate::HubError;
use crate::context::Context;
use crate::digest::Etag;
use crate::exchange;
use crate::name::is_commit;
use crate::refusal;
use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use std::collections::HashSet;
use tokio::time::timeout;

/// What the Hub says about a revision, as far as it is asked for.
#[derive(Deserialize)]
pub(crate) struct RevisionInfo {
    sha: Option<String>,
}

impl RevisionInfo {
    /// `None` if an answer is not about a revision.
    pub(crate) fn parse(answer: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(answer)
    }

    /// The commit, if it names one.
    pub(crate) fn commit(self) -> Option<String> {
        self.sha.filter(|sha| is_commit(sha))
    }
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) n_bytes: u64,
    /// The name of its content; `None`: the Hub did not say it.
    pub(crate) etag: Option<Etag>,
}

/// The commit that a branch or tag means.
pub(crate) async fn commit_of(context: &Context<'_>, name: &str) -> Result<String, HubError> {
    let mut url = context.api("revision", name);
    // Nothing but the commit: the whole answer lists every file of the repository.
    url.set_query(Some("expand=sha"));
    let answer = exchange::get(context, &url, name).await?;
    let info = RevisionInfo::parse(&answer.body).map_err(|error| refusal::odd(context, error))?;
    let commit = info.commit();
    commit.ok_or_else(|| refusal::odd(context, "it names no commit"))
}

/// The files at the top of a commit's tree.
pub(crate) async fn top_files(
    context: &Context<'_>,
    commit: &str,
) -> Result<Vec<RemoteFile>, HubError> {
    files(context, commit, None).await
}

/// All files of a commit.
pub(crate) async fn all_files(
    context: &Context<'_>,
    commit: &str,
) -> Result<Vec<RemoteFile>, HubError> {
    files(context, commit, Some("recursive=true")).await
}

async fn files(
    context: &Context<'_>,
    commit: &str,
    query: Option<&str>,
) -> Result<Vec<RemoteFile>, HubError> {
    let mut url = context.api("tree", commit);
    url.set_query(query);
    let mut pages = Pages {
        context,
        commit,
        seen: HashSet::new(),
        n_bytes: 0,
        n_entries: 0,
        files: Vec::new(),
    };
    let limits = &context.settings.limits;
    match timeout(limits.max_listing_time, pages.read_all(url)).await {
        Ok(read) => read?,
        Err(_) => {
            let seconds = limits.max_listing_time.as_secs_f64();
            return Err(pages.endless(&format!("takes longer than {seconds} s")));
        }
    }
    check_sizes(context, &pages.files)?;
    Ok(pages.files)
}

/// Files are of a length that a disk can hold, alone and together.
pub(crate) fn check_sizes(context: &Context<'_>, files: &[RemoteFile]) -> Result<(), HubError> {
    let mut sum: u64 = 0;
    for file in files {
        let bad = |reason| refusal::bad_size(context, (&file.name, file.n_bytes), reason);
        if file.n_bytes > context.settings.limits.max_file_bytes {
            return Err(bad("no file can have"));
        }
        let added = sum.checked_add(file.n_bytes);
        sum = added.ok_or_else(|| bad("does not add up with the other files"))?;
    }
    Ok(())
}

/// A listing, page by page.
struct Pages<'a> {
    context: &'a Context<'a>,
    commit: &'a str,
    /// Addresses that were asked.
    seen: HashSet<Url>,
    n_bytes: u64,
    n_entries: usize,
    files: Vec<RemoteFile>,
}

impl Pages<'_> {
    async fn read_all(&mut self, mut url: Url) -> Result<(), HubError> {
        while let Some(next) = self.read(&url).await? {
            url = next;
        }
        Ok(())
    }

    /// Takes in a page, and gives the address of the next one.
    async fn read(&mut self, url: &Url) -> Result<Option<Url>, HubError> {
        let limits = &self.context.settings.limits;
        if !self.seen.insert(url.clone()) {
            return Err(self.endless("returns to an earlier page"));
        }
        if self.seen.len() > limits.max_pages {
            let reason = format!("has more than {} pages", limits.max_pages);
            return Err(self.endless(&reason));
        }
        let page = exchange::get(self.context, url, self.commit).await?;
        self.n_bytes += page.body.len() as u64;
        if self.n_bytes > limits.max_listing_bytes {
            let reason = format!("is longer than {} bytes", limits.max_listing_bytes);
            return Err(self.endless(&reason));
        }
        let parsed = parse_page(&page.body);
        let (n_entries, files) = parsed.map_err(|error| refusal::odd(self.context, error))?;
        self.n_entries += n_entries;
        if self.n_entries > limits.max_entries {
            let reason = format!("has more than {} files and folders", limits.max_entries);
            return Err(self.endless(&reason));
        }
        self.files.extend(files);
        Ok(next_page(url, &page.headers))
    }

    fn endless(&self, reason: &str) -> HubError {
        refusal::endless(self.context, reason)
    }
}

/// Something in a commit.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Entry {
    File(FileEntry),
    /// A folder, or what the Hub may think of later.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileEntry {
    path: String,
    size: u64,
    /// Git's name of the file, or of a pointer to it.
    oid: String,
    lfs: Option<LargeFile>,
    xet_hash: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    /// The content's SHA-256.
    oid: Option<String>,
}

/// How much a page lists, and its files.
pub(crate) fn parse_page(page: &[u8]) -> serde_json::Result<(usize, Vec<RemoteFile>)> {
    let entries: Vec<Entry> = serde_json::from_slice(page)?;
    let n_entries = entries.len();
    Ok((
        n_entries,
        entries.into_iter().filter_map(remote_file).collect(),
    ))
}

fn remote_file(entry: Entry) -> Option<RemoteFile> {
    let Entry::File(file) = entry else {
        return None;
    };
    let name = match (file.lfs, file.xet_hash) {
        (Some(large), _) => large.oid,
        // Of a pointer, which is not downloaded.
        (None, Some(_)) => None,
        (None, None) => Some(file.oid),
    };
    Some(RemoteFile {
        name: file.path,
        n_bytes: file.size,
        etag: name.and_then(|name| Etag::parse(&name)),
    })
}

/// The address in `Link: <ADDRESS>; rel="next"`.
pub(crate) fn next_page(url: &Url, headers: &HeaderMap) -> Option<Url> {
    let links = headers.get(LINK)?.to_str().ok()?.split(',');
    let mut links = links.filter(|link| link.contains("rel=\"next\""));
    let (_, link) = links.next()?.split_once('<')?;
    let (address, _) = link.split_once('>')?;
    url.join(address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(link: &str) -> Option<String> {
        let url = Url::parse("https://host/api/x?cursor=1").unwrap();
        let headers = HeaderMap::from_iter([(LINK, link.parse().unwrap())]);
        next_page(&url, &headers).map(Into::into)
    }

    #[test]
    fn pages_follow_links() {
        let expected = Some("https://host/api/x?cursor=2".to_owned());
        assert_eq!(
            next(r#"<https://host/api/x?cursor=2>; rel="next""#),
            expected
        );
        assert_eq!(
            next(r#"<?cursor=0>; rel="prev", <?cursor=2>; rel="next""#),
            expected
        );
        assert_eq!(next(r#"<?cursor=0>; rel="prev""#), None);
        assert_eq!(next(r#"rel="next""#), None);
    }

    fn etag(entry: &str) -> Option<String> {
        let file = remote_file(serde_json::from_str(entry).unwrap()).unwrap();
        assert_eq!((file.name.as_str(), file.n_bytes), ("a/b", 7));
        file.etag.map(|etag| etag.as_str().to_owned())
    }

    #[test]
    fn large_files_are_called_by_their_content() {
        let entry = |more: &str| {
            etag(&format!(
                r#"{{"type": "file", "path": "a/b", "size": 7, "oid": "0a"{more}}}"#
            ))
        };
        assert_eq!(entry("").as_deref(), Some("0a"));
        let lfs = r#", "lfs": {"oid": "1b", "size": 7, "pointerSize": 130}"#;
        assert_eq!(entry(lfs).as_deref(), Some("1b"));
        assert_eq!(entry(r#", "xetHash": "2c""#), None);
        let folder = r#"{"type": "directory", "path": "a", "oid": "0a", "size": 0}"#;
        assert!(remote_file(serde_json::from_str(folder).unwrap()).is_none());
    }
}
