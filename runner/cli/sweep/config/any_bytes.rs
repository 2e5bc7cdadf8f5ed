//! Sweep files and `--set` with damage of all kinds.

use super::{keys, load, parse_set};
use crate::sweep::paths::Folders;
use args::SweepArgs;
use files::testing::{any_bytes, any_bytes_of_text};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// Those of this repository, and one with what they do not have.
fn sweeps() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let paths = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let files = paths.filter(|path| path.is_file());
    let mut sweeps: Vec<_> = files.map(|path| fs::read(path).unwrap()).collect();
    let other = "name = 'a'\nseed = 3\n[train]\nlr = 1e-3\nhookpoints = [\"layers.*\", 'h.1']\nk = 0x10\n\
                 init_seeds = [1, 2]\n[vary]\n\"k\" = [1, 2.5, { a = [] }]\nx.y = 1979-05-27\n\
                 [launch]\ndevices = ['cpu']\nmemory_bytes = 1_000\n[recipe_limits]\nfuel = 5\n";
    sweeps.push(other.into());
    sweeps
}

proptest! {
    #[test]
    fn any_bytes_are_a_sweep_or_an_error(bytes in any_bytes(sweeps())) {
        let dir = tempfile::tempdir().unwrap();
        let sweep = dir.path().join("it.toml");
        fs::write(&sweep, &bytes).unwrap();
        let args = SweepArgs { sweep, set: Vec::new() };
        let folders = Folders { cache: dir.path().into(), config: dir.path().into() };
        match load(&args, &folders) {
            Ok(loaded) => {
                // What is recorded says the same.
                prop_assert_eq!(loaded.text.as_bytes(), &bytes[..]);
                let json = serde_json::to_string(&loaded.sweep).unwrap();
                let again: plan::Sweep = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(serde_json::to_string(&again).unwrap(), json);
                prop_assert!(files::stays_below(Path::new(&loaded.sweep.name)));
            }
            Err(error) => prop_assert!(error.to_string().contains("it.toml"), "{}", error),
        }
    }

    #[test]
    fn any_bytes_set_one_key_or_none(
        set in any_bytes_of_text(&["train.k=64", "vary.x.y = [1, {a = 2}]", "train.k=1\ntrain.lr=2", "launch.devices=a=b"]),
    ) {
        if let Ok(layer) = parse_set(&set) {
            prop_assert!(keys::check(&layer).is_ok(), "{}", layer.text);
            let table: toml::Table = toml::from_str(&layer.text).unwrap();
            prop_assert_eq!(table.len(), 1);
        }
    }
}
