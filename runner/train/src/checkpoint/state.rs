//! What a resume needs, one folder per checkpoint:
//!
//! ```text
//! <state dir>/step-00000024/state.json                  the job, its step, counts of each SAE
//! <state dir>/step-00000024/<SAE name>.safetensors      y.*, tokens_since_fired, since_report, and what
//!                                                       the optimizer remembers (z.* of signum)
//! ```
//!
//! A job may keep one in `<state dir>/kept`, in the same form, which stays when the job is done.
//!
//! A folder is written under a temporary name, synced and renamed, and older ones are removed only
//! then: at every moment there is a complete state, or no state was ever written. One that was damaged
//! later is put aside, if there is an older one to continue from.

use crate::TrainError;
use crate::checkpoint::best::BestState;
use crate::events::health::Remarks;
use crate::events::interval::{Interval, LEAST_KEPT, N_KEPT};
use crate::ranks::Ranks;
use crate::sae_trainer::memory::is_out_of_memory;
use crate::sae_trainer::{SaeCounts, SaeTrainer};
use fault::Fault;
use files::bound;
use plan::runs_layout::KEPT;
use sae::{check_safetensors, sync_dir, tensors_by_name, write_file, write_safetensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

const STATE_FILE: &str = "state.json";
/// How the folder of a state is named.
const FINISHED: &str = "step-";
/// And before it is complete.
const UNFINISHED: &str = ".writing";
const SINCE_FIRED: &str = "tokens_since_fired";
/// Sums since the last report: a stop may come between two.
const SINCE_REPORT: &str = "since_report";

/// A job's own state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) job_id: String,
    /// Optimizer updates done.
    pub(crate) step: u64,
    /// Of how many; `None`: of states before it was written.
    #[serde(default)]
    pub(crate) n_steps: Option<u64>,
    /// Sequences of an epoch; `None`: of states before there were several epochs.
    #[serde(default)]
    pub(crate) n_examples: Option<u64>,
    /// Ranks that it was begun with.
    #[serde(default = "one")]
    pub(crate) n_ranks: usize,
    /// The lowest losses so far.
    #[serde(default)]
    pub(crate) best: BestState,
    /// The SAEs that a remark was made on.
    #[serde(flatten)]
    pub(crate) remarks: Remarks,
    /// Names of the GPU kernels that it was trained with: with others, a resume makes other bits.
    #[serde(default)]
    pub(crate) kernels: Option<Vec<String>>,
    /// By the SAE's name.
    pub(crate) saes: BTreeMap<String, SaeCounts>,
}

/// Of states before there were several.
fn one() -> usize {
    1
}

/// A state that was taken up.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) state: State,
    /// The newer states that could not be, and why.
    pub(crate) damaged: Vec<TrainError>,
}

/// Saves the state of a job and its SAEs, and removes older ones except the newest `n_kept`. A state
/// of that step that is there already is complete and the same. Each of the `ranks` writes the SAEs it has.
pub(crate) fn save(
    dir: &Path,
    state: &State,
    (saes, n_kept): (&[SaeTrainer], usize),
    ranks: &dyn Ranks,
) -> Result<(), TrainError> {
    let state_dir = dir.join(format!("step-{:08}", state.step));
    // A different name for each step: another node may still take the last one for the folder that it was.
    let temporary = dir.join(format!("{UNFINISHED}-{:08}", state.step));
    let is_new = ranks.has_writer() && !is_of(&state_dir, &state.job_id);
    if is_new {
        dirs_named(dir, UNFINISHED)?
            .iter()
            .try_for_each(|dir| remove_dir(dir))?;
    }
    // What the writer sees of the folder counts.
    if ranks.gather("state to write", &[is_new.into()])?[0][0] != 0 {
        fs::create_dir_all(&temporary).map_err(TrainError::io("create", &temporary))?;
        for sae in saes {
            save_sae(&temporary, sae)?;
        }
        ranks.wait_for_all("SAEs of a state")?;
    }
    if is_new {
        let text = serde_json::to_vec(state).expect("plain fields serialise to JSON");
        write_file(&temporary.join(STATE_FILE), &text)?;
        sync_dir(&temporary)?;
        files::check_lease();
        remove_dir(&state_dir)?;
        fs::rename(&temporary, &state_dir).map_err(TrainError::io("rename", &state_dir))?;
        sync_dir(dir)?;
    }
    if ranks.has_writer() {
        remove_older(dir, state.step, n_kept)
    } else {
        Ok(())
    }
}

