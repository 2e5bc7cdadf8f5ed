//! Names that come from users and from repositories, checked before they become paths or addresses.

use crate::HubError;
use fault::Fault;
use std::fmt;
use std::path::{Component, Path};

/// The revision if nothing is said: the main branch.
const DEFAULT_REVISION: &str = "main";

/// Longest part of a repository's id.
const MAX_ID_PART: usize = 96;

/// Longest name that file systems take.
const MAX_FILE_NAME: usize = 255;

/// Longest path in a repository: what systems take as the path of a file.
const MAX_PATH: usize = 4096;

/// Whether `text` could be the id of a repository of the Hub: `name` or `owner/name`.
pub fn is_repo_id(text: &str) -> bool {
    let mut parts = text.split('/');
    let n_parts = parts.clone().count();
    n_parts <= 2
        && parts.all(is_id_part)
        && !["--", ".."].iter().any(|pair| text.contains(pair))
        && !text.ends_with(".git")
}

fn is_id_part(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= MAX_ID_PART
        && part.starts_with(is_word)
        && part.ends_with(is_word)
        && part.chars().all(|c| is_word(c) || matches!(c, '-' | '.'))
}

/// Whether `text` is a whole commit hash.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether `text` is made of `n_digits` hexadecimal digits.
pub(crate) fn is_hex(text: &str, n_digits: usize) -> bool {
    text.len() == n_digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `name` is a plain file name, safe in a folder and in an address.
pub(crate) fn is_file_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_FILE_NAME).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(is_plain)
}

/// Whether `path`, with `/` between its parts, names a file in the folder of a commit and nothing
/// elsewhere.
pub(crate) fn is_path_of_file(path: &str) -> bool {
    let is_plain = |part: &str| {
        let mut components = Path::new(part).components();
        // This machine's own rules, drives of Windows among them.
        components.next() == Some(Component::Normal(part.as_ref())) && components.next().is_none()
    };
    let is_part = |part: &str| part.len() <= MAX_FILE_NAME && is_plain(part);
    path.len() <= MAX_PATH
        && !path.contains(|c: char| c == '\\' || c.is_control())
        && path.split('/').all(is_part)
}

/// What a repository of the Hub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl RepoKind {
    /// As in the Hub's addresses and in the names of the cache's folders.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

impl fmt::Display for RepoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        })
    }
}

/// The id of a repository: models and data sets may have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepoId {
    kind: RepoKind,
    id: String,
}

impl RepoId {
    pub(crate) fn parse(kind: RepoKind, text: &str) -> Result<Self, HubError> {
        let id = text.to_owned();
        if is_repo_id(text) {
            Ok(Self { kind, id })
        } else {
            let fault = Fault::input(format!("`{text}` is not the id of a {kind} on the Hub"));
            let hint = "ids look like `name` or `owner/name`";
            Err(HubError::Fault(fault.with_hint(hint)))
        }
    }

    pub(crate) fn kind(&self) -> RepoKind {
        self.kind
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.id
    }

    /// The name of its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.id.replace('/', "--"))
    }

    /// Its page at the Hub called `endpoint`.
    pub(crate) fn page(&self, endpoint: &str) -> String {
        let Self { kind, id } = self;
        match kind {
            RepoKind::Model => format!("{endpoint}/{id}"),
            RepoKind::Dataset => format!("{endpoint}/{}/{id}", kind.plural()),
        }
    }
}

/// Which state of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Revision {
    /// This one, for ever.
    Commit(String),
    /// What a branch or tag means today.
    Name(String),
}

impl Revision {
    /// `None`: the main branch.
    pub(crate) fn parse(repo: &RepoId, text: Option<&str>) -> Result<Self, HubError> {
        let text = text.unwrap_or(DEFAULT_REVISION);
        if is_commit(text) {
            return Ok(Self::Commit(text.to_ascii_lowercase()));
        }
        if is_ref_name(text) {
            return Ok(Self::Name(text.into()));
        }
        let repo = repo.as_str();
        let message = format!("`{text}` is not a branch, tag or commit of `{repo}`");
        let hint = "look at the repository's page for its branches and tags";
        Err(HubError::BadRevision(Fault::input(message).with_hint(hint)))
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Commit(text) | Self::Name(text) => text,
        }
    }
}

