//! The program as `sae-run` starts it. (That there is such a test has cargo build the program for all others.)
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use plan::{Answer, Machine, ProveTask, SaeForm, Task};
use std::io::Write;
use std::process::{Command, Output};
use tempfile::NamedTempFile;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sae-run-worker"));
    command.args(args).output().unwrap()
}

/// The answers to a task, and the exit code.
fn answers(task: &[u8]) -> (Vec<Answer>, Option<i32>) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(task).unwrap();
    let output = run(&["task", file.path().to_str().unwrap()]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), output.status.code())
}

#[test]
fn it_says_how_it_is_started() {
    for args in [&[][..], &["train"], &["order"], &["task", "a", "b"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.starts_with("usage: sae-run-worker order FILE"),
            "{stderr}"
        );
    }
    let version = run(&["--version"]).stdout;
    let expected = format!("sae-run-worker {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version).unwrap(), expected);
}

#[test]
fn a_task_is_answered_with_its_value() {
    let (answers, code) = answers(&serde_json::to_vec(&Task::Machine).unwrap());
    let [Answer::Done(value)] = &answers[..] else {
        panic!("{answers:?}");
    };
    let machine: Machine = serde_json::from_value(value.clone()).unwrap();
    assert!(
        machine.n_threads > 0 && machine.libtorch.starts_with("2."),
        "{machine:?}"
    );
    assert_eq!(code, Some(0));
}

#[test]
fn a_task_that_fails_says_why_and_whose_fault_it_is() {
    let proof = ProveTask {
        dir: "no/such/sae".into(),
        form: SaeForm::Sparsify,
        out: "no/such/folder".into(),
        is_kept: true,
    };
    let missing = serde_json::to_vec(&Task::Prove(vec![proof])).unwrap();
    for (task, expected) in [(&missing[..], "no/such/sae"), (b"{}", "is not a task")] {
        let (answers, code) = answers(task);
        let [Answer::Failed { message, kind, .. }] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert!(message.contains(expected), "{message}");
        assert_eq!(code, Some(kind.exit_code().into()));
    }
}