/// The newest state of the job that is not damaged, with the SAEs brought to it. `elsewhere`: names of
/// those that other ranks have, whose files are looked at and not read. `None`: there is no state, and the
/// SAEs are as they were.
///
/// # Errors
/// All states of the job are damaged; its SAEs are then neither fresh nor restored.
pub(crate) fn restore(
    dir: &Path,
    (job_id, elsewhere): (&str, &[&str]),
    saes: &mut [SaeTrainer],
    device: Device,
) -> Result<Option<Restored>, TrainError> {
    let mut dirs = dirs_named(dir, FINISHED)?;
    dirs.sort();
    let mut damaged: Vec<(TrainError, PathBuf)> = Vec::new();
    for dir in dirs.into_iter().rev() {
        match restore_from(&dir, (job_id, elsewhere), saes, device) {
            Ok(None) => {}
            Ok(Some(state)) => {
                for (_, dir) in &damaged {
                    put_aside(dir)?;
                }
                let damaged = damaged.into_iter().map(|(error, _)| error).collect();
                return Ok(Some(Restored { state, damaged }));
            }
            Err(error) if is_out_of_memory(&error) => return Err(error),
            Err(source) => {
                let path = dir.display();
                let error = Fault::input(format!("the state in `{path}` is damaged"))
                    .because(source)
                    .with_hint(format!(
                        "is the disk in order? Without `{path}` the job continues from an older state, or from the start"
                    ));
                damaged.push((error.into(), dir));
            }
        }
    }
    match damaged.into_iter().next() {
        None => Ok(None),
        Some((error, _)) => Err(error),
    }
}

/// `None`: the state is another job's.
fn restore_from(
    dir: &Path,
    (job_id, elsewhere): (&str, &[&str]),
    saes: &mut [SaeTrainer],
    device: Device,
) -> Result<Option<State>, TrainError> {
    let state = read_state(dir)?;
    if state.job_id != job_id {
        return Ok(None);
    }
    for sae in saes {
        restore_sae(dir, sae, &state, device)?;
    }
    for name in elsewhere {
        check_safetensors(&sae_path(dir, name))?;
    }
    Ok(Some(state))
}

/// Out of the way of a state that will be written in its place; gone with the job's other states.
fn put_aside(dir: &Path) -> Result<(), TrainError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!(".damaged-{name}"));
    remove_dir(&aside)?;
    fs::rename(dir, &aside).map_err(TrainError::io("rename", dir))
}

fn is_of(dir: &Path, job_id: &str) -> bool {
    read_state(dir).is_ok_and(|state| state.job_id == job_id)
}

fn read_state(dir: &Path) -> Result<State, TrainError> {
    let path = dir.join(STATE_FILE);
    let text = files::read(&path, bound::OWN).map_err(TrainError::io("read", &path))?;
    serde_json::from_slice(&text).map_err(TrainError::damaged(&path))
}

/// Removes a job's states but the one that is kept: it is done.
pub(crate) fn remove(dir: &Path) -> Result<(), TrainError> {
    if !dir.join(KEPT).is_dir() {
        return remove_dir(dir);
    }
    let is_kept = |path: &PathBuf| path.ends_with(KEPT);
    let mut all = dirs_named(dir, "")?;
    all.retain(|path| !is_kept(path));
    all.iter().try_for_each(|dir| remove_dir(dir))
}

/// The state in a folder of a kept one, without its SAEs.
pub(crate) fn kept(dir: &Path) -> Result<Option<State>, TrainError> {
    let newest = dirs_named(dir, FINISHED)?.into_iter().max();
    newest.map(|dir| read_state(&dir)).transpose()
}

fn save_sae(dir: &Path, trainer: &SaeTrainer) -> Result<(), TrainError> {
    let path = sae_path(dir, &trainer.spec.name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(TrainError::io("create", parent))?;
    }
    let weights = trainer.sae.named_weights();
    let since_report = trainer.interval.to_tensor()?;
    let of_kind = trainer.kind_state()?;
    let mut tensors = vec![
        (SINCE_FIRED.to_owned(), &trainer.tokens_since_fired),
        (SINCE_REPORT.to_owned(), &since_report),
    ];
    tensors.extend(
        of_kind
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor)),
    );
    for (name, weight) in &weights {
        tensors.push((format!("y.{name}"), weight));
    }
    for (slot, weight_idx, tensor) in trainer.optimizer.state() {
        tensors.push((format!("{slot}.{}", weights[weight_idx].0), tensor));
    }
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), *t))
        .collect();
    write_safetensors(&tensors, &path)?;
    Ok(sync_dir(path.parent().unwrap_or(dir))?)
}

