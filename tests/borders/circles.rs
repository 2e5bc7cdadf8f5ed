//! Files of a crate that need each other in a circle. A folder and what is in it may.

use super::modules::{Crate, Module, without_tests};
use std::collections::{BTreeMap, BTreeSet};

/// The circles between a crate's files, each in a line. Tests may need anything.
pub(super) fn of(of_crate: &Crate) -> Vec<String> {
    let needs = needs(of_crate);
    let reached: BTreeMap<_, _> = needs
        .keys()
        .map(|module| (module, reach(module, &needs)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, reached_from) in &reached {
        let back = reached_from.iter().filter(|other| {
            reached
                .get(other)
                .is_some_and(|reached| reached.contains(*module))
        });
        let circle: BTreeSet<_> = back.collect();
        if circle.len() > 1 {
            let names: Vec<_> = circle.into_iter().map(|module| module.join("::")).collect();
            circles.insert(format!("{}: {}", of_crate.root.display(), names.join(", ")));
        }
    }
    circles.into_iter().collect()
}

type Needs = BTreeMap<Module, BTreeSet<Module>>;

fn reach(from: &Module, needs: &Needs) -> BTreeSet<Module> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for needed in needs.get(module).into_iter().flatten() {
            if reached.insert(needed.clone()) {
                next.push(needed);
            }
        }
    }
    reached
}

/// Which file needs which, without the pairs of a folder and something in it.
fn needs(of_crate: &Crate) -> Needs {
    let tests = tests_of(of_crate);
    let is_test = |module: &Module| (1..=module.len()).any(|n| tests.contains(&module[..n]));
    let modules = of_crate.modules().filter(|(module, _)| !is_test(module));
    let needs = modules.map(|(module, text)| {
        let paths = uses(&without_tests(text));
        let needed = paths
            .into_iter()
            .filter_map(|path| resolve(of_crate, module, &path, 0));
        let needed = needed.filter(|needed| {
            !is_test(needed) && !needed.starts_with(module) && !module.starts_with(needed)
        });
        (module.clone(), needed.collect())
    });
    needs.collect()
}

/// Modules that are compiled for tests alone, or for benchmarks.
fn tests_of(of_crate: &Crate) -> BTreeSet<Vec<String>> {
    let mut tests = BTreeSet::new();
    for (module, text) in of_crate.modules() {
        for part in text
            .split("#[cfg(test)]\n")
            .skip(1)
            .chain(text.split("feature = \"testing\"").skip(1))
        {
            let line = part
                .lines()
                .find(|line| line.contains("mod "))
                .unwrap_or_default();
            let name = line.split("mod ").nth(1).unwrap_or_default();
            if let Some(name) = name.trim().strip_suffix(';') {
                tests.insert([module.as_slice(), &[name.to_owned()]].concat());
            }
        }
    }
    tests
}

/// The paths after `use`, and all that begin with `crate::`.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let is_word = at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric();
        if is_word && let Some((path, _)) = text[at + 4..].split_once(';') {
            expand(path, &mut Vec::new(), &mut paths);
        }
    }
    for (at, _) in text.match_indices("crate::") {
        let end = text[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        let path = &text[at..end.map_or(text.len(), |end| at + end)];
        paths.push(
            path.split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        );
    }
    paths
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(path: &str, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let n_before = before.len();
    let (start, group) = path
        .split_once('{')
        .map_or((path, None), |(start, group)| (start, Some(group)));
    let start = start.split(" as ").next().unwrap_or(start);
    before.extend(
        start
            .split("::")
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned),
    );
    match group {
        None => paths.push(before.clone()),
        Some(group) => {
            let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
            let (mut depth, mut first) = (0, 0);
            for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        if !group[first..at].trim().is_empty() {
                            expand(&group[first..at], before, paths);
                        }
                        first = at + 1;
                    }
                    _ => {}
                }
            }
        }
    }
    before.truncate(n_before);
}

/// The file that a path leads to, by way of what other files give on. `None`: another crate.
fn resolve(of_crate: &Crate, from: &Module, path: &[String], n_steps: usize) -> Option<Module> {
    let mut module = from.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (module, rest) = (Vec::new(), &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                module.pop();
                rest = &rest[1..];
            }
        }
        // A path relative to the module, or another crate.
        first => {
            let child = [module.as_slice(), &[first.to_owned()]].concat();
            of_crate.text(&child)?;
        }
    }
    while let Some(part) = rest.first() {
        let child = [module.as_slice(), std::slice::from_ref(part)].concat();
        if of_crate.text(&child).is_some() {
            (module, rest) = (child, &rest[1..]);
            continue;
        }
        let given_on = given_on(of_crate.text(&module)?, part).filter(|_| n_steps < 5);
        return match given_on.and_then(|path| resolve(of_crate, &module, &path, n_steps + 1)) {
            Some(found) => Some(found),
            None => Some(module),
        };
    }
    Some(module)
}

/// The file that `item` comes from, if a file re-exports it.
fn given_on(text: &str, item: &str) -> Option<Vec<String>> {
    let text = without_tests(text);
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("pub") {
        let statement = text[at..].split(';').next()?;
        if let Some((_, path)) = statement.split_once(" use ")
            && !statement.contains('\n') | statement.contains('{')
            && statement
                .split(" use ")
                .next()
                .is_some_and(|it| !it.contains(char::is_whitespace))
        {
            expand(path, &mut Vec::new(), &mut paths);
        }
    }
    paths
        .into_iter()
        .find(|path| path.last().is_some_and(|last| last == item))
}
