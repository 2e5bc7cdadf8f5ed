//! Which libtorch this process runs on.

use plan::TorchVersion;
use std::fs;
use std::path::{Path, PathBuf};

/// The libtorch that is loaded into this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libtorch {
    /// The shared library, if the operating system tells.
    pub library: Option<PathBuf>,
    /// Its version, if the files next to it tell.
    pub version: Option<String>,
}

impl Libtorch {
    /// Looks at the libraries that are loaded into this process.
    pub fn loaded() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let paths = maps
            .lines()
            .filter_map(|line| line.find('/').map(|start| &line[start..]));
        let library = paths.map(PathBuf::from).find(|path| is_libtorch(path));
        let version = library.as_deref().and_then(version_beside);
        Self { library, version }
    }

    /// The version, or `unknown`.
    pub fn version_text(&self) -> String {
        self.version.clone().unwrap_or_else(|| "unknown".into())
    }
}

fn is_libtorch(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("libtorch_cpu."))
}

fn version_beside(library: &Path) -> Option<String> {
    TorchVersion::in_folder(library.parent()?.parent()?).map(|version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_this_process_is_found() {
        let _ = tch::Tensor::from_slice(&[1i64]);
        let libtorch = Libtorch::loaded();
        assert!(libtorch.library.is_some_and(|path| path.is_file()));
        assert!(libtorch.version.unwrap().starts_with("2."));
    }
}
