//! Workers that outlived the `sae-run` that started them.

use crate::error::CliError;
use crate::show::table;
use files::LockHolder;
use plan::runs_layout::STREAM_LOCK;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, Signal, System, UpdateKind};

/// How long such a worker may take to finish its step and save.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long one that was asked to end may take, before it is killed.
const PATIENCE_ASKED: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the worker of the stream whose folder is `dir`, if there still is one: what it saves counts. With
/// `take_over` it is ended.
///
/// # Errors
/// It does not end.
pub(crate) async fn wait_for_worker(dir: &Path, take_over: bool) -> Result<(), CliError> {
    let begun = Instant::now();
    let mut announced = false;
    while dir.is_dir() && lock_stream(dir)?.is_none() {
        let holder = LockHolder::read(&dir.join(STREAM_LOCK));
        if begun.elapsed() > PATIENCE {
            return Err(still_runs(dir, holder.as_ref()));
        }
        if !std::mem::replace(&mut announced, true) {
            let who = name_of(holder.as_ref());
            let text = if take_over {
                format!("stopping {who} of an earlier `sae-run`")
            } else {
                format!(
                    "waiting for {who} of an earlier `sae-run` to save and end; `--take-over` stops it"
                )
            };
            table::note(&text);
            if take_over {
                // Once: a second signal of the kind would end it before it has saved.
                end(dir, holder.as_ref(), Signal::Term)?;
            }
        }
        if take_over && begun.elapsed() > PATIENCE_ASKED {
            end(dir, holder.as_ref(), Signal::Kill)?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Keeps workers from the stream whose folder is `dir`, for the life of the returned file; `None` while a worker
/// has it.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn lock_stream(dir: &Path) -> Result<Option<File>, CliError> {
    let path = dir.join(STREAM_LOCK);
    files::lock(&path).map_err(|error| CliError::io("lock", &path, &error))
}

/// Sends the worker a signal, if that is possible from here.
fn end(dir: &Path, holder: Option<&LockHolder>, signal: Signal) -> Result<(), CliError> {
    match holder.filter(|holder| holder.is_here()) {
        Some(holder) => {
            send(holder.pid, signal);
            Ok(())
        }
        None => Err(still_runs(dir, holder)),
    }
}

/// Sends a signal to a worker of this machine; to no other process that has its number by now.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_u32(pid);
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    let worker = system.process(pid).filter(|process| {
        let mut args = process.cmd().iter().skip(1);
        args.any(|arg| arg == "worker")
    });
    if let Some(worker) = worker {
        worker.kill_with(signal);
    }
}

fn name_of(holder: Option<&LockHolder>) -> String {
    match holder {
        Some(holder) if holder.is_here() => format!("worker {}", holder.pid),
        Some(holder) => format!("worker {} on {}", holder.pid, table::escaped(&holder.host)),
        None => "a worker".to_owned(),
    }
}

fn still_runs(dir: &Path, holder: Option<&LockHolder>) -> CliError {
    let (who, dir) = (name_of(holder), dir.display());
    CliError::environment(format!(
        "{who} of an earlier `sae-run` still runs in `{dir}`"
    ))
    .with_hint("wait for it to end, or stop it with `kill` on its machine".to_owned())
}