/// What git allows as the name of a branch or tag, as far as it matters for a path.
fn is_ref_name(name: &str) -> bool {
    let is_allowed = |c: char| !c.is_control() && !" ~^:?*[\\".contains(c);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part != "@";
    name.len() <= MAX_FILE_NAME
        && name.chars().all(is_allowed)
        && name.split('/').all(is_part)
        && !name.contains("..")
        && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_name_or_an_owner_and_a_name() {
        for id in [
            "gpt2",
            "EleutherAI/pythia-70m",
            "a/b",
            "Foo-BAR_foo.bar123",
            "_a/b_",
        ] {
            assert!(is_repo_id(id), "{id}");
        }
        let longest = "x".repeat(MAX_ID_PART);
        assert!(is_repo_id(&longest));
        let too_long = format!("a/{longest}x");
        for id in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "..",
            "../a",
            "a/..",
            "a..b",
            "a--b",
            ".a",
            "a.",
            "-a",
            "a-",
            "./a",
            "a b",
            "a\\b",
            "C:a",
            "~/a",
            "/etc/passwd",
            "a/b.git",
            "ä/b",
            "a\n",
            &too_long,
        ] {
            assert!(!is_repo_id(id), "{id}");
        }
    }

    #[test]
    fn revisions_are_commits_or_names() {
        let repo = RepoId::parse(RepoKind::Model, "a/b").unwrap();
        let parse = |text| Revision::parse(&repo, text);
        let commit = "0123456789ABCDEF0123456789abcdef01234567";
        let lower = commit.to_ascii_lowercase();
        assert_eq!(parse(Some(commit)).unwrap(), Revision::Commit(lower));
        assert_eq!(parse(None).unwrap(), Revision::Name("main".into()));
        for name in ["step3000", "refs/pr/1", "v1.0", "feature/x", "0123abc"] {
            assert_eq!(parse(Some(name)).unwrap(), Revision::Name(name.into()));
        }
        for name in [
            "", "/", "/main", "main/", "a//b", "..", "../main", "a/../b", "a..b", ".git", "a/.b",
            "-f", "a b", "a\\b", "a:b", "a?b", "a\n", "a\0",
        ] {
            let error = parse(Some(name)).unwrap_err();
            assert!(
                matches!(error, HubError::BadRevision(_)) && error.to_string().contains(name),
                "{error:?}"
            );
        }
    }

    #[test]
    fn file_names_stay_in_their_folder() {
        assert!(is_file_name("model-00001-of-00002.safetensors"));
        for name in [
            "", "..", ".hidden", "../x", "a/b", "/a", "a\\b", "a b", "a%2fb", "C:a",
        ] {
            assert!(!is_file_name(name), "{name}");
        }
    }

    #[test]
    fn paths_of_files_stay_below_their_folder() {
        let longest = "x".repeat(MAX_FILE_NAME);
        for path in [
            "a",
            ".gitattributes",
            "data/a b.txt",
            "1/2/3/ä?#%2F.gz",
            &longest,
        ] {
            assert!(is_path_of_file(path), "{path}");
        }
        let too_long = format!("a/{longest}x");
        let too_deep = "a/".repeat(MAX_PATH / 2) + "a";
        for path in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "./a",
            "a/.",
            "a/./b",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a\\b",
            "..\\a",
            "a\0",
            "a\nb",
            "\u{1b}[2J",
            &too_long,
            &too_deep,
        ] {
            assert!(!is_path_of_file(path), "{path:?}");
        }
    }

    #[test]
    fn folders_are_named_as_in_python() {
        let folder = |id| RepoId::parse(RepoKind::Model, id).unwrap().folder();
        assert_eq!(
            folder("EleutherAI/pythia-70m"),
            "models--EleutherAI--pythia-70m"
        );
        assert_eq!(folder("gpt2"), "models--gpt2");
        let dataset = |id| RepoId::parse(RepoKind::Dataset, id).unwrap().folder();
        assert_eq!(dataset("a/b"), "datasets--a--b");
        assert_eq!(dataset("squad"), "datasets--squad");
    }
}
