//! Every launcher by plain variables, and what is wrong with them.

use crate::environment::{Environment, Launched, NodeLaunch, PerNode};
use crate::launcher_variables::LAUNCHERS;
use fault::{FailureKind, Fault, Remedy};
use files::testing::any_bytes_of_text;
use proptest::prelude::*;

/// Variables, one a word.
fn read(variables: &str) -> Result<Launched, Fault> {
    Launched::read(&|name| {
        let mut variables = variables.split(' ').filter_map(|word| word.split_once('='));
        let (_, value) = variables.find(|(key, _)| *key == name)?;
        Some(value.replace("\\n", "\n"))
    })
}

fn rank(variables: &str) -> Environment {
    match read(variables) {
        Ok(Launched::Rank(environment)) => environment,
        other => panic!("{variables}: {other:?}"),
    }
}

fn node(variables: &str) -> NodeLaunch {
    match read(variables) {
        Ok(Launched::Node(node)) => node,
        other => panic!("{variables}: {other:?}"),
    }
}

/// Rank, processes, both on the node, and where they meet.
fn shown(of: &Environment) -> String {
    let Environment {
        rank,
        world_size,
        local_rank,
        local_size,
        store,
        ..
    } = of;
    format!("{rank}/{world_size} {local_rank}/{local_size} {store}")
}

#[test]
fn launchers_of_ranks() {
    for (variables, expected) in [
        (
            "RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8 MASTER_ADDR=node0 MASTER_PORT=29511",
            "9/16 1/8 node0:29511",
        ),
        (
            "RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29511",
            "1/2 1/2 127.0.0.1:29511",
        ),
        // All are here: no other machine must reach the store.
        (
            "RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node0 MASTER_PORT=1",
            "1/2 1/2 127.0.0.1:1",
        ),
        (
            "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 \
             OMPI_COMM_WORLD_LOCAL_SIZE=2 MASTER_ADDR=node0",
            "3/4 1/2 node0:29500",
        ),
        (
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2",
            "1/2 1/2 127.0.0.1:29500",
        ),
        // mpirun in a job of Slurm.
        (
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=1 SLURM_PROCID=0 \
             SLURM_NTASKS=2 SLURM_JOB_ID=31234 SLURM_JOB_NODELIST=gpu[07-08]",
            "1/2 1/1 gpu07:21234",
        ),
        (
            "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=2 MASTER_ADDR=a MASTER_PORT=2",
            "2/4 0/2 a:2",
        ),
        (
            "SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NODEID=2 SLURM_STEP_TASKS_PER_NODE=2(x4) \
             SLURM_STEP_NODELIST=n[1-4] SLURM_JOB_ID=7 SLURM_NTASKS=64",
            "5/8 1/2 n1:20007",
        ),
        (
            "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 MASTER_ADDR=node0 MASTER_PORT=29500",
            "5/8 1/1 node0:29500",
        ),
    ] {
        assert_eq!(shown(&rank(variables)), expected, "{variables}");
    }
    let served = rank(
        "RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 MASTER_ADDR=node0 MASTER_PORT=29500 \
         TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RESTART_COUNT=2",
    );
    assert!(served.store.is_served_by_launcher);
    assert_eq!(served.restart_count, 2);
}

