//! The same command as several processes: by the variables of launchers, under torchrun, and with torchrun
//! started by `sae-run`.

use crate::common::{Outcome, Running, Workspace, replace_line, signal, small_sweep, until};
use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The small sweep with another `batch_size`, and other lines for `[launch]`.
pub(crate) fn sweep(batch_size: usize, launch: &str) -> String {
    let sweep = replace_line(
        &small_sweep(),
        "batch_size",
        &format!("batch_size = {batch_size}"),
    );
    replace_line(&sweep, "retries", launch)
}

pub(crate) fn workspace(sweep: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep);
    workspace
}

/// For the Hub, and for no worker.
const TOKEN: &str = "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh";

pub(crate) fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// `sae-run` with `args` as each of `n_ranks` ranks.
pub(crate) fn start(workspace: &Workspace, n_ranks: usize, args: &[&str]) -> Vec<Running> {
    let port = free_port();
    let start = |idx: usize| rank(workspace, (idx, n_ranks), &port, args);
    (0..n_ranks).map(start).collect()
}

/// `sae-run` with `args` as one of `n_ranks` ranks, by the variables of torch's launchers.
pub(crate) fn rank(
    workspace: &Workspace,
    (rank, n_ranks): (usize, usize),
    port: &str,
    args: &[&str],
) -> Running {
    let mut command = workspace.command(args);
    command
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", n_ranks.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port)
        .env("HF_TOKEN", TOKEN);
    let file = |name: &str| workspace.path(&format!("{name}.{rank}.txt"));
    Running::start(command, file("stdout"), file("stderr"))
}

pub(crate) fn wait(ranks: Vec<Running>) -> Vec<Outcome> {
    ranks.into_iter().map(Running::wait).collect()
}

/// All ranks ended with `code`.
#[track_caller]
pub(crate) fn assert_codes(ranks: &[Outcome], code: i32) {
    let first = &ranks[0];
    for rank in ranks {
        assert_eq!(rank.status.code(), Some(code), "{first}{rank}");
    }
}

/// FVUs of all SAEs, by name: jobs of another `batch_size` have other ids.
fn fvus(workspace: &Workspace) -> Vec<f64> {
    let rows = workspace.sql("SELECT fvu FROM result ORDER BY job, hookpoint");
    rows.iter()
        .map(|row| row["fvu"].as_f64().unwrap())
        .collect()
}

/// The results are those of one process with as large a batch.
#[track_caller]
pub(crate) fn assert_is_one_process(workspace: &Workspace) {
    let (ours, theirs) = (fvus(workspace), fvus(&workspace_of_one()));
    assert_eq!(ours.len(), 3);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // Of signum, whose signs make much of rounding.
        assert!((ours / theirs - 1.0).abs() < 1e-3, "{ours} {theirs}");
    }
}

fn workspace_of_one() -> Workspace {
    let workspace = workspace(&sweep(8, "retries = 0"));
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

#[test]
fn ranks_in_a_plain_environment_train_as_one() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let [first, second] = &wait(start(&workspace, 2, &["tiny.toml"]))[..] else {
        panic!("two ranks");
    };
    assert!(
        first.status.success() && second.status.success(),
        "{first}{second}"
    );
    assert!(first.stderr.contains("all 2 jobs are done"), "{first}");
    assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("", ""));
    assert_is_one_process(&workspace);
    let again = wait(start(&workspace, 2, &["tiny.toml"]));
    assert!(again[0].stderr.contains("done already"), "{}", again[0]);
    assert!(again.iter().all(|rank| rank.status.success()));
    assert_eq!(fvus(&workspace).len(), 3);
}

