//! A sweep from its file to its results, and again.

use crate::common::{Workspace, fixture, replace_line, small_sweep, text, tiny_sweep_with};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

#[test]
fn a_sweep_without_a_name_has_that_of_its_file() {
    let workspace = Workspace::new();
    let sweep = replace_line(&small_sweep(), "name", "");
    let (head, _) = sweep.split_once("[vary]").unwrap();
    workspace.write("own.toml", format!("{head}\n[launch]\ndevice = 'cpu'\n"));
    workspace.run(&["run", "own.toml"]).succeeds();
    let row = workspace.sql("SELECT DISTINCT sweep, job, status FROM result");
    let expected = json!([{"sweep": "own", "job": "job", "status": "done"}]);
    assert_eq!(json!(row), expected);
}

#[test]
fn a_sweep_ends_in_results_rows_and_checkpoints() {
    let workspace = Workspace::with_tiny_sweep();
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    let outcome = outcome.remarks(&["8 jobs on one forward pass", "all 8 jobs are done"]);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 2 + 12, "a header and a row per SAE\n{outcome}");
    for column in [
        "job",
        "hookpoint",
        "latents",
        "FVU",
        "L0",
        "dead %",
        "status",
    ] {
        assert!(lines[0].contains(column), "{outcome}");
    }
    // At each hookpoint the best is first.
    assert!(lines[2].starts_with("k=8,expansion_factor=4,hookpoints=layers.0 "));
    assert!(lines[13].starts_with("k=4,expansion_factor=2,hookpoints=layers.1.mlp+layers.2 "));

    // First of all: a query, which cannot write, does not remove the database's shared memory.
    nothing_is_left_behind(&workspace);
    rows_are_complete(&workspace);
    checkpoints_are_whole(&workspace);
}

fn rows_are_complete(workspace: &Workspace) {
    let counts = "SELECT (SELECT count(*) FROM sweep) AS sweeps,
        (SELECT count(*) FROM job WHERE status = 'done') AS jobs_done,
        (SELECT count(*) FROM stream) AS streams,
        (SELECT count(*) FROM attempt WHERE status = 'done' AND exit_code = 0) AS attempts_done,
        (SELECT count(*) FROM sae) AS saes,
        (SELECT count(*) FROM metric) AS metrics,
        (SELECT count(*) FROM checkpoint WHERE is_final) AS final_checkpoints,
        (SELECT count(*) FROM result) AS results";
    let expected = json!([{
        "sweeps": 1, "jobs_done": 8, "streams": 1, "attempts_done": 1, "saes": 12,
        "metrics": 12 * 8, "final_checkpoints": 8, "results": 12,
    }]);
    assert_eq!(json!(workspace.sql(counts)), expected);
    let odd = "SELECT * FROM result WHERE n_tokens <> 8 * 8 * 64 OR step <> 8
        OR fvu NOT BETWEEN 0.05 AND 0.95 OR l0 NOT BETWEEN 0.5 * k AND k
        OR dead_pct NOT BETWEEN 0 AND 100 OR tokens_per_s <= 0";
    assert_eq!(json!(workspace.sql(odd)), json!([]));
    // More active latents reconstruct better.
    let worse = "SELECT a.job, a.fvu, b.job, b.fvu FROM result AS a
        JOIN result AS b USING (hookpoint, expansion_factor)
        WHERE a.k > b.k AND a.fvu >= b.fvu";
    assert_eq!(json!(workspace.sql(worse)), json!([]));
}

fn checkpoints_are_whole(workspace: &Workspace) {
    let sql = "SELECT dir, config FROM job";
    for job in workspace.sql(sql) {
        let dir = job["dir"].as_str().unwrap();
        let config: Value = serde_json::from_str(job["config"].as_str().unwrap()).unwrap();
        let written = workspace.files(&format!("runs/{dir}"))["config.json"]
            .1
            .clone();
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written, config, "config.json and the row agree");

        let saes = sae::Sae::load_many(workspace.path("runs").join(dir), Device::Cpu).unwrap();
        let names: Vec<_> = saes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(json!(names), config["hookpoints"]);
        for (name, sae) in &saes {
            assert_eq!(json!(sae.cfg.k), config["k"]);
            assert_eq!(json!(sae.num_latents() / 32), config["expansion_factor"]);
            let x = Tensor::ones([3, 32], (Kind::Float, Device::Cpu));
            let out = sae.forward(&x).unwrap().sae_out;
            assert!(out.isfinite().all().int64_value(&[]) == 1, "{name}");
        }
    }
    let missing = |row: &Value| {
        let folder = workspace
            .path("runs")
            .join(row["checkpoint"].as_str().unwrap());
        !folder.join("sae.safetensors").is_file()
    };
    let rows = workspace.sql("SELECT checkpoint FROM result");
    assert!(!rows.iter().any(missing), "{rows:?}");
}

