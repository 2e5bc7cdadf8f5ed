//! `sae-run train` has every option of sparsify, under the same name with dashes, and reads sparsify's spelling.

use crate::common::{Workspace, fixture};
use std::collections::BTreeSet;
use std::fs;

/// The spellings of each option, as `python -m sparsify --help` lists them.
fn options_of_sparsify() -> Vec<Vec<String>> {
    let text = fs::read_to_string(fixture("golden/sparsify_options.txt")).unwrap();
    let options = text.lines().map(|line| line.split(' '));
    options
        .map(|spellings| spellings.map(str::to_owned).collect())
        .collect()
}

#[test]
fn help_lists_every_option_of_sparsify() {
    let outcome = Workspace::new().run(&["train", "--help"]).succeeds();
    let help = outcome.stdout.as_str();
    let is_of_option = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let listed: BTreeSet<&str> = help.split(|c| !is_of_option(c)).collect();
    let options = options_of_sparsify();
    assert!(options.len() > 40);
    for spelling in options.iter().flatten() {
        // With dashes; sparsify's are read too.
        let dashed = spelling.replace('_', "-");
        let off = dashed
            .strip_prefix("--no")
            .map(|rest| format!("--no-{rest}"));
        let spellings = [Some(dashed), off];
        let mut spellings = spellings.iter().flatten();
        assert!(
            spellings.any(|spelling| listed.contains(spelling.as_str())),
            "no `{spelling}`\n{help}"
        );
    }
}

/// A `--help` after them keeps anything from being trained.
#[test]
fn every_option_of_sparsify_is_read_with_either_hyphens_or_underscores() {
    let workspace = Workspace::new();
    let spellings: Vec<_> = options_of_sparsify().into_iter().flatten().collect();
    let is_help = |spelling: &String| ["-h", "--help"].contains(&spelling.as_str());
    for hyphen in ["_", "-"] {
        let mut args = vec!["train".to_owned(), "MODEL".into(), "DATASET".into()];
        for spelling in spellings.iter().filter(|spelling| !is_help(spelling)) {
            args.push(spelling.replace('_', hyphen));
            // 1 is a number, a text and a truth; `--noresume` takes no value.
            args.extend((!spelling.starts_with("--no")).then(|| "1".to_owned()));
        }
        args.push("--help".into());
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let outcome = workspace.run(&args).succeeds();
        assert!(outcome.stdout.contains("Usage: "), "{outcome}");
    }
    let args = ["train", "MODEL", "DATASET", "--batchsize", "1", "--help"];
    workspace.run(&args).exits(2);
}
