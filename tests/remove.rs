//! `sae-run rm`: what is deleted, what is kept, and what is not touched.

use crate::common::Workspace;

fn two_sweeps() -> Workspace {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
        .run(&[
            "tiny.toml",
            "--set",
            "name=other",
            "--set",
            "vary.hookpoints=[['layers.0']]",
        ])
        .succeeds();
    workspace
}

#[test]
fn it_asks_and_keeps_what_another_sweep_asks_for() {
    let workspace = two_sweeps();
    let before = workspace.trained();
    workspace
        .run(&["rm", "tiny"])
        .refuses(&["no terminal"])
        .hints("--yes")
        .remarks(&["kept: ", "asked for by `other`", "to delete: 1 job"]);
    assert!(workspace.trained() == before, "something was deleted");
    workspace.run(&["rm", "--yes", "tiny"]).succeeds();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 1);
    let dir = workspace.sql_value("SELECT dir FROM job");
    let dir = workspace.path("runs").join(dir.as_str().unwrap());
    assert!(dir.join("layers.0/cfg.json").is_file());
    workspace
        .run(&["rm", "--yes", "other"])
        .succeeds()
        .remarks(&["deleted 1 job"]);
    assert!(!workspace.path("runs/tiny").exists());
    assert!(!workspace.path("runs/other").exists());
    // It comes back when it is asked for again.
    workspace.run(&["tiny.toml"]).succeeds();
    assert_eq!(
        workspace.sql_value("SELECT count(*) FROM job WHERE status = 'done'"),
        2
    );
}

#[test]
fn a_path_outside_of_the_runs_folder_is_not_believed() {
    let workspace = two_sweeps();
    workspace.write("precious/file", "kept");
    crate::bad_folder::execute(
        &workspace,
        "UPDATE job SET dir = '../precious' WHERE dir LIKE '%layers.1%'",
    );
    workspace.run(&["rm", "--yes", "tiny"]).exits(2);
    assert!(workspace.path("precious/file").is_file());
}
