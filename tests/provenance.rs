//! What the database says about where jobs come from, and about what is best.

use crate::common::Workspace;
use serde_json::json;
use std::process::Command;

fn git(workspace: &Workspace, args: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
    let mut command = Command::new("git");
    let output = command
        .arg("-C")
        .arg(workspace.path(""))
        .args(identity)
        .args(args);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_job_is_traced_to_sweep_recipe_and_commit() {
    let workspace = Workspace::with_small_sweep();
    git(&workspace, &["init", "--quiet"]);
    git(&workspace, &["add", "tiny.toml"]);
    git(&workspace, &["commit", "--quiet", "-m", "sweep"]);
    let commit = git(&workspace, &["rev-parse", "HEAD"]);
    workspace.run(&["tiny.toml"]).succeeds();
    let rows = workspace.sql(
        "SELECT DISTINCT git_commit, sae_run, device, recipe, trainer_version > 0 AS has_version,
             libtorch <> '' AS has_libtorch, sweep_text LIKE 'name = ''tiny''%' AS has_text,
             recipe_source LIKE '%def plan(request)%' AS has_source
         FROM provenance",
    );
    let expected = json!({
        "git_commit": commit, "sae_run": env!("CARGO_PKG_VERSION"), "device": "cpu",
        "recipe": "grid", "has_version": 1, "has_libtorch": 1, "has_text": 1, "has_source": 1,
    });
    assert_eq!(rows, [expected]);

    let sweep = std::fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    workspace.write("tiny.toml", sweep + "# edited\n");
    workspace.run(&["tiny.toml"]).succeeds();
    let newest = "SELECT DISTINCT git_commit FROM provenance WHERE revision = 2";
    assert_eq!(workspace.sql_value(newest), commit.as_str());
}

/// Git runs the program that `core.fsmonitor` names when it is asked for the status of a checkout.
fn with_monitor(workspace: &Workspace, git_dir: &str) {
    let config = workspace.path(git_dir).join("config");
    let text = std::fs::read_to_string(&config).unwrap();
    let marker = workspace.path("harm").display().to_string();
    let monitor = format!("[core]\n\tworktree = .\n\tfsmonitor = \"touch {marker}; false\"\n");
    std::fs::write(
        config,
        text.replace("bare = true", "bare = false") + &monitor,
    )
    .unwrap();
}

#[test]
fn a_sweeps_folder_runs_no_program() {
    let workspace = Workspace::with_small_sweep();
    git(&workspace, &["init", "--quiet"]);
    git(&workspace, &["add", "tiny.toml"]);
    git(&workspace, &["commit", "--quiet", "-m", "sweep"]);
    with_monitor(&workspace, ".git");
    // The attack works on Git itself.
    git(&workspace, &["status"]);
    std::fs::remove_file(workspace.path("harm")).unwrap();
    workspace.run(&["tiny.toml"]).succeeds();
    assert!(!workspace.path("harm").exists());
}

#[test]
fn a_bare_repository_among_the_files_of_a_sweep_is_none() {
    let workspace = Workspace::with_small_sweep();
    git(&workspace, &["init", "--quiet", "--bare"]);
    with_monitor(&workspace, ".");
    workspace.run(&["tiny.toml"]).succeeds();
    assert!(!workspace.path("harm").exists());
    let commits = workspace.sql("SELECT DISTINCT git_commit FROM provenance");
    assert_eq!(commits, [json!({"git_commit": null})]);
}

#[test]
fn the_frontier_and_the_timeline_are_there_after_a_run() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let points = workspace.sql("SELECT hookpoint, l0, fvu FROM frontier");
    for hookpoint in ["layers.0", "layers.1.mlp", "layers.2"] {
        let of_hookpoint = points
            .iter()
            .filter(|point| point["hookpoint"] == hookpoint);
        let fvus: Vec<_> = of_hookpoint
            .map(|point| point["fvu"].as_f64().unwrap())
            .collect();
        assert!((1..=4).contains(&fvus.len()), "{points:?}");
        assert!(
            fvus.is_sorted_by(|a, b| a > b),
            "more latents explain more: {fvus:?}"
        );
    }
    let timeline = workspace.sql(
        "SELECT number, status, first_step, last_step, n_jobs, tokens_per_s > 0 AS has_speed,
             seconds > 0 AS has_time, started <= ended AND ended GLOB '20??-??-??T??:??:??Z' AS has_times
         FROM timeline",
    );
    let expected = json!({
        "number": 1, "status": "done", "first_step": 0, "last_step": 8, "n_jobs": 8,
        "has_speed": 1, "has_time": 1, "has_times": 1,
    });
    assert_eq!(timeline, [expected]);
    for (view, column) in [
        ("result", "created"),
        ("result", "done"),
        ("curve", "time"),
        ("provenance", "created"),
    ] {
        let odd = format!(
            "SELECT count(*) FROM {view} WHERE coalesce({column}, '') NOT GLOB '20??-??-??T??:??:??Z'"
        );
        assert_eq!(workspace.sql_value(&odd), 0, "{view}.{column}");
    }
    let same = "SELECT count(*) FROM curve WHERE time <> strftime('%Y-%m-%dT%H:%M:%SZ', time_ms / 1000, 'unixepoch')";
    assert_eq!(workspace.sql_value(same), 0);
}
