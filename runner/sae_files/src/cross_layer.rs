//! The layers of a cross-layer transcoder, each in its folder.

use crate::cfg_file::{CONFIG_FILE, read_config};
use crate::error::io_fault;
use crate::folders::{file_name, folders, is_sae, is_seed};
use fault::Fault;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where `cfg.json` says what a layer writes to, in either layout.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    hookpoints: Vec<String>,
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    hookpoints: Vec<String>,
}

/// The folders of all layers of the cross-layer transcoder that `dir` has a layer of, the first layer's first: those
/// next to it; of several seeds, its own.
///
/// # Errors
/// A folder that cannot be read.
pub fn layers_of(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let dir = dir.canonicalize().map_err(io_fault("find", dir))?;
    let name = file_name(&dir);
    let seed = is_seed(&name).then_some(name);
    let above = dir.ancestors().nth(if seed.is_some() { 2 } else { 1 });
    let mut layers = Vec::new();
    for folder in folders(above.unwrap_or(&dir))? {
        let folder = seed.iter().fold(folder, |folder, seed| folder.join(seed));
        let n_outputs = if is_sae(&folder) {
            outputs_of(&folder)?.len()
        } else {
            0
        };
        if n_outputs > 0 {
            layers.push((n_outputs, folder));
        }
    }
    layers.sort_by_key(|(n_outputs, _)| std::cmp::Reverse(*n_outputs));
    Ok(layers.into_iter().map(|(_, folder)| folder).collect())
}

/// The hookpoints that `cfg.json` in `dir` lists, in either layout: those that a layer of a cross-layer transcoder writes
/// to, or those of a crosscoder. Empty for other SAEs.
///
/// # Errors
/// A missing or damaged file.
pub fn outputs_of(dir: &Path) -> Result<Vec<String>, Fault> {
    let config: Config = read_config(&dir.join(CONFIG_FILE))?;
    Ok([config.hookpoints, config.metadata.hookpoints].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn layers_come_from_the_first_on_and_are_of_one_seed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for (layer, config) in [
            ("b", r#"{"hookpoints": ["a", "b", "c"]}"#),
            ("a", r#"{"metadata": {"hookpoints": ["b", "c"]}}"#),
            ("c", r#"{"hookpoints": ["c"]}"#),
            ("another", "{}"),
        ] {
            for dir in [root.join(layer), root.join(layer).join("seed1")] {
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(CONFIG_FILE), config).unwrap();
            }
        }
        let expected = ["b", "a", "c"].map(|layer| root.join(layer));
        assert_eq!(layers_of(&root.join("a")).unwrap(), expected);
        let expected = expected.map(|layer| layer.join("seed1"));
        assert_eq!(layers_of(&root.join("c/seed1")).unwrap(), expected);
    }
}