#[test]
fn launchers_of_nodes() {
    for (variables, launcher, per_node, expected) in [
        (
            "PET_NNODES=2 PET_NPROC_PER_NODE=4 PET_NODE_RANK=1 PET_MASTER_ADDR=demo-node-0-0.demo \
             PET_MASTER_PORT=29400",
            "Kubeflow or JobSet",
            PerNode::Count(4),
            "7/8 3/4 demo-node-0-0.demo:29400",
        ),
        (
            "PET_NNODES=2 PET_NPROC_PER_NODE=auto JOB_COMPLETION_INDEX=1 PET_MASTER_ADDR=a",
            "Kubeflow or JobSet",
            PerNode::Auto,
            "7/8 3/4 a:29500",
        ),
        // What an operator sets for each pod is not what torchrun sets for each rank.
        (
            "PET_NNODES=2 PET_NODE_RANK=1 PET_NPROC_PER_NODE=gpu PET_MASTER_ADDR=a RANK=1 WORLD_SIZE=2 \
             MASTER_ADDR=a MASTER_PORT=23456",
            "Kubeflow or JobSet",
            PerNode::Gpu,
            "7/8 3/4 a:23456",
        ),
        (
            "PET_NPROC_PER_NODE=4",
            "Kubeflow or JobSet",
            PerNode::Count(4),
            "3/4 3/4 127.0.0.1:29500",
        ),
        (
            "SKYPILOT_NODE_RANK=1 SKYPILOT_NUM_NODES=2 SKYPILOT_NUM_GPUS_PER_NODE=4 \
             SKYPILOT_NODE_IPS=10.0.0.7\\n10.0.0.8",
            "SkyPilot",
            PerNode::Count(4),
            "7/8 3/4 10.0.0.7:29500",
        ),
        (
            "SKYPILOT_NODE_RANK=0 SKYPILOT_NUM_NODES=2 SKYPILOT_NUM_GPUS_PER_NODE=0 SKYPILOT_NODE_IPS=a\\nb \
             MASTER_PORT=7",
            "SkyPilot",
            PerNode::Unknown,
            "3/8 3/4 a:7",
        ),
        (
            "NNODES=2 NODE_RANK=1 NPROC_PER_NODE=cpu MASTER_ADDR=a MASTER_PORT=9",
            "plain variables",
            PerNode::Cpu,
            "7/8 3/4 a:9",
        ),
    ] {
        let node = node(variables);
        assert_eq!((node.launcher, node.per_node), (launcher, per_node));
        let last = node.rank(3, 4).unwrap();
        assert_eq!(shown(&last), expected, "{variables}");
        // The variables that a rank is started with say the same again.
        let words = last
            .variables()
            .map(|(name, value)| format!("{name}={value}"));
        let started = format!("{} {variables}", words.join(" "));
        assert_eq!(rank(&started), last);
    }
}

#[test]
fn without_a_launcher_there_is_no_world() {
    for variables in [
        "",
        "RANK=0 WORLD_SIZE=1",
        // Shells in an allocation.
        "SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_JOB_NODELIST=n[1-8]",
        "SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_NTASKS=8",
        // One node: the sweep says how many processes.
        "SKYPILOT_NODE_RANK=0 SKYPILOT_NUM_NODES=1 SKYPILOT_NUM_GPUS_PER_NODE=8 SKYPILOT_NODE_IPS=10.0.0.7",
        "PET_NNODES=1 PET_NPROC_PER_NODE=1",
        "NNODES=1 NODE_RANK=0 MASTER_ADDR=a",
        "NODE_RANK=1 MASTER_ADDR=a",
        "JOB_COMPLETION_INDEX=1 MASTER_ADDR=a MASTER_PORT=1",
    ] {
        assert_eq!(read(variables).unwrap(), Launched::Alone, "{variables}");
    }
    assert_eq!(
        node("PET_NNODES=1 PET_NPROC_PER_NODE=auto").rank(0, 1),
        None
    );
    // On one node of SkyPilot, mpirun still counts.
    let mpi = "SKYPILOT_NODE_RANK=0 SKYPILOT_NUM_NODES=1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 \
               OMPI_COMM_WORLD_LOCAL_SIZE=2 SKYPILOT_NODE_IPS=a";
    assert_eq!(rank(mpi).rank, 1);
}

fn is_missing(present: &str, missing: &str) -> String {
    format!("`{present}` is set in the environment, and `{missing}` is not")
}

fn is_not(name: &str, value: &str, expected: &str) -> String {
    format!("`{name}` in the environment is `{value}`, not a number from {expected}")
}

#[track_caller]
fn assert_says(variables: &str, expected: &str) {
    let error = read(variables).unwrap_err();
    assert_eq!(error.to_string(), expected, "{variables}");
    assert_eq!(error.kind(), FailureKind::Input);
    assert!(error.hint().is_some());
}