fn restore_sae(
    dir: &Path,
    trainer: &mut SaeTrainer,
    state: &State,
    device: Device,
) -> Result<(), TrainError> {
    let path = sae_path(dir, &trainer.spec.name);
    let counts = state.saes.get(&trainer.spec.name);
    let counts = *counts.ok_or_else(|| {
        let missing = format!("SAE `{}`", trainer.spec.name);
        missing_state(&dir.join(STATE_FILE), &missing)
    })?;
    let mut tensors = tensors_by_name(&path)?;
    let weights = trainer.sae.named_weights().into_iter();
    let shapes: Vec<_> = weights
        .map(|(name, weight)| (name, weight.size()))
        .collect();
    for ((name, shape), weight) in shapes.iter().zip(trainer.sae.weights_mut()) {
        *weight = take(&mut tensors, &format!("y.{name}"), shape, &path, device)?;
    }
    let shape = trainer.tokens_since_fired.size();
    trainer.tokens_since_fired = take(&mut tensors, SINCE_FIRED, &shape, &path, device)?;
    // States of earlier versions were all written at a report.
    if tensors.contains_key(SINCE_REPORT) {
        let n_kept = tensors[SINCE_REPORT].size();
        let is_known = matches!(n_kept[..], [LEAST_KEPT..=N_KEPT]);
        let expected = if is_known { n_kept } else { vec![N_KEPT] };
        let numbers = take(&mut tensors, SINCE_REPORT, &expected, &path, device)?;
        trainer.interval = Interval::of_tensor(&numbers)?;
    }
    let mut of_kind = |name: &'static str| match tensors.get(name).map(Tensor::size) {
        Some(shape) => take(&mut tensors, name, &shape, &path, device),
        None => Err(missing_state(&path, &format!("tensor `{name}`")).into()),
    };
    trainer.restore_kind(&mut of_kind)?;
    let n_dims: Vec<_> = shapes.iter().map(|(_, shape)| shape.len()).collect();
    let mut of_weight = |slot: &'static str, weight_idx: usize| {
        let (name, shape) = &shapes[weight_idx];
        take(
            &mut tensors,
            &format!("{slot}.{name}"),
            shape,
            &path,
            device,
        )
    };
    let optimizer = &mut trainer.optimizer;
    optimizer.restore(counts.n_updates, &n_dims, &mut of_weight)?;
    trainer.restore_counts(counts);
    Ok(())
}

fn take(
    tensors: &mut HashMap<String, Tensor>,
    tensor: &str,
    expected: &[i64],
    path: &Path,
    device: Device,
) -> Result<Tensor, TrainError> {
    match tensors.remove(tensor) {
        Some(found) if found.size() == expected => Ok(found.f_to_device(device)?),
        _ => {
            let missing = format!("tensor `{tensor}` of shape {expected:?}");
            Err(missing_state(path, &missing).into())
        }
    }
}

fn missing_state(path: &Path, missing: &str) -> Fault {
    Fault::internal(format!("`{}` has no {missing}", path.display()))
}

fn sae_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.safetensors"))
}

/// The folders in `dir` whose names begin with `start`.
fn dirs_named(dir: &Path, start: &str) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io("read", dir)(error)),
    };
    let mut named = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(start) {
            named.push(path);
        }
    }
    Ok(named)
}

/// Removes all states except the newest `n_kept`, and those later than `step`, which are not of this run.
fn remove_older(dir: &Path, step: u64, n_kept: usize) -> Result<(), TrainError> {
    let newest = dir.join(format!("step-{step:08}"));
    let mut dirs = dirs_named(dir, FINISHED)?;
    dirs.sort();
    let (kept, later): (Vec<_>, Vec<_>) = dirs.into_iter().partition(|dir| *dir <= newest);
    let n_older = kept.len().saturating_sub(n_kept);
    let older = kept.into_iter().take(n_older);
    later
        .into_iter()
        .chain(older)
        .try_for_each(|dir| remove_dir(&dir))
}

fn remove_dir(path: &Path) -> Result<(), TrainError> {
    files::remove_dir(path).map_err(TrainError::io("remove", path))
}