/// Only what the map of the runs folder names: no state of a resume, no temporary files, no log of
/// the database.
fn nothing_is_left_behind(workspace: &Workspace) {
    let job_file = |path: &Path| {
        let depth = path.components().count();
        let name = text(path.file_name().unwrap().as_ref()).to_owned();
        (depth == 2 && name == "config.json")
            || (depth == 3 && ["cfg.json", "sae.safetensors"].contains(&name.as_str()))
    };
    let trained = workspace.trained();
    assert_eq!(trained.len(), 8 + 2 * 12);
    for path in trained.keys() {
        assert!(job_file(Path::new(path)), "{path}");
    }
    let others = workspace.files("runs").into_keys();
    let others: BTreeSet<_> = others
        .filter(|path| !trained.contains_key(path.trim_start_matches("tiny/")))
        .map(|path| path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let expected = [
        "events.jsonl",
        "order.json",
        "runs.db",
        "worker.lock",
        "worker.log",
    ];
    assert_eq!(others.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_second_run_only_says_that_all_is_done() {
    let workspace = Workspace::with_tiny_sweep();
    let first = workspace.run(&["tiny.toml"]).succeeds();
    let before = workspace.files("runs");
    let second = workspace.run(&["tiny.toml"]).succeeds();
    let second = second.remarks(&["all 8 jobs are done already", "`--fresh`"]);
    assert_eq!(second.stdout, first.stdout);
    assert!(!second.stderr.contains("forward pass"), "{second}");
    let after = workspace.files("runs");
    let touched = |path: &&String| before.get(*path) != after.get(*path);
    let touched: Vec<_> = before.keys().chain(after.keys()).filter(touched).collect();
    assert!(touched.is_empty(), "{touched:?}");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM attempt"), 1);
}

#[test]
fn fresh_trains_anew_what_is_done() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let (before, weights) = (workspace.files("runs/tiny"), workspace.trained());
    let metrics = "SELECT sae_id, step, n_tokens, squared_error FROM metric ORDER BY 1, 2";
    let curve = workspace.sql(metrics);
    workspace
        .run(&["tiny.toml", "--fresh", "--yes"])
        .succeeds()
        .remarks(&["2 jobs on one forward pass", "all 2 jobs are done"]);
    assert_eq!(
        workspace.trained(),
        weights,
        "the same settings, the same bits"
    );
    let after = workspace.files("runs/tiny");
    for (path, (written, _)) in before
        .iter()
        .filter(|(path, _)| path.ends_with(".safetensors"))
    {
        assert!(after[path].0 > *written, "{path} was not written anew");
    }
    assert_eq!(workspace.sql(metrics), curve);
    assert_eq!(workspace.sql_value("SELECT count(*) FROM attempt"), 2);
    assert_eq!(
        workspace.sql_value("SELECT count(*) FROM checkpoint WHERE is_final"),
        2
    );
}

#[test]
fn an_edited_sweep_trains_only_what_is_new() {
    let workspace = Workspace::with_tiny_sweep();
    let sweep = |k| tiny_sweep_with("k = ", k);
    workspace.write("tiny.toml", sweep("k = [4]"));
    workspace.run(&["tiny.toml"]).succeeds();
    let (old, before) = (workspace.trained(), workspace.files("runs/tiny"));
    workspace.write("tiny.toml", sweep("k = [4, 6]"));
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    let outcome = outcome.remarks(&[
        "4 jobs on one forward pass",
        "all 8 jobs are done, 4 of them earlier",
    ]);
    assert_eq!(outcome.stdout.lines().count(), 2 + 12, "{outcome}");
    let after = workspace.files("runs/tiny");
    for path in old.keys() {
        assert_eq!(after[path], before[path], "{path} was touched");
    }
    let trained = "SELECT DISTINCT k FROM attempt_job JOIN sae USING (job_id)
        WHERE attempt_id = (SELECT max(attempt_id) FROM attempt)";
    assert_eq!(json!(workspace.sql(trained)), json!([{"k": 6}]));

    // What a sweep no longer asks for stays, but is not shown as its result.
    workspace.write("tiny.toml", sweep("k = [6]"));
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    let outcome = outcome.remarks(&["all 4 jobs are done already"]);
    assert!(!outcome.stdout.contains("k=4"), "{outcome}");
    assert_eq!(
        workspace.sql_value("SELECT count(*) FROM result WHERE k = 4"),
        6
    );
}

#[test]
fn a_job_of_two_sweeps_is_trained_once() {
    let workspace = Workspace::with_tiny_sweep();
    workspace
        .run(&["tiny.toml", "--set", "vary.k=[4]"])
        .succeeds();
    workspace.write("other.toml", tiny_sweep_with("name", "name = 'other'"));
    workspace.run(&["other.toml"]).succeeds().remarks(&[
        "4 jobs on one forward pass",
        "all 8 jobs are done, 4 of them earlier",
    ]);
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 8);
    let results = "SELECT sweep, count(*) AS n FROM result GROUP BY sweep ORDER BY sweep";
    let expected = json!([{"sweep": "other", "n": 12}, {"sweep": "tiny", "n": 6}]);
    assert_eq!(json!(workspace.sql(results)), expected);
}

#[test]
fn a_dry_run_writes_nothing() {
    let workspace = Workspace::with_tiny_sweep();
    let outcome = workspace.run(&["tiny.toml", "--dry-run"]).succeeds();
    assert!(outcome.stdout.contains("8 jobs in 1 stream,"), "{outcome}");
    assert!(!workspace.path("runs").exists());

    workspace.run(&["tiny.toml"]).succeeds();
    // Who reads the database leaves SQLite's index of a log that is empty.
    let files = || {
        let mut files = workspace.files("runs");
        files.retain(|path, _| !path.ends_with("-shm") && !path.ends_with("-wal"));
        files
    };
    let before = files();
    workspace.run(&["tiny.toml", "--dry-run"]).succeeds();
    workspace
        .run(&["tiny.toml", "--dry-run", "--fresh"])
        .succeeds();
    workspace.run(&["plan", "tiny.toml"]).succeeds();
    assert!(files() == before, "something was written");
}

#[test]
fn a_stream_that_fails_does_not_stop_the_others() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.write("empty.jsonl", "");
    let datasets = format!(
        "dataset = ['empty.jsonl', '{}']",
        text(&fixture("tiny.jsonl"))
    );
    let sweep = tiny_sweep_with("[vary]", &format!("[vary]\n{datasets}"));
    workspace.write("tiny.toml", sweep);
    workspace
        .run(&["tiny.toml"])
        .exits(1)
        .remarks(&["empty.jsonl` has no documents", "hint: "]);
    let sql = "SELECT status, count(*) AS n FROM job GROUP BY status ORDER BY status";
    let expected = json!([{"status": "done", "n": 8}, {"status": "failed", "n": 8}]);
    assert_eq!(json!(workspace.sql(sql)), expected);
    assert_eq!(workspace.trained().len(), 8 + 2 * 12);

    // Mended, only what failed is left to do.
    let text = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    workspace.write("empty.jsonl", text.replace("whale", "sea-pig"));
    workspace.run(&["tiny.toml"]).succeeds().remarks(&[
        "8 jobs on one forward pass",
        "all 16 jobs are done, 8 of them earlier",
    ]);
}

