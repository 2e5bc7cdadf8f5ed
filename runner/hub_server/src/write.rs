//! What changes the Hub: repositories, branches, commits.

use super::http::{Received, Response};
use super::repo::{Commit, Repo, RepoFile, is_large};
use super::route::{RepoKind, Route, Service, USER, no_repo};
use super::{Access, State, lfs};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

const MAIN: &str = "main";

/// The answer to a request that changes something.
pub(super) fn answer(state: &mut State, received: &Received, service: Service) -> Response {
    let path = received.path().to_owned();
    let answered = match path.as_str() {
        _ if service == Service::Store => Ok(lfs::receive(state, received)),
        "/api/repos/create" => create(state, received),
        "/api/validate-yaml" => Ok(Response::json(&json!({"errors": [], "warnings": []}))),
        "/api/complete_multipart" => Ok(lfs::complete(state, received)),
        path => match path.split_once(".git/info/lfs/objects/") {
            Some((id, verb)) => lfs_request(state, received, id, verb),
            None => repo_request(state, received, path),
        },
    };
    answered.unwrap_or_else(|refusal| refusal)
}

type Answer = Result<Response, Response>;

fn bad(message: &str) -> Response {
    Response::error(400, None, message)
}

fn lfs_request(state: &mut State, received: &Received, id: &str, verb: &str) -> Answer {
    let id = id.trim_start_matches('/');
    let (kind, id) = match id.strip_prefix("datasets/") {
        Some(id) => (RepoKind::Dataset, id),
        None => (RepoKind::Model, id),
    };
    state.writable(received, kind, id)?;
    match verb {
        "batch" => Ok(lfs::batch(state, received, id)),
        "verify" => Ok(lfs::verify(state, received)),
        _ => Err(Response::error(404, None, "no such page")),
    }
}

fn repo_request(state: &mut State, received: &Received, path: &str) -> Answer {
    let no_page = || Response::error(404, None, "no such page");
    let route = Route::parse(path).ok_or_else(no_page)?;
    if let Some(new) = state.moved.get(&route.id) {
        let target = received.target.replacen(&route.id, new, 1);
        return Ok(Response::redirect(307, target));
    }
    let repo = state.writable(received, route.kind, &route.id)?;
    match route.verb {
        Some("branch") => branch(repo, &route.revision, &received.json()),
        Some("preupload") => preupload(repo, &route.revision, &received.json()),
        Some("commit") => commit(state, received, &route),
        _ => Err(no_page()),
    }
}

impl State {
    /// A repository that the sender may change.
    fn writable(
        &mut self,
        received: &Received,
        kind: RepoKind,
        id: &str,
    ) -> Result<&mut Repo, Response> {
        self.check_writer(received)?;
        let repo = self.repos.get_mut(&(kind, id.to_owned()));
        repo.ok_or_else(|| no_repo(true))
    }
}

fn create(state: &mut State, received: &Received) -> Answer {
    state.check_writer(received)?;
    let asked = received.json();
    let text = |key: &str| asked[key].as_str();
    let name = text("name").ok_or_else(|| bad("a repository has a name"))?;
    let id = format!("{}/{name}", text("organization").unwrap_or(USER));
    let kind = match text("type") {
        Some("dataset") => RepoKind::Dataset,
        None | Some("model") => RepoKind::Model,
        Some(_) => return Err(bad("no such type of repository")),
    };
    let page = |kind| match kind {
        RepoKind::Model => format!("{}/{id}", state.hub_url),
        RepoKind::Dataset => format!("{}/datasets/{id}", state.hub_url),
    };
    let kinds = [kind, RepoKind::Model, RepoKind::Dataset];
    let taken = |kind: &&RepoKind| state.repos.contains_key(&(**kind, id.clone()));
    if let Some(&taken) = kinds.iter().find(taken) {
        let error = json!({"error": format!("You already created this {} repo", taken.name()),
                           "url": page(taken)});
        return Ok(Response::new(409, error.to_string()).with("Content-Type", "application/json"));
    }
    let answer = json!({"url": page(kind), "name": id, "id": id});
    let repo = state.repos.entry((kind, id)).or_default();
    if asked["private"] == true || text("visibility") == Some("private") {
        repo.access = Access::Private;
    }
    let attributes = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n";
    let mut first = Commit {
        summary: "initial commit".into(),
        ..Commit::default()
    };
    let file = RepoFile::small(attributes.into());
    first.files.insert(".gitattributes".into(), file);
    repo.push(MAIN, first);
    Ok(Response::json(&answer))
}

fn no_revision(revision: &str) -> Response {
    let message = format!("Invalid rev id: {revision}");
    Response::error(404, Some("RevisionNotFound"), &message)
}

