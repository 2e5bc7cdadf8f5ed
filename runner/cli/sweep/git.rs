//! The commit of the checkout that a sweep is in, read from Git's files.
//!
//! The program `git` is not asked: it runs what a repository's own configuration names (`core.fsmonitor`), and a sweep
//! may come in a folder from anyone. For the same reason a folder counts as a checkout only by a `.git` in it: Git
//! itself also takes the files of a bare repository that are among others. Whether the files differ from the commit is
//! not recorded: the database has the sweep's text, and the recipe's.

use std::path::{Path, PathBuf};

/// Longest file with one reference that is read.
const REFERENCE_BYTES: u64 = 4096;
/// Longest list of references that is read.
const PACKED_BYTES: u64 = 64 << 20;
/// References that refer to another.
const MAX_DEPTH: usize = 5;

/// The commit that is checked out where `dir` is. `None`: it is in no checkout, or in one without a commit, or in one
/// whose references are in a table (`reftable`).
pub(crate) fn commit_of(dir: &Path) -> Option<String> {
    // Empty: this folder.
    let dir = std::path::absolute(Path::new(".").join(dir)).ok()?;
    let git_dir = dir.ancestors().find_map(git_dir)?;
    // What the working trees of one repository share.
    let common_dir = match read(&git_dir.join("commondir")) {
        Some(path) => git_dir.join(path),
        None => git_dir.clone(),
    };
    resolve("HEAD", &[git_dir, common_dir], 0)
}

/// Git's folder of the checkout `dir`: in it, or named by a file if it is a submodule or one of several
/// working trees.
fn git_dir(dir: &Path) -> Option<PathBuf> {
    let git = dir.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = read(&git)?;
    Some(dir.join(text.strip_prefix("gitdir: ")?))
}

/// The commit that `reference` means: of the working tree, else of what all working trees share.
fn resolve(reference: &str, dirs: &[PathBuf; 2], depth: usize) -> Option<String> {
    if depth > MAX_DEPTH || !files::stays_below(Path::new(reference)) {
        return None;
    }
    let loose = dirs.iter().find_map(|dir| read(&dir.join(reference)));
    let Some(text) = loose else {
        return packed(reference, &dirs[1]);
    };
    match text.strip_prefix("ref: ") {
        Some(other) => resolve(other, dirs, depth + 1),
        None => commit(&text),
    }
}

/// The commit of a reference in the list of those without a separate file.
fn packed(reference: &str, common_dir: &Path) -> Option<String> {
    let text = files::read_text(&common_dir.join("packed-refs"), PACKED_BYTES).ok()?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let mut found = pairs.filter(|(_, name)| *name == reference);
    commit(found.next()?.0)
}

fn read(path: &Path) -> Option<String> {
    let text = files::read_text(path, REFERENCE_BYTES).ok()?;
    Some(text.trim_end().to_owned())
}

/// SHA-1 or SHA-256, in hexadecimal.
fn commit(text: &str) -> Option<String> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex && matches!(text.len(), 40 | 64)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes;
    use proptest::prelude::*;
    use std::fs;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        dir
    }

    fn found(files: &[(&str, &str)]) -> Option<String> {
        commit_of(&repository(files).path().join("a/b"))
    }

    #[test]
    fn a_commit_is_found_wherever_git_puts_it() {
        let head = (".git/HEAD", "ref: refs/heads/main\n");
        let line = format!("{COMMIT}\n");
        let packed = format!("# pack-refs with: peeled\n{COMMIT} refs/heads/main\n");
        let detached = [(".git/HEAD", line.as_str())];
        let loose = [head, (".git/refs/heads/main", line.as_str())];
        let in_list = [head, (".git/packed-refs", packed.as_str())];
        let other_tree = [
            ("a/.git", "gitdir: ../main/.git/worktrees/a\n"),
            ("main/.git/worktrees/a/HEAD", "ref: refs/heads/main\n"),
            ("main/.git/worktrees/a/commondir", "../..\n"),
            ("main/.git/refs/heads/main", line.as_str()),
        ];
        for files in [&detached[..], &loose, &in_list, &other_tree] {
            assert_eq!(found(files).as_deref(), Some(COMMIT), "{files:?}");
        }
    }

    #[test]
    fn what_is_no_commit_is_none() {
        let line = format!("{COMMIT}\n");
        let bare = [("a/HEAD", line.as_str()), ("a/objects/x", "")];
        let outside = [(".git/HEAD", "ref: ../secret\n"), ("secret", line.as_str())];
        let circle = [(".git/HEAD", "ref: HEAD\n")];
        let table = [(".git/HEAD", "ref: refs/heads/.invalid\n")];
        let rubbish = [(".git/HEAD", "root:x:0:0\n")];
        for files in [&[][..], &bare, &outside, &circle, &table, &rubbish] {
            assert_eq!(found(files), None, "{files:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_of_git_are_a_commit_or_none(
            head in any_bytes(vec![b"ref: refs/heads/main\n".to_vec(), COMMIT.into()]),
            reference in any_bytes(vec![COMMIT.into(), b"ref: HEAD".to_vec()]),
            list in any_bytes(vec![format!("# pack-refs\n{COMMIT} refs/heads/main\n").into()]),
            link in any_bytes(vec![b"gitdir: ../.git\n".to_vec(), b"gitdir: /dev\n".to_vec()]),
        ) {
            let dir = repository(&[(".git/refs/heads/x", "")]);
            for (name, bytes) in [
                (".git/HEAD", &head),
                (".git/refs/heads/main", &reference),
                (".git/packed-refs", &list),
                ("a/.git", &link),
            ] {
                fs::write(dir.path().join(name), bytes).unwrap();
            }
            for folder in ["", "a/b"] {
                if let Some(found) = commit_of(&dir.path().join(folder)) {
                    prop_assert_eq!(commit(&found), Some(found));
                }
            }
        }
    }
}
