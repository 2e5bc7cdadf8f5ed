//! Files that workers report through, damaged in every way: what was folded stays, the rest is put aside,
//! and the jobs end as if nothing had happened.

use crate::common::{Workspace, signal, until, wait_for_end};
use crate::interrupt::{
    ended_the_same, goes_on_to_the_same_end, reported, start, worker_pid, workspace,
};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn events_of(workspace: &Workspace) -> PathBuf {
    workspace.stream_dir().join("events.jsonl")
}

fn aside(events: &Path, n: u32) -> PathBuf {
    events.with_file_name(format!("events.jsonl.unreadable-{n}"))
}

/// Lines that no worker of this stream writes, each with its end. `event`: one that it did write.
fn bad_lines(event: &Value) -> Vec<Vec<u8>> {
    let changed = |key: &str, value: Value| {
        let mut event = event.clone();
        event[key] = value;
        event.to_string().into_bytes()
    };
    let metric = r#"{"seq":3,"time_ms":1,"attempt":1,"event":"metric","job_id":"0123456789ab",
        "sae":"layers.0","step":1,"stats":{"n_tokens":1,"squared_error":1.0,"total_variance":1.0,
        "l0":1.0,"n_dead":0}}"#;
    let of_others = |seq: Value| {
        let mut metric: Value = serde_json::from_str(metric).unwrap();
        metric["seq"] = seq;
        metric.to_string().into_bytes()
    };
    let lines = [
        b"garbage".to_vec(),
        vec![0xff, 0xfe, 0x80],
        vec![0; 4096],
        b"[]".to_vec(),
        b"{\"seq\": 3, \"time_ms\"".to_vec(),
        vec![b'x'; 20 << 20],
        changed("event", "of_the_future".into()),
        changed("seq", 1.into()),
        changed("seq", 999_999.into()),
        changed("seq", u64::MAX.into()),
        changed("attempt", "first".into()),
        of_others(event["seq"].clone()),
        of_others((event["seq"].as_u64().unwrap() + 1).into()),
    ];
    lines.map(|line| [&line[..], b"\n"].concat()).into()
}

/// Puts all kinds of bad lines after some of the lines of a file; gives the number of their bytes.
fn damage(events: &Path) -> usize {
    let whole = fs::read_to_string(events).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    let (mut damaged, mut n_bytes) = (Vec::new(), 0);
    let numbers = [
        1,
        lines.len() / 3,
        lines.len() / 2,
        lines.len() - 1,
        lines.len(),
    ];
    for (n, line) in lines.iter().enumerate() {
        damaged.extend(line.as_bytes());
        if numbers.contains(&(n + 1)) {
            for bad in bad_lines(&serde_json::from_str(line).unwrap()) {
                n_bytes += bad.len();
                damaged.extend(bad);
            }
        }
    }
    fs::write(events, damaged).unwrap();
    n_bytes
}

/// A run whose worker and `sae-run` are killed after the first checkpoints, of which `sae-run` has heard
/// nothing.
fn killed_unheard() -> Workspace {
    let workspace = workspace();
    let running = workspace.start(&["tiny.toml"]);
    reported(&workspace, "ready", 1);
    signal(running.pid(), "STOP");
    reported(&workspace, "checkpoint", 4);
    let worker = worker_pid(&workspace);
    signal(worker, "KILL");
    wait_for_end(worker);
    running.kill();
    workspace
}

fn stopped() -> Workspace {
    let workspace = workspace();
    let running = start(&workspace);
    signal(running.pid(), "INT");
    running.wait().exits(130);
    workspace
}

#[test]
fn bad_lines_of_every_kind_stop_no_run_and_cost_no_row() {
    for workspace in [stopped(), killed_unheard()] {
        let events = events_of(&workspace);
        let n_bytes = damage(&events);
        let outcome = workspace.run(&["tiny.toml"]).succeeds();
        let (name, aside_1) = ("events.jsonl`: ", "events.jsonl.unreadable-1`");
        outcome.remarks(&[name, "cannot be read, from line 2 on", aside_1]);
        ended_the_same(&workspace);
        let put_aside = fs::metadata(aside(&events, 1)).unwrap().len();
        assert!(
            put_aside >= n_bytes as u64 * 9 / 10,
            "{put_aside} of {n_bytes}"
        );
        assert!(!aside(&events, 2).exists());
        // What is left is enough if there is no database yet.
        fs::remove_file(workspace.path("runs/runs.db")).unwrap();
        workspace.run(&["tiny.toml"]).succeeds();
        ended_the_same(&workspace);
    }
}

