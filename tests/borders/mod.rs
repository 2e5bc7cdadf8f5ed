//! The borders of the house: what crates may reach, circles between files, and sizes.

mod circles;
mod modules;

use modules::{crates, without_tests};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Variants of error types, over all crates.
const MOST_VARIANTS: usize = 90;
/// Lines of a file, and of a function.
const MOST_LINES: usize = 600;
const MOST_LINES_OF_A_FUNCTION: usize = 80;

/// The packages that each package of Cargo.lock needs, by their names without versions.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock = fs::read_to_string(in_repository("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().unwrap().to_owned();
        let dependencies = package.get("dependencies").and_then(|list| list.as_array());
        let names = dependencies
            .into_iter()
            .flatten()
            .map(|it| it.as_str().unwrap());
        let names = names.map(|it| it.split(' ').next().unwrap().to_owned());
        needs.entry(name).or_default().extend(names);
    }
    needs
}

fn in_repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The packages that a program is made of: of our own crates what their manifests name, without what only tests
/// or a feature need; of others what the lock file names.
fn reached(manifest: &str) -> BTreeSet<String> {
    let locked = locked();
    let workspace = manifest_of("Cargo.toml");
    let own = workspace["workspace"]["dependencies"].as_table().unwrap();
    let mut reached = BTreeSet::new();
    let mut manifests = vec![manifest.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = manifests.pop() {
        let manifest = manifest_of(&path);
        for (name, how) in manifest["dependencies"].as_table().unwrap() {
            if how
                .get("optional")
                .is_some_and(|it| it.as_bool() == Some(true))
            {
                continue;
            }
            match own.get(name).and_then(|it| it.get("path")?.as_str()) {
                Some(folder) if seen.insert(folder.to_owned()) => {
                    manifests.push(format!("{folder}/Cargo.toml"));
                }
                Some(_) => {}
                None => add(name, &locked, &mut reached),
            }
        }
    }
    reached
}

fn add(name: &str, locked: &BTreeMap<String, BTreeSet<String>>, reached: &mut BTreeSet<String>) {
    if reached.insert(name.to_owned()) {
        for needed in locked.get(name).into_iter().flatten() {
            add(needed, locked, reached);
        }
    }
}

fn manifest_of(path: &str) -> toml::Table {
    fs::read_to_string(in_repository(path))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_coordinator_reaches_no_torch_and_the_worker_no_tokio_and_no_database() {
    let coordinator = reached("Cargo.toml");
    for of_it in ["tokio", "sqlx", "wasmtime"] {
        assert!(coordinator.contains(of_it), "the test sees no {of_it}");
    }
    for not in ["tch", "torch-sys"] {
        assert!(!coordinator.contains(not), "the coordinator reaches {not}");
    }
    let worker = reached("runner/worker/Cargo.toml");
    assert!(worker.contains("tch"), "the test sees no tch");
    for not in ["tokio", "sqlx", "wasmtime", "hf-hub"] {
        assert!(!worker.contains(not), "the worker reaches {not}");
    }
}

#[test]
fn no_circle_leads_through_files() {
    let mut circles = Vec::new();
    for of_crate in crates() {
        circles.extend(circles::of(&of_crate));
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn error_types_have_few_variants() {
    let mut n_variants = BTreeMap::new();
    for of_crate in crates() {
        for text in of_crate.texts() {
            for (name, n) in error_types(&without_tests(text)) {
                n_variants.insert(name, n);
            }
        }
    }
    assert!(n_variants.contains_key("StoreError"), "{n_variants:?}");
    let n_all: usize = n_variants.values().sum();
    assert!(n_all <= MOST_VARIANTS, "{n_all}: {n_variants:?}");
}

/// The error types of a file, with the number of their variants.
fn error_types(text: &str) -> Vec<(String, usize)> {
    let starts = text.match_indices("enum ");
    let types = starts.filter_map(|(at, word)| {
        let (name, rest) = text[at + word.len()..].split_once(" {\n")?;
        let is_error = name.ends_with("Error") && !name.contains(char::is_whitespace);
        // Formatted: variants, and only they, begin with a capital four spaces in.
        let body = rest.split_once("\n}").map_or(rest, |(body, _)| body);
        let is_variant = |line: &&str| {
            line.strip_prefix("    ")
                .is_some_and(|it| it.starts_with(char::is_uppercase))
        };
        is_error.then(|| (name.to_owned(), body.lines().filter(is_variant).count()))
    });
    types.collect()
}

#[test]
fn no_file_and_no_function_is_long() {
    let mut long = Vec::new();
    for of_crate in crates() {
        for (path, text) in of_crate.files() {
            let n_lines = text.lines().count();
            if n_lines > MOST_LINES {
                long.push(format!("{}: {n_lines} lines", path.display()));
            }
            long.extend(long_functions(text).map(|it| format!("{}: {it}", path.display())));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Functions of more lines than they may have. Formatted: one ends at the first brace as far in as it begins.
fn long_functions(text: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len())
        .filter(|&at| is_function(lines[at]))
        .collect();
    starts.into_iter().filter_map(move |at| {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let n_lines = lines[at..].iter().position(|line| *line == end)? + 1;
        (n_lines > MOST_LINES_OF_A_FUNCTION)
            .then(|| format!("{} ({n_lines} lines)", lines[at].trim()))
    })
}

fn is_function(line: &str) -> bool {
    let words = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "async",
        "unsafe",
        "extern",
        "\"C\"",
    ];
    let mut rest = line
        .split_whitespace()
        .skip_while(|word| words.contains(word));
    rest.next() == Some("fn") && !line.trim_end().ends_with(';')
}

#[test]
fn what_is_looked_for_is_found() {
    let text = "pub enum OddError {\n    /// One.\n    One,\n    #[error(\"x\")]\n    Two {\n        a: usize,\n    },\n}\n";
    assert_eq!(error_types(text), [("OddError".to_owned(), 2)]);
    let long = format!(
        "    pub(crate) async fn f() {{\n{}    }}\n",
        "        a();\n".repeat(79)
    );
    assert_eq!(long_functions(&long).collect::<Vec<_>>().len(), 1);
    let short = format!("fn f() {{\n{}}}\n", "    a();\n".repeat(78));
    assert_eq!(long_functions(&short).count(), 0);
}
