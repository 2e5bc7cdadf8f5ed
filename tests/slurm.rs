//! Sweeps as jobs of a real Slurm of two nodes on this machine, `tests/slurm/cluster.sh`. Skipped where that cannot be
//! started; with SAE_RUN_SLURM=required that fails.

use crate::common::{
    Outcome, Running, Workspace, finish, small_sweep, text, trained_here, until, wait_for_step,
    with_jobs,
};
use serde_json::{Value, json};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A cluster for one test.
pub(crate) struct Cluster {
    folder: TempDir,
    /// Ends the cluster when its standard input ends, also if this process is killed.
    keeper: Child,
}

/// Clusters that were started.
static N_CLUSTERS: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// `None`: there is no Slurm, or this is not root; the test is skipped.
    #[expect(
        clippy::print_stdout,
        reason = "cargo test shows it with `--nocapture`"
    )]
    pub(crate) fn new() -> Option<Self> {
        let is_there = ["slurmctld", "slurmd", "munged"].iter().all(|program| {
            let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"];
            folders
                .iter()
                .any(|folder| Path::new(folder).join(program).is_file())
        });
        let is_required = env::var_os("SAE_RUN_SLURM").is_some_and(|value| value == "required");
        if !is_there || files::user_id() != 0 {
            assert!(!is_required, "there is no Slurm here, or this is not root");
            println!("skipped: there is no Slurm here, or this is not root");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh");
        let folder = tempfile::tempdir().unwrap();
        let own = std::process::id() % 100 * 80 + N_CLUSTERS.fetch_add(1, Ordering::Relaxed) * 4;
        let started = Command::new(&script)
            .arg("start")
            .arg(folder.path())
            .env("SLURM_TEST_PORT", (20_000 + own).to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if !started.status.success() {
            assert!(!is_required, "{started:?}");
            println!("skipped: no cluster can be started");
            return None;
        }
        let keeper = format!(
            "cat >/dev/null; {} stop {}",
            text(&script),
            text(folder.path())
        );
        let keeper = Command::new("bash")
            .args(["-c", &keeper])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self { folder, keeper })
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.folder.path().join("slurm.conf")
    }

    /// `sae-run` with `args`, on the cluster.
    fn run(&self, workspace: &Workspace, args: &[&str]) -> Outcome {
        workspace.run_with(&[("SLURM_CONF", text(&self.conf()))], args)
    }

    fn start(&self, workspace: &Workspace, args: &[&str]) -> Running {
        let mut command = workspace.command(args);
        command.env("SLURM_CONF", self.conf());
        let (stdout, stderr) = (workspace.path("stdout.txt"), workspace.path("stderr.txt"));
        Running::start(command, stdout, stderr)
    }

    /// What a program of Slurm prints.
    #[track_caller]
    pub(crate) fn slurm(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(args).env("SLURM_CONF", self.conf());
        finish(command).succeeds().stdout.trim().to_owned()
    }

    /// Kills the daemon of a node, and all processes of a job there.
    fn kill_node(&self, node: &str, job_id: u64) {
        let folder = text(self.folder.path());
        let kill = format!(
            "kill -9 $(<{folder}/slurmd-{node}.pid); pkill -9 -f 'slurmstepd: \\[{job_id}\\.'; \
             for pid in $(pgrep -f sae-run-worker); do \
                 tr '\\0' '\\n' </proc/$pid/environ | grep -qx SLURM_JOB_ID={job_id} && kill -9 $pid; done; \
             for pid in $(pgrep -f slurm_script); do \
                 tr '\\0' '\\n' </proc/$pid/environ | grep -qx SLURM_JOB_ID={job_id} && kill -9 $pid; done; true"
        );
        let killed = Command::new("bash").args(["-c", &kill]).status().unwrap();
        assert!(killed.success(), "{killed}");
    }

    /// Starts it again, and waits until it takes jobs.
    fn start_node(&self, node: &str) {
        self.slurm("slurmd", &["-N", node]);
        until("a node that is idle", || {
            let state = self.slurm(
                "sinfo",
                &["--noheader", "--format=%T", &format!("--nodes={node}")],
            );
            state.lines().all(|state| state == "idle").then_some(())
        });
    }

    /// A job that has the machines of jobs of `main` for a moment.
    pub(crate) fn preempt(&self) {
        let args = [
            "--parsable",
            "--partition=high",
            "--nodes=2",
            "--output=/dev/null",
            "--wrap=sleep 1",
        ];
        self.slurm("sbatch", &args);
    }

    /// Waits until a job that was put back is in the queue.
    fn wait_for_queue(&self, job_id: u64) {
        until("a job that waits for its time", || {
            let state = self.slurm(
                "squeue",
                &["--noheader", "--format=%T %r", &format!("--jobs={job_id}")],
            );
            (state == "PENDING BeginTime").then_some(())
        });
    }

    /// Lets a job that was put back into the queue begin now: Slurm lets it wait for two minutes.
    pub(crate) fn hurry(&self, job_id: u64) {
        self.wait_for_queue(job_id);
        // A machine refuses the same job for `cred_expire` seconds.
        std::thread::sleep(Duration::from_secs(5));
        self.slurm(
            "scontrol",
            &["update", &format!("JobId={job_id}"), "StartTime=now"],
        );
    }
}

