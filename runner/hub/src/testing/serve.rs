//! What is asked, and the Hub's answers.

use super::http::{Received, Response};
use super::repo::{Access, Commit, Repo, RepoFile};
use super::{Fault, State, lock};
use crate::RepoKind;
use serde_json::{Value, json};
use std::sync::Mutex;

/// Files in one answer about a tree, as on the Hub.
const PAGE_SIZE: usize = 1000;

const REPO_NOT_FOUND: &str = "RepoNotFound";

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Hub,
    /// The store of large files.
    Store,
}

/// The answer to a request, spoilt where a fault meets it.
pub(super) fn respond(received: &Received, place: Place, state: &Mutex<State>) -> Response {
    let (response, fault) = {
        let mut state = lock(state);
        state.requests.push(received.log(place));
        let fault = state.faults.take(&received.method, &received.target);
        let range = received
            .header("range")
            .filter(|_| !fault.as_ref().is_some_and(Fault::hides_ranges));
        let asked = Asked {
            state: &state,
            received,
            range,
        };
        (asked.answer(place), fault)
    };
    // Without the lock: a fault may take its time.
    match fault {
        Some(fault) => fault.spoil(response),
        None => response,
    }
}

struct Asked<'a> {
    state: &'a State,
    received: &'a Received,
    range: Option<&'a str>,
}

/// What a path of the Hub means.
struct Route<'a> {
    kind: RepoKind,
    id: String,
    /// `revision`, `tree` or `resolve`; `None`: the repository.
    verb: Option<&'a str>,
    revision: String,
    /// What follows the revision.
    path: String,
    is_api: bool,
}

impl<'a> Route<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let api = path.strip_prefix("/api/");
        let rest = api.or(path.strip_prefix('/'))?;
        let (kind, rest) = match (api, rest.split_once('/')) {
            (_, Some(("datasets", rest))) => (RepoKind::Dataset, rest),
            (Some(_), Some(("models", rest))) => (RepoKind::Model, rest),
            (Some(_), _) => return None,
            (None, _) => (RepoKind::Model, rest),
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let verbs = ["revision", "tree", "resolve"];
        let at = (1..parts.len().min(3)).find(|&at| verbs.contains(&parts[at]));
        let after = |n: usize| at.and_then(|at| parts.get(at + n..)).unwrap_or_default();
        Some(Self {
            kind,
            id: parts[..at.unwrap_or(parts.len())].join("/"),
            verb: at.map(|at| parts[at]),
            revision: decode(after(1).first().copied().unwrap_or("main")),
            path: decode(&after(2).join("/")),
            is_api: api.is_some(),
        })
    }
}

