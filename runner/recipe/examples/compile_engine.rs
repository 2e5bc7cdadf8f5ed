//! Compiles the Python recipe engine for an installation: it runs on any x86-64 processor, and need not be compiled
//! where it is used.
//!
//! `compile_engine CACHE FOLDER`: from the cache of `make setup` into a folder, under the name that programs look for.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let folders: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [cache, folder] = folders.as_slice() else {
        return Err("usage: compile_engine CACHE FOLDER".into());
    };
    let engine = fs::read(sae_run_recipe::engine_path(cache))?;
    fs::create_dir_all(folder)?;
    fs::write(
        sae_run_recipe::compiled_engine_path(folder),
        sae_run_recipe::compile_for_any(&engine)?,
    )?;
    Ok(())
}