#[test]
fn several_seeds_share_the_pass_and_have_folders_of_their_own() {
    let workspace = Workspace::with_small_sweep();
    workspace
        .run(&["tiny.toml", "--set", "train.init_seeds=[0, 7]"])
        .succeeds();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM stream"), 1);
    let seeds = "SELECT DISTINCT substr(sae, instr(sae, '/')) AS folder, seed FROM result";
    let expected = json!([{"folder": "/seed0", "seed": 0}, {"folder": "/seed7", "seed": 7}]);
    assert_eq!(json!(workspace.sql(seeds)), expected);
    let same = "SELECT a.job FROM result AS a JOIN result AS b USING (job_id, hookpoint)
        WHERE a.seed < b.seed AND a.fvu = b.fvu";
    assert_eq!(
        json!(workspace.sql(same)),
        json!([]),
        "seeds give other weights"
    );
    let checkpoints = workspace.sql("SELECT checkpoint FROM result");
    for row in checkpoints {
        let folder = workspace
            .path("runs")
            .join(row["checkpoint"].as_str().unwrap());
        sae::Sae::load_from_disk(&folder, Device::Cpu).unwrap();
    }
}

#[test]
fn quiet_draws_no_progress_and_still_gives_results() {
    let workspace = Workspace::with_small_sweep();
    let outcome = workspace.run(&["tiny.toml", "--quiet"]);
    let outcome = outcome.succeeds();
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    assert!(
        outcome.stderr.starts_with("all 2 jobs are done, in "),
        "{outcome}"
    );
    assert_eq!(outcome.stdout.lines().count(), 2 + 3 + 1, "{outcome}");
}

#[test]
fn progress_for_programs_is_json_on_standard_output() {
    let workspace = Workspace::with_small_sweep();
    let lines = || -> Vec<Value> {
        let outcome = workspace
            .run(&["tiny.toml", "--progress", "json"])
            .succeeds();
        let lines = outcome.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let first = lines();
    let n_jobs = first[0]["n_jobs"].as_u64().unwrap();
    let runs_dir = json!("runs");
    let plan = |n_done| json!({"event": "plan", "sweep": "tiny", "runs_dir": runs_dir, "n_jobs": n_jobs, "n_done": n_done});
    let end = json!({"event": "end", "exit_code": 0});
    assert_eq!(first[0], plan(0));
    assert_eq!(first.last(), Some(&end));
    let number_of = |event: &str| first.iter().filter(|line| line["event"] == event).count() as u64;
    assert_eq!(number_of("job_done"), n_jobs);
    let of_workers: Vec<_> = first.iter().filter(|line| line["seq"].is_u64()).collect();
    assert!(of_workers.iter().all(|line| line["stream_id"].is_string()));
    for event in ["started", "ready", "metric", "progress", "checkpoint"] {
        assert!(number_of(event) > 0, "no {event}");
    }
    assert_eq!(lines(), [plan(n_jobs), end.clone()]);
}
