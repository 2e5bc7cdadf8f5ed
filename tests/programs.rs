//! The two programs: `sae-run`, which needs no libtorch, and `sae-run-worker`, which computes.

use crate::common::{Outcome, Workspace, finish};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const COORDINATOR: &str = env!("CARGO_BIN_EXE_sae-run");

pub(crate) fn worker() -> PathBuf {
    Path::new(COORDINATOR).with_file_name("sae-run-worker")
}

/// Loading libtorch, before `main` begins, takes a fifth of a second.
#[test]
#[cfg(target_os = "linux")]
fn only_the_worker_loads_libtorch() {
    let loads_torch = |program: &Path| libraries(program).iter().any(|name| is_of_torch(name));
    assert!(loads_torch(&worker()));
    let coordinator = Path::new(COORDINATOR);
    assert!(!loads_torch(coordinator), "{:?}", libraries(coordinator));
}

#[test]
fn without_the_worker_what_is_known_is_shown_and_nothing_is_trained() {
    let workspace = Workspace::unprepared();
    let alone = alone(&workspace);
    for args in [&["--help"][..], &["completions", "bash"], &["recipes"]] {
        let outcome = run(&workspace, &alone, args).succeeds();
        assert!(
            outcome.stdout.contains("sae-run") || args == ["recipes"],
            "{outcome}"
        );
    }
    run(&workspace, &alone, &["doctor"])
        .refuses(&["there is no", "alone/sae-run-worker"])
        .hints("`sae-run` needs `sae-run-worker` in its own folder");
}

#[test]
fn a_link_to_the_program_may_lie_anywhere() {
    let workspace = Workspace::unprepared();
    let link = workspace.path("trainer");
    symlink(COORDINATOR, &link).unwrap();
    let outcome = run(&workspace, &link, &["doctor"]).succeeds();
    assert!(outcome.stdout.contains("libtorch   2."), "{outcome}");
}

#[test]
fn files_may_have_odd_names_and_be_devices() {
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
pub(crate) fn libraries(program: &Path) -> Vec<String> {
    let workspace = Workspace::unprepared();
    let mut command = workspace.command_of(program, &[]);
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

/// `sae-run` alone in a folder.
fn alone(workspace: &Workspace) -> PathBuf {
    workspace.write("alone/README", "");
    let alone = workspace.path("alone/sae-run");
    fs::copy(COORDINATOR, &alone).unwrap();
    alone
}

fn run(workspace: &Workspace, program: &Path, args: &[&str]) -> Outcome {
    finish(workspace.command_of(program, args))
}