fn branch(repo: &mut Repo, name: &str, asked: &Value) -> Answer {
    let start = asked["startingPoint"].as_str().unwrap_or(MAIN);
    let found = repo.commit(start).map(|(hash, _)| hash.to_owned());
    let hash = found.ok_or_else(|| no_revision(start))?;
    if repo.branch(name, &hash) {
        Ok(Response::json(&json!({})))
    } else {
        Err(Response::error(409, None, "Reference already exists"))
    }
}

fn preupload(repo: &Repo, revision: &str, asked: &Value) -> Answer {
    let (_, commit) = repo.commit(revision).ok_or_else(|| no_revision(revision))?;
    let asked = asked["files"].as_array();
    let asked = asked.ok_or_else(|| bad("`files` is missing"))?;
    let mut files = Vec::new();
    for file in asked {
        let (path, n_bytes) = (file["path"].as_str(), file["size"].as_u64());
        let (Some(path), Some(n_bytes)) = (path, n_bytes) else {
            return Err(bad("files have `path` and `size`"));
        };
        let sample = file["sample"]
            .as_str()
            .map(|text| BASE64_STANDARD.decode(text));
        if !matches!(sample, Some(Ok(_))) {
            return Err(bad("`sample` is not base64"));
        }
        let mode = if is_large(path, n_bytes) {
            "lfs"
        } else {
            "regular"
        };
        let mut answer = json!({"path": path, "uploadMode": mode,
                                "shouldIgnore": path.ends_with(".ignored")});
        if let Some(file) = commit.files.get(path) {
            answer["oid"] = json!(if file.is_large {
                &file.sha256
            } else {
                &file.oid
            });
        }
        files.push(answer);
    }
    Ok(Response::json(&json!({ "files": files })))
}

fn commit(state: &mut State, received: &Received, route: &Route<'_>) -> Answer {
    let lines: Result<Vec<Value>, _> = received
        .body
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect();
    let lines = lines.map_err(|_| bad("not a line of JSON"))?;
    let operations = lines.split_first();
    let (header, operations) = operations.ok_or_else(|| bad("there is no header"))?;
    let (header, key) = (&header["value"], header["key"].as_str());
    let summary = header["summary"].as_str().filter(|text| !text.is_empty());
    let (Some("header"), Some(summary)) = (key, summary) else {
        return Err(bad("a commit begins with its summary"));
    };
    // Before anything is looked for: a stale commit is refused whatever it holds.
    let repo = &state.repos[&(route.kind, route.id.clone())];
    let tip = repo.commit(&route.revision);
    let (tip, before) = tip.ok_or_else(|| no_revision(&route.revision))?;
    if header["parentCommit"]
        .as_str()
        .is_some_and(|parent| parent != tip)
    {
        let message = "A commit has happened since. Please refresh and try again.";
        return Err(Response::error(412, None, message));
    }
    let mut next = before.clone();
    next.summary = summary.into();
    for operation in operations {
        apply(state, &mut next, operation)?;
    }
    let repo = state.repos.get_mut(&(route.kind, route.id.clone()));
    let repo = repo.ok_or_else(|| no_repo(true))?;
    let hash = repo.push(&route.revision, next);
    let url = format!("{}/{}/commit/{hash}", state.hub_url, route.id);
    Ok(Response::json(&json!({
        "success": true, "commitUrl": url, "commitOid": hash, "hookOutput": "",
    })))
}

/// Does one operation of a commit.
fn apply(state: &mut State, commit: &mut Commit, operation: &Value) -> Result<(), Response> {
    let value = &operation["value"];
    let path = value["path"].as_str().unwrap_or_default();
    if !is_path(path) {
        return Err(bad("no path of a file"));
    }
    match operation["key"].as_str() {
        Some("file") => {
            let content = value["content"].as_str().unwrap_or_default();
            let content = BASE64_STANDARD.decode(content);
            let content = content.map_err(|_| bad("the content is not base64"))?;
            if is_large(path, content.len() as u64) && !content.is_empty() {
                return Err(bad("large files must be stored with LFS"));
            }
            commit.files.insert(path.into(), RepoFile::small(content));
        }
        Some("lfsFile") => {
            let oid = value["oid"].as_str().unwrap_or_default();
            let content = lfs::stored(state, oid);
            let content = content.ok_or_else(|| bad("a large file was not uploaded"))?;
            if value["size"].as_u64() != Some(content.bytes.len() as u64) {
                return Err(bad("a large file has another length"));
            }
            commit.files.insert(path.into(), RepoFile::large(content));
        }
        Some("deletedFile") => {
            let deleted = commit.files.remove(path);
            deleted.ok_or_else(|| bad("a file to delete is not there"))?;
        }
        Some("deletedFolder") => {
            let folder = format!("{}/", path.trim_end_matches('/'));
            commit.files.retain(|path, _| !path.starts_with(&folder));
        }
        _ => return Err(bad("no such operation")),
    }
    Ok(())
}

/// Whether a path leads to a file in a repository.
fn is_path(path: &str) -> bool {
    path.split('/').all(|part| !["", ".", ".."].contains(&part)) && !path.contains('\\')
}
