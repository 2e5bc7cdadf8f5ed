//! A sweep of many streams on a simulated cluster (`tests/slurm/simulated.py`) that preempts, loses nodes and answers, while
//! `sae-run` itself is killed again and again: every job is done, once. SAE_RUN_SIMULATED="1000 50" takes 1 000 streams
//! and 50 kills instead of fewer.

use crate::common::{Outcome, Running, Workspace, small_sweep, text, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A cluster that is not there; it ends with this.
struct Simulated {
    folder: PathBuf,
    server: Child,
}

impl Simulated {
    /// `template`: the folder of a job that was trained; `fate`: how all jobs end, or empty.
    fn start(workspace: &Workspace, template: &Path, fate: &str) -> Self {
        let folder = workspace.path("cluster");
        fs::create_dir_all(folder.join("bin")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/simulated.py");
        for program in ["sbatch", "squeue", "scancel", "sinfo"] {
            symlink(&script, folder.join("bin").join(program)).unwrap();
        }
        let server = Command::new(&script)
            .args(["serve", text(&folder), "7", "64", text(template), fate])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        until("the simulated cluster", || {
            folder.join("socket").exists().then_some(())
        });
        Self { folder, server }
    }

    fn command(&self, workspace: &Workspace, args: &[&str]) -> Command {
        let path = env::var("PATH").unwrap();
        let mut command = workspace.command(args);
        command
            .env("PATH", format!("{}:{path}", text(&self.folder.join("bin"))))
            .env("SIMULATED_SLURM", &self.folder)
            .env("SAE_RUN_SLURM_CALLS", "6000");
        command
    }

    fn start_run(&self, workspace: &Workspace) -> Running {
        let (stdout, stderr) = (workspace.path("stdout.txt"), workspace.path("stderr.txt"));
        Running::start(self.command(workspace, &["tiny.toml"]), stdout, stderr)
    }

    /// Calls of squeue in the busiest `window` seconds.
    fn most_looks(&self, window: f64) -> usize {
        let calls = fs::read_to_string(self.folder.join("calls")).unwrap();
        let looks = calls.lines().filter_map(|line| line.split_once(" squeue "));
        let times: Vec<f64> = looks.map(|(time, _)| time.parse().unwrap()).collect();
        let within = |(index, end): (usize, &f64)| {
            times[..=index]
                .iter()
                .filter(|time| **time > end - window)
                .count()
        };
        times.iter().enumerate().map(within).max().unwrap_or(0)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("stop"), "");
        let _ = self.server.wait();
    }
}

/// Streams, and kills of `sae-run`.
fn size() -> (usize, u64) {
    let given = env::var("SAE_RUN_SIMULATED").unwrap_or_else(|_| "120 10".to_owned());
    let (n_streams, n_kills) = given.split_once(' ').expect("two numbers");
    (n_streams.parse().unwrap(), n_kills.parse().unwrap())
}

/// A stream for each seed of the shuffle.
fn sweep(n_streams: usize) -> String {
    let seeds: Vec<String> = (1..=n_streams).map(|seed| seed.to_string()).collect();
    small_sweep()
        .replace(
            "retries = 0",
            "retries = 50\nlauncher = 'slurm'\nslurm = {poll_s = 1}",
        )
        .replace("['layers.1.mlp', 'layers.2']", "")
        .replace(
            "[['layers.0'], ]",
            &format!("[['layers.0']]\nshuffle_seed = [{}]", seeds.join(", ")),
        )
}

/// A job that was trained here, and its folder.
fn template() -> (Workspace, PathBuf) {
    let here = Workspace::new();
    let sweep = sweep(1)
        .replace("launcher = 'slurm'\n", "")
        .replace("slurm = {poll_s = 1}\n", "");
    here.write("tiny.toml", sweep);
    here.run(&["tiny.toml"]).succeeds();
    let dir = here.sql_value("SELECT dir FROM job");
    let dir = here.path("runs").join(dir.as_str().unwrap());
    (here, dir)
}

/// What comes of a sweep of two streams whose jobs end in one way.
fn with_fate(fate: &str) -> (Workspace, Outcome) {
    let (_here, dir) = template();
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep(2));
    let cluster = Simulated::start(&workspace, &dir, fate);
    let outcome = cluster.start_run(&workspace).wait();
    (workspace, outcome)
}

#[test]
fn a_machine_that_does_not_see_the_folder_is_told_at_once() {
    let (workspace, outcome) = with_fate("blind");
    outcome
        .refuses(&["of Slurm did not begin: n", " does not see `"])
        .hints("`--runs-dir`");
    let n_attempts = workspace.sql_value("SELECT count(*) FROM attempt");
    assert_eq!(n_attempts, 2, "it is not submitted again");
}

#[test]
fn a_job_without_enough_memory_is_not_submitted_again() {
    let (workspace, outcome) = with_fate("memory");
    outcome
        .fails(&["of Slurm ran out of memory on n"])
        .hints("`launch.slurm.mem`");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM attempt"), 2);
}

#[test]
fn a_garbled_answer_does_not_submit_a_job_twice() {
    let (workspace, outcome) = with_fate("garbled");
    outcome.succeeds();
    let attempts = workspace.sql("SELECT status, slurm_job_id IS NOT NULL AS known FROM attempt");
    let done = serde_json::json!({"status": "done", "known": 1});
    assert_eq!(attempts, [done.clone(), done]);
}

#[test]
fn every_job_of_many_streams_is_done_once() {
    let (n_streams, n_kills) = size();
    let (_here, dir) = template();
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep(n_streams));
    let cluster = Simulated::start(&workspace, &dir, "");
    let mut random = 7_u64;
    for _ in 0..n_kills {
        let running = cluster.start_run(&workspace);
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        sleep(Duration::from_millis(300 + (random >> 33) % 2500));
        running.kill();
    }
    let begun = Instant::now();
    cluster.start_run(&workspace).wait().succeeds();
    println!("the last run took {:.1} s", begun.elapsed().as_secs_f64());

    let statuses = workspace.sql("SELECT status, count(*) AS n FROM job GROUP BY status");
    assert_eq!(
        statuses,
        [serde_json::json!({"status": "done", "n": n_streams})]
    );
    let open = workspace.sql_value("SELECT count(*) FROM attempt WHERE status = 'running'");
    assert_eq!(open, 0);
    let mut n_final: BTreeMap<String, usize> = BTreeMap::new();
    for event in workspace.events() {
        if event["event"] == "checkpoint" && event["is_final"] == Value::Bool(true) {
            *n_final.entry(event["job_id"].to_string()).or_default() += 1;
        }
    }
    assert_eq!(n_final.len(), n_streams);
    let twice: Vec<_> = n_final.iter().filter(|(_, n)| **n != 1).collect();
    assert!(twice.is_empty(), "done more than once: {twice:?}");
    let most = cluster.most_looks(10.0);
    println!("at most {most} looks into the queue in 10 s");
    assert!(most <= 10 * 4, "{most} looks into the queue in 10 s");
}
