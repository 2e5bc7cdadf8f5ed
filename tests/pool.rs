//! Sweeps that several processes share by files alone, as machines do that see one runs folder.

use crate::common::{
    Running, Workspace, signal, text, trained_here, until, wait_for_end, wait_for_step, with_jobs,
};
use serde_json::{Value, json};

/// The same sweep, offered to a pool with a short lease.
fn in_pool(workspace: &Workspace) -> String {
    let sweep = std::fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    let pool = "[launch]\nlauncher = 'pool'\npool = {lease_s = 3}\n";
    workspace.write("tiny.toml", sweep.replace("[launch]\n", pool));
    sweep
}

/// A job of many updates that saves often.
fn long_job() -> Workspace {
    let settings = "max_examples = 1600\nbatch_size = 4\nsave_every = 20\nexpansion_factor = 8\nhookpoints = ['layers.1.mlp', 'layers.2']";
    with_jobs(settings, &[("long", "")])
}

/// A member of the pool; `name` tells apart what members print.
fn member(workspace: &Workspace, name: &str, args: &[&str]) -> Running {
    let all = [&["worker-pool", "--runs-dir", "runs"], args].concat();
    let file = |what: &str| workspace.path(&format!("{name}.{what}.txt"));
    Running::start(workspace.command(&all), file("stdout"), file("stderr"))
}

const ATTEMPTS: &str = "SELECT number, status, reason FROM attempt ORDER BY attempt_id";

fn was_lost() -> Value {
    json!([
        {"number": 1, "status": "interrupted", "reason": "the pool continued it"},
        {"number": 2, "status": "done", "reason": null}
    ])
}

/// Whether nothing is left of any entry.
fn is_empty(workspace: &Workspace) -> bool {
    let folders = ["waiting", "claimed", "ended", "withdrawn"];
    folders.iter().all(|folder| {
        let path = workspace.path("runs/.pool").join(folder);
        std::fs::read_dir(path).unwrap().next().is_none()
    })
}

