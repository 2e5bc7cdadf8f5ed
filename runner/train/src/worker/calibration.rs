//! The thresholds of the SAEs that chose among the latents of whole updates, found on held-out tokens when training is
//! over. The file gets the threshold, then the event is written; a process that dies in between finds it again.

use super::reports::with_reports;
use crate::TrainError;
use crate::events::EventLog;
use crate::stop::StopFlag;
use eval::{Calibrated, EvalRequest, Wanted, calibrate, thresholds_of};
use plan::{
    Activation, EvalSae, EventKind, HookpointThreshold, Order, OrderJob, SaeLensMetadata, SaeSpec,
    count,
};
use sae::Sae;
use std::path::{Path, PathBuf};
use tch::Device;

/// Calibrates those of the SAEs of `request`, which are those of `jobs`, that ask for it; `false`: it was stopped.
pub(super) fn run(
    order: &Order,
    jobs: &[&OrderJob],
    request: &EvalRequest,
    (stop, step): (&StopFlag, u64),
    events: &mut EventLog,
) -> Result<bool, TrainError> {
    let owners = jobs
        .iter()
        .flat_map(|job| job.job.saes.iter().map(move |spec| (*job, spec)));
    let all = owners.zip(&request.saes);
    let asking = all.filter(|((job, _), _)| {
        let config = &job.job.config;
        config.activation == Activation::BatchTopK && config.calibrate_threshold
    });
    let (owners, saes): (Vec<_>, Vec<EvalSae>) =
        asking.map(|(owner, sae)| (owner, sae.clone())).unzip();
    if saes.is_empty() {
        return Ok(true);
    }
    let message = format!("calibrating the thresholds of {}", count(saes.len(), "SAE"));
    events.write(EventKind::Note { message })?;
    let request = EvalRequest {
        model: request.model.clone(),
        sequences: request.sequences.clone(),
        batch_size: request.batch_size,
        saes,
    };
    let wanted = owners.iter().map(|(job, spec)| Wanted {
        k: spec.k.mean(),
        estimate: sae_files::threshold_ema(&dir_of(order, job, spec)),
    });
    let wanted: Vec<Wanted> = wanted.collect();
    let found = with_reports(stop, events, |report| {
        Ok(calibrate(&request, &wanted, report)?)
    })?;
    let Some(found) = found else {
        return Ok(false);
    };
    for (((job, spec), wanted), found) in owners.into_iter().zip(wanted).zip(found) {
        let dir = dir_of(order, job, spec);
        save(&dir, (job, spec), (&found, &wanted.estimate))?;
        report((job, spec), (&found, &wanted.estimate), step, events)?;
    }
    events.sync()?;
    Ok(true)
}

fn dir_of(order: &Order, job: &OrderJob, spec: &SaeSpec) -> PathBuf {
    order.runs_dir.join(&job.dir).join(&spec.name)
}

/// Differences of a threshold below this part of it are rounding.
const ROUNDING: f64 = 1e-6;

/// Gives the SAE in `dir` its threshold. If it has it already, its files stay as they are.
fn save(
    dir: &Path,
    (job, spec): (&OrderJob, &SaeSpec),
    (found, estimate): (&Calibrated, &[f64]),
) -> Result<(), TrainError> {
    let (thresholds, of_hookpoints) = match &found.hookpoints[..] {
        [] => (vec![found.threshold], Vec::new()),
        all => (
            all.iter().map(|found| found.threshold).collect(),
            estimate.to_vec(),
        ),
    };
    let config = &job.job.config;
    let metadata = SaeLensMetadata {
        hf_hook_name: Some(spec.hookpoint.clone()),
        context_size: Some(config.ctx_len),
        training_architecture: config.training_architecture(),
        threshold_ema: Some(mean(estimate)),
        threshold_ema_by_hookpoint: of_hookpoints,
        ..SaeLensMetadata::default()
    };
    let mut sae = Sae::load_from_disk(dir, Device::Cpu)?;
    let thresholds = thresholds_of(&sae, &thresholds)?;
    let before = sae.threshold.take();
    sae.set_thresholds(thresholds);
    if let (Some(before), Some(now)) = (&before, &sae.threshold)
        && now.f_allclose(before, ROUNDING, 0.0, false)?
    {
        return Ok(());
    }
    Ok(sae.save(dir, &metadata)?)
}

/// NaN without any.
fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn of_hookpoints(spec: &SaeSpec, found: &Calibrated, estimate: &[f64]) -> Vec<HookpointThreshold> {
    let all = found.hookpoints.iter().enumerate();
    let of_hookpoint = all.map(|(idx, found)| HookpointThreshold {
        hookpoint: spec.hookpoints[idx].clone(),
        threshold_ema: estimate.get(idx).copied().unwrap_or(f64::NAN),
        l0_ema: found.own_l0,
        threshold: found.threshold,
        l0: found.l0,
    });
    of_hookpoint.collect()
}

fn report(
    (job, spec): (&OrderJob, &SaeSpec),
    (found, estimate): (&Calibrated, &[f64]),
    step: u64,
    events: &mut EventLog,
) -> Result<(), TrainError> {
    let job_id = &job.job.job_id;
    events.write(EventKind::Calibration {
        job_id: job_id.clone(),
        sae: spec.name.clone(),
        step,
        n_tokens: found.n_tokens,
        k: spec.k.mean(),
        ema_threshold: mean(estimate),
        ema_l0: found.own_l0,
        threshold: found.threshold,
        l0: found.l0,
        hookpoints: of_hookpoints(spec, found, estimate),
    })?;
    if found.l0 > 0.0 {
        return Ok(());
    }
    events.write(EventKind::Unhealthy {
        job_id: job_id.clone(),
        sae: spec.name.clone(),
        step,
        reason: "no pre-activation of a held-out token is positive: nothing passes any threshold"
            .into(),
        is_fatal: false,
        hint: None,
    })
}
