//! Several sweeps at the same time on one runs folder: a job that two ask for is trained once, whatever is killed.

use crate::common::{Running, Workspace, fixture, replace_line, signal, text, until};
use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Two sweeps.
const NAMES: [&str; 2] = ["ana", "ben"];

/// Optimizer updates of each job.
const N_STEPS: u64 = 120;

/// A sweep of two streams, with a job in each for every `k`.
fn sweep(name: &str, k: &str, settings: &str) -> String {
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    format!(
        "name = '{name}'\n\
         [train]\n\
         model = '{}'\n\
         dataset = '{}'\n\
         ctx_len = 64\n\
         batch_size = 2\n\
         max_examples = {}\n\
         save_every = 10\n\
         expansion_factor = 2\n\
         layers = [1]\n\
         [vary]\n\
         k = {k}\n\
         shuffle_seed = [1, 2]\n\
         [launch]\n\
         device = 'cpu'\n\
         threads = 1\n\
         {settings}\n",
        text(&model),
        text(&dataset),
        2 * N_STEPS,
    )
}

/// Two people's sweeps, `ana.toml` and `ben.toml`, which share the jobs with `k` = 4 and 8.
fn two_sweeps() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("ana.toml", sweep("ana", "[2, 4, 8]", "retries = 0"));
    workspace.write("ben.toml", sweep("ben", "[4, 8, 16]", "retries = 1"));
    workspace
}

/// The jobs of both, with what is left of each: SAEs' files by their path in the job's folder.
fn trained(workspace: &Workspace) -> BTreeMap<String, Vec<u8>> {
    let dirs = workspace.sql("SELECT job_id, dir FROM job");
    let files = dirs.iter().flat_map(|row| {
        let job_id = row["job_id"].as_str().unwrap().to_owned();
        let files = workspace.files(&format!("runs/{}", row["dir"].as_str().unwrap()));
        let weights = files
            .into_iter()
            .filter(|(path, _)| path.ends_with(".safetensors"));
        weights.map(move |(path, (_, bytes))| (format!("{job_id}/{path}"), bytes))
    });
    files.collect()
}

/// What all workers of both sweeps have reported.
fn events(workspace: &Workspace) -> Vec<Value> {
    let files = workspace.files("runs").into_iter();
    let logs = files.filter(|(path, _)| path.ends_with("/events.jsonl"));
    let mut events = Vec::new();
    for (_, (_, text)) in logs {
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        let whole = lines.filter(|line| line.ends_with(b"\n"));
        events.extend(whole.map(|line| serde_json::from_slice::<Value>(line).unwrap()));
    }
    events
}

/// The processes of this machine that train in the workspace.
fn workers(workspace: &Workspace) -> Vec<u32> {
    let runs = workspace.path("runs").canonicalize();
    let Ok(runs) = runs else {
        return Vec::new();
    };
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        (command.contains("sae-run-worker") && command.contains(text(&runs))).then_some(pid)
    });
    processes.collect()
}

fn start(workspace: &Workspace, name: &str) -> Running {
    let sweep = format!("{name}.toml");
    Running::start(
        workspace.command(&[&sweep]),
        workspace.path(&format!("{name}.stdout")),
        workspace.path(&format!("{name}.stderr")),
    )
}

/// Whether a job's worker has done at least one update.
fn trains(workspace: &Workspace) -> Option<()> {
    let progress = |event: &Value| event["event"] == "progress";
    events(workspace).iter().any(progress).then_some(())
}

/// Starts `ana`, whose worker, also given, is halted in training: so nothing is done before another has looked.
fn halted(workspace: &Workspace) -> (Running, u32) {
    let ana = start(workspace, "ana");
    until("the first update", || trains(workspace));
    let worker = workers(workspace)[0];
    signal(worker, "STOP");
    (ana, worker)
}

/// The same, and `ben`, which waits for `ana`.
fn waits_for_another(workspace: &Workspace) -> (Running, u32, Running) {
    let (ana, worker) = halted(workspace);
    let mut ben = start(workspace, "ben");
    ben.says(&format!("process {} on ", ana.pid()));
    (ana, worker, ben)
}

