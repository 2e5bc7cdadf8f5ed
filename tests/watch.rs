//! Progress of a sweep: at a terminal, and from another one.

use crate::common::Workspace;
use crate::interrupt::{start, workspace};
use rexpect::session::{PtySession, spawn_command};
use std::process::{Command, Stdio};

const TIMEOUT_MS: u64 = 120_000;

/// `sae-run` at a terminal of `columns` columns.
fn at_a_terminal(workspace: &Workspace, columns: usize, args: &[&str]) -> PtySession {
    let program = env!("CARGO_BIN_EXE_sae-run");
    let command = workspace.command(&[]);
    let mut shell = Command::new("sh");
    shell.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let script = format!(
        "stty cols {columns} rows 24; exec {program} {}",
        args.join(" ")
    );
    shell.args(["-c", &script]).current_dir(workspace.path(""));
    shell.env("TERM", "xterm").env("NO_COLOR", "1");
    shell.stdin(Stdio::inherit());
    spawn_command(shell, Some(TIMEOUT_MS)).unwrap()
}

/// All that a session draws in lines of `columns` columns, without what steers the terminal.
fn drawn(session: &mut PtySession, columns: usize) -> Vec<String> {
    // It takes each byte for a character.
    let bytes: Vec<u8> = session
        .exp_eof()
        .unwrap()
        .chars()
        .map(|c| c as u8)
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // A sequence that steers ends in a letter.
            '\x1b' => {
                chars.find(char::is_ascii_alphabetic);
                lines.push(String::new());
            }
            '\r' | '\n' => lines.push(String::new()),
            c => lines.last_mut().unwrap().push(c),
        }
    }
    // A line that is full is followed by the next without a break.
    let lines = lines.iter().flat_map(|line| {
        let chars: Vec<char> = line.chars().collect();
        let lines = chars
            .chunks(columns)
            .map(|line| line.iter().collect::<String>());
        lines.collect::<Vec<_>>()
    });
    let lines = lines.map(|line| line.trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// The longest line with all that one wants to see in it.
#[track_caller]
fn full_line(lines: &[String]) -> &String {
    let wanted = ["/320 steps", " left", " tokens/s", "FVU 0."];
    let is_full = |line: &&String| wanted.iter().all(|part| line.contains(part));
    let full = lines
        .iter()
        .filter(is_full)
        .max_by_key(|line| line.chars().count());
    full.unwrap_or_else(|| panic!("no line has all: {lines:#?}"))
}

#[test]
fn a_line_of_80_columns_has_steps_time_speed_and_fvu() {
    for columns in [80, 120] {
        let workspace = workspace();
        let mut run = at_a_terminal(&workspace, columns, &["tiny.toml"]);
        let lines = drawn(&mut run, columns);
        let line = full_line(&lines);
        assert!(line.starts_with("stream "), "{line}");
        assert!(line.chars().count() <= columns, "{line}");
        let of_sweep = lines.iter().find(|line| line.contains("done at ")).unwrap();
        assert!(
            of_sweep.starts_with("tiny ") && of_sweep.contains("/4 jobs"),
            "{of_sweep}"
        );
        assert!(of_sweep.chars().count() <= columns, "{of_sweep}");
        let is_end = |line: &String| line.contains("all 4 jobs are done, in ");
        assert!(lines.iter().any(is_end), "{lines:#?}");
    }
}

#[test]
fn another_terminal_watches_a_sweep() {
    let workspace = workspace();
    let running = start(&workspace);
    let shown = workspace.run(&["watch", "--once"]).succeeds();
    let lines: Vec<&str> = shown.stdout.lines().collect();
    assert!(
        lines[0].starts_with("tiny ") && lines[0].contains("/4 jobs"),
        "{shown}"
    );
    for part in ["stream", "/320 steps", "left", "tokens/s", "FVU"] {
        assert!(lines[1].contains(part), "{shown}");
    }
    let mut watch = at_a_terminal(&workspace, 80, &["watch", "tiny"]);
    watch.exp_string("/320 steps").unwrap();
    let lines = drawn(&mut watch, 80);
    running.wait().succeeds();
    let last = lines.last().unwrap();
    assert_eq!(last, "`tiny` is not running: 4 of 4 jobs done");
    let ended = workspace.run(&["watch"]).succeeds();
    assert_eq!(ended.stdout, "`tiny` is not running: 4 of 4 jobs done\n");
    workspace
        .run(&["watch", "tinny"])
        .refuses(&["no sweep is called `tinny`"]);
}
