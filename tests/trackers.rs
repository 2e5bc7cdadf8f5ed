//! Curves in TensorBoard, Trackio, Weights & Biases and MLflow, read back with their own packages.

use crate::common::{Running, Workspace, fixture, signal, small_sweep, text, until, with_jobs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const ALL: [&str; 4] = ["tensorboard", "trackio", "wandb", "mlflow"];

/// The curves of a job: by name, the steps and their values.
type Curves = BTreeMap<String, Vec<(u64, f64)>>;

/// The Python that has the trackers, if there is one: that of `SAE_RUN_TRACKERS_PYTHON`, which `make test` sets.
#[expect(clippy::print_stderr, reason = "a test that did nothing should say so")]
fn python() -> Option<PathBuf> {
    let given = env::var_os("SAE_RUN_TRACKERS_PYTHON").map(PathBuf::from);
    let found = given.filter(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no Python with the trackers; name one in SAE_RUN_TRACKERS_PYTHON");
    }
    found
}

/// The small sweep with an evaluation, and with trackers.
fn workspace(trackers: &[&str]) -> Workspace {
    let workspace = Workspace::new();
    let sweep = small_sweep().replace("save_every = 5", "save_every = 5\neval_fraction = 0.05");
    workspace.write("tiny.toml", format!("{sweep}log_to = {trackers:?}\n"));
    workspace
}

/// What `sae-run` and trackers are given: none of the user's own folders, and no network.
fn variables(workspace: &Workspace, python: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("SAE_RUN_TRACKERS_PYTHON", text(python).to_owned()),
        (
            "TRACKIO_DIR",
            text(&workspace.path("runs/trackers/trackio")).to_owned(),
        ),
        ("WANDB_MODE", "offline".to_owned()),
    ]
}

fn command(workspace: &Workspace, python: &Path, args: &[&str]) -> Command {
    let mut command = workspace.command(args);
    command.envs(variables(workspace, python));
    command
}

/// The runs that a tracker has in `folder`, as its own package reads them.
fn read_back(workspace: &Workspace, python: &Path, kind: &str, folder: &str) -> Vec<Value> {
    let script = fixture("").join("../trackers/read_back.py");
    let folder = workspace.path(folder);
    let args = [text(&script), kind, text(&folder)];
    let mut command = workspace.command_of(python, &args);
    command.envs(variables(workspace, python));
    let outcome = crate::common::finish(command);
    serde_json::from_str(&outcome.succeeds().stdout).unwrap()
}

fn curves_of(run: &Value) -> Curves {
    let curves = run["curves"].as_object().unwrap().iter();
    let point = |point: &Value| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap());
    let curves = curves.map(|(name, points)| {
        let mut points: Vec<_> = points.as_array().unwrap().iter().map(point).collect();
        points.sort_by_key(|(step, _)| *step);
        (name.clone(), points)
    });
    curves.collect()
}

/// The curves of a job that the database has.
fn curves_in_database(workspace: &Workspace, job: &str) -> Curves {
    let mut curves = Curves::new();
    let mut add = |row: &Value, sae: &str, names: &[&str], step: &str| {
        for name in names {
            if let Some(value) = row[name].as_f64() {
                let name = if sae.is_empty() {
                    (*name).to_owned()
                } else {
                    format!("{sae}/{name}")
                };
                let step = row[step].as_u64().unwrap();
                let points = curves.entry(name).or_default();
                points.push((step, value));
            }
        }
    };
    let training = [
        "fvu",
        "l0",
        "dead_pct",
        "auxk",
        "multi_topk_fvu",
        "output_loss",
        "sparsity",
    ];
    let rows = format!("SELECT * FROM curve WHERE job = '{job}' ORDER BY sae_id, step");
    for row in workspace.sql(&rows) {
        add(&row, row["sae"].as_str().unwrap(), &training, "step");
    }
    let rows =
        format!("SELECT DISTINCT step, n_tokens FROM curve WHERE job = '{job}' ORDER BY step");
    for row in workspace.sql(&rows) {
        add(&row, "", &["n_tokens"], "step");
    }
    let evaluated = [
        "fvu_eval",
        "l0_eval",
        "dead_pct_eval",
        "ce_clean",
        "ce_spliced",
        "ce_recovered",
        "kl",
        "threshold",
        "l0_calibrated",
        "threshold_ema",
        "l0_ema",
    ];
    let rows = format!("SELECT * FROM result WHERE job = '{job}' ORDER BY sae_id");
    for row in workspace.sql(&rows) {
        add(&row, row["sae"].as_str().unwrap(), &evaluated, "step");
    }
    curves
}

