//! `sae-run doctor`: what was found on this machine.

mod gpu;

use crate::error::CliError;
use crate::libtorch::Libtorch;
use crate::run::worker_program;
use crate::show::table;
use crate::sweep::config;
use crate::sweep::paths::Folders;
use args::DoctorArgs;
use hub::HubSettings;
use plan::Machine;
use plan::runs_layout::DATABASE;
use std::fmt::Write;
use std::path::Path;

/// `sae-run doctor`.
///
/// # Errors
/// No cache folder can be found.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<u8, CliError> {
    if args.gpu {
        return gpu::doctor(args);
    }
    let folders = Folders::of_this_machine()?;
    let engine = folders.engine();
    let hub = HubSettings::from_env()?;
    // What else was found may say why.
    let machine = worker_program::machine();
    let mut rows = vec![("sae-run", env!("CARGO_PKG_VERSION").to_owned())];
    rows.extend(match machine {
        Ok(machine) => machine_rows(machine)?,
        Err(_) => vec![("libtorch", "none that works, see below".to_owned())],
    });
    rows.extend([
        (
            "engine",
            existing(&engine, "missing, `make setup` builds it"),
        ),
        ("cache", existing(&folders.cache, "not made yet")),
        (
            "settings",
            existing(&folders.config.join("sae-run.toml"), "none"),
        ),
        (
            "database",
            existing(&config::runs_dir(&args.store)?.join(DATABASE), "none yet"),
        ),
        ("HF cache", existing(&hub.cache_dir, "not made yet")),
        ("HF token", yes_or_no(hub.token.is_some())),
        ("HF offline", yes_or_no(hub.offline)),
    ]);
    table::print(&lines(&rows))?;
    machine.map(|_| 0)
}

/// What the worker says of libtorch and the machine, and where that libtorch was found.
fn machine_rows(machine: &Machine) -> Result<Vec<(&'static str, String)>, CliError> {
    let library = machine.library.as_deref();
    let library = library.map_or("not found".into(), Path::to_string_lossy);
    let found_in = match Libtorch::chosen()? {
        Some(libtorch) => libtorch.place(),
        None => "what this program was built with".to_owned(),
    };
    Ok(vec![
        ("libtorch", format!("{} ({library})", machine.libtorch)),
        ("found in", found_in),
        ("CUDA", machine.cuda.to_string()),
        ("threads", machine.n_threads.to_string()),
    ])
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
