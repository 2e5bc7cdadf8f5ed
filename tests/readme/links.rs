//! Every page can be found, and every link leads to a file.

use super::{Page, docs, in_repository, pages, read_page};

/// Where the links of a page lead to, as written, without those to other hosts or within the page.
fn targets(page: &Page) -> Vec<&str> {
    let targets = page.prose.split("](").skip(1);
    targets
        .map(|rest| rest.split_once(')').unwrap().0)
        .map(|target| target.split('#').next().unwrap())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

#[test]
fn every_relative_link_leads_to_a_file() {
    for page in pages() {
        let folder = page.path.parent().unwrap();
        for target in targets(&page) {
            let is_there = folder.join(target).exists();
            assert!(is_there, "{}: `{target}`", page.path.display());
        }
    }
}

#[test]
fn every_page_is_once_in_the_table_of_contents_and_linked_in_the_readme() {
    let summary = read_page(in_repository("docs/SUMMARY.md"));
    let readme = read_page(in_repository("README.md"));
    let (contents, links) = (targets(&summary), targets(&readme));
    for path in docs() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let count = contents.iter().filter(|&&target| target == name).count();
        assert_eq!(count, 1, "{name} in docs/SUMMARY.md");
        let in_readme = format!("docs/{name}");
        assert!(links.contains(&in_readme.as_str()), "{name} in README.md");
    }
    assert_eq!(contents.len(), docs().len(), "{contents:?}");
}

#[test]
fn the_readme_and_the_map_stay_short() {
    for (path, limit) in [("README.md", 150), ("runner/README.md", 100)] {
        let n_lines = std::fs::read_to_string(in_repository(path))
            .unwrap()
            .lines()
            .count();
        assert!(n_lines <= limit, "{path} has {n_lines} lines");
    }
}
