//! What is asked of whom, by the path of a request, and what is said to those who may not.

use super::http::Response;

const REPO_NOT_FOUND: &str = "RepoNotFound";

/// Who writes to this Hub.
pub(super) const USER: &str = "tester";

/// What is said to a token that is not known.
pub(super) fn stranger() -> Response {
    Response::error(401, None, "Invalid credentials in Authorization header")
}

/// The answer if there is no repository, or it may not be seen.
pub(super) fn no_repo(is_known: bool) -> Response {
    let status = if is_known { 404 } else { 401 };
    Response::error(status, Some(REPO_NOT_FOUND), "Repository not found")
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RepoKind {
    Model,
    Dataset,
}

impl RepoKind {
    /// As in the Hub's addresses.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// As in the Hub's messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Hub,
    /// The store of large files.
    Store,
    /// The store of large files in chunks, which Xet's own server keeps.
    Cas,
}

/// What is asked of a repository.
const VERBS: [&str; 10] = [
    "revision",
    "tree",
    "resolve",
    "commits",
    "refs",
    "preupload",
    "commit",
    "branch",
    "xet-read-token",
    "xet-write-token",
];

/// What a path of the Hub means.
pub(super) struct Route<'a> {
    pub(super) kind: RepoKind,
    pub(super) id: String,
    /// One of [`VERBS`]; `None`: the repository.
    pub(super) verb: Option<&'a str>,
    pub(super) revision: String,
    /// What follows the revision.
    pub(super) path: String,
    pub(super) is_api: bool,
}

impl<'a> Route<'a> {
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let api = path.strip_prefix("/api/");
        let rest = api.or(path.strip_prefix('/'))?;
        let (kind, rest) = match (api, rest.split_once('/')) {
            (_, Some(("datasets", rest))) => (RepoKind::Dataset, rest),
            (Some(_), Some(("models", rest))) => (RepoKind::Model, rest),
            (Some(_), _) => return None,
            (None, _) => (RepoKind::Model, rest),
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let at = (1..parts.len().min(3)).find(|&at| VERBS.contains(&parts[at]));
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