#[test]
fn what_is_missing_or_wrong_of_ranks_is_named() {
    for (variables, expected) in [
        ("WORLD_SIZE=2", is_missing("WORLD_SIZE", "RANK")),
        ("RANK=0", is_missing("RANK", "WORLD_SIZE")),
        ("RANK=0 WORLD_SIZE=2", is_missing("RANK", "MASTER_ADDR")),
        (
            "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a",
            is_missing("RANK", "MASTER_PORT"),
        ),
        ("RANK=2 WORLD_SIZE=2", is_not("RANK", "2", "0 to 1")),
        ("RANK=-1 WORLD_SIZE=2", is_not("RANK", "-1", "0 to 1")),
        ("RANK=x WORLD_SIZE=2", is_not("RANK", "x", "0 to 1")),
        ("RANK=0 WORLD_SIZE=0", is_not("WORLD_SIZE", "0", "1 on")),
        (
            "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000",
            is_not("MASTER_PORT", "70000", "1 to 65535"),
        ),
        (
            "OMPI_COMM_WORLD_RANK=1",
            is_missing("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ),
        (
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=2",
            is_missing("OMPI_COMM_WORLD_RANK", "MASTER_ADDR"),
        ),
        (
            "OMPI_COMM_WORLD_RANK=4 OMPI_COMM_WORLD_SIZE=4",
            is_not("OMPI_COMM_WORLD_RANK", "4", "0 to 3"),
        ),
        (
            "PMI_RANK=0 PMI_SIZE=many",
            is_not("PMI_SIZE", "many", "1 on"),
        ),
        (
            "SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=a",
            is_missing("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
        ),
        (
            "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=2",
            is_not("SLURM_PROCID", "2", "0 to 1"),
        ),
    ] {
        assert_says(variables, &expected);
    }
}

#[test]
fn what_is_missing_or_wrong_of_nodes_is_named() {
    for (variables, expected) in [
        (
            "PET_NNODES=2 PET_MASTER_ADDR=a",
            is_missing("PET_NNODES", "PET_NODE_RANK"),
        ),
        (
            "PET_NNODES=2 PET_NODE_RANK=0",
            is_missing("PET_NNODES", "PET_MASTER_ADDR"),
        ),
        ("PET_NNODES=1:4", is_not("PET_NNODES", "1:4", "1 on")),
        (
            "PET_NNODES=2 PET_NODE_RANK=2",
            is_not("PET_NODE_RANK", "2", "0 to 1"),
        ),
        (
            "PET_NNODES=2 JOB_COMPLETION_INDEX=5",
            is_not("JOB_COMPLETION_INDEX", "5", "0 to 1"),
        ),
        (
            "PET_NNODES=2 PET_NODE_RANK=0 PET_NPROC_PER_NODE=all",
            is_not("PET_NPROC_PER_NODE", "all", "1 on") + ", `gpu`, `cpu` or `auto`",
        ),
        (
            "SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_IPS=a",
            is_missing("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK"),
        ),
        (
            "SKYPILOT_NODE_RANK=1",
            is_missing("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
        ),
        (
            "SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_RANK=1",
            is_missing("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS"),
        ),
        (
            "SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_RANK=3",
            is_not("SKYPILOT_NODE_RANK", "3", "0 to 1"),
        ),
        (
            "SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_RANK=0 SKYPILOT_NUM_GPUS_PER_NODE=two",
            is_not("SKYPILOT_NUM_GPUS_PER_NODE", "two", "1 on"),
        ),
        (
            "NNODES=2 NODE_RANK=2 MASTER_ADDR=a",
            is_not("NODE_RANK", "2", "0 to 1"),
        ),
    ] {
        assert_says(variables, &expected);
    }
}

fn value() -> impl Strategy<Value = Option<String>> {
    prop::option::weighted(
        0.8,
        any_bytes_of_text(&[
            "0",
            "1",
            "2",
            "8",
            "True",
            "127.0.0.1",
            "n[1-2],m",
            "2(x3),1",
            "gpu",
        ]),
    )
}

/// All variables that one launcher is read by.
fn names(launcher_idx: usize) -> Vec<&'static str> {
    let launcher = &LAUNCHERS[launcher_idx];
    let mut names = launcher.rank.to_vec();
    names.extend(launcher.local_rank);
    names.extend([launcher.size, launcher.n_here.0, "SLURM_NODEID"]);
    names.extend(launcher.host.iter().map(|(name, _)| *name));
    names.extend(launcher.port);
    names.extend(["MASTER_ADDR", "SLURM_JOB_ID"]);
    names.extend(["TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"]);
    names
}

proptest! {
    #[test]
    fn any_bytes_in_variables_are_an_environment_or_an_error(
        values in prop::collection::vec(value(), 16),
        launcher_idx in 0..LAUNCHERS.len(),
    ) {
        let names = names(launcher_idx);
        prop_assert!(names.len() <= values.len());
        let get = |name: &str| values[names.iter().position(|of| *of == name)?].clone();
        let world = match Launched::read(&get) {
            Ok(Launched::Rank(world)) => Some(world),
            Ok(Launched::Node(node)) => node.rank(0, 2),
            Ok(Launched::Alone) | Err(_) => None,
        };
        if let Some(world) = world {
            prop_assert!(world.world_size > 1 && world.rank < world.world_size);
            prop_assert!(world.local_rank < world.world_size && world.store.port > 0);
            prop_assert!(!world.store.host.is_empty());
        }
    }
}
