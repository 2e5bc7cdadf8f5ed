//! SAEs on disk, found by their folders' names.

use crate::cfg_file::{CONFIG_FILE, read_config};
use crate::error::{io_fault, no_saes, no_such_sae};
use crate::{CROSSCODER_WEIGHTS_FILE, SAELENS_WEIGHTS_FILE, WEIGHTS_FILE, crosscoder, saelens};
use fault::Fault;
use files::DigestCache;
use plan::{FoundSae, digest_json, fnmatch};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What an SAE's folder may have that decides what the SAE computes: in sparsify's layout, in SAELens's, and what
/// crosscoders have.
const FILES: [&str; 4] = [
    CONFIG_FILE,
    WEIGHTS_FILE,
    SAELENS_WEIGHTS_FILE,
    CROSSCODER_WEIGHTS_FILE,
];

/// The SAE called `name` in the folder `dir`, which is there.
pub(crate) fn found(name: String, dir: PathBuf) -> FoundSae {
    let of_folder = || {
        let parts = name.rsplit('/');
        let mut parts = parts.filter(|part| !is_seed(part));
        parts.next().unwrap_or_default().to_owned()
    };
    FoundSae {
        hookpoint: saelens::hook_name(&dir)
            .or_else(|| crosscoder::hook_name(&dir))
            .unwrap_or_else(of_folder),
        name,
        dir,
    }
}

/// The language model that an SAE was trained on, as far as the files around it say: SAELens's `cfg.json`,
/// or the settings of the training, `config.json`, next to its folder or above.
pub fn trained_on(sae: &FoundSae) -> Option<TrainedOn> {
    let of_training = |dir: &Path| read_config(&dir.join("config.json")).ok();
    let of_saelens = saelens::model_name(&sae.dir).map(|model| TrainedOn {
        model,
        ..TrainedOn::default()
    });
    of_saelens.or_else(|| sae.dir.ancestors().take(3).find_map(of_training))
}

/// A language model by the name that an SAE's files have for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct TrainedOn {
    /// A folder, or an id of the Hub, or a short name of TransformerLens's.
    pub model: String,
    /// Branch, tag or commit; `None`: not said.
    #[serde(default)]
    pub revision: Option<String>,
    /// The second model of a crosscoder on two.
    #[serde(default)]
    pub crosscoder_model: Option<String>,
    /// Its branch, tag or commit.
    #[serde(default)]
    pub crosscoder_revision: Option<String>,
}

/// The SAEs in `dir`, which is an SAE's folder, or has one for each hookpoint, or for each hookpoint
/// one for each seed, as sparsify saves them; in natural order of their names.
///
/// # Errors
/// A folder that cannot be read or has no SAE.
pub fn find_saes(dir: &Path) -> Result<Vec<FoundSae>, Fault> {
    let dir = dir.canonicalize().map_err(io_fault("find", dir))?;
    if is_sae(&dir) {
        return Ok(vec![by_name(&dir)]);
    }
    let mut saes = Vec::new();
    let below = folders(&dir)?;
    for below in &below {
        if is_sae(below) {
            saes.push(by_name(below));
        } else {
            let seeds = folders(below)?.into_iter();
            let seeds = seeds.filter(|dir| is_seed(&file_name(dir)) && is_sae(dir));
            saes.extend(seeds.map(|dir| by_name(&dir)));
        }
    }
    saes.sort_by(|a, b| natord::compare(&a.name, &b.name));
    if saes.is_empty() {
        let there: Vec<_> = below.iter().map(|dir| file_name(dir)).collect();
        Err(no_saes(&dir.display().to_string(), &there))
    } else {
        Ok(saes)
    }
}

