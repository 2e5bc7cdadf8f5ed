//! `sae-run doctor`: what was found on this machine.

mod gpu;

use crate::error::CliError;
use crate::run::worker_program;
use crate::show::table;
use crate::sweep::config;
use crate::sweep::paths::Folders;
use args::DoctorArgs;
use hub::HubSettings;
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
    let machine = worker_program::machine()?;
    let library = machine
        .library
        .as_deref()
        .map_or("not found".into(), Path::to_string_lossy);
    let rows = [
        ("sae-run", env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch", format!("{} ({library})", machine.libtorch)),
        ("CUDA", machine.cuda.to_string()),
        ("threads", machine.n_threads.to_string()),
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
    ];
    table::print(&lines(&rows))
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