#[test]
fn another_number_of_ranks_makes_another_job_but_for_updates_of_a_given_size() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    assert_codes(&wait(start(&workspace, 2, &["tiny.toml"])), 0);
    let tokens = 2 * 4 * 64;
    let hint = format!("`--set train.tokens_per_update={tokens}` continues");
    // Smaller updates, of another job.
    workspace.run(&["tiny.toml"]).succeeds().remarks(&[
        "was begun with 512 tokens per step; with 256 it is another job",
        &hint,
    ]);
    let sizes = "SELECT json_group_array(DISTINCT tokens_per_update ORDER BY tokens_per_update) FROM result";
    assert_eq!(workspace.sql_value(sizes), "[256,512]");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 4);
    // The first ones again, in one process.
    let given = format!("train.tokens_per_update={tokens}");
    let again = workspace.run(&["tiny.toml", "--set", &given]).succeeds();
    assert!(again.stderr.contains("done already"), "{again}");
    let alone = Workspace::with_small_sweep();
    alone.write("tiny.toml", sweep(4, "retries = 0"));
    alone.run(&["tiny.toml", "--set", &given]).succeeds();
    let ids = "SELECT json_group_array(job_id) FROM (SELECT job_id FROM result WHERE is_current ORDER BY sae_id)";
    assert_eq!(alone.sql_value(ids), workspace.sql_value(ids));
    assert_is_one_process(&alone);
    for (dir, config) in alone.trained() {
        if dir.ends_with("/config.json") {
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            assert_eq!(config["tokens_per_update"], tokens);
        }
    }
    alone
        .run(&["tiny.toml", "--set", "train.tokens_per_update=500"])
        .refuses(&[
            "`tokens_per_update` must be a multiple of the 256 tokens of one process",
            "such as 512, got 500",
        ]);
}

/// The small sweep with each SAE on one rank.
fn spread_sweep(batch_size: usize, launch: &str) -> String {
    let sweep = sweep(batch_size, launch);
    sweep.replace("[train]\n", "[train]\ndistribute_modules = true\n")
}

#[test]
fn ranks_that_have_an_sae_each_train_as_one() {
    let workspace = workspace(&spread_sweep(4, "retries = 0"));
    let ranks = wait(start(&workspace, 2, &["tiny.toml"]));
    assert_codes(&ranks, 0);
    assert_is_one_process(&workspace);
    let notes = workspace.sql("SELECT message FROM attempt_note");
    assert!(notes.iter().any(|row| {
        row["message"]
            .as_str()
            .unwrap()
            .starts_with("each SAE is on one of 2 ranks")
    }));
}

#[test]
fn a_folder_that_cannot_be_written_ends_all() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    workspace.write("runs", "a file where the folder should be");
    let ranks = wait(start(&workspace, 2, &["tiny.toml"]));
    assert!(ranks[0].stderr.contains("runs"), "{}", ranks[0]);
    assert_codes(&ranks, 2);
}

#[test]
fn what_is_wrong_is_told_by_rank_0_and_ends_all() {
    let workspace = workspace(&sweep(4, "retries = 0").replace("ctx_len", "ctx_length"));
    let ranks = wait(start(&workspace, 2, &["tiny.toml"]));
    assert!(
        ranks[0].stderr.contains("unknown key `train.ctx_length`"),
        "{}",
        ranks[0]
    );
    assert_eq!(ranks[1].stderr, "");
    assert_codes(&ranks, 2);
}

#[test]
fn variables_of_half_a_launcher_are_an_error() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    workspace
        .run_with(&[("WORLD_SIZE", "2")], &["tiny.toml"])
        .refuses(&["`WORLD_SIZE` is set in the environment, and `RANK` is not"])
        .hints("unset them");
}

#[test]
fn a_gpu_for_each_process_needs_gpus() {
    if Path::new("/dev/nvidia0").exists() {
        return;
    }
    let launch = "launcher = 'torchrun'\nnproc_per_node = 'gpu'";
    workspace(&sweep(4, launch))
        .run(&["tiny.toml"])
        .refuses(&["`nproc_per_node` is `gpu`, but there is no GPU"])
        .hints("`nproc_per_node = 2`");
    workspace(&sweep(4, launch))
        .run(&["plan", "tiny.toml"])
        .succeeds()
        .remarks(&["there is no GPU", "planned as for one process", "hint: "]);
    workspace(&sweep(4, "nproc_per_node = 'all'"))
        .run(&["tiny.toml"])
        .refuses(&["`all` is neither a number of processes nor `gpu`"]);
    workspace(&sweep(4, "nproc_per_node = 5000"))
        .run(&["tiny.toml"])
        .refuses(&["5000 processes are too many: at most 4096"]);
}

