//! `sae-run doctor`: what was found on this machine.

mod gpu;

use crate::error::CliError;
use crate::libtorch::Libtorch;
use crate::run::worker_program;
use crate::show::{json, table};
use crate::sweep::config;
use crate::sweep::paths::Folders;
use args::DoctorArgs;
use hub::HubSettings;
use plan::Machine;
use plan::runs_layout::DATABASE;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// `sae-run doctor`.
///
/// # Errors
/// No cache folder can be found.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<u8, CliError> {
    if args.gpu {
        return gpu::doctor(args);
    }
    let folders = Folders::of_this_machine()?;
    let hub = HubSettings::from_env()?;
    let found = Found {
        machine: worker_program::machine(),
        runs_folder: RunsFolder::look_at(&config::runs_dir(&args.store)?),
        paths: [
            (
                "engine",
                folders.engine(),
                "missing, `make setup` builds it",
            ),
            ("cache", folders.cache.clone(), "not made yet"),
            ("settings", folders.config.join("sae-run.toml"), "none"),
            (
                "database",
                config::runs_dir(&args.store)?.join(DATABASE),
                "none yet",
            ),
            ("HF cache", hub.cache_dir.clone(), "not made yet"),
        ],
        has_token: hub.token.is_some(),
        is_offline: hub.offline,
    };
    if args.json {
        json::print(&found.as_json()?)?;
    } else {
        table::print(&lines(&found.rows()?))?;
    }
    // What else was found may say why.
    found.machine.map(|_| 0)
}

/// What was found.
struct Found {
    machine: Result<&'static Machine, CliError>,
    runs_folder: RunsFolder,
    /// What they are, where they are, and what to say if it is missing.
    paths: [(&'static str, PathBuf, &'static str); 5],
    has_token: bool,
    is_offline: bool,
}

impl Found {
    fn rows(&self) -> Result<Vec<(&'static str, String)>, CliError> {
        let mut rows = vec![("sae-run", env!("CARGO_PKG_VERSION").to_owned())];
        rows.extend(match &self.machine {
            Ok(machine) => machine_rows(machine)?,
            Err(_) => vec![("libtorch", "none that works, see below".to_owned())],
        });
        let paths = self.paths.iter();
        rows.extend(paths.map(|(what, path, otherwise)| (*what, existing(path, otherwise))));
        rows.push(("runs are", self.runs_folder.describe()));
        rows.extend([
            ("HF token", yes_or_no(self.has_token)),
            ("HF offline", yes_or_no(self.is_offline)),
        ]);
        Ok(rows)
    }

    fn as_json(&self) -> Result<Value, CliError> {
        let libtorch = match &self.machine {
            Ok(machine) => json!({
                "version": machine.libtorch,
                "library": machine.library,
                "found_in": found_in()?,
                "cuda": machine.cuda,
                "n_threads": machine.n_threads,
            }),
            Err(_) => Value::Null,
        };
        let mut object = json!({"sae_run": env!("CARGO_PKG_VERSION"), "libtorch": libtorch});
        for (what, path, _) in &self.paths {
            let key = what.to_lowercase().replace(' ', "_");
            object[key] = json!({"path": path, "exists": path.exists()});
        }
        object["runs_folder"] = json!({
            "is_of_network": self.runs_folder.is_of_network,
            "locks_hold": self.runs_folder.locks_hold,
        });
        object["hf_token"] = self.has_token.into();
        object["hf_offline"] = self.is_offline.into();
        Ok(object)
    }
}

/// What the runs folder is like.
struct RunsFolder {
    /// Whether several machines may write to it.
    is_of_network: bool,
    /// Whether a lock that one has there keeps out another, here; `None`: nothing can be written there.
    locks_hold: Option<bool>,
}

impl RunsFolder {
    /// Of a folder that is not there yet, the one that it will be in counts.
    fn look_at(runs_dir: &Path) -> Self {
        let runs_dir = std::path::absolute(runs_dir).unwrap_or_else(|_| runs_dir.into());
        let there = runs_dir.ancestors().find(|dir| dir.is_dir());
        let there = there.unwrap_or(Path::new("/"));
        let try_lock = || {
            let file = tempfile::NamedTempFile::new_in(there).ok()?;
            let second = file.reopen().ok()?;
            let is_locked = file.as_file().try_lock().is_ok();
            Some(is_locked && second.try_lock().is_err())
        };
        Self {
            is_of_network: store::is_of_network(there),
            locks_hold: try_lock(),
        }
    }

    fn describe(&self) -> String {
        let locks = match self.locks_hold {
            Some(true) => "locks hold",
            Some(false) => "locks do not hold: run one `sae-run` at a time there",
            None => "nothing can be written there",
        };
        if self.is_of_network {
            let shared =
                "the pool and Slurm need no locks; `sae-run` on several machines at a time does";
            format!("on a network file system; from this machine, {locks} ({shared})")
        } else {
            format!("on this machine; {locks}")
        }
    }
}

/// What the worker says of libtorch and the machine, and where that libtorch was found.
fn machine_rows(machine: &Machine) -> Result<Vec<(&'static str, String)>, CliError> {
    let library = machine.library.as_deref();
    let library = library.map_or("not found".into(), Path::to_string_lossy);
    Ok(vec![
        ("libtorch", format!("{} ({library})", machine.libtorch)),
        ("found in", found_in()?),
        ("CUDA", machine.cuda.to_string()),
        ("threads", machine.n_threads.to_string()),
    ])
}

/// Where libtorch was found.
fn found_in() -> Result<String, CliError> {
    Ok(match Libtorch::chosen()? {
        Some(libtorch) => libtorch.place(),
        None => "what this program was built with".to_owned(),
    })
}

/// A line for each thing: what it is, and what was found.
fn lines(rows: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (what, found) in rows {
        let _ = writeln!(text, "{what:<10} {found}");
    }
    text
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn existing(path: &Path, otherwise: &str) -> String {
    let note = if path.exists() {
        String::new()
    } else {
        format!(" ({otherwise})")
    };
    format!("{}{note}", path.display())
}
