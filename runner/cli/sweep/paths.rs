//! Where things are on disk, and where names of models and data sets are looked for.

use crate::error::CliError;
use crate::installed;
use std::env;
use std::path::{Path, PathBuf};

/// The folders of this machine that outlive a checkout.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// Models, tokens, compiled recipes and digests; `SAE_RUN_CACHE`.
    pub(crate) cache: PathBuf,
    /// The user's `sae-run.toml` and recipes.
    pub(crate) config: PathBuf,
}

impl Folders {
    /// # Errors
    /// No home folder and no `SAE_RUN_CACHE`.
    pub(crate) fn of_this_machine() -> Result<Self, CliError> {
        let home = || env::home_dir().filter(|home| !home.as_os_str().is_empty());
        // The same folders as in `runner/setup/setup.sh`, on every operating system.
        let below_home = |variable: &str, folder: &str| {
            folder_in(variable).or_else(|| home().map(|home| home.join(folder)))
        };
        let cache = folder_in("SAE_RUN_CACHE")
            .or_else(|| below_home("XDG_CACHE_HOME", ".cache").map(|dir| dir.join("sae-run")))
            .ok_or_else(|| {
                CliError::environment("there is no home folder for the cache")
                    .with_hint("name a cache folder in `SAE_RUN_CACHE`".to_owned())
            })?;
        let config = below_home("XDG_CONFIG_HOME", ".config");
        let config = config.map_or_else(|| cache.join("config"), |dir| dir.join("sae-run"));
        Ok(Self { cache, config })
    }

    /// The Python recipe engine: that of `SAE_RUN_ENGINE`, of the installation, or of `make setup`.
    pub(crate) fn engine(&self) -> PathBuf {
        let installed =
            || installed::folder("engine").map(|dir| recipe::compiled_engine_path(&dir));
        let given = folder_in("SAE_RUN_ENGINE").or_else(installed);
        given.unwrap_or_else(|| recipe::engine_path(&self.cache))
    }

    /// Folders of ready models.
    pub(crate) fn models(&self) -> PathBuf {
        self.cache.join("models")
    }
}

/// A folder named in a variable; empty counts as unset.
fn folder_in(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The folders in which relative names are looked for, first to last.
#[derive(Clone, Debug)]
pub(crate) struct Near(Vec<PathBuf>);

impl Near {
    /// A folder, such as that of a sweep file, then the current one.
    pub(crate) fn folder(dir: &Path) -> Self {
        Self::folders([dir.to_path_buf()])
    }

    /// These folders, then the current one.
    pub(crate) fn folders(dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut dirs: Vec<_> = dirs.into_iter().chain([PathBuf::new()]).collect();
        dirs.dedup();
        Self(dirs)
    }

    /// Where `name` may be.
    pub(crate) fn paths(&self, name: &str) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.0.iter().map(|dir| dir.join(name)).collect();
        paths.dedup();
        paths
    }
}

/// The first path at which `name` exists: in the folders `near`, or in the extra `shelf`.
///
/// # Errors
/// It is nowhere; the error lists the paths.
pub(crate) fn find(
    what: &str,
    name: &str,
    near: &Near,
    shelf: Option<&Path>,
) -> Result<PathBuf, CliError> {
    let mut paths = near.paths(name);
    paths.extend(shelf.map(|shelf| shelf.join(name)));
    paths.dedup();
    for path in &paths {
        if let Ok(found) = path.canonicalize() {
            return Ok(found);
        }
    }
    let looked = paths.iter().map(|path| format!("`{}`", path.display()));
    let looked = looked.collect::<Vec<_>>().join(", ");
    Err(CliError::input(format!("{what} `{name}` does not exist"))
        .with_hint(format!("looked for it at {looked}")))
}
