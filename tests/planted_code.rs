//! A cache in which others have put machine code: it is not run.

use crate::common::{Outcome, Workspace, finish, text};
use crate::permissions::{command_under, is_root, set_mode};
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

/// A folder whose cache has its own compiled recipe engines, with each instruction replaced by one that ends
/// the program: this shows whether an engine was run. Gives their files, including those of other versions
/// of the program.
fn with_planted_engines() -> (Workspace, Vec<PathBuf>) {
    let workspace = Workspace::with_small_sweep();
    let folder = workspace.path("cache/wasm");
    let compiled = folder.canonicalize().unwrap();
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o755);
    let mut planted = Vec::new();
    for entry in fs::read_dir(compiled).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // What recipes of other tests were compiled to is small.
        if name.ends_with(".cwasm") && entry.metadata().unwrap().len() > 8 << 20 {
            let mut bytes = fs::read(entry.path()).unwrap();
            plant(&mut bytes);
            let path = folder.join(name);
            let digest = blake3::hash(&bytes).to_hex().to_string();
            fs::write(path.with_extension("blake3"), digest).unwrap();
            fs::write(&path, bytes).unwrap();
            set_mode(&path, 0o644);
            planted.push(path);
        }
    }
    (workspace, planted)
}

/// Fills the sections of an ELF file that are run with breakpoints.
fn plant(bytes: &mut [u8]) {
    let number = |bytes: &[u8], at: usize, n: usize| {
        let digits = bytes[at..at + n].iter().rev();
        digits.fold(0, |number, &byte| number << 8 | usize::from(byte))
    };
    let sections = number(bytes, 0x28, 8);
    let (n_bytes, n_sections) = (number(bytes, 0x3a, 2), number(bytes, 0x3c, 2));
    let mut n_planted = 0;
    for at in (0..n_sections).map(|index| sections + index * n_bytes) {
        let (flags, start, length) = (
            number(bytes, at + 8, 8),
            number(bytes, at + 0x18, 8),
            number(bytes, at + 0x20, 8),
        );
        if flags & 4 != 0 {
            bytes[start..start + length].fill(0xcc);
            n_planted += length;
        }
    }
    assert!(n_planted > 1 << 20, "{n_planted} bytes of code");
}

fn plan(workspace: &Workspace) -> Outcome {
    finish(command_under(workspace, "002", &["plan", "tiny.toml"]))
}

#[test]
fn machine_code_that_others_may_have_written_is_not_run() {
    let (workspace, planted) = with_planted_engines();
    let folder = workspace.path("cache/wasm");
    let is_run = || {
        let attack = plan(&workspace);
        assert!(attack.status.signal().is_some(), "no attack: {attack}");
    };
    let is_passed_over = || plan(&workspace).succeeds();
    is_run();
    set_mode(&folder, 0o2775);
    is_passed_over().remarks(&[text(&folder), "is not used: others can write to it"]);
    set_mode(&folder, 0o755);
    is_run();
    planted.iter().for_each(|path| set_mode(path, 0o664));
    // What was compiled again is in a folder that is closed under this umask, too.
    let outcome = is_passed_over();
    assert!(!outcome.stderr.contains("compiling"), "{outcome}");
    planted.iter().for_each(|path| set_mode(path, 0o644));
    is_run();
    if is_root(&workspace) {
        for paths in [&planted[..], &[folder]] {
            let give = |user| {
                let mut paths = paths.iter();
                paths.all(|path| chown(path, Some(user), None).is_ok())
            };
            assert!(give(1000));
            is_passed_over();
            assert!(give(0));
            is_run();
        }
    }
}