#[test]
fn members_train_each_stream_once() {
    let jobs = [2, 4, 8, 16].map(|size| (format!("b{size}"), format!("batch_size={size}")));
    let jobs: Vec<_> = jobs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let workspace = with_jobs("max_examples = 320\nhookpoints = ['layers.2']", &jobs);
    let sweep = in_pool(&workspace);
    let coordinator = workspace.start(&["tiny.toml"]);
    until("four streams", || {
        let waiting = std::fs::read_dir(workspace.path("runs/.pool/waiting")).ok()?;
        (waiting.count() == 4).then_some(())
    });
    let members = ["a", "b"].map(|name| member(&workspace, name, &["--exit-when-idle"]));
    coordinator
        .wait()
        .succeeds()
        .remarks(&["waits for a machine of the pool", "is trained by process "]);
    let n_begun = members.map(|member| {
        let outcome = member.wait().succeeds();
        outcome.stderr.matches(": begun").count()
    });
    assert_eq!(n_begun[0] + n_begun[1], 4);
    assert!(n_begun.iter().all(|&n| n > 0), "{n_begun:?}");
    let attempts = workspace.sql("SELECT DISTINCT number, status, exit_code FROM attempt");
    assert_eq!(
        json!(attempts),
        json!([{"number": 1, "status": "done", "exit_code": 0}])
    );
    assert!(is_empty(&workspace));
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn a_machine_that_is_lost_loses_its_stream() {
    for is_worker_killed in [true, false] {
        let workspace = long_job();
        let sweep = in_pool(&workspace);
        let coordinator = workspace.start(&["tiny.toml"]);
        let lost = member(&workspace, "lost", &[]);
        let worker = wait_for_step(&workspace, 1, 30);
        lost.kill();
        if is_worker_killed {
            signal(worker, "KILL");
        }
        let _other = member(&workspace, "other", &[]);
        let outcome = coordinator.wait().succeeds();
        outcome.remarks(&["begun again once"]);
        wait_for_end(worker);
        let attempts = workspace.sql(ATTEMPTS);
        assert_eq!(json!(attempts), was_lost());
        if !is_worker_killed {
            // The worker saw that, and saved.
            let first_step = workspace.sql_value("SELECT first_step FROM attempt WHERE number = 2");
            assert!(first_step.as_u64() >= Some(30), "{first_step}");
        }
        assert!(workspace.trained() == trained_here(&workspace, &sweep));
    }
}

#[test]
fn a_machine_that_wakes_up_too_late_does_no_harm() {
    let workspace = long_job();
    let sweep = in_pool(&workspace);
    let coordinator = workspace.start(&["tiny.toml"]);
    let late = member(&workspace, "late", &[]);
    let worker = wait_for_step(&workspace, 1, 30);
    signal(worker, "STOP");
    signal(late.pid(), "STOP");
    let _other = member(&workspace, "other", &[]);
    wait_for_step(&workspace, 2, 30);
    // Now both would train.
    signal(worker, "CONT");
    signal(late.pid(), "CONT");
    let mut late = late;
    late.says("another machine may have it by now");
    wait_for_end(worker);
    coordinator.wait().succeeds();
    assert_eq!(json!(workspace.sql(ATTEMPTS)), was_lost());
    let mut numbers: Vec<_> = workspace
        .events()
        .into_iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    numbers.dedup();
    assert_eq!(numbers.len(), workspace.events().len());
    assert!(numbers.is_sorted());
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn streams_go_on_without_a_coordinator_and_are_found_again() {
    let workspace = long_job();
    let sweep = in_pool(&workspace);
    let coordinator = workspace.start(&["tiny.toml"]);
    let first = member(&workspace, "first", &[]);
    wait_for_step(&workspace, 1, 10);
    coordinator.kill();
    let status = workspace.run(&["status", "tiny"]).succeeds();
    let state = format!("is trained by process {} on ", first.pid());
    assert!(status.stdout.contains(&state), "{status}");
    status.remarks(&["1 stream in the pool"]);
    // Asked to stop, a member leaves the stream to others.
    signal(first.pid(), "INT");
    first.wait().exits(130).remarks(&["left to others"]);
    workspace
        .run(&["tiny.toml", "--detach"])
        .succeeds()
        .remarks(&["1 stream continues in the pool"]);
    let stream = &workspace.run(&["status", "tiny", "--json"]).json()["streams"][0];
    assert_eq!(
        stream["pool"],
        "waits for a machine of the pool, after 1 run"
    );
    let _second = member(&workspace, "second", &["--device", "cpu"]);
    workspace.run(&["tiny.toml"]).succeeds();
    let attempts = workspace.sql(ATTEMPTS);
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn streams_are_withdrawn_and_continued() {
    let workspace = long_job();
    let sweep = in_pool(&workspace);
    // No machine has it.
    workspace.run(&["tiny.toml", "--detach"]).succeeds();
    workspace
        .run(&["tiny.toml", "--fresh", "--yes"])
        .refuses(&["the pool has stream "])
        .hints("sae-run cancel tiny");
    workspace
        .run(&["cancel", "tiny"])
        .succeeds()
        .remarks(&["withdrew 1 stream from the pool", "all have ended"]);
    assert!(is_empty(&workspace));
    // A member has it.
    workspace.run(&["tiny.toml", "--detach"]).succeeds();
    let mut running = member(&workspace, "member", &[]);
    wait_for_step(&workspace, 2, 30);
    workspace
        .run(&["cancel", "tiny"])
        .succeeds()
        .remarks(&["all have ended"]);
    running.says(": cancelled");
    assert!(is_empty(&workspace));
    let attempts = workspace.sql("SELECT DISTINCT status FROM attempt");
    assert_eq!(json!(attempts), json!([{"status": "interrupted"}]));
    workspace.run(&["tiny.toml"]).succeeds();
    let first_step = workspace.sql_value("SELECT first_step FROM attempt WHERE number = 3");
    assert!(first_step.as_u64() >= Some(30), "{first_step}");
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn a_job_that_fails_keeps_its_reason() {
    let jobs = [
        ("good", "hookpoints=['layers.0']"),
        ("bad", "hookpoints=['layers.1'], lr=1e30"),
    ];
    let workspace = with_jobs("batch_size = 8\nmax_examples = 64", &jobs);
    in_pool(&workspace);
    let coordinator = workspace.start(&["tiny.toml"]);
    let _member = member(&workspace, "member", &[]);
    coordinator
        .wait()
        .fails(&["job `bad` (", "`layers.1` at step ", "NaN or infinite"])
        .remarks(&["1 of 2 jobs done, 1 failed"]);
    assert!(is_empty(&workspace));
    workspace
        .run(&["tiny.toml"])
        .fails(&["failed in an earlier run", "NaN or infinite"]);
}

#[test]
fn a_member_waits_for_a_folder_that_is_away() {
    let workspace = with_jobs("batch_size = 8\nmax_examples = 64", &[("short", "")]);
    in_pool(&workspace);
    let mut first = member(&workspace, "first", &[]);
    first.says("are trained here");
    let (pool, away) = (workspace.path("runs/.pool"), workspace.path("away"));
    std::fs::rename(&pool, &away).unwrap();
    std::fs::write(&pool, "not a folder").unwrap();
    first.says("; looking again");
    std::fs::remove_file(&pool).unwrap();
    std::fs::rename(&away, &pool).unwrap();
    workspace.run(&["tiny.toml"]).succeeds();
}

#[test]
fn what_does_not_go_with_a_pool_is_refused() {
    let workspace = long_job();
    in_pool(&workspace);
    workspace
        .run(&["tiny.toml", "--jobs", "2"])
        .refuses(&["with `launcher = \"pool\"`, machines take streams themselves"])
        .hints("sae-run worker-pool");
    for launcher in ["pool", "local"] {
        let launcher = format!("launch.launcher='{launcher}'");
        workspace
            .run(&[
                "tiny.toml",
                "--set",
                &launcher,
                "--set",
                "launch.nproc_per_node=2",
            ])
            .refuses(&[
                "`nproc_per_node` is 2, but with `launcher = ",
                "a worker is one process",
            ]);
    }
    workspace
        .run(&["tiny.toml", "--set", "launch.pool.lease_s=0"])
        .refuses(&["`launch.pool.lease_s` is 0"]);
    workspace.run(&["tiny.toml", "--detach"]).succeeds();
    let runs = workspace.path("runs");
    Workspace::new()
        .run(&["merge", text(&runs)])
        .refuses(&["a stream of the pool is not finished"])
        .hints("sae-run cancel");
    // The folder is mounted elsewhere.
    let moved = workspace.path("moved");
    std::fs::rename(&runs, &moved).unwrap();
    let mut elsewhere = Running::start(
        workspace.command(&["worker-pool", "--runs-dir", "moved"]),
        workspace.path("stdout.txt"),
        workspace.path("stderr.txt"),
    );
    elsewhere.says("a stream is left to others");
    elsewhere.says("at the same path on all machines");
}