/// Before anything is started; the two jobs on one stream have three SAEs.
#[test]
fn more_processes_than_saes_are_refused_where_each_sae_is_on_one() {
    let launch = |n_processes| format!("launcher = 'torchrun'\nnproc_per_node = {n_processes}");
    let refused = |outcome: Outcome| {
        outcome
            .refuses(&[
                "tiny.toml:3: ",
                "4 processes are more than the SAEs (3) of the stream of job `k=4,",
                "`distribute_modules`",
            ])
            .hints("start at most 3, or leave `distribute_modules` out");
    };
    let four = workspace(&spread_sweep(4, &launch(4)));
    refused(four.run(&["plan", "tiny.toml"]));
    refused(four.run(&["tiny.toml"]));
    assert!(!four.path("runs").exists());
    let three = workspace(&spread_sweep(4, &launch(3)));
    three.run(&["plan", "tiny.toml"]).succeeds();
    let copied = workspace(&sweep(4, &launch(4)));
    copied.run(&["plan", "tiny.toml"]).succeeds();
    let ranks = wait(start(
        &workspace(&spread_sweep(4, "retries = 0")),
        4,
        &["tiny.toml"],
    ));
    assert_codes(&ranks, 2);
    let [first, others @ ..] = <[Outcome; 4]>::try_from(ranks).unwrap();
    assert!(others.iter().all(|rank| rank.stderr.is_empty()));
    refused(first);
}

#[test]
fn processes_on_the_cpu_share_the_memory_of_the_machine() {
    let most_bytes = |launch: &str| {
        // Too large for any machine, so that the message says how much memory there is.
        let sweep =
            sweep(4, launch).replace("expansion_factor = [2]", "num_latents = [2147483648]");
        let outcome = workspace(&sweep).run(&["plan", "tiny.toml"]).succeeds();
        let (_, rest) = outcome.stderr.split_once("a worker may take ").unwrap();
        let (number, unit) = rest.split_once(' ').unwrap();
        let unit = match unit.split_once(':').unwrap().0 {
            "GB" => 1000.0,
            "MB" => 1.0,
            other => panic!("{other}"),
        };
        number.parse::<f64>().unwrap() * unit
    };
    let alone = most_bytes("nproc_per_node = 4");
    let shared = most_bytes("launcher = 'torchrun'\nnproc_per_node = 4");
    assert!((alone / shared - 4.0).abs() < 0.05, "{alone} {shared}");
}

/// The process that is the worker of `rank` on an order below `dir`.
fn worker_of(dir: &Path, rank: usize) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let variable = format!("RANK={rank}");
    let mut workers = pids.filter(|pid: &u32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        let command = String::from_utf8_lossy(&command).into_owned();
        let is_of_rank = environment
            .split(|&byte| byte == 0)
            .any(|v| v == variable.as_bytes());
        let is_worker = command.contains("\0order\0") && !command.contains("torchrun");
        is_worker && command.contains(dir.to_str().unwrap()) && is_of_rank
    });
    workers.next()
}

/// Long enough for a kill.
pub(crate) fn long_sweep(launch: &str) -> String {
    let sweep = sweep(4, launch);
    replace_line(&sweep, "max_examples", "max_examples = 640")
}

#[test]
fn the_worker_of_no_rank_has_a_token() {
    let workspace = workspace(&long_sweep("retries = 0"));
    let ranks = start(&workspace, 2, &["tiny.toml"]);
    let runs = workspace.path("runs");
    for rank in 0..2 {
        let worker = until("a worker", || worker_of(&runs, rank));
        let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(environment.contains("WORLD_SIZE=2"), "{environment}");
        assert!(!environment.contains(TOKEN), "rank {rank}: {environment}");
    }
    signal(ranks[0].pid(), "INT");
    wait(ranks);
}