impl Drop for Cluster {
    /// Nothing of it is left.
    fn drop(&mut self) {
        let slurm = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).env("SLURM_CONF", self.conf());
            command.output()
        };
        let _ = slurm("scancel", &["--user=root"]);
        let until = Instant::now() + Duration::from_secs(20);
        while slurm("squeue", &["--noheader"]).is_ok_and(|output| !output.stdout.is_empty())
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The same sweep with Slurm as its launcher.
fn in_slurm(sweep: &str) -> String {
    sweep.replace(
        "[launch]\n",
        "[launch]\nlauncher = 'slurm'\nslurm = {poll_s = 1, time = '30'}\n",
    )
}

/// A job of many updates that saves often.
pub(crate) fn long_job() -> Workspace {
    let settings = "epochs = 4\nbatch_size = 4\nsave_every = 50\nexpansion_factor = 8\nhookpoints = ['layers.1.mlp', 'layers.2']";
    with_jobs(settings, &[("long", "")])
}

/// The same in Slurm, and the sweep without that.
fn long_in_slurm() -> (Workspace, String) {
    let workspace = long_job();
    let sweep = std::fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    workspace.write("tiny.toml", in_slurm(&sweep));
    (workspace, sweep)
}

/// The job of Slurm that trains the sweep's only stream.
fn only_job(workspace: &Workspace) -> u64 {
    let script = workspace.stream_dir().join("slurm.here");
    let sign = until("a sign of life", || std::fs::read_to_string(&script).ok());
    sign.split(' ').next().unwrap().parse().unwrap()
}

const ATTEMPTS: &str = "SELECT number, status, exit_code, slurm_job_id IS NOT NULL AS in_slurm
    FROM attempt ORDER BY attempt_id";

#[test]
fn a_sweep_in_slurm_trains_what_it_trains_here() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let sweep = small_sweep();
    let workspace = Workspace::new();
    workspace.write("tiny.toml", in_slurm(&sweep));
    let outcome = cluster.run(&workspace, &["tiny.toml"]).succeeds();
    // It may be over between two looks at the queue.
    outcome.remarks(&["stream ", ": job ", " of Slurm"]);
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
    let attempts = workspace.sql(ATTEMPTS);
    assert_eq!(
        json!(attempts),
        json!([{"number": 1, "status": "done", "exit_code": 0, "in_slurm": 1}])
    );
    cluster
        .run(&workspace, &["tiny.toml"])
        .succeeds()
        .remarks(&["already"]);
}

