//! Jobs and hookpoints with names that are meant to go wrong: in paths, in SQL, in HTML, at a terminal.

use crate::common::{Workspace, replace_line, small_sweep};
use serde_json::{Value, json};
use std::fs;

/// One job for each name.
const RECIPE: &str = r#"
NAMES = ["a'b\"c; DROP TABLE job; --", "../../../up", "/etc/passwd", "line\nbreak", "n" * 300, ".", "..", "-rf",
         "<script>alert(1)</script>", "{{ 7 * 7 }}", "%s %n", "\u202egnp.exe", "naïve ☃"]

def plan(request):
    for k, name in enumerate(NAMES, 1):
        yield job({"k": k, "hookpoints": ["layers.0"]}, name=name)
"#;

fn hostile() -> Workspace {
    let workspace = Workspace::new();
    let sweep = format!("recipe = 'hostile.py'\n{}", small_sweep());
    workspace.write("tiny.toml", sweep);
    workspace.write("hostile.py", RECIPE);
    workspace
}

fn names(workspace: &Workspace) -> Vec<String> {
    let rows = workspace.sql("SELECT name FROM sweep_job ORDER BY ordinal");
    let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
    rows.iter().map(name).collect()
}

#[test]
fn hostile_job_names_stay_names() {
    let workspace = hostile();
    workspace.write("precious", "kept");
    workspace.run(&["tiny.toml"]).succeeds();
    let names = names(&workspace);
    assert_eq!(names.len(), 13);
    assert_eq!(names[1], "../../../up", "as the recipe gave it");
    assert_eq!(names[4], "n".repeat(300));
    let done = "SELECT count(*) FROM job WHERE status = 'done'";
    assert_eq!(workspace.sql_value(done), 13);
    // Every job in a folder of its own, none elsewhere.
    let folders = fs::read_dir(workspace.path("runs/tiny")).unwrap();
    let folders = folders.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        !name.to_string_lossy().starts_with('.')
    });
    assert_eq!(folders.count(), 13);
    let runs = workspace.sql("SELECT DISTINCT dir FROM job");
    for row in &runs {
        let dir = row["dir"].as_str().unwrap();
        assert!(
            dir.is_ascii() && dir.split('/').count() == 2 && !dir.contains("/."),
            "{dir}"
        );
        assert!(
            workspace
                .path("runs")
                .join(dir)
                .join("layers.0/cfg.json")
                .is_file()
        );
    }
    // Every name finds its job again.
    for name in &names {
        let shown = workspace.run(&["show", "--", name]).succeeds();
        assert!(!shown.stdout.contains('\u{202e}'), "{shown}");
    }
    let ls = workspace.run(&["ls", "--sweep", "tiny"]).succeeds();
    assert!(ls.stdout.contains(r"line\nbreak"), "{ls}");
    workspace
        .run(&["report", "tiny", "-o", "report.html"])
        .succeeds();
    let page = fs::read_to_string(workspace.path("report.html")).unwrap();
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("{{ 7 * 7 }}"), "no template of ours");
    workspace.run(&["rm", "--yes", "tiny"]).succeeds();
    assert!(!workspace.path("runs/tiny").exists());
    assert!(workspace.path("precious").is_file());
}

#[test]
fn hostile_hookpoints_are_no_hookpoints() {
    let long = "x".repeat(300);
    for hookpoint in [
        "layers.0'; DROP TABLE job; --",
        "../layers.0",
        "/layers.0",
        "layers.0/../../up",
        "layers.0\\n",
        "<script>",
        "..",
        "",
        &long,
    ] {
        let workspace = Workspace::new();
        let line = format!("hookpoints = [[\"{hookpoint}\"]]");
        workspace.write(
            "tiny.toml",
            replace_line(&small_sweep(), "hookpoints", &line),
        );
        workspace.run(&["tiny.toml"]).refuses(&["hookpoint"]);
        assert!(workspace.trained().is_empty(), "{hookpoint}");
    }
}

#[test]
fn a_folder_of_another_name_is_not_mixed_up_with_a_job() {
    let workspace = hostile();
    let plan = workspace
        .run(&["plan", "tiny.toml", "--json"])
        .succeeds()
        .json();
    let first = &plan["jobs"][0]["job_id"];
    workspace.run(&["tiny.toml"]).succeeds();
    let shown = workspace.run(&["show", first.as_str().unwrap()]).succeeds();
    assert!(shown.stdout.contains("DROP TABLE"), "{shown}");
    let id = workspace.sql_value("SELECT job_id FROM sweep_job WHERE ordinal = 0");
    assert_eq!(json!(id), *first);
}
