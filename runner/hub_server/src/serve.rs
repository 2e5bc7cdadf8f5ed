//! What is asked, and the Hub's answers.

use super::http::{Received, Response};
use super::repo::{Access, Commit, Repo, RepoFile};
use super::route::{Route, Service, USER, no_repo, stranger};
use super::{State, Who, cas};
use serde_json::{Value, json};

/// Files in one answer about a tree, as on the Hub.
const PAGE_SIZE: usize = 1000;

/// A request that changes nothing.
pub(super) struct Asked<'a> {
    pub(super) state: &'a State,
    pub(super) received: &'a Received,
    /// The part of a file that is asked for.
    pub(super) range: Option<&'a str>,
}

impl Asked<'_> {
    pub(super) fn answer(&self, service: Service) -> Response {
        let path = self.received.path();
        match (service, Route::parse(path)) {
            (Service::Store | Service::Cas, _) => self.stored(path),
            (Service::Hub, _) if path == "/api/whoami-v2" => self.whoami(),
            (Service::Hub, Some(route)) => self.route(&route),
            (Service::Hub, None) => Response::error(404, None, "no such page"),
        }
    }

    fn whoami(&self) -> Response {
        let role = match self.state.who(self.received) {
            Who::Nobody | Who::Stranger => return stranger(),
            Who::Reader => "read",
            Who::Writer => "write",
        };
        Response::json(&json!({
            "type": "user", "id": "0", "name": USER, "fullname": USER, "isPro": false, "orgs": [],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }))
    }

    fn route(&self, route: &Route<'_>) -> Response {
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
            (true, Some("tree")) => self.tree(route, commit),
            (true, Some("refs")) => refs(repo),
            (true, Some("commits")) => history(repo, &route.revision),
            (true, Some("xet-read-token")) => cas::token(self.state),
            (true, Some("xet-write-token")) => match self.state.check_writer(self.received) {
                Ok(()) => cas::token(self.state),
                Err(refusal) => refusal,
            },
            (false, Some("resolve")) => self.resolve(route, hash, commit),
            _ => Response::error(404, None, "no such page"),
        }
    }

    /// The repository, if it may be seen.
    fn repo(&self, route: &Route<'_>) -> Result<&Repo, Response> {
        let is_known = match self.state.who(self.received) {
            Who::Stranger => return Err(stranger()),
            Who::Nobody => false,
            Who::Reader | Who::Writer => true,
        };
        let repo = self.state.repos.get(&(route.kind, route.id.clone()));
        let repo = repo.filter(|repo| repo.access != Access::Private || is_known);
        let Some(repo) = repo else {
            return Err(no_repo(is_known));
        };
        let refusal = match (repo.access, is_known) {
            (Access::Gated | Access::GatedToAll, false) => 401,
            (Access::GatedToAll, true) => 403,
            _ => return Ok(repo),
        };
        if route.is_api {
            Ok(repo)
        } else {
            Err(Response::error(
                refusal,
                Some("GatedRepo"),
                "Access to this repository is restricted",
            ))
        }
    }

    fn tree(&self, route: &Route<'_>, commit: &Commit) -> Response {
        let parameter = |name: &str| self.received.parameter(name);
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
        let response = if file.is_large {
            let name = route.path.rsplit('/').next().unwrap_or_default();
            let store = &self.state.store_url;
            let url = format!("{store}/{}/{name}?signature=x", file.sha256);
            let response = Response::redirect(302, url)
                .with("X-Linked-Size", file.content.len().to_string())
                .with("X-Linked-ETag", format!("\"{}\"", file.sha256));
            match &file.xet_hash {
                Some(xet_hash) => self.in_xet(response, route, hash, xet_hash),
                None => response,
            }
        } else {
            self.content(file).with("ETag", format!("\"{}\"", file.oid))
        };
        response.with("X-Repo-Commit", hash)
    }

    /// Says that a file may be had from the Xet store as well.
    fn in_xet(&self, response: Response, route: &Route<'_>, hash: &str, xet: &str) -> Response {
        let (hub, kind, id) = (&self.state.hub_url, route.kind.plural(), &route.id);
        let token = format!("{hub}/api/{kind}/{id}/xet-read-token/{hash}");
        response
            .with("X-Xet-Hash", xet)
            .with("Link", format!("<{token}>; rel=\"xet-auth\""))
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

    /// A file, or the part that was asked for.
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

fn refs(repo: &Repo) -> Response {
    let branch = |(name, hash)| {
        let full = format!("refs/heads/{name}");
        json!({"name": name, "ref": full, "targetCommit": hash})
    };
    let branches: Vec<_> = repo.refs().map(branch).collect();
    Response::json(&json!({"branches": branches, "tags": [], "converts": []}))
}

fn history(repo: &Repo, revision: &str) -> Response {
    let commit = |(hash, commit): (&str, &Commit)| {
        json!({"id": hash, "title": commit.summary, "message": "", "authors": [{"user": USER}],
               "date": "2026-01-01T00:00:00.000Z"})
    };
    let commits = repo.history(revision).into_iter().map(commit);
    Response::json(&commits.collect::<Vec<_>>().into())
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