/// What the tracker has is what the database has: every run once, every step once, with its number.
#[track_caller]
fn assert_complete(workspace: &Workspace, kind: &str, runs: &[Value]) {
    let jobs =
        workspace.sql("SELECT DISTINCT job, config FROM sweep_listing JOIN job USING (job_id)");
    assert_eq!(runs.len(), jobs.len(), "{kind}: {runs:?}");
    for job in &jobs {
        let name = job["job"].as_str().unwrap();
        let run = runs.iter().find(|run| run["run"] == name);
        let run = run.unwrap_or_else(|| panic!("{kind} has no `{name}`: {runs:?}"));
        assert_eq!(run["group"], "tiny", "{kind}");
        let config: Value = serde_json::from_str(job["config"].as_str().unwrap()).unwrap();
        assert_eq!(number(&run["config"]["k"]), config["k"].as_f64(), "{kind}");
        assert_eq!(run["config"]["activation"], "topk", "{kind}");
        assert_same(kind, &curves_of(run), &curves_in_database(workspace, name));
    }
}

/// MLflow has settings as text.
fn number(value: &Value) -> Option<f64> {
    let of_text = || value.as_str()?.parse().ok();
    value.as_f64().or_else(of_text)
}

#[track_caller]
fn assert_same(kind: &str, ours: &Curves, wanted: &Curves) {
    assert!(ours.keys().eq(wanted.keys()), "{kind}: {ours:?} {wanted:?}");
    for (name, points) in wanted {
        let steps =
            |points: &[(u64, f64)]| points.iter().map(|(step, _)| *step).collect::<Vec<_>>();
        assert_eq!(steps(&ours[name]), steps(points), "{kind}: {name}");
        for ((_, ours), (step, value)) in ours[name].iter().zip(points) {
            // TensorBoard has 32 bits.
            let is_close = (ours - value).abs() <= 1e-6 * value.abs();
            assert!(is_close, "{kind}: {name} at {step}: {ours}, {value}");
        }
    }
}

#[test]
fn every_tracker_has_every_number_of_a_sweep() {
    let Some(python) = python() else { return };
    let workspace = workspace(&ALL);
    let outcome = crate::common::finish(command(&workspace, &python, &["tiny.toml"])).succeeds();
    assert!(!outcome.stderr.contains("gets nothing more"), "{outcome}");
    for kind in ALL {
        let runs = read_back(&workspace, &python, kind, "runs/trackers");
        assert_complete(&workspace, kind, &runs);
        if kind == "mlflow" {
            assert!(
                runs.iter().all(|run| run["status"] == "FINISHED"),
                "{runs:?}"
            );
        }
    }
}

#[test]
fn a_past_sweep_is_exported_once() {
    let Some(python) = python() else { return };
    let workspace = workspace(&[]);
    workspace.run(&["tiny.toml"]).succeeds();
    let args = [
        "export-log",
        "tiny",
        "--to",
        "tensorboard,trackio,wandb,mlflow",
        "--dir",
        "out",
    ];
    let first = crate::common::finish(command(&workspace, &python, &args)).succeeds();
    first.remarks(&["mlflow: 2 runs, 18 points added"]);
    let again = crate::common::finish(command(&workspace, &python, &args)).succeeds();
    for kind in ALL {
        let runs = read_back(&workspace, &python, kind, "out");
        assert_complete(&workspace, kind, &runs);
        let nothing = format!("{kind}: 2 runs, nothing was missing");
        assert!(again.stderr.contains(&nothing), "{again}");
    }
}