#[test]
fn a_job_that_is_preempted_ends_in_the_same_bits() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    let running = cluster.start(&workspace, &["tiny.toml"]);
    wait_for_step(&workspace, 1, 30);
    let job_id = only_job(&workspace);
    cluster.preempt();
    cluster.hurry(job_id);
    running.wait().succeeds().remarks(&["begun again once"]);
    let statuses: Vec<Value> =
        workspace.sql("SELECT status, slurm_job_id FROM attempt ORDER BY attempt_id");
    assert_eq!(
        json!(statuses),
        json!([
            {"status": "interrupted", "slurm_job_id": job_id},
            {"status": "done", "slurm_job_id": job_id}
        ])
    );
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn a_signal_before_the_time_limit_puts_the_job_back() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    let running = cluster.start(&workspace, &["tiny.toml"]);
    wait_for_step(&workspace, 1, 30);
    let job_id = only_job(&workspace);
    cluster.slurm(
        "scancel",
        &["--signal=USR1", "--batch", &job_id.to_string()],
    );
    cluster.hurry(job_id);
    running.wait().succeeds();
    let statuses = workspace.sql("SELECT status, first_step FROM attempt ORDER BY attempt_id");
    let [first, second] = &statuses[..] else {
        panic!("two attempts: {statuses:?}");
    };
    assert_eq!(first["status"], "interrupted");
    assert!(second["first_step"].as_u64() >= Some(30), "{second}");
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn a_job_that_is_back_in_the_queue_is_not_submitted_again() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    cluster
        .run(&workspace, &["tiny.toml", "--detach"])
        .succeeds();
    wait_for_step(&workspace, 1, 30);
    let job_id = only_job(&workspace);
    let id = job_id.to_string();
    cluster.slurm("scancel", &["--signal=USR1", "--batch", &id]);
    cluster.wait_for_queue(job_id);
    cluster
        .run(&workspace, &["tiny.toml", "--detach"])
        .succeeds();
    assert_eq!(workspace.sql(ATTEMPTS).len(), 1);
    cluster.hurry(job_id);
    cluster.run(&workspace, &["tiny.toml"]).succeeds();
    let jobs = workspace.sql("SELECT slurm_job_id FROM attempt");
    assert_eq!(
        json!(jobs),
        json!([{"slurm_job_id": job_id}, {"slurm_job_id": job_id}])
    );
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn jobs_go_on_without_sae_run_and_are_found_again() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    let running = cluster.start(&workspace, &["tiny.toml"]);
    wait_for_step(&workspace, 1, 10);
    running.kill();
    let job_id = only_job(&workspace);
    let running = cluster.start(&workspace, &["tiny.toml"]);
    let mut running = running;
    running.says(&format!("watching job {job_id} of Slurm again"));
    running.wait().succeeds();
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
    assert_eq!(workspace.sql(ATTEMPTS).len(), 1);
}

#[test]
fn a_job_that_is_cancelled_for_another_is_submitted_again() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    let running = cluster.start(
        &workspace,
        &["tiny.toml", "--set", "launch.slurm.partition=low"],
    );
    wait_for_step(&workspace, 1, 30);
    cluster.preempt();
    running.wait().succeeds();
    let attempts =
        workspace.sql("SELECT status, slurm_job_id, reason FROM attempt ORDER BY attempt_id");
    let [first, second] = &attempts[..] else {
        panic!("two attempts: {attempts:?}");
    };
    assert_eq!(first["status"], "interrupted", "{first}");
    assert_ne!(first["slurm_job_id"], second["slurm_job_id"]);
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

/// A machine that is gone: nothing of it answers, and nothing runs there any more.
#[test]
fn a_job_that_loses_its_node_continues_on_another() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    let running = cluster.start(&workspace, &["tiny.toml"]);
    wait_for_step(&workspace, 1, 30);
    let job_id = only_job(&workspace);
    let node = cluster.slurm(
        "squeue",
        &["--noheader", "--format=%N", &format!("--jobs={job_id}")],
    );
    cluster.kill_node(&node, job_id);
    cluster.hurry(job_id);
    running.wait().succeeds();
    cluster.start_node(&node);
    let attempts = workspace.sql("SELECT status, slurm_job_id FROM attempt ORDER BY attempt_id");
    assert_eq!(
        json!(attempts),
        json!([
            {"status": "interrupted", "slurm_job_id": job_id},
            {"status": "done", "slurm_job_id": job_id}
        ])
    );
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}

#[test]
fn a_stream_on_two_nodes() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let workspace = Workspace::new();
    let sweep = in_slurm(&small_sweep()).replace("poll_s", "nnodes = 2, poll_s");
    workspace.write("tiny.toml", sweep);
    cluster
        .run(
            &workspace,
            &["tiny.toml", "--set", "launch.nproc_per_node=1"],
        )
        .succeeds();
    let log = std::fs::read_to_string(workspace.stream_dir().join("worker.log")).unwrap();
    let attempts = workspace.sql(ATTEMPTS);
    assert_eq!(attempts.len(), 1, "{log}");
    assert_eq!(attempts[0]["status"], "done", "{log}");
}