impl Asked<'_> {
    fn answer(&self, place: Place) -> Response {
        let (path, query) = match self.received.target.split_once('?') {
            Some((path, query)) => (path, query),
            None => (self.received.target.as_str(), ""),
        };
        match (place, Route::parse(path)) {
            (Place::Store, _) => self.stored(path),
            (Place::Hub, Some(route)) => self.route(&route, query),
            (Place::Hub, None) => Response::error(404, None, "no such page"),
        }
    }

    fn route(&self, route: &Route<'_>, query: &str) -> Response {
        if let Some(new) = self.state.moved.get(&route.id) {
            return Response::redirect(307, self.received.target.replacen(&route.id, new, 1));
        }
        let repo = match self.repo(route) {
            Ok(repo) => repo,
            Err(refusal) => return refusal,
        };
        let Some((hash, commit)) = repo.commit(&route.revision) else {
            let message = format!("Invalid rev id: {}", route.revision);
            return Response::error(404, Some("RevisionNotFound"), &message);
        };
        match (route.is_api, route.verb) {
            (true, None | Some("revision")) => info(route, hash, commit),
            (true, Some("tree")) => self.tree(route, commit, query),
            (false, Some("resolve")) => self.resolve(route, hash, commit),
            _ => Response::error(404, None, "no such page"),
        }
    }

    /// The repository, if it may be seen.
    fn repo(&self, route: &Route<'_>) -> Result<&Repo, Response> {
        let token = self.received.header("authorization");
        let is_known = token.is_some_and(|token| {
            let expected = self.state.token.as_deref();
            token.strip_prefix("Bearer ") == expected && expected.is_some()
        });
        if token.is_some() && !is_known {
            let message = "Invalid credentials in Authorization header";
            return Err(Response::error(401, None, message));
        }
        let repo = self.state.repos.get(&(route.kind, route.id.clone()));
        let repo = repo.filter(|repo| repo.access != Access::Private || is_known);
        let Some(repo) = repo else {
            let status = if is_known { 404 } else { 401 };
            return Err(Response::error(
                status,
                Some(REPO_NOT_FOUND),
                "Repository not found",
            ));
        };
        let refusal = match (repo.access, is_known) {
            (Access::Gated | Access::GatedToAll, false) => 401,
            (Access::GatedToAll, true) => 403,
            _ => return Ok(repo),
        };
        match route.is_api {
            true => Ok(repo),
            false => Err(Response::error(
                refusal,
                Some("GatedRepo"),
                "Access to this repository is restricted",
            )),
        }
    }

    fn tree(&self, route: &Route<'_>, commit: &Commit, query: &str) -> Response {
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let is_recursive =
            parameter("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let folder = match route.path.as_str() {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let entries = commit.tree(&folder, is_recursive);
        let first = parameter("cursor").and_then(|text| text.parse().ok());
        let first = first.unwrap_or(0).min(entries.len());
        let end = (first + self.state.page_size.unwrap_or(PAGE_SIZE)).min(entries.len());
        let page = Response::json(&Value::from(&entries[first..end]));
        if end == entries.len() {
            return page;
        }
        let (path, _) = self
            .received
            .target
            .split_once('?')
            .unwrap_or((&self.received.target, ""));
        let next = format!(
            "{}{path}?recursive={is_recursive}&cursor={end}",
            self.state.hub_url
        );
        page.with("Link", format!("<{next}>; rel=\"next\""))
    }

    fn resolve(&self, route: &Route<'_>, hash: &str, commit: &Commit) -> Response {
        let Some(file) = commit.files.get(&route.path) else {
            let missing = Response::error(404, Some("EntryNotFound"), "Entry not found");
            return missing.with("X-Repo-Commit", hash);
        };
        let response = match file.is_large {
            true => {
                let name = route.path.rsplit('/').next().unwrap_or_default();
                let store = &self.state.store_url;
                Response::redirect(302, format!("{store}/{}/{name}?signature=x", file.sha256))
                    .with("X-Linked-Size", file.content.len().to_string())
                    .with("X-Linked-ETag", format!("\"{}\"", file.sha256))
            }
            false => self.content(file).with("ETag", format!("\"{}\"", file.oid)),
        };
        response.with("X-Repo-Commit", hash)
    }

    /// A large file in the store, which names it in its own way.
    fn stored(&self, path: &str) -> Response {
        let hash = path.split('/').nth(1).unwrap_or_default();
        let mut repos = self.state.repos.values();
        match repos.find_map(|repo| repo.large_file(hash)) {
            Some(file) => self.content(file).with("ETag", "\"of-the-store\""),
            None => Response::error(404, None, "no such file"),
        }
    }

    /// A file, or the part of it that was asked for.
    fn content(&self, file: &RepoFile) -> Response {
        let n_bytes = file.content.len();
        let Some((first, last)) = self.range.and_then(|range| parse_range(range, n_bytes)) else {
            return Response::new(200, file.content.as_slice()).with("Accept-Ranges", "bytes");
        };
        match file.content.get(first..=last) {
            Some(part) => Response::new(206, part)
                .with("Content-Range", format!("bytes {first}-{last}/{n_bytes}")),
            None => Response::error(416, None, "no such part"),
        }
    }
}

fn info(route: &Route<'_>, hash: &str, commit: &Commit) -> Response {
    let id = &route.id;
    let siblings: Vec<_> = commit
        .files
        .keys()
        .map(|path| json!({ "rfilename": path }))
        .collect();
    Response::json(&json!({
        "_id": "0", "id": id, "modelId": id, "sha": hash, "private": false, "disabled": false,
        "gated": false, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
    }))
}

/// The first and last byte of `bytes=FIRST-LAST` or `bytes=FIRST-`.
fn parse_range(range: &str, n_bytes: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let last = match last {
        "" => n_bytes.checked_sub(1)?,
        last => last.parse().ok()?,
    };
    Some((first.parse().ok()?, last))
}

/// Replaces `%2F` and its like.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
