//! Launchers by their own variables: those that start each rank, and those that start one process on each node, which
//! starts the others.

use crate::common::{Outcome, Running, Workspace, signal, until};
use crate::distributed::{
    assert_codes, assert_is_one_process, free_port, long_sweep, sweep, wait, workspace,
};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// `sae-run tiny.toml` as process number `idx` of a launcher with these variables.
fn start(workspace: &Workspace, idx: usize, variables: &[(&str, String)]) -> Running {
    let mut command = workspace.command(&["tiny.toml"]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let file = |name: &str| workspace.path(&format!("{name}.{idx}.txt"));
    Running::start(command, file("stdout"), file("stderr"))
}

fn skypilot(node: usize, port: &str) -> Vec<(&'static str, String)> {
    vec![
        ("SKYPILOT_NODE_RANK", node.to_string()),
        ("SKYPILOT_NUM_NODES", "2".into()),
        ("SKYPILOT_NUM_GPUS_PER_NODE", "0".into()),
        ("SKYPILOT_NODE_IPS", "127.0.0.1\n127.0.0.1".into()),
        ("MASTER_PORT", port.into()),
    ]
}

fn kubeflow(node: usize, n_nodes: usize, port: &str) -> Vec<(&'static str, String)> {
    vec![
        ("PET_NNODES", n_nodes.to_string()),
        ("PET_NPROC_PER_NODE", "2".into()),
        ("JOB_COMPLETION_INDEX", node.to_string()),
        ("PET_MASTER_ADDR", "127.0.0.1".into()),
        ("PET_MASTER_PORT", port.into()),
    ]
}

fn open_mpi(rank: usize, port: &str) -> Vec<(&'static str, String)> {
    vec![
        ("OMPI_COMM_WORLD_RANK", rank.to_string()),
        ("OMPI_COMM_WORLD_SIZE", "2".into()),
        ("OMPI_COMM_WORLD_LOCAL_RANK", rank.to_string()),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2".into()),
        // The name of this machine, which is not where its loopback is.
        ("MASTER_ADDR", "some-node".into()),
        ("MASTER_PORT", port.into()),
    ]
}

/// The first says what is done, the second nothing, and the results are those of one process.
#[track_caller]
fn assert_are_one_run(workspace: &Workspace, processes: &[Outcome]) {
    assert_codes(processes, 0);
    let [first, second] = processes else {
        panic!("two processes");
    };
    assert!(first.stderr.contains("all 2 jobs are done"), "{first}");
    assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("", ""));
    assert_is_one_process(workspace);
    assert_eq!(
        workspace.sql_value("SELECT count(*) FROM attempt"),
        1,
        "one coordinator"
    );
}

#[test]
fn nodes_of_skypilot_train_as_one_run() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let port = free_port();
    let nodes = [0, 1].map(|node| start(&workspace, node, &skypilot(node, &port)));
    assert_are_one_run(&workspace, &wait(nodes.into()));
}

#[test]
fn nodes_of_kubeflow_start_their_other_ranks() {
    let workspace = workspace(&sweep(2, "retries = 0"));
    let port = free_port();
    let nodes = [0, 1].map(|node| start(&workspace, node, &kubeflow(node, 2, &port)));
    assert_are_one_run(&workspace, &wait(nodes.into()));
    let logs = (1..4).map(|rank| format!("worker.{rank}.log"));
    let folder = workspace.stream_dir();
    let logs: Vec<_> = logs.filter(|log| folder.join(log).exists()).collect();
    assert_eq!(logs.len(), 3, "{logs:?} in {}", folder.display());
}

#[test]
fn the_sweep_says_how_many_processes_a_node_of_skypilot_has_without_gpus() {
    let launch = "launcher = 'torchrun'\nnproc_per_node = 2\nretries = 0";
    let workspace = workspace(&sweep(2, launch));
    let port = free_port();
    let nodes = [0, 1].map(|node| start(&workspace, node, &skypilot(node, &port)));
    assert_are_one_run(&workspace, &wait(nodes.into()));
    let tokens = "SELECT DISTINCT tokens_per_update FROM result";
    assert_eq!(workspace.sql_value(tokens), 4 * 2 * 64);
}

#[test]
fn ranks_of_open_mpi_train_as_one_run() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let port = free_port();
    let ranks = [0, 1].map(|rank| start(&workspace, rank, &open_mpi(rank, &port)));
    assert_are_one_run(&workspace, &wait(ranks.into()));
}

#[test]
fn a_node_that_begins_after_all_is_done_ends_well() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let port = free_port();
    let nodes = [0, 1].map(|node| start(&workspace, node, &skypilot(node, &port)));
    assert_codes(&wait(nodes.into()), 0);
    let first = start(&workspace, 0, &skypilot(0, &port));
    // Longer than ranks that are there are waited for.
    sleep(Duration::from_secs(8));
    let second = start(&workspace, 1, &skypilot(1, &port));
    let nodes = wait(vec![first, second]);
    assert_codes(&nodes, 0);
    assert!(nodes[0].stderr.contains("done already"), "{}", nodes[0]);
}

#[test]
fn variables_that_make_no_sense_are_named() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let run = |variables: &[(&str, &str)]| workspace.run_with(variables, &["tiny.toml"]);
    run(&[
        ("SKYPILOT_NODE_RANK", "2"),
        ("SKYPILOT_NUM_NODES", "2"),
        ("SKYPILOT_NODE_IPS", "a\nb"),
    ])
    .refuses(&["`SKYPILOT_NODE_RANK` in the environment is `2`, not a number from 0 to 1"])
    .hints("SkyPilot");
    run(&[("PET_NNODES", "2"), ("PET_NODE_RANK", "0")])
        .refuses(&["`PET_NNODES` is set in the environment, and `PET_MASTER_ADDR` is not"])
        .hints("unset them");
    assert!(!workspace.path("runs").exists());
}

/// The process that `pid` has started as another rank of its node.
fn other_rank(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let command = fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
        let is_rank = command.ends_with("sae-run\0tiny.toml\0");
        is_rank.then(|| child.parse().ok())?
    })
}

fn until_it_trains(workspace: &Workspace) {
    until("an update", || {
        let is_metric = |event: &serde_json::Value| event["event"] == "metric";
        workspace.events().iter().any(is_metric).then_some(())
    });
}

#[test]
fn a_rank_that_a_node_loses_ends_all_and_the_same_command_continues() {
    let workspace = workspace(&long_sweep("retries = 1"));
    let port = free_port();
    let node = start(&workspace, 0, &kubeflow(0, 1, &port));
    until_it_trains(&workspace);
    let other = until("another rank", || other_rank(node.pid()));
    signal(other, "KILL");
    let [ended] = <[Outcome; 1]>::try_from(wait(vec![node])).unwrap();
    // At once, and not after a further attempt that waits for the lost rank.
    ended
        .exits(130)
        .remarks(&["rank 1, which this process started, has ended: signal: 9"]);
    let again = start(&workspace, 0, &kubeflow(0, 1, &port));
    assert_codes(&wait(vec![again]), 0);
}

#[test]
fn the_ranks_of_a_node_whose_first_is_killed_end() {
    let workspace = workspace(&long_sweep("retries = 0"));
    let node = start(&workspace, 0, &kubeflow(0, 1, &free_port()));
    until_it_trains(&workspace);
    let other = until("another rank", || other_rank(node.pid()));
    signal(node.pid(), "KILL");
    wait(vec![node]);
    until("the end of the other rank", || {
        let state = fs::read_to_string(format!("/proc/{other}/stat"));
        state.is_err().then_some(())
    });
}
