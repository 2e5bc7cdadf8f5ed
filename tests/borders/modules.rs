//! The modules of our crates, each a file.

use super::in_repository;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path within its crate: empty for the root.
pub(super) type Module = Vec<String>;

/// A crate's files.
pub(super) struct Crate {
    pub(super) root: PathBuf,
    files: BTreeMap<Module, (PathBuf, String)>,
}

/// All crates of the workspace.
pub(super) fn crates() -> Vec<Crate> {
    let folders = fs::read_dir(in_repository("runner")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().path());
    let roots = folders.map(|folder| {
        if folder.ends_with("cli") {
            folder
        } else {
            folder.join("src")
        }
    });
    let roots = roots.filter(|root| root.is_dir());
    let mut crates: Vec<_> = roots.map(|root| Crate::read(&root)).collect();
    crates.sort_by(|a, b| a.root.cmp(&b.root));
    crates
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        read_folder(root, &mut Vec::new(), &mut files);
        Self {
            root: root.into(),
            files,
        }
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.files().map(|(_, text)| text)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.files
            .values()
            .map(|(path, text)| (path.as_path(), text.as_str()))
    }

    pub(super) fn modules(&self) -> impl Iterator<Item = (&Module, &str)> {
        self.files
            .iter()
            .map(|(module, (_, text))| (module, text.as_str()))
    }

    pub(super) fn text(&self, module: &Module) -> Option<&str> {
        self.files.get(module).map(|(_, text)| text.as_str())
    }
}

fn read_folder(
    folder: &Path,
    module: &mut Module,
    files: &mut BTreeMap<Module, (PathBuf, String)>,
) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            module.push(stem);
            read_folder(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|end| end == "rs") {
            let mut module = module.clone();
            if !["lib", "main", "mod"].contains(&stem.as_str()) {
                module.push(stem);
            }
            let text = fs::read_to_string(&path).unwrap();
            files.insert(module, (path, text));
        }
    }
}

/// A file's text without comments and without its module of tests, which is the last thing in it.
pub(super) fn without_tests(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}
