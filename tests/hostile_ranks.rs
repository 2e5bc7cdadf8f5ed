//! Ranks among others who reach their port, and workers that outlive who started them.

use crate::common::{Outcome, Running, Workspace, has_ended, signal, text, until, wait_for_end};
use crate::distributed::{free_port, long_sweep, rank, start, sweep, workspace};
use dist::Store;
use plan::StoreAddress;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const ARGS: &[&str] = &["tiny.toml"];

/// A stranger who serves the store of the ranks.
fn attacker(port: &str) -> Store {
    let address = StoreAddress {
        host: "127.0.0.1".into(),
        port: port.parse().unwrap(),
        is_served_by_launcher: false,
    };
    let patience = Duration::from_secs(60);
    Store::open(&address, true, "sae-run/0/company", (0, patience)).unwrap()
}

#[test]
fn an_order_of_anybody_but_rank_0_starts_nothing() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let (program, harm) = (workspace.path("evil.sh"), workspace.path("harm"));
    workspace.write("evil.sh", format!("#!/bin/sh\ntouch {}\n", text(&harm)));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    workspace.write("runs/tiny/.streams/a/order.json", "{}");
    let order = "tiny/.streams/a/order.json";
    let digest = blake3::hash(b"{}").to_hex().to_string();
    let sealed = |seal: &str| json!({"Train": {"path": order, "digest": digest, "seal": seal}});
    let messages = [
        // As ranks once took it.
        json!({"Train": {"program": program, "order": workspace.path("runs").join(order)}}),
        sealed(""),
        sealed(&digest),
        json!({"Train": {"path": "../../etc/passwd", "digest": "", "seal": digest}}),
    ];
    for has_key in [false, true] {
        for message in &messages {
            let port = free_port();
            if has_key {
                let key = format!("runs/.ranks.127-0-0-1-{port}.key");
                workspace.write(&key, [7; 32]);
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(workspace.path(&key), mode).unwrap();
            }
            let store = attacker(&port);
            store.set("word/0", message.to_string().as_bytes()).unwrap();
            let outcome = rank(&workspace, (1, 2), &port, ARGS).wait();
            assert!(!outcome.status.success(), "{message} {outcome}");
            assert!(!harm.exists(), "{message} {outcome}");
            assert!(!workspace.path("runs/tiny/.streams/a/worker.1.log").exists());
        }
    }
}

/// Addresses at which processes of this machine listen on `port`, as the kernel lists them.
fn listeners(port: &str) -> Vec<String> {
    let port = format!(":{:04X}", port.parse::<u16>().unwrap());
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = fields.filter(|fields| fields[3] == "0A" && fields[1].ends_with(&port));
    listening.map(|fields| fields[1].to_owned()).collect()
}

#[test]
fn the_store_of_ranks_on_one_machine_is_for_that_machine() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let port = free_port();
    let first = rank(&workspace, (0, 2), &port, ARGS);
    let addresses = until("the store", || {
        Some(listeners(&port)).filter(|addresses| !addresses.is_empty())
    });
    let loopback = ["0100007F:", "00000000000000000000000001000000:"];
    for address in &addresses {
        assert!(
            loopback.iter().any(|own| address.starts_with(own)),
            "{addresses:?}"
        );
    }
    let second = rank(&workspace, (1, 2), &port, ARGS);
    for rank in [first, second] {
        rank.wait().succeeds();
    }
}

#[test]
fn a_worker_that_waits_for_other_ranks_ends_with_its_coordinator() {
    let workspace = workspace(&sweep(4, "retries = 0"));
    let first = rank(&workspace, (0, 2), &free_port(), ARGS);
    let pid = until("the worker", || {
        let holder = fs::read_dir(workspace.path("runs/tiny/.streams"))
            .ok()?
            .next()?;
        let holder = fs::read_to_string(holder.unwrap().path().join("worker.lock")).ok()?;
        holder.split(' ').next()?.parse::<u32>().ok()
    });
    // It now waits for rank 1, which never comes.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!has_ended(pid));
    first.kill();
    let killed = Instant::now();
    wait_for_end(pid);
    assert!(
        killed.elapsed() < Duration::from_secs(30),
        "{:?}",
        killed.elapsed()
    );
    // Nothing blocks the next run.
    for rank in start(&workspace, 2, &["tiny.toml"]) {
        rank.wait().succeeds();
    }
}

