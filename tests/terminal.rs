//! What asks at a terminal, at a real one.

use crate::common::Workspace;
use rexpect::session::{PtySession, spawn_command};
use std::process::Stdio;

const TIMEOUT_MS: u64 = 60_000;

fn trained() -> Workspace {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

fn at_a_terminal(workspace: &Workspace, args: &[&str]) -> PtySession {
    let mut command = workspace.command(args);
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    command.stdin(Stdio::inherit());
    spawn_command(command, Some(TIMEOUT_MS)).unwrap()
}

#[test]
fn the_prompt_answers_completes_and_goes_on_after_errors() {
    let workspace = trained();
    let mut prompt = at_a_terminal(&workspace, &["sql"]);
    prompt.exp_string("leave with Ctrl-D").unwrap();
    prompt.exp_string("sql> ").unwrap();
    prompt.send_line("SELECT count(*) + 40 AS n_jobs").unwrap();
    prompt.exp_string("...> ").unwrap();
    prompt.send_line("FROM job;").unwrap();
    prompt.exp_string("n_jobs").unwrap();
    prompt.exp_string("42").unwrap();
    prompt.exp_string("sql> ").unwrap();
    prompt.send_line("DELETE FROM job;").unwrap();
    prompt.exp_string("refused").unwrap();
    prompt.exp_string("sql> ").unwrap();
    // Tab completes the name of a column.
    prompt.send("SELECT max(dead_p\t").unwrap();
    prompt.flush().unwrap();
    prompt.exp_string("dead_pct").unwrap();
    // Ctrl-C drops what was begun.
    prompt.send_control('c').unwrap();
    prompt.exp_string("sql> ").unwrap();
    prompt.send_line("SELECT 'still ' || 'here;").unwrap();
    // That `;` is in quotes.
    prompt.exp_string("...> ").unwrap();
    prompt.send_line("' AS word; -- done").unwrap();
    prompt.exp_string("still here").unwrap();
    prompt.exp_string("sql> ").unwrap();
    prompt.send_control('d').unwrap();
    prompt.exp_eof().unwrap();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 2);
}

#[test]
fn rm_asks_and_takes_only_a_yes_for_one() {
    let workspace = trained();
    for answer in ["", "n", "maybe"] {
        let mut rm = at_a_terminal(&workspace, &["rm", "tiny"]);
        rm.exp_string("delete? [y/N]").unwrap();
        rm.send_line(answer).unwrap();
        rm.exp_string("nothing was deleted").unwrap();
        rm.exp_eof().unwrap();
        assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 2);
    }
    let mut rm = at_a_terminal(&workspace, &["rm", "tiny"]);
    rm.exp_string("delete? [y/N]").unwrap();
    rm.send_line("y").unwrap();
    rm.exp_string("deleted 2 jobs").unwrap();
    rm.exp_eof().unwrap();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 0);
    assert!(workspace.trained().is_empty());
}

#[test]
fn fresh_asks_and_takes_only_a_yes_for_one() {
    let workspace = trained();
    let finals = "SELECT sum(created_ms) FROM checkpoint WHERE is_final";
    let before = workspace.sql_value(finals);
    for answer in ["", "n", "maybe"] {
        let mut run = at_a_terminal(&workspace, &["tiny.toml", "--fresh"]);
        run.exp_string("to delete: 2 jobs with 16 steps").unwrap();
        run.exp_string("train them again from the start? [y/N]")
            .unwrap();
        run.send_line(answer).unwrap();
        run.exp_string("nothing was changed").unwrap();
        run.exp_eof().unwrap();
        assert_eq!(workspace.sql_value(finals), before);
    }
    let mut run = at_a_terminal(&workspace, &["tiny.toml", "--fresh"]);
    run.exp_string("train them again from the start? [y/N]")
        .unwrap();
    run.send_line("y").unwrap();
    run.exp_string("all 2 jobs are done").unwrap();
    run.exp_eof().unwrap();
    assert_ne!(workspace.sql_value(finals), before);
}

#[test]
fn bars_are_drawn_where_somebody_looks() {
    let workspace = Workspace::with_small_sweep();
    let mut run = at_a_terminal(&workspace, &["tiny.toml"]);
    run.exp_string("jobs").unwrap();
    run.exp_string("all 2 jobs are done").unwrap();
    run.exp_eof().unwrap();
}