/// Those of `names` that match any of `patterns`; all of them if there is no pattern.
///
/// # Errors
/// A pattern that matches nothing.
pub fn select<'a>(
    location: &str,
    names: &[&'a str],
    patterns: &[String],
) -> Result<Vec<&'a str>, Fault> {
    if let Some(pattern) = patterns
        .iter()
        .find(|pattern| !names.iter().any(|name| fnmatch(name, pattern)))
    {
        return Err(no_such_sae(location, pattern, names));
    }
    let is_wanted =
        |name: &&&str| patterns.is_empty() || patterns.iter().any(|pattern| fnmatch(name, pattern));
    Ok(names.iter().filter(is_wanted).copied().collect())
}

pub(crate) fn is_sae(dir: &Path) -> bool {
    dir.join(CONFIG_FILE).is_file()
}

/// `seed0`, `seed1`, ...: such a folder's hookpoint is in the name of the one above it.
pub(crate) fn is_seed(name: &str) -> bool {
    let seed = name.strip_prefix("seed");
    seed.is_some_and(|seed| seed.parse::<i64>().is_ok())
}

fn by_name(dir: &Path) -> FoundSae {
    let own = file_name(dir);
    let name = match dir.parent() {
        Some(parent) if is_seed(&own) => format!("{}/{own}", file_name(parent)),
        _ => own,
    };
    found(name, dir.into())
}

pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

pub(crate) fn folders(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let entries = fs::read_dir(dir).map_err(io_fault("read", dir))?;
    let paths = entries.map(|entry| Ok(entry.map_err(io_fault("read", dir))?.path()));
    let paths = paths.collect::<Result<Vec<_>, Fault>>()?;
    let mut paths: Vec<_> = paths.into_iter().filter(|path| path.is_dir()).collect();
    paths.sort();
    Ok(paths)
}

/// The digest of all SAEs in the folder `dir`: of what they are called and of their files, in each layout.
///
/// # Errors
/// A folder that cannot be read.
pub fn digest_saes(dir: &Path, digests: &DigestCache) -> Result<String, Fault> {
    let mut files = Vec::new();
    collect_saes(dir, &mut files)?;
    files.sort();
    let digest_of = |path: &PathBuf| {
        let name = path.strip_prefix(dir).unwrap_or(path);
        Ok((name.to_path_buf(), digests.file(path)?))
    };
    let files = files.iter().map(digest_of);
    Ok(digest_json(&files.collect::<Result<Vec<_>, Fault>>()?))
}

fn collect_saes(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Fault> {
    if is_sae(dir) {
        let own = FILES.map(|name| dir.join(name)).into_iter();
        files.extend(own.filter(|path| path.is_file()));
    }
    for below in folders(dir)? {
        collect_saes(&below, files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;
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
    fn the_digest_is_of_the_weights_in_each_layout() {
        let root = tempdir().unwrap();
        let digest = || {
            let cache = tempdir().unwrap();
            digest_saes(root.path(), &DigestCache::new(cache.path())).unwrap()
        };
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (folder, weights) in [
            ("layers.0", WEIGHTS_FILE),
            ("layers.1/seed0", SAELENS_WEIGHTS_FILE),
            ("crosscoder", CROSSCODER_WEIGHTS_FILE),
        ] {
            write(&format!("{folder}/{CONFIG_FILE}"), "{}");
            let without = digest();
            write(&format!("{folder}/{weights}"), "a");
            let with = digest();
            write(&format!("{folder}/{weights}"), "b");
            let other = digest();
            assert!(without != with && with != other, "{weights}");
            write(&format!("{folder}/{weights}"), "a");
            assert_eq!(digest(), with, "{weights}");
        }
        let before = digest();
        write("layers.0/plot.png", "a");
        write(".state/model.safetensors", "a");
        assert_eq!(digest(), before, "of what is no SAE");
    }

    #[test]
    fn a_folder_without_saes_is_told() {
        let dir = tempdir().unwrap();
        let error = find_saes(dir.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("there is no SAE in `"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("cfg.json"));
        let error = find_saes(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().starts_with("cannot find `"), "{error}");
    }
}