/// A process that has the lock of sweep `tiny`'s stream, as a worker does, and does not end when it is asked to.
/// A worker that is stopped (SIGSTOP) will not do: the kernel hangs up on it when its parent dies.
fn stubborn_worker(workspace: &Workspace) -> Child {
    let lock = workspace.stream_dir().join("worker.lock");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let script = "trap '' TERM; exec 9<\"$1\"; flock 9; printf '%s %s' $$ \"$2\" > \"$1\"; \
                  while :; do sleep 0.1; done";
    let mut command = Command::new("sh");
    command.args(["-c", script, "worker", text(&lock), host.trim()]);
    let child = command.spawn().unwrap();
    until("the lock", || {
        let holder = fs::read_to_string(&lock).unwrap();
        holder
            .starts_with(&format!("{} ", child.id()))
            .then_some(())
    });
    child
}

#[test]
fn a_worker_that_does_not_end_is_named_and_can_be_taken_over() {
    let workspace = workspace(&long_sweep("retries = 0"));
    let running = workspace.start(&["tiny.toml"]);
    let pid = until("an update", || {
        let dir = workspace.path("runs/tiny/.streams");
        let events = dir.is_dir().then(|| workspace.events())?;
        let started = events.iter().find(|event| event["event"] == "started")?;
        let is_metric = |event: &serde_json::Value| event["event"] == "metric";
        events.iter().any(is_metric).then_some(())?;
        u32::try_from(started["pid"].as_u64().unwrap()).ok()
    });
    running.kill();
    wait_for_end(pid);
    let mut stubborn = stubborn_worker(&workspace);
    let who = format!("worker {} of an earlier `sae-run`", stubborn.id());
    let mut waiting = workspace.start(&["tiny.toml"]);
    waiting.says(&format!("waiting for {who}"));
    waiting.says("`--take-over` stops it");
    waiting.kill();
    assert!(stubborn.try_wait().unwrap().is_none());
    let outcome = workspace.run(&["tiny.toml", "--take-over"]).succeeds();
    outcome.remarks(&[&format!("stopping {who}"), "all 2 jobs are done"]);
    assert!(!stubborn.wait().unwrap().success());
}

#[test]
fn a_rank_that_waits_says_for_whom_and_ends_on_signals() {
    let hint = "hint: variables of a launcher are set, such as RANK and WORLD_SIZE, or PET_NNODES: unset them";
    let ports = [(); 3].map(|()| free_port());
    let workspaces = [(); 3].map(|()| workspace(&sweep(4, "retries = 0")));
    // A store that is there, but in which no one says anything.
    let _silent = attacker(&ports[2]);
    let rank_of = [(0, 2), (1, 2), (1, 2)];
    let whom = ["rank 1 of 2, at", "rank 0 at", "rank 0, at"];
    let mut ranks: Vec<Running> = (0..3)
        .map(|index| rank(&workspaces[index], rank_of[index], &ports[index], ARGS))
        .collect();
    for (index, rank) in ranks.iter_mut().enumerate() {
        rank.says(&format!(
            "waiting for {} 127.0.0.1:{}",
            whom[index], ports[index]
        ));
    }
    let asked = Instant::now();
    for rank in &ranks {
        signal(rank.pid(), "TERM");
    }
    std::thread::sleep(Duration::from_millis(500));
    // The first signal asks rank 0 to stop all; this one ends.
    signal(ranks[2].pid(), "INT");
    let outcomes: Vec<Outcome> = ranks.into_iter().map(Running::wait).collect();
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "{:?}",
        asked.elapsed()
    );
    assert!(outcomes[0].stderr.contains(hint), "{}", outcomes[0]);
    assert!(outcomes[1].stderr.contains(hint), "{}", outcomes[1]);
    for outcome in outcomes {
        assert!(!outcome.status.success(), "{outcome}");
    }
}
