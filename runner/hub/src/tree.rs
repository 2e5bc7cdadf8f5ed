//! Which files a commit has, by the Hub. hf-hub 1.0.0 asks the same, and loses how large files hash.

use crate::HubError;
use crate::asked::{Asked, Refusal};
use crate::digest::Etag;
use crate::remote::{Remote, RemoteFile};
use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use std::collections::HashSet;
use tokio::time::timeout;

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

/// A listing, page by page.
struct Pages<'a> {
    remote: &'a Remote<'a>,
    commit: &'a str,
    /// Addresses that were asked.
    seen: HashSet<Url>,
    n_bytes: u64,
    n_entries: usize,
    files: Vec<RemoteFile>,
}

impl Remote<'_> {
    /// The files at the top of a commit's tree.
    pub(crate) async fn top_files(&self, commit: &str) -> Result<Vec<RemoteFile>, HubError> {
        self.files(commit, None).await
    }

    /// All files of a commit.
    pub(crate) async fn all_files(&self, commit: &str) -> Result<Vec<RemoteFile>, HubError> {
        self.files(commit, Some("recursive=true")).await
    }

    async fn files(&self, commit: &str, query: Option<&str>) -> Result<Vec<RemoteFile>, HubError> {
        let mut url = self.api("tree", commit)?;
        url.set_query(query);
        let mut pages = Pages {
            remote: self,
            commit,
            seen: HashSet::new(),
            n_bytes: 0,
            n_entries: 0,
            files: Vec::new(),
        };
        let limits = &self.settings().limits;
        match timeout(limits.max_listing_time, pages.read_all(url)).await {
            Ok(read) => read?,
            Err(_) => {
                let seconds = limits.max_listing_time.as_secs_f64();
                return Err(pages.endless(format!("takes longer than {seconds} s")));
            }
        }
        check_sizes(&pages.files, &pages.asked(), limits.max_file_bytes)?;
        Ok(pages.files)
    }
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
        let limits = &self.remote.settings().limits;
        if !self.seen.insert(url.clone()) {
            return Err(self.endless("comes back to a page that it had"));
        }
        if self.seen.len() > limits.max_pages {
            let reason = format!("has more than {} pages", limits.max_pages);
            return Err(self.endless(reason));
        }
        let page = self.remote.get(url).await?;
        if !page.status.is_success() {
            let refusal = Refusal::of(page.status, &page.headers);
            return Err(self.asked().refused(&refusal));
        }
        self.n_bytes += page.body.len() as u64;
        if self.n_bytes > limits.max_listing_bytes {
            let reason = format!("is longer than {} bytes", limits.max_listing_bytes);
            return Err(self.endless(reason));
        }
        let (n_entries, files) = parse_page(&page.body).map_err(|error| self.asked().odd(error))?;
        self.n_entries += n_entries;
        if self.n_entries > limits.max_entries {
            let reason = format!("has more than {} files and folders", limits.max_entries);
            return Err(self.endless(reason));
        }
        self.files.extend(files);
        Ok(next_page(url, &page.headers))
    }

    fn asked(&self) -> Asked<'_> {
        self.remote.asked(self.commit)
    }

    fn endless(&self, reason: impl Into<String>) -> HubError {
        self.asked().endless(reason)
    }
}

/// Files are of a length that a disk can hold, alone and together.
pub(crate) fn check_sizes(
    files: &[RemoteFile],
    asked: &Asked<'_>,
    max_file_bytes: u64,
) -> Result<(), HubError> {
    let mut sum: u64 = 0;
    for file in files {
        if file.n_bytes > max_file_bytes {
            return Err(asked.bad_size(file, "no file can have"));
        }
        let added = sum.checked_add(file.n_bytes);
        sum = added.ok_or_else(|| asked.bad_size(file, "does not add up with the other files"))?;
    }
    Ok(())
}

/// How much a page lists, and the files of it.
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
