//! The map of the code: its crates, their borders, its paths and the tests that it names.

use super::{in_repository, read_page, spans};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

const MAP: &str = "runner/README.md";

/// Libraries whose users the table names, in addition to the project's own crates.
const LIBRARIES: [&str; 2] = ["tch", "tokio"];

/// The table of crates: name, and which crates it may know.
fn crates_on_the_map() -> BTreeMap<String, BTreeSet<String>> {
    let map = read_page(in_repository(MAP));
    let (_, table) = map.prose.split_once("| crate | purpose |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let known = cells[3].split_whitespace().map(str::to_owned);
        (cells[1].trim_matches('`').to_owned(), known.collect())
    })
    .collect()
}

/// The folders with their own crate, and the package of `cli`: name and manifest.
fn manifests() -> BTreeMap<String, toml::Table> {
    let folders = fs::read_dir(in_repository("runner")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let own = folders.map(|name| {
        (
            name.clone(),
            in_repository(&format!("runner/{name}/Cargo.toml")),
        )
    });
    let all = own.chain([("cli".to_owned(), in_repository("Cargo.toml"))]);
    all.filter(|(_, path)| path.exists())
        .map(|(name, path)| (name, fs::read_to_string(path).unwrap().parse().unwrap()))
        .collect()
}

#[test]
fn the_map_has_every_crate_and_what_it_may_know() {
    let on_the_map = crates_on_the_map();
    let manifests = manifests();
    let expected: BTreeMap<String, BTreeSet<String>> = manifests
        .iter()
        .map(|(name, manifest)| {
            let dependencies = manifest["dependencies"].as_table().unwrap().keys();
            let named = dependencies
                .filter(|it| manifests.contains_key(*it) || LIBRARIES.contains(&it.as_str()));
            (name.clone(), named.cloned().collect())
        })
        .collect();
    assert_eq!(on_the_map, expected);
}

/// The file that a path of the map names: from its folder, or from the root.
fn found(path: &str) -> Option<PathBuf> {
    let paths = [in_repository("runner").join(path), in_repository(path)];
    paths.into_iter().find(|path| path.exists())
}

#[test]
fn paths_and_tests_on_the_map_are_there() {
    let map = read_page(in_repository(MAP));
    let spans = spans(&map.prose).into_iter();
    let paths = spans.filter(|span| span.contains('/') && !span.contains([' ', '<']));
    let mut n_tests = 0;
    for path in paths {
        let (file, test) = path.split_once("::").unwrap_or((&path, ""));
        let file = found(file).unwrap_or_else(|| panic!("`{path}` is not there"));
        if !test.is_empty() {
            let text = fs::read_to_string(file).unwrap();
            assert!(
                text.contains(&format!("fn {test}(")),
                "`{path}` is not there"
            );
            n_tests += 1;
        }
    }
    assert!(n_tests >= 25, "{n_tests} tests were found");
}
