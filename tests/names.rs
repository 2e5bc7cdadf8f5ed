//! What jobs and sweeps are called, and the tables that show them.

use crate::common::{Workspace, filters, replace_line, tiny_sweep_with};

/// Two jobs with two SAEs each.
fn two_by_two() -> Workspace {
    let sweep = tiny_sweep_with("hookpoints = ", "hookpoints = [['layers.0', 'layers.2']]");
    let workspace = Workspace::new();
    workspace.write(
        "tiny.toml",
        replace_line(&sweep, "expansion_factor", "expansion_factor = [2]"),
    );
    workspace
}

/// What differs between machines and runs, besides ids.
fn numbers() -> Vec<(&'static str, &'static str)> {
    let own = [
        (r"\d\.\d{4}", "0.1234"),
        (r"\b[0-9a-f]{6}  ", "012345  "),
        (r"in [\d.]+ s, \d+ tokens/s", "in N s, N tokens/s"),
        (r"  +\d+\n", " N\n"),
        (r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "2026-01-01 00:00:00"),
    ];
    [filters(), own.to_vec()].concat()
}

#[test]
fn the_final_table_fits_and_says_what_comes_next() {
    insta::with_settings!({filters => numbers()}, {
        for columns in ["80", "120"] {
            let workspace = two_by_two();
            let outcome = workspace.run_with(&[("COLUMNS", columns)], &["tiny.toml"]).succeeds();
            let widest = outcome.stdout.lines().map(|line| line.chars().count()).max();
            assert!(widest <= columns.parse().ok(), "{outcome}");
            let end = outcome.stderr.find("all 2 jobs").expect("it says how many are done");
            let shown = format!("{}{}", outcome.stdout, &outcome.stderr[end..]);
            insta::assert_snapshot!(format!("final_table_{columns}"), shown);
        }
    });
}

#[test]
fn ls_and_show_take_a_sweep() {
    let workspace = two_by_two();
    workspace.run(&["tiny.toml"]).succeeds();
    insta::with_settings!({filters => numbers()}, {
        for columns in ["80", "120"] {
            let width = [("COLUMNS", columns)];
            let ls = workspace.run_with(&width, &["ls", "tiny"]);
            insta::assert_snapshot!(format!("ls_sweep_{columns}"), ls);
        }
    });
    let show = workspace.run(&["show", "tiny"]).succeeds().stdout;
    for part in [
        "recipe     grid",
        "1 version",
        "2 done",
        "best FVU",
        "    name = 'tiny'",
    ] {
        assert!(show.contains(part), "{part}\n{show}");
    }
    let json = workspace.run(&["show", "tiny", "--json"]).succeeds().json();
    assert_eq!(json["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(json["jobs"][0]["status"], "done");
    let sweeps = workspace.run(&["ls"]).succeeds().stdout;
    for part in ["stopped", "queued", "training", "started (UTC)"] {
        assert!(sweeps.contains(part), "{part}\n{sweeps}");
    }
}

#[test]
fn a_name_means_the_job_of_the_current_version() {
    let workspace = two_by_two();
    workspace.run(&["tiny.toml"]).succeeds();
    let ids = "SELECT DISTINCT job_id FROM result WHERE job LIKE 'k=4,%'";
    let earlier = workspace.sql_value(ids);
    let earlier = earlier.as_str().unwrap();
    workspace
        .run(&["tiny.toml", "--set", "train.max_examples=32"])
        .succeeds();
    let shown = |wanted: &str| {
        let job = workspace.run(&["show", wanted, "--json"]).succeeds().json();
        job["config"]["max_examples"].as_u64().unwrap()
    };
    let name = "k=4,expansion_factor=2,hookpoints=layers.0+layers.2";
    assert_eq!(shown(name), 32);
    assert_eq!(shown(&format!("tiny/{name}")), 32);
    assert_eq!(shown("tiny/k=4"), 32, "a part of the name is enough");
    assert_eq!(shown(earlier), 64);
    workspace
        .run(&["tiny.toml", "--set", "name=other"])
        .succeeds();
    workspace
        .run(&["show", name])
        .refuses(&["is ambiguous: 2 jobs match"])
        .hints("max_examples = ");
    assert_eq!(shown(&format!("other/{name}")), 64);
}