#[test]
fn where_no_line_can_be_read_the_jobs_go_on_from_their_checkpoints() {
    for content in ["garbage\n", "garbage without an end", "[1]\n"] {
        let workspace = stopped();
        fs::write(events_of(&workspace), content.repeat(100)).unwrap();
        goes_on_to_the_same_end(&workspace);
    }
}

#[test]
fn what_a_power_cut_leaves_is_half_a_line() {
    let workspace = killed_unheard();
    let events = events_of(&workspace);
    let file = OpenOptions::new().append(true).open(&events).unwrap();
    let n_bytes = file.metadata().unwrap().len();
    file.set_len(n_bytes - 20).unwrap();
    // Longer than any line, and than what is read in one go.
    file.set_len(n_bytes + (64 << 20)).unwrap();
    goes_on_to_the_same_end(&workspace);
    assert!(fs::metadata(&events).unwrap().len() < 8 << 20);
    assert!(!aside(&events, 1).exists());
}

#[test]
fn a_database_that_was_lost_comes_back_from_a_damaged_file() {
    let workspace = stopped();
    damage(&events_of(&workspace));
    fs::remove_file(workspace.path("runs/runs.db")).unwrap();
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn what_others_write_into_the_file_meanwhile_does_not_disturb() {
    let workspace = workspace();
    let running = start(&workspace);
    let events = events_of(&workspace);
    let last = workspace.events().pop().unwrap();
    let mut file = OpenOptions::new().append(true).open(&events).unwrap();
    let mut n_bytes = 0;
    for bad in bad_lines(&last) {
        file.write_all(&bad).unwrap();
        n_bytes += bad.len() as u64;
    }
    let mut later = last.clone();
    later["attempt"] = 7.into();
    later["seq"] = (later["seq"].as_u64().unwrap() + 1).into();
    file.write_all(format!("{later}\n").as_bytes()).unwrap();
    let outcome = running.wait().succeeds();
    outcome.remarks(&["cannot be read", "events.jsonl.unreadable-1`"]);
    ended_the_same(&workspace);
    let put_aside = fs::metadata(aside(&events, 1)).unwrap().len();
    assert!(put_aside >= n_bytes * 9 / 10, "{put_aside} of {n_bytes}");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM attempt"), 1);
}

#[test]
fn a_file_that_is_cut_meanwhile_does_not_disturb() {
    let workspace = workspace();
    let running = start(&workspace);
    let file = OpenOptions::new().write(true).open(events_of(&workspace));
    file.unwrap().set_len(0).unwrap();
    running.wait().succeeds().remarks(&["all 4 jobs are done"]);
}

#[test]
fn a_fresh_start_does_not_look_into_the_old_file() {
    let replacements: [fn(&Path); 3] = [
        |path| fs::write(path, "garbage\n").unwrap(),
        |path| fs::create_dir(path).unwrap(),
        // Opening it waits forever.
        |path| {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        },
    ];
    for replace in replacements {
        for args in [&["tiny.toml", "--fresh", "--yes"][..], &["tiny.toml"]] {
            let workspace = stopped();
            let events = events_of(&workspace);
            fs::remove_file(&events).unwrap();
            replace(&events);
            let mut running = workspace.start(args);
            until("its end", || running.status());
            running.wait().succeeds();
            ended_the_same(&workspace);
        }
    }
}

#[test]
fn other_files_of_a_stream_are_made_anew() {
    let workspace = stopped();
    let dir = workspace.stream_dir();
    for name in ["order.json", "order.json.tmp", "worker.lock", "worker.log"] {
        fs::write(dir.join(name), [0xff, 0, b'\n']).unwrap();
    }
    goes_on_to_the_same_end(&workspace);
}