/// The points that MLflow has in its database by now.
fn n_points_in_mlflow(workspace: &Workspace, python: &Path) -> usize {
    let path = workspace.path("runs/trackers/mlflow.db");
    let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(\
                  'SELECT count(DISTINCT step) FROM metrics').fetchone()[0])";
    if !path.is_file() {
        return 0;
    }
    let counted = workspace
        .command_of(python, &["-c", script, text(&path)])
        .output();
    let counted = String::from_utf8(counted.unwrap().stdout).unwrap();
    counted.trim().parse().unwrap_or(0)
}

/// Bytes of TensorBoard's files.
fn n_bytes_in_tensorboard(workspace: &Workspace) -> usize {
    let files = workspace.files("runs/trackers/tensorboard");
    files.values().map(|(_, bytes)| bytes.len()).sum()
}

/// Starts the sweep and kills `sae-run` when `is_time`, with its worker if that is wanted.
fn kill(
    (workspace, python): (&Workspace, &Path),
    (attempt, with_worker): (u64, bool),
    is_time: &dyn Fn() -> bool,
) {
    let running = Running::start(
        command(workspace, python, &["tiny.toml"]),
        workspace.path("stdout.txt"),
        workspace.path("stderr.txt"),
    );
    let worker = until("a worker", || {
        let events = workspace.events();
        let mut events = events.iter().filter(|event| event["attempt"] == attempt);
        let started = events.find(|event| event["event"] == "started")?;
        let pid = started["pid"].as_u64()?;
        Some(u32::try_from(pid).unwrap())
    });
    until("the moment", || is_time().then_some(()));
    let events = workspace.events();
    let is_done = events.iter().any(|event| event["event"] == "finished");
    assert!(!is_done, "too late to disturb it");
    if with_worker {
        signal(worker, "KILL");
    }
    running.kill();
}

#[test]
fn what_is_killed_is_logged_once() {
    let Some(python) = python() else { return };
    let settings = "max_examples = 960\nbatch_size = 2\nsave_every = 50\nlog_every = 2\n\
                    eval_fraction = 0.02\nhookpoints = ['layers.1.mlp', 'layers.2']";
    let jobs = [
        ("one", "expansion_factor=512"),
        ("two", "expansion_factor=1024, k=8"),
    ];
    let workspace = with_jobs(settings, &jobs);
    let sweep = std::fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    workspace.write("tiny.toml", format!("{sweep}log_to = {ALL:?}\n"));
    let site = (&workspace, python.as_path());
    let n_bytes = || n_bytes_in_tensorboard(&workspace);
    let n_points = || n_points_in_mlflow(&workspace, &python);
    kill(site, (1, true), &|| n_bytes() > 20_000);
    kill(site, (2, false), &|| n_points() > 5);
    let before = (n_bytes(), n_points());
    kill(site, (3, true), &|| n_bytes() > before.0);
    kill(site, (4, true), &|| n_points() > before.1);
    let outcome = crate::common::finish(command(&workspace, &python, &["tiny.toml"])).succeeds();
    assert!(!outcome.stderr.contains("gets nothing more"), "{outcome}");
    for kind in ALL {
        let runs = read_back(&workspace, &python, kind, "runs/trackers");
        assert_complete(&workspace, kind, &runs);
    }
}

#[test]
fn a_tracker_that_fails_stops_no_training() {
    let workspace = workspace(&["tensorboard", "wandb", "mlflow"]);
    // A file where a folder should be, and no Python.
    workspace.write("runs/trackers/tensorboard", "");
    let variables = [("SAE_RUN_TRACKERS_PYTHON", "/nowhere/python3")];
    let outcome = workspace.run_with(&variables, &["tiny.toml"]).succeeds();
    let outcome = outcome.remarks(&[
        "tensorboard gets nothing more, and training continues: ",
        "wandb gets nothing more, and training continues: there is no Python",
        "`sae-run export-log tiny --to mlflow` adds what is missing",
    ]);
    assert!(outcome.stderr.contains("all 2 jobs are done"), "{outcome}");
    let args = ["export-log", "tiny", "--to", "wandb"];
    let refused = workspace
        .run_with(&variables, &args)
        .refuses(&["wandb: there is no Python"]);
    refused.hints("`pip install wandb`, or name a Python that has it in SAE_RUN_TRACKERS_PYTHON");
}

