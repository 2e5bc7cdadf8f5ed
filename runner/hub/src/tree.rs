//! Which files a commit has, by the Hub. hf-hub 1.0.0 asks the same, and loses how large files hash.

use crate::HubError;
use crate::asked::Refusal;
use crate::digest::Etag;
use crate::remote::{Remote, RemoteFile};
use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

/// Most pages of a listing, of which each usually has a thousand files: a server may always name
/// another.
const MAX_PAGES: usize = 10_000;

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

impl<'a> Remote<'a> {
    /// The files at the top of a commit's tree.
    pub(crate) async fn top_files(&self, commit: &'a str) -> Result<Vec<RemoteFile>, HubError> {
        self.files(commit, None).await
    }

    /// All files of a commit.
    pub(crate) async fn all_files(&self, commit: &'a str) -> Result<Vec<RemoteFile>, HubError> {
        self.files(commit, Some("recursive=true")).await
    }

    async fn files(
        &self,
        commit: &'a str,
        query: Option<&str>,
    ) -> Result<Vec<RemoteFile>, HubError> {
        let asked = self.asked(commit);
        let mut url = self.api(&format!("tree/{commit}"))?;
        url.set_query(query);
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.get(&url).await;
            let page = page.map_err(|error| asked.unreachable(error))?;
            if !page.status.is_success() {
                return Err(asked.refused(&Refusal::of(page.status, &page.headers)));
            }
            let entries: Vec<Entry> =
                serde_json::from_slice(&page.body).map_err(|error| asked.odd(error))?;
            files.extend(entries.into_iter().filter_map(remote_file));
            match next_page(&url, &page.headers) {
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        Err(asked.odd("its list of files has no end"))
    }
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
fn next_page(url: &Url, headers: &HeaderMap) -> Option<Url> {
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