/// Each job was done once: by one final checkpoint, and with each update counted once.
fn each_job_was_done_once(workspace: &Workspace, n_jobs: usize) {
    let events = events(workspace);
    let mut n_final: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &events {
        if event["event"] == "checkpoint" && event["is_final"] == true {
            *n_final
                .entry(event["job_id"].as_str().unwrap())
                .or_default() += 1;
        }
    }
    assert_eq!(n_final.len(), n_jobs, "{n_final:?}");
    assert!(n_final.values().all(|&n| n == 1), "{n_final:?}");
    let is = |sql: &str, expected: Value| assert_eq!(workspace.sql_value(sql), expected, "{sql}");
    is(
        "SELECT integrity_check FROM pragma_integrity_check",
        json!("ok"),
    );
    is("SELECT count(*) FROM job", json!(n_jobs));
    is("SELECT DISTINCT status FROM job", json!("done"));
    is(
        "SELECT count(*) FROM attempt WHERE status = 'running'",
        json!(0),
    );
    is(
        "SELECT count(*) - count(DISTINCT job_id) FROM checkpoint WHERE is_final",
        json!(0),
    );
    let per_sae = "SELECT DISTINCT count(*) AS n FROM metric GROUP BY sae_id";
    assert_eq!(json!(workspace.sql(per_sae)), json!([{"n": N_STEPS}]));
    let n_tokens = "SELECT DISTINCT sum(n_tokens) FROM metric GROUP BY sae_id";
    is(n_tokens, json!(N_STEPS * 2 * 64));
}

/// Kills one of two runs (and starts it again), or one of all workers.
fn kill_one(workspace: &Workspace, running: &mut [Option<Running>; 2], random: &mut Rng) {
    let alive: Vec<_> = (0..2).filter(|&index| running[index].is_some()).collect();
    let workers = workers(workspace);
    if random.bool() && !workers.is_empty() {
        let pid = workers[random.usize(..workers.len())];
        // It may have ended by itself.
        let _ = Command::new("kill")
            .args(["-s", "KILL", &pid.to_string()])
            .output();
    } else if !alive.is_empty() {
        let index = alive[random.usize(..alive.len())];
        running[index].take().unwrap().kill();
        running[index] = Some(start(workspace, NAMES[index]));
    }
}

#[test]
fn two_peoples_sweeps_under_random_kills_do_every_job_once() {
    let undisturbed = two_sweeps();
    for name in NAMES {
        start(&undisturbed, name).wait().succeeds();
    }
    each_job_was_done_once(&undisturbed, 8);

    let killed = two_sweeps();
    let mut running = NAMES.map(|name| Some(start(&killed, name)));
    let mut random = Rng::with_seed(7);
    let mut n_kills = 0;
    while running.iter().any(Option::is_some) {
        std::thread::sleep(Duration::from_millis(random.u64(20..500)));
        for (slot, name) in running.iter_mut().zip(NAMES) {
            if slot.as_mut().is_some_and(|run| run.status().is_some()) {
                let ended = slot.take().unwrap().wait();
                let is_killed = ended.stderr.contains("SIGKILL");
                assert!(ended.status.success() || is_killed, "{ended}");
                if !ended.status.success() {
                    // It had no retry left for a worker that was killed.
                    *slot = Some(start(&killed, name));
                }
            }
        }
        if n_kills < 24 {
            kill_one(&killed, &mut running, &mut random);
            n_kills += 1;
        }
    }
    each_job_was_done_once(&killed, 8);
    let (ours, theirs) = (trained(&killed), trained(&undisturbed));
    assert!(ours.keys().eq(theirs.keys()), "{:?}", ours.keys());
    for (path, bytes) in ours {
        assert!(bytes == theirs[&path], "{path} differs");
    }
    for name in NAMES {
        let again = start(&killed, name).wait().succeeds();
        again.remarks(&["all 6 jobs are done already"]);
    }
}

