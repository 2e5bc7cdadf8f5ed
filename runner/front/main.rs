//! `sae-run`: answers what the command line alone says, and becomes `sae-run-torch` for everything else.
//!
//! Loading libtorch takes a fifth of a second, before `main` begins. This program names no crate that links
//! it, so help, versions, mistakes and completions come at once, and also where libtorch is missing.

use args::{Args, Command};
use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, ExitCode};

/// The program that knows libtorch; it lies beside this one.
const FULL_PROGRAM: &str = "sae-run-torch";

/// What bad input or a bad environment ends with.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    match Args::of_process().command {
        Some(Command::Completions { shell }) => {
            args::print_completions(shell);
            ExitCode::SUCCESS
        }
        _ => {
            become_full_program().print();
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// Runs the full program on the same arguments in this process: its id, group, files and signals stay what
/// they are, and whoever started this one waits for that one.
fn become_full_program() -> FrontError {
    let program = match full_program() {
        Ok(program) => program,
        Err(source) => return FrontError::NoFolder { source },
    };
    let source = process::Command::new(&program)
        .args(env::args_os().skip(1))
        .exec();
    FrontError::NotStarted { program, source }
}

/// Where it lies. A link to this program may lie anywhere.
fn full_program() -> io::Result<PathBuf> {
    let own = env::current_exe()?.canonicalize()?;
    Ok(own.with_file_name(FULL_PROGRAM))
}

/// Why there is no full program.
#[derive(Debug, thiserror::Error)]
enum FrontError {
    #[error("cannot find the folder of this program: {source}")]
    NoFolder { source: io::Error },
    #[error("cannot start `{}`: {source}", program.display())]
    NotStarted { program: PathBuf, source: io::Error },
}

impl FrontError {
    #[expect(clippy::print_stderr, reason = "the one place that prints errors")]
    fn print(&self) {
        eprintln!("error: {self}");
        if let Self::NotStarted { source, .. } = self
            && source.kind() == io::ErrorKind::NotFound
        {
            eprintln!(
                "hint: `sae-run` needs `{FULL_PROGRAM}` in its own folder, and `cargo build` makes both; in place of a \
                 copy, a link to `sae-run` will do"
            );
        }
    }
}
