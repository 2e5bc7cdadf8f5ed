//! SAEs on disk, found by their folders' names.

use crate::TrainError;
use sae::CONFIG_FILE;
use std::fs;
use std::path::{Path, PathBuf};

/// An SAE's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSae {
    /// The hookpoint, with `/seed{n}` behind it where there are several seeds.
    pub name: String,
    /// The hookpoint.
    pub hookpoint: String,
    /// The folder.
    pub dir: PathBuf,
}

/// The SAEs in `dir`, which is an SAE's folder, or has one for each hookpoint, or for each hookpoint
/// one for each seed, as sparsify saves them; in natural order of their names.
///
/// # Errors
/// A folder that cannot be read or has no SAE.
pub fn find_saes(dir: &Path) -> Result<Vec<FoundSae>, TrainError> {
    let dir = dir.canonicalize().map_err(TrainError::io("find", dir))?;
    if is_sae(&dir) {
        return Ok(vec![by_name(&dir)]);
    }
    let mut saes = Vec::new();
    for below in folders(&dir)? {
        match is_sae(&below) {
            true => saes.push(below),
            false => saes.extend(folders(&below)?.into_iter().filter(|dir| is_seed(dir))),
        }
    }
    let mut saes: Vec<FoundSae> = saes
        .iter()
        .filter(|dir| is_sae(dir))
        .map(|dir| by_name(dir))
        .collect();
    saes.sort_by(|a, b| natord::compare(&a.name, &b.name));
    match saes.is_empty() {
        true => Err(TrainError::NoSaes { dir }),
        false => Ok(saes),
    }
}

fn is_sae(dir: &Path) -> bool {
    dir.join(CONFIG_FILE).is_file()
}

/// `seed0`, `seed1`, ...: such a folder's hookpoint is in the name of the one above it.
fn is_seed(dir: &Path) -> bool {
    let name = file_name(dir);
    let seed = name.strip_prefix("seed");
    seed.is_some_and(|seed| seed.parse::<i64>().is_ok())
}

fn by_name(dir: &Path) -> FoundSae {
    let own = file_name(dir);
    let (name, hookpoint) = match dir.parent() {
        Some(parent) if is_seed(dir) => {
            let hookpoint = file_name(parent);
            (format!("{hookpoint}/{own}"), hookpoint)
        }
        _ => (own.clone(), own),
    };
    FoundSae {
        name,
        hookpoint,
        dir: dir.into(),
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = fs::read_dir(dir).map_err(TrainError::io("read", dir))?;
    let paths = entries.map(|entry| Ok(entry.map_err(TrainError::io("read", dir))?.path()));
    let paths = paths.collect::<Result<Vec<_>, TrainError>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn names(dir: &Path) -> Vec<(String, String)> {
        let saes = find_saes(dir).unwrap().into_iter();
        saes.map(|sae| (sae.name, sae.hookpoint)).collect()
    }

    fn owned(names: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = names.iter();
        owned.map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn saes_are_found_one_by_one_by_hookpoint_and_by_seed() {
        let root = tempdir().unwrap();
        let sae = |name: &str| {
            let dir = root.path().join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(CONFIG_FILE), "{}").unwrap();
            dir
        };
        for name in ["job/layers.10", "job/layers.2", "seeds/h.1/seed10"] {
            sae(name);
        }
        let one = sae("seeds/h.1/seed2");
        fs::create_dir_all(root.path().join("job/plots")).unwrap();
        let job = [("layers.2", "layers.2"), ("layers.10", "layers.10")];
        assert_eq!(names(&root.path().join("job")), owned(&job));
        let seeds = [("h.1/seed2", "h.1"), ("h.1/seed10", "h.1")];
        assert_eq!(names(&root.path().join("seeds")), owned(&seeds));
        assert_eq!(names(&one), owned(&seeds[..1]));
        let single = root.path().join("job/layers.2");
        assert_eq!(names(&single), owned(&job[..1]));
    }

    #[test]
    fn a_folder_without_saes_is_told() {
        let dir = tempdir().unwrap();
        let error = find_saes(dir.path()).unwrap_err();
        assert!(matches!(&error, TrainError::NoSaes { .. }));
        assert!(error.hint().unwrap().contains("cfg.json"));
        assert!(matches!(
            find_saes(&dir.path().join("none")),
            Err(TrainError::Io { .. })
        ));
    }
}
