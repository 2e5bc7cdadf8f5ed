//! Names of files.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// A name in the same folder that no reader takes for a result. Always the same, so that what a killed
/// process left is overwritten and does not pile up.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// The folder of a file.
pub fn dir_of(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}

/// Whether a path leads nowhere but into the folder that it is joined to.
pub fn stays_below(path: &Path) -> bool {
    let mut parts = path.components();
    parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_names() {
        assert_eq!(beside(Path::new("a/b.html")), Path::new("a/.b.html.tmp"));
        assert_eq!(dir_of(Path::new("b.html")), Path::new("."));
        assert_eq!(dir_of(Path::new("a/b.html")), Path::new("a"));
        for (path, is_below) in [
            ("a/b", true),
            ("a/../b", false),
            ("/a", false),
            ("./a", false),
        ] {
            assert_eq!(stays_below(Path::new(path)), is_below, "{path}");
        }
    }
}
