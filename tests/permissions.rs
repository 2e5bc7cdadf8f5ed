//! Who may read and write what a run makes: everyone that the umask allows.

use crate::common::{Running, Workspace, signal, text, until};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `sae-run` with `args` under a umask.
pub(crate) fn command_under(workspace: &Workspace, umask: &str, args: &[&str]) -> Command {
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    let program = env!("CARGO_BIN_EXE_sae-run");
    let args = [&["-c", &script, program], args].concat();
    workspace.command_of(Path::new("sh"), &args)
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder, without following links.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| {
        let is_dir = fs::symlink_metadata(&path).unwrap().is_dir();
        let inner = if is_dir {
            everything(&path)
        } else {
            Vec::new()
        };
        [vec![path], inner].concat()
    };
    paths.flat_map(below).collect()
}

/// Whether this test runs as root, who alone can give files to others.
pub(crate) fn is_root(workspace: &Workspace) -> bool {
    fs::metadata(workspace.path("cache")).unwrap().uid() == 0
}

/// A group to which no user belongs.
const TEAM: u32 = 4242;

/// The modes of everything that a run has made, while it runs and after it.
fn assert_modes(umask: &str, file_mode: u32, folder_mode: u32) {
    let workspace = Workspace::with_small_sweep();
    fs::create_dir(workspace.path("runs")).unwrap();
    let shared = ["runs", "cache"].map(|name| workspace.path(name));
    let group = is_root(&workspace).then_some(TEAM);
    for folder in &shared {
        chown(folder, None, group).unwrap();
        set_mode(folder, 0o2777);
    }
    let check = || {
        for path in shared.iter().flat_map(|folder| everything(folder)) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let expected = match () {
                () if metadata.is_file() => file_mode,
                () if metadata.is_dir() => 0o2000 | folder_mode,
                () => continue,
            };
            let mode = metadata.mode() & 0o7777;
            assert_eq!(mode, expected, "{mode:o}: {}", path.display());
            assert!(
                group.is_none_or(|group| metadata.gid() == group),
                "{}",
                path.display()
            );
        }
    };
    let long = [
        "tiny.toml",
        "--set",
        "train.save_every=1",
        "--set",
        "train.batch_size=1",
    ];
    let [stdout, stderr] = ["stdout.txt", "stderr.txt"].map(|name| workspace.path(name));
    let running = Running::start(command_under(&workspace, umask, &long), stdout, stderr);
    until("a state", || {
        let events = workspace.events();
        let mut kinds = events.iter().map(|event| &event["event"]);
        kinds.any(|kind| kind == "checkpoint").then_some(())
    });
    signal(running.pid(), "STOP");
    // What is written this moment is not there the next.
    let worker = workspace.events()[0]["pid"].as_u64().unwrap();
    signal(u32::try_from(worker).unwrap(), "STOP");
    let names: Vec<_> = shared
        .iter()
        .flat_map(|folder| everything(folder))
        .collect();
    check();
    signal(u32::try_from(worker).unwrap(), "CONT");
    signal(running.pid(), "CONT");
    running.wait().succeeds();
    check();
    for name in [
        "runs.db",
        "runs.db-wal",
        "runs.db-shm",
        "worker.lock",
        "events.jsonl",
        "state.json",
    ] {
        assert!(
            names.iter().any(|path| text(path).ends_with(name)),
            "no {name}"
        );
    }
    assert!(
        names
            .iter()
            .any(|path| text(path).contains("/cache/digests/"))
    );
    assert!(
        names
            .iter()
            .any(|path| text(path).contains("/cache/tokens/"))
    );
}

#[test]
fn a_group_can_write_where_the_umask_says_so() {
    assert_modes("002", 0o664, 0o775);
}

#[test]
fn nobody_else_can_read_where_the_umask_says_so() {
    assert_modes("077", 0o600, 0o700);
}