#[test]
fn what_is_written_during_a_run_is_what_is_exported_later() {
    let workspace = workspace(&["tensorboard"]);
    workspace.run(&["tiny.toml"]).succeeds();
    let live = workspace.files("runs/trackers/tensorboard");
    assert_eq!(live.len(), 2, "{:?}", live.keys());
    workspace
        .run(&["export-log", "tiny", "--to", "tensorboard", "--dir", "out"])
        .succeeds();
    let exported = workspace.files("out/tensorboard");
    assert!(live.keys().eq(exported.keys()));
    for (path, (_, bytes)) in &live {
        assert!(*bytes == exported[path].1, "{path}");
    }
    // The same command again adds nothing, and makes up for what is lost.
    let lost = live.keys().next().unwrap();
    std::fs::remove_file(workspace.path("runs/trackers/tensorboard").join(lost)).unwrap();
    workspace.run(&["tiny.toml"]).succeeds();
    let again = workspace.files("runs/trackers/tensorboard");
    assert!(
        again
            .iter()
            .all(|(path, (_, bytes))| *bytes == live[path].1)
    );
    // A job that is trained again has one file, with its new times.
    workspace.run(&["tiny.toml", "--fresh", "--yes"]).succeeds();
    let fresh = workspace.files("runs/trackers/tensorboard");
    assert_eq!(fresh.len(), 2, "{:?}", fresh.keys());
    assert!(fresh.keys().all(|path| !live.contains_key(path)));
}

#[test]
fn trackers_are_named_in_a_list_and_are_no_part_of_a_job() {
    let workspace = workspace(&[]);
    let ids = |args: &[&str]| {
        let plan = workspace.run(args).succeeds().json();
        let jobs = plan["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].clone()).collect::<Vec<_>>()
    };
    let without = ids(&["plan", "tiny.toml", "--json"]);
    let with = ids(&[
        "plan",
        "tiny.toml",
        "--json",
        "--set",
        "launch.log_to=tensorboard,wandb",
    ]);
    assert_eq!(without, with);
    let refused = workspace.run(&["plan", "tiny.toml", "--set", "launch.log_to=tensorbord"]);
    refused.refuses(&[
        "`tensorbord` is not a tracker; known are `tensorboard`, `trackio`, `wandb`, `mlflow`",
    ]);
    let refused = workspace.run(&["tiny.toml", "--log-to", "aim"]).exits(2);
    assert!(
        refused
            .stderr
            .contains("[possible values: tensorboard, trackio, wandb, mlflow]"),
        "{refused}"
    );
}

#[test]
fn the_option_of_sparsify_names_a_tracker() {
    let workspace = Workspace::new();
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let train = |more: &[&str]| {
        let args = [
            "train",
            text(&model),
            text(&dataset),
            "--ctx_len",
            "64",
            "--batch_size",
            "8",
            "--max_examples",
            "16",
            "--hookpoints",
            "layers.1",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--expansion_factor",
            "2",
        ];
        let variables = [("SAE_RUN_TRACKERS_PYTHON", "/nowhere/python3")];
        workspace
            .run_with(&variables, &[&args, more].concat())
            .succeeds()
    };
    let without = train(&[]);
    assert!(!without.stderr.contains("wandb"), "{without}");
    train(&["--log_to_wandb"]).remarks(&["wandb gets nothing more"]);
    let without = train(&["--log_to_wandb", "false"]);
    assert!(!without.stderr.contains("wandb"), "{without}");
    let both = train(&["--log-to", "tensorboard", "--log_to_wandb"]);
    both.remarks(&["wandb gets nothing more"]);
    assert_eq!(
        workspace.files("runs/trackers/tensorboard/unnamed").len(),
        1
    );
}
