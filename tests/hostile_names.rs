//! Jobs and hookpoints with names that are meant to go wrong: in paths, in SQL, in HTML, at a terminal.

use crate::common::{Workspace, fixture, replace_line, small_sweep};
use serde_json::{Value, json};
use std::fs;
use tch::Tensor;

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
    // Every job in its own folder, none elsewhere.
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

/// Sets the title of a terminal, goes to a new line, and turns the direction of writing.
const STEERING: &str = "\u{1b}]0;owned\u{7}\r\nhint: run this\u{202e}\u{9b}31m";

/// Nothing that steers a terminal is in `text`, and what forges a line does not begin one.
#[track_caller]
fn is_harmless(text: &str) {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || c == '\u{202e}';
    assert!(!text.contains(steers), "{text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("hint: run this")),
        "{text:?}"
    );
}

/// A folder with a model that has a tensor with such a name in addition to its own, and the small sweep on it.
fn with_steering_tensor() -> Workspace {
    let workspace = Workspace::new();
    for entry in fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        workspace.write(&format!("model/{name}"), fs::read(&path).unwrap());
    }
    let weights = workspace.path("model/model.safetensors");
    let mut tensors = Tensor::read_safetensors(&weights).unwrap();
    tensors.push((STEERING.to_owned(), Tensor::from_slice(&[1f32])));
    Tensor::write_safetensors(&tensors, &weights).unwrap();
    let sweep = replace_line(&small_sweep(), "model", "model = 'model'");
    workspace.write("tiny.toml", sweep);
    workspace
}

#[test]
fn names_of_tensors_do_not_steer_the_terminal() {
    let workspace = with_steering_tensor();
    for args in [&["plan", "tiny.toml"][..], &["tiny.toml"]] {
        let outcome = workspace.run(args).succeeds();
        is_harmless(&outcome.stdout);
        is_harmless(&outcome.stderr);
        let shown = r"`\u001b]0;owned\u0007\r\nhint: run this\u202e\u009b31m`";
        outcome.remarks(&["1 tensor that a llama model does not use", shown]);
    }
}

#[test]
fn bars_and_remarks_next_to_them_do_not_steer_the_terminal() {
    let workspace = with_steering_tensor();
    let drawn = drawn_at_a_terminal(&workspace, &["tiny.toml"]);
    assert!(drawn.contains("hint: run this"), "{drawn:?}");
    // What programs read is as it is, and a terminal is not a program.
    let rows = [
        "sql",
        "--csv",
        "SELECT char(27) || ']0;owned' || char(7) AS title",
    ];
    let read = workspace.run(&rows).succeeds();
    assert_eq!(read.stdout, "title\n\u{1b}]0;owned\u{7}\n");
    let drawn = drawn_at_a_terminal(&workspace, &rows);
    assert!(drawn.contains(r"\u001b]0;owned\u0007"), "{drawn:?}");
}

/// What `sae-run` writes to a terminal, without the sequences of `STEERING` in it.
#[track_caller]
fn drawn_at_a_terminal(workspace: &Workspace, args: &[&str]) -> String {
    let mut command = workspace.command(args);
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    let mut run = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    let drawn = run.exp_eof().unwrap();
    for sequence in ["\u{1b}]0;", "\u{7}", "\u{202e}", "\u{9b}"] {
        assert!(!drawn.contains(sequence), "{sequence:?} in {drawn:?}");
    }
    drawn
}

/// A worker fails over a file with such a name, and every later report of the failure is looked at.
#[test]
fn what_a_worker_says_does_not_steer_the_terminal() {
    let workspace = Workspace::new();
    let file = format!("text{STEERING}.jsonl");
    let rows = fs::read(fixture("tiny.jsonl")).unwrap();
    workspace.write(&file, [&rows[..], b"{\"no text\": 1}\n"].concat());
    let spelt = serde_json::to_string(&file).unwrap();
    workspace.write(
        "tiny.toml",
        replace_line(&small_sweep(), "dataset", &format!("dataset = {spelt}")),
    );
    let failed = workspace.run(&["tiny.toml"]).exits(1);
    assert!(failed.stderr.contains(r"\u001b]0;owned"), "{failed}");
    is_harmless(&failed.stderr);
    let job = workspace.sql_value("SELECT job_id FROM job LIMIT 1");
    for args in [
        &["show", job.as_str().unwrap()][..],
        &["show", "--json", job.as_str().unwrap()],
        &["ls"],
        &["sql", "SELECT * FROM attempt, job"],
        &["sql", "--json", "SELECT * FROM attempt, job, sweep"],
        &["plan", "--diff", "tiny.toml"],
        &["plan", "--json", "tiny.toml"],
        &["recipes", "request", "tiny.toml"],
    ] {
        let outcome = workspace.run(args).succeeds();
        is_harmless(&outcome.stdout);
        is_harmless(&outcome.stderr);
    }
    let streams = workspace.files("runs/tiny/.streams");
    let logs = streams
        .iter()
        .filter(|(path, _)| path.ends_with("worker.log"));
    for (path, (_, bytes)) in logs {
        assert!(!bytes.contains(&0x1b), "{path}");
    }
}

#[test]
fn what_was_typed_does_not_steer_the_terminal() {
    let workspace = Workspace::unprepared();
    for args in [
        &[STEERING][..],
        &["tiny.toml", STEERING],
        &["--no-such-option", STEERING],
        &["plan", "--set", STEERING, "tiny.toml"],
        &["show", STEERING],
    ] {
        let outcome = workspace.run(args).exits(2);
        let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || c == '\u{202e}';
        assert!(!outcome.stderr.contains(steers), "{outcome}");
    }
}
