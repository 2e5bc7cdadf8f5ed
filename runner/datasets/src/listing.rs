//! The names of the files of a data set.

use super::patterns::Pattern;
use crate::DatasetError;
use fault::Fault;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where the names of the files of a data set come from, relative to its root.
pub(crate) enum Listing<'a> {
    /// A repository on the Hub.
    Names(&'a [String]),
    /// A folder on this machine.
    Folder(Folder),
}

/// A folder, of which only what a pattern asks for is walked. As with fsspec, a link to a folder is
/// followed only if the pattern names it.
pub(crate) struct Folder {
    root: PathBuf,
    walked: RefCell<BTreeMap<String, Rc<Vec<String>>>>,
}

impl Listing<'_> {
    /// The files of the folder `root`.
    pub(crate) fn of_folder(root: &Path) -> Self {
        Self::Folder(Folder {
            root: root.into(),
            walked: RefCell::default(),
        })
    }

    /// The files that `pattern` takes, ordered by the code points of their names.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn matching(&self, pattern: &Pattern) -> Result<Vec<String>, DatasetError> {
        let take = |names: &[String]| {
            let names = names.iter().filter(|name| pattern.takes(name));
            names.cloned().collect::<Vec<_>>()
        };
        let mut names = match self {
            Self::Names(names) => take(names),
            Self::Folder(folder) => take(&folder.below(pattern.fixed_part())?),
        };
        names.sort_unstable();
        Ok(names)
    }
}

impl Folder {
    fn below(&self, dir: &str) -> Result<Rc<Vec<String>>, DatasetError> {
        if let Some(names) = self.walked.borrow().get(dir) {
            return Ok(Rc::clone(names));
        }
        let path = self.root.join(dir);
        let mut names = Vec::new();
        if path.is_dir() {
            walk(&path, dir, &mut names)?;
        } else if path.is_file() {
            names.push(dir.into());
        }
        let names = Rc::new(names);
        self.walked
            .borrow_mut()
            .insert(dir.into(), Rc::clone(&names));
        Ok(names)
    }
}

fn walk(path: &Path, dir: &str, names: &mut Vec<String>) -> Result<(), DatasetError> {
    for entry in path.read_dir().map_err(DatasetError::io("list", path))? {
        let entry = entry.map_err(DatasetError::io("list", path))?;
        let file_type = entry
            .file_type()
            .map_err(DatasetError::io("list", entry.path()))?;
        let is_file = file_type.is_file() || (file_type.is_symlink() && entry.path().is_file());
        if !is_file && !file_type.is_dir() {
            continue;
        }
        let Some(name) = entry.file_name().to_str().map(|name| join(dir, name)) else {
            let message = format!("the name of `{}` is not UTF-8", entry.path().display());
            return Err(Fault::input(message).with_hint("rename it").into());
        };
        if is_file {
            names.push(name);
        } else {
            walk(&entry.path(), &name, names)?;
        }
    }
    Ok(())
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        return name.into();
    }
    format!("{dir}/{name}")
}
