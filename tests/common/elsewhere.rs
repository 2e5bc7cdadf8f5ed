//! Sweeps that are trained elsewhere, by a cluster or by other processes.

use super::{Workspace, until};
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// What was trained here, by the texts of sweeps and of their recipes.
static TRAINED_HERE: Mutex<BTreeMap<[String; 2], Trained>> = Mutex::new(BTreeMap::new());

/// Files by their path in a sweep's folder.
type Trained = BTreeMap<String, Vec<u8>>;

/// What `sweep` trains in a process of this machine, with the recipe of `workspace` if it has one.
pub(crate) fn trained_here(workspace: &Workspace, sweep: &str) -> Trained {
    let mut known = TRAINED_HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let recipe = fs::read_to_string(workspace.path("jobs.py")).unwrap_or_default();
    let train = || {
        let here = Workspace::new();
        here.write("tiny.toml", sweep);
        here.write("jobs.py", &recipe);
        here.run(&["tiny.toml"]).succeeds();
        here.trained()
    };
    let texts = [sweep.to_owned(), recipe.clone()];
    known.entry(texts).or_insert_with(train).clone()
}

/// Waits until a worker has made `n_steps` updates in attempt `attempt`; gives its process.
pub(crate) fn wait_for_step(workspace: &Workspace, attempt: u64, n_steps: u64) -> u32 {
    until(&format!("update {n_steps} of attempt {attempt}"), || {
        let events = workspace.events();
        let own = || events.iter().filter(|event| event["attempt"] == attempt);
        own().find(|event| {
            event["event"] == "progress" && event["step"].as_u64() >= Some(n_steps)
        })?;
        let started = own().find(|event| event["event"] == "started")?;
        u32::try_from(started["pid"].as_u64()?).ok()
    })
}
