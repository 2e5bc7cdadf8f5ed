//! Which PyTorch the workers of an installed program run on. It is found without importing it.
//!
//! The program has a library, libtch, for each minor version of PyTorch that it runs on; the worker is started with
//! the one that fits. A program that was built from source runs on the libtorch that it was built with.
//!
//! - `search.rs`: where PyTorch is looked for

mod search;

use crate::error::CliError;
use crate::installed;
use crate::sweep::config;
pub(crate) use search::pythons;
use search::{Found, Place};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names a PyTorch, if no setting does.
const VARIABLE: &str = "SAE_RUN_LIBTORCH";
/// What to do about one that cannot be loaded.
pub(crate) const INSTALL_AGAIN: &str = "install PyTorch again (`pip install --force-reinstall torch`), or name another one in SAE_RUN_LIBTORCH";
/// What the loader looks at before anything else.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// The PyTorch that workers run on.
#[derive(Debug)]
pub(crate) struct Libtorch {
    found: Found,
    /// The folder of the libtch for its version.
    libtch: PathBuf,
}

impl Libtorch {
    /// `None`: the program was built from source.
    ///
    /// # Errors
    /// There is no PyTorch, or the first one that was found does not work with this program.
    pub(crate) fn chosen() -> Result<Option<&'static Self>, CliError> {
        static CHOSEN: OnceLock<Libtorch> = OnceLock::new();
        let Some(libraries) = installed::folder("libtch") else {
            return no_choice();
        };
        if let Some(chosen) = CHOSEN.get() {
            return Ok(Some(chosen));
        }
        let chosen = Self::choose(&libraries)?;
        Ok(Some(CHOSEN.get_or_init(|| chosen)))
    }

    fn choose(libraries: &Path) -> Result<Self, CliError> {
        let versions = versions(libraries)?;
        let places = search::places(named()?);
        let found = places.iter().find_map(|place| place.torch().transpose());
        let found = found.unwrap_or_else(|| Err(nothing_found(&places, &versions)))?;
        let libtch = libraries.join(found.torch.version.minor());
        if !libtch.is_dir() {
            return Err(of_another_version(&found, &versions));
        }
        found.torch.check()?;
        Ok(Self { found, libtch })
    }

    /// The variable that has the loader take this one's libraries, and its value.
    pub(crate) fn library_path(&self) -> (&'static str, OsString) {
        let mut folders = self.libtch.as_os_str().to_owned();
        let lib = self.found.torch.lib().into_os_string();
        let before = env::var_os(LIBRARY_PATH).filter(|before| !before.is_empty());
        for folder in iter::once(lib).chain(before) {
            folders.push(":");
            folders.push(folder);
        }
        (LIBRARY_PATH, folders)
    }

    /// Where it was found, for people.
    pub(crate) fn place(&self) -> String {
        self.found.place.to_string()
    }

    /// Which one it is, for people.
    pub(crate) fn describe(&self) -> String {
        self.found.describe()
    }

    /// The loader said why it cannot be loaded.
    pub(crate) fn not_loaded(&self) -> CliError {
        let message = format!("{} cannot be loaded, as said above", self.describe());
        CliError::environment(message).with_hint(INSTALL_AGAIN.to_owned())
    }
}

/// What the user names: in `launch.libtorch`, else in the variable.
fn named() -> Result<Option<Place>, CliError> {
    let setting = config::libtorch()?.map(|path| ("launch.libtorch", path));
    let variable = env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let named = setting.or_else(|| Some((VARIABLE, variable?.into())));
    Ok(named.map(|(by, path)| Place::Named { by, path }))
}

/// The program was built from source: then nothing is to be chosen.
fn no_choice() -> Result<Option<&'static Libtorch>, CliError> {
    match named()? {
        None => Ok(None),
        Some(place) => Err(CliError::input(format!(
            "PyTorch is named ({place}), and this program was built from source: it runs on the libtorch that it \
             was built with"
        ))
        .with_hint(
            "build it with another libtorch (`LIBTORCH=FOLDER make setup`), or install the wheel, which runs on \
             any of several versions"
                .to_owned(),
        )),
    }
}

/// The minor versions that there is a libtch for, oldest first.
fn versions(libraries: &Path) -> Result<Vec<String>, CliError> {
    let entries = fs::read_dir(libraries);
    let entries = entries.map_err(|error| CliError::io("read", libraries, &error))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut versions: Vec<String> = names.collect();
    versions.sort_by(|a, b| natord::compare(a, b));
    Ok(versions)
}

fn nothing_found(places: &[Place], versions: &[String]) -> CliError {
    let places: Vec<String> = places.iter().map(Place::to_string).collect();
    let newest = versions.last().map_or("", String::as_str);
    CliError::environment(format!("there is no PyTorch in {}", places.join(", in ")))
        .with_hint(format!(
            "`pip install 'torch=={newest}.*'` into the environment of `sae-run`, activate an environment that has \
             PyTorch {}, or name one in {VARIABLE}",
            versions.join(", ")
        ))
}

fn of_another_version(found: &Found, versions: &[String]) -> CliError {
    let newest = versions.last().map_or("", String::as_str);
    CliError::environment(format!(
        "{} is not one that this program runs on: {}",
        found.describe(),
        versions.join(", ")
    ))
    .with_hint(format!(
        "`pip install 'torch=={newest}.*'` there, or name the folder of another environment in {VARIABLE}"
    ))
}