#[test]
fn a_killed_rank_ends_the_attempt_and_the_next_goes_on() {
    let workspace = workspace(&long_sweep("retries = 1"));
    let runs = workspace
        .path("runs")
        .canonicalize()
        .unwrap_or(workspace.path("runs"));
    let ranks = start(&workspace, 2, &["tiny.toml"]);
    until("a checkpoint", || {
        let is_checkpoint = |event: &serde_json::Value| event["event"] == "checkpoint";
        workspace.events().iter().any(is_checkpoint).then_some(())
    });
    let pid = worker_of(&runs, 1).or_else(|| worker_of(Path::new("runs"), 1));
    let pid = pid.expect("rank 1 has a worker");
    Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status()
        .unwrap();
    let ranks = wait(ranks);
    assert_codes(&ranks, 0);
    assert!(
        ranks[0].stderr.contains("lost rank 1 in the all-"),
        "{}",
        ranks[0]
    );
    let outcomes = workspace.sql("SELECT status FROM attempt ORDER BY number");
    let outcomes: Vec<_> = outcomes
        .iter()
        .map(|row| row["status"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["failed", "done"]);
}

#[test]
fn a_stop_of_one_rank_stops_all_and_the_same_command_goes_on() {
    let workspace = workspace(&replace_line(
        &long_sweep("retries = 1"),
        "save_every",
        "save_every = 1000",
    ));
    let ranks = start(&workspace, 2, &["tiny.toml"]);
    until("an update", || {
        let is_metric = |event: &serde_json::Value| event["event"] == "metric";
        workspace.events().iter().any(is_metric).then_some(())
    });
    signal(ranks[1].pid(), "TERM");
    let ranks = wait(ranks);
    assert_codes(&ranks, 130);
    let ranks = wait(start(&workspace, 2, &["tiny.toml"]));
    assert_codes(&ranks, 0);
    let ready = workspace
        .events()
        .into_iter()
        .filter(|event| event["event"] == "ready");
    let first_steps: Vec<_> = ready
        .map(|event| event["first_step"].as_u64().unwrap())
        .collect();
    assert!(
        first_steps.len() == 2 && first_steps[1] > 0,
        "{first_steps:?}"
    );
}

/// The torchrun to test with, if there is one: that of `SAE_RUN_TORCHRUN`, which `make test` sets.
#[expect(clippy::print_stderr, reason = "a test that did nothing should say so")]
pub(crate) fn torchrun() -> Option<PathBuf> {
    let given = env::var_os("SAE_RUN_TORCHRUN").map(PathBuf::from);
    let found = given.filter(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no torchrun; name one in SAE_RUN_TORCHRUN");
    }
    found
}

#[test]
fn under_torchrun_the_same_command_is_one_run() {
    let Some(torchrun) = torchrun() else { return };
    let workspace = workspace(&sweep(4, "retries = 0"));
    let inner = workspace.command(&["tiny.toml"]);
    let mut command = Command::new(torchrun);
    command
        .args(["--standalone", "--no-python", "--nproc-per-node", "2"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(workspace.path("."))
        .env_clear()
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let outcome = crate::common::finish(command);
    assert!(outcome.status.success(), "{outcome}");
    assert_is_one_process(&workspace);
}

#[test]
fn torchrun_is_started_for_each_stream() {
    let Some(torchrun) = torchrun() else { return };
    let workspace = workspace(&spread_sweep(
        4,
        "launcher = 'torchrun'\nnproc_per_node = 2\nretries = 0",
    ));
    let torchrun = torchrun.to_str().unwrap();
    let variables = [("SAE_RUN_TORCHRUN", torchrun)];
    workspace.run_with(&variables, &["tiny.toml"]).succeeds();
    assert_is_one_process(&workspace);
}
