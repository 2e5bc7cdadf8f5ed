//! `sae-run` answers what the command line alone says, and becomes `sae-run-torch` for everything else.

use crate::common::{Outcome, Workspace, finish};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const FRONT: &str = env!("CARGO_BIN_EXE_sae-run");
const FULL: &str = env!("CARGO_BIN_EXE_sae-run-torch");

/// Loading libtorch, before `main` begins, is all that `--help` would wait for.
#[test]
#[cfg(target_os = "linux")]
fn only_the_full_program_loads_libtorch() {
    let loads_torch = |program: &str| libraries(program).iter().any(|name| is_of_torch(name));
    assert!(loads_torch(FULL));
    assert!(!loads_torch(FRONT), "{:?}", libraries(FRONT));
}

#[test]
fn what_the_command_line_says_needs_no_full_program() {
    let workspace = Workspace::unprepared();
    let alone = alone(&workspace);
    let run = |args: &[&str]| run(&workspace, &alone, args);
    for args in [
        &["--help"][..],
        &["--version"],
        &["help", "train"],
        &["plan", "--help"],
        &["completions", "bash"],
    ] {
        let outcome = run(args).succeeds();
        assert!(outcome.stdout.contains("sae-run"), "{outcome}");
        assert!(!outcome.stdout.contains("sae-run-torch"), "{outcome}");
        let full = self::run(&workspace, Path::new(FULL), args).succeeds();
        assert_eq!(outcome.stdout, full.stdout, "the same from either");
    }
    let mistaken = run(&["plan", "--jsn"]).refuses(&["unexpected argument '--jsn'"]);
    assert!(mistaken.stderr.contains("--json"), "{mistaken}");
}

#[test]
fn a_full_program_that_is_missing_is_told_of() {
    let workspace = Workspace::unprepared();
    let alone = alone(&workspace);
    run(&workspace, &alone, &["ls"])
        .refuses(&["cannot start", "alone/sae-run-torch"])
        .hints("`sae-run` needs `sae-run-torch` in its own folder");
}

#[test]
fn a_link_to_the_program_may_lie_anywhere() {
    let workspace = Workspace::unprepared();
    let link = workspace.path("trainer");
    symlink(FRONT, &link).unwrap();
    let outcome = run(&workspace, &link, &["recipes"]).succeeds();
    assert!(outcome.stdout.contains("grid"), "{outcome}");
}

#[test]
fn the_full_program_gets_arguments_and_input_and_its_exit_code_counts() {
    let workspace = Workspace::unprepared();
    let file = "no 'such' $FILE, with spaces.toml";
    workspace.run(&["plan", file]).refuses(&[file]);
    workspace.write("input.toml", "name = 'a b'");
    let mut command = workspace.command(&["plan", "/dev/stdin"]);
    command.stdin(File::open(workspace.path("input.toml")).unwrap());
    finish(command).refuses(&["/dev/stdin", "`name` is `a b`"]);
}

/// Shared libraries that the loader takes for a program, itself or by way of others.
#[cfg(target_os = "linux")]
fn libraries(program: &str) -> Vec<String> {
    let workspace = Workspace::unprepared();
    let mut command = workspace.command_of(Path::new(program), &[]);
    // As `ldd` asks: the loader lists them, and the program is not run.
    command.env("LD_TRACE_LOADED_OBJECTS", "1");
    let listed = finish(command).succeeds().stdout;
    let libraries: Vec<_> = listed.lines().map(|line| line.trim().to_owned()).collect();
    assert!(libraries.iter().any(|name| name.starts_with("libc.so")));
    libraries
}

fn is_of_torch(library: &str) -> bool {
    ["libtorch", "libc10", "libcudart"]
        .iter()
        .any(|name| library.starts_with(name))
}

/// The front in a folder of its own.
fn alone(workspace: &Workspace) -> PathBuf {
    workspace.write("alone/README", "");
    let alone = workspace.path("alone/sae-run");
    fs::copy(FRONT, &alone).unwrap();
    alone
}

fn run(workspace: &Workspace, program: &Path, args: &[&str]) -> Outcome {
    finish(workspace.command_of(program, args))
}