#[test]
fn what_slurm_cannot_do_is_said_before_anything_is_submitted() {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", in_slurm(&small_sweep()));
    let empty = workspace.path("empty");
    std::fs::create_dir(&empty).unwrap();
    workspace
        .run_with(&[("PATH", text(&empty))], &["tiny.toml"])
        .refuses(&["there is no Slurm here: `sinfo` is not on PATH"]);
    workspace
        .run(&["tiny.toml", "--set", "launch.slurm.time=2"])
        .refuses(&["`launch.slurm.time` is `2`", "save 120 s before that"]);
    workspace
        .run(&["tiny.toml", "--detach", "--set", "launch.launcher=local"])
        .refuses(&["`--detach` is for jobs of Slurm and of the pool"]);
    workspace
        .run(&["tiny.toml", "--jobs", "2"])
        .refuses(&["`launch.jobs` and `launch.devices` are for one machine"]);
    let Some(cluster) = Cluster::new() else {
        return;
    };
    cluster
        .run(
            &workspace,
            &["tiny.toml", "--set", "launch.slurm.partition=gpu"],
        )
        .refuses(&["there is no partition `gpu`"])
        .hints("the cluster has main, low, high");
    cluster
        .run(
            &workspace,
            &["tiny.toml", "--set", "launch.slurm.constraint=a100"],
        )
        .refuses(&["Slurm refuses the job: "])
        .hints("`launch.slurm.constraint`");
    assert_eq!(
        workspace.sql_value("SELECT count(*) FROM attempt WHERE status = 'running'"),
        0
    );
}

#[test]
fn a_sweep_file_runs_no_lines_of_its_own() {
    for (key, value) in [
        ("setup", "['touch planted']"),
        ("sbatch", "{prolog = 'planted'}"),
    ] {
        let workspace = Workspace::new();
        let sweep = in_slurm(&small_sweep()).replace("poll_s", &format!("{key} = {value}, poll_s"));
        workspace.write("tiny.toml", sweep);
        workspace
            .run(&["tiny.toml"])
            .refuses(&[&format!("`launch.slurm.{key}` in this file would run")])
            .hints("sae-run.toml");
    }
}

#[test]
fn jobs_are_left_alone_shown_cancelled_and_continued() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let (workspace, sweep) = long_in_slurm();
    cluster
        .run(&workspace, &["tiny.toml", "--detach"])
        .succeeds()
        .remarks(&["1 job of Slurm continues"])
        .hints("`sae-run status tiny` shows them");
    wait_for_step(&workspace, 1, 30);
    let job_id = only_job(&workspace);
    let status = cluster.run(&workspace, &["status", "tiny"]).succeeds();
    let state = format!("job {job_id} of Slurm runs on n");
    assert!(status.stdout.contains(&state), "{status}");
    let status = cluster
        .run(&workspace, &["status", "tiny", "--json"])
        .succeeds()
        .json();
    let stream = &status["streams"][0];
    assert_eq!(stream["slurm_job_id"], job_id, "{stream}");
    assert!(stream["step"].as_u64() >= Some(30), "{stream}");
    // A second submission finds the first.
    cluster
        .run(&workspace, &["tiny.toml", "--detach"])
        .succeeds();
    let forget = ["tiny.toml", "--fresh", "--yes"];
    cluster
        .run(&workspace, &forget)
        .refuses(&[&format!("job {job_id} of Slurm has stream ")])
        .hints("`sae-run cancel tiny`");
    cluster
        .run(&workspace, &["cancel", "tiny"])
        .succeeds()
        .remarks(&["cancelled 1 job of Slurm", "all have ended"]);
    let attempts = workspace.sql("SELECT status, reason FROM attempt");
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["status"], "interrupted");
    cluster
        .run(&workspace, &["cancel", "tiny"])
        .succeeds()
        .remarks(&["no job of `tiny` is in Slurm"]);
    cluster.run(&workspace, &["tiny.toml"]).succeeds();
    assert_eq!(workspace.sql(ATTEMPTS).len(), 2);
    assert!(workspace.trained() == trained_here(&workspace, &sweep));
}
