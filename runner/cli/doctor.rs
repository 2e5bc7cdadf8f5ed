//! `sae-run doctor`: what was found on this machine.

use crate::args::StoreArgs;
use crate::error::CliError;
use crate::paths::{Folders, folder_in};
use crate::runs_folder::DATABASE;
use crate::table;
use std::env;
use std::fmt::Write;
use std::path::Path;
use train::Libtorch;

/// `sae-run doctor`.
///
/// # Errors
/// No cache folder can be found.
pub(crate) fn doctor(args: &StoreArgs) -> Result<u8, CliError> {
    let folders = Folders::of_this_machine()?;
    let engine = folders.engine();
    let libtorch = Libtorch::loaded();
    let library = libtorch
        .library
        .as_deref()
        .map_or("not found".into(), Path::to_string_lossy);
    let rows = [
        ("sae-run", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "libtorch",
            format!("{} ({library})", libtorch.version_text()),
        ),
        ("CUDA", train::init_backends().to_string()),
        ("threads", train::default_threads().to_string()),
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
            existing(&args.runs_dir()?.join(DATABASE), "none yet"),
        ),
        (
            "HF token",
            if has_hf_token() { "yes" } else { "no" }.to_owned(),
        ),
    ];
    let mut text = String::new();
    for (what, found) in rows {
        let _ = writeln!(text, "{what:<10} {found}");
    }
    table::print(&text)
}

fn existing(path: &Path, otherwise: &str) -> String {
    let note = if path.exists() {
        String::new()
    } else {
        format!(" ({otherwise})")
    };
    format!("{}{note}", path.display())
}

/// Whether a Hugging Face token is there, in the places where huggingface_hub looks.
fn has_hf_token() -> bool {
    let home = || env::home_dir().map(|home| home.join(".cache/huggingface"));
    let xdg = || folder_in("XDG_CACHE_HOME").map(|cache| cache.join("huggingface"));
    let hf_home = folder_in("HF_HOME").or_else(xdg).or_else(home);
    let file = folder_in("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
    env::var_os("HF_TOKEN").is_some_and(|token| !token.is_empty())
        || file.is_some_and(|path| path.is_file())
}