#[test]
fn a_job_that_another_sweep_trains_is_waited_for() {
    let workspace = two_sweeps();
    let (ana, worker, ben) = waits_for_another(&workspace);
    let own = "SELECT count(*) FROM job JOIN sweep_job USING (job_id) JOIN sweep USING (sweep_id)
         WHERE sweep.name = 'ben' AND status = 'done'";
    // All its jobs of the other stream, and the one of this stream that only it asks for.
    until("its other jobs", || {
        (workspace.sql_value(own) == 4).then_some(())
    });
    signal(worker, "CONT");
    ana.wait().succeeds();
    let outcome = ben.wait().succeeds();
    let (host, waits) = (files::host_name(), "; waiting for ");
    outcome.remarks(&[&host, waits, "all 6 jobs are done"]);
    each_job_was_done_once(&workspace, 8);
    let twice =
        "SELECT count(*) FROM (SELECT job_id FROM attempt_job GROUP BY job_id HAVING count(*) > 1)";
    assert_eq!(workspace.sql_value(twice), 0);
}

#[test]
fn the_same_sweep_twice_at_the_same_time_is_trained_once() {
    let workspace = two_sweeps();
    let second = || {
        let (stdout, stderr) = (workspace.path("2.stdout"), workspace.path("2.stderr"));
        Running::start(workspace.command(&["ana.toml"]), stdout, stderr)
    };
    let runs = [start(&workspace, "ana"), second()];
    for run in runs {
        run.wait().succeeds().remarks(&["all 6 jobs are done"]);
    }
    each_job_was_done_once(&workspace, 6);
}

#[test]
fn what_a_killed_run_had_is_taken_over_at_once() {
    let workspace = two_sweeps();
    let (ana, worker, ben) = waits_for_another(&workspace);
    signal(worker, "KILL");
    ana.kill();
    ben.wait().succeeds();
    start(&workspace, "ana").wait().succeeds();
    each_job_was_done_once(&workspace, 8);
}

#[test]
fn a_run_that_waits_for_another_ends_with_ctrl_c() {
    let workspace = two_sweeps();
    let (ana, worker) = halted(&workspace);
    workspace.write("ben.toml", sweep("ben", "[4]", "retries = 0"));
    let mut ben = start(&workspace, "ben");
    ben.says("; waiting for ");
    signal(ben.pid(), "INT");
    ben.wait()
        .exits(130)
        .remarks(&["stopped; run the same command again"]);
    signal(worker, "CONT");
    ana.wait().succeeds();
}

#[test]
fn jobs_that_are_trained_cannot_be_removed_or_evaluated() {
    let workspace = two_sweeps();
    let sweep = sweep("ana", "[2, 4, 8]", "retries = 0");
    workspace.write(
        "ana.toml",
        replace_line(&sweep, "max_examples", "max_examples = 2000"),
    );
    let ana = start(&workspace, "ana");
    let job = until("a checkpoint", || {
        let events = events(&workspace);
        let checkpoint = events.iter().find(|event| event["event"] == "checkpoint");
        Some(checkpoint?["job_id"].as_str().unwrap().to_owned())
    });
    let worker = workers(&workspace)[0];
    signal(worker, "STOP");
    let job = job.as_str();
    let holder = format!(
        "process {} on {} trains job ",
        ana.pid(),
        files::host_name()
    );
    for args in [
        &["rm", job, "--yes"][..],
        &["rm", "ana", "--yes"],
        &["eval", job],
    ] {
        workspace
            .run(args)
            .refuses(&[&holder])
            .hints("wait for it to end");
    }
    let fresh = workspace.run(&["ana.toml", "--fresh", "--yes"]);
    fresh
        .refuses(&[&format!("process {}", ana.pid())])
        .hints("leave out `--fresh`");
    signal(worker, "CONT");
    ana.wait().succeeds().remarks(&["all 6 jobs are done"]);
}
