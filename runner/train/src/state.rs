//! What a resume needs, one folder per checkpoint:
//!
//! ```text
//! <state dir>/step-00000024/state.json                  the job and its step
//! <state dir>/step-00000024/<SAE name>.safetensors      y.*, tokens_since_fired, and what the
//!                                                       optimizer remembers (z.* of signum)
//! ```
//!
//! A folder is written under a temporary name, synced and renamed, and older ones are removed only
//! then: at every moment there is a complete state, or none was ever written.

use crate::TrainError;
use crate::best::BestState;
use crate::sae_trainer::SaeTrainer;
use sae::{sync_dir, tensors_by_name, write_file, write_safetensors};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

const STATE_FILE: &str = "state.json";
const SINCE_FIRED: &str = "tokens_since_fired";

/// A job's own state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) job_id: String,
    /// Optimizer updates done.
    pub(crate) step: u64,
    /// The lowest losses so far.
    #[serde(default)]
    pub(crate) best: BestState,
}

/// Saves the state of a job and its SAEs, and removes older ones but for the newest `n_kept`. A state
/// of that step that is there already is complete and the same.
pub(crate) fn save(
    dir: &Path,
    state: &State,
    saes: &[SaeTrainer],
    n_kept: usize,
) -> Result<(), TrainError> {
    let place = dir.join(format!("step-{:08}", state.step));
    if !is_of(&place, &state.job_id)? {
        let temporary = dir.join(".writing");
        remove_dir(&temporary)?;
        fs::create_dir_all(&temporary).map_err(TrainError::io("create", &temporary))?;
        for sae in saes {
            save_sae(&temporary, sae)?;
        }
        let text = serde_json::to_vec(state).expect("plain fields serialise to JSON");
        write_file(&temporary.join(STATE_FILE), &text)?;
        sync_dir(&temporary)?;
        remove_dir(&place)?;
        fs::rename(&temporary, &place).map_err(TrainError::io("rename", &place))?;
        sync_dir(dir)?;
    }
    remove_older(dir, state.step, n_kept)
}

/// Whether there is a state of a job.
pub(crate) fn exists(dir: &Path) -> bool {
    step_dirs(dir).is_ok_and(|dirs| !dirs.is_empty())
}

/// The newest complete state of the job, with the SAEs brought to it. `None`: there is none, and the
/// SAEs are as they were.
pub(crate) fn restore(
    dir: &Path,
    job_id: &str,
    saes: &mut [SaeTrainer],
    device: Device,
) -> Result<Option<State>, TrainError> {
    let Some(place) = newest(dir)? else {
        return Ok(None);
    };
    let Some(state) = read_state(&place)?.filter(|state| state.job_id == job_id) else {
        return Ok(None);
    };
    for sae in saes {
        restore_sae(&place, sae, state.step, device)?;
    }
    Ok(Some(state))
}

fn is_of(place: &Path, job_id: &str) -> Result<bool, TrainError> {
    Ok(read_state(place)?.is_some_and(|state| state.job_id == job_id))
}

fn read_state(place: &Path) -> Result<Option<State>, TrainError> {
    let path = place.join(STATE_FILE);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(TrainError::damaged(&path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrainError::io("read", &path)(error)),
    }
}

/// Removes a job's states: it is done.
pub(crate) fn remove(dir: &Path) -> Result<(), TrainError> {
    remove_dir(dir)
}

fn save_sae(dir: &Path, trainer: &SaeTrainer) -> Result<(), TrainError> {
    let path = sae_path(dir, &trainer.spec.name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(TrainError::io("create", parent))?;
    }
    let weights = trainer.sae.named_weights();
    let mut tensors = vec![(SINCE_FIRED.to_owned(), &trainer.tokens_since_fired)];
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
    n_updates: u64,
    device: Device,
) -> Result<(), TrainError> {
    let path = sae_path(dir, &trainer.spec.name);
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
    trainer
        .optimizer
        .restore(n_updates, &n_dims, &mut of_weight)
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
        _ => Err(TrainError::State {
            path: path.into(),
            tensor: tensor.into(),
            expected: expected.into(),
        }),
    }
}

fn sae_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.safetensors"))
}

fn newest(dir: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(step_dirs(dir)?.into_iter().max())
}

fn step_dirs(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io("read", dir)(error)),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("step-") {
            steps.push(path);
        }
    }
    Ok(steps)
}

/// Removes all states but the newest `n_kept`; later ones than `step` are none of this run.
fn remove_older(dir: &Path, step: u64, n_kept: usize) -> Result<(), TrainError> {
    let newest = dir.join(format!("step-{step:08}"));
    let mut dirs = step_dirs(dir)?;
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
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(TrainError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
