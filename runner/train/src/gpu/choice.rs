//! Which kernels a stream is trained with on a GPU: the same after a resume, and on all ranks.

use super::open;
use crate::TrainError;
use crate::process::log;
use crate::ranks::Ranks;
use crate::training::job_trainer::JobTrainer;
use plan::{Order, UpdateShape};
use sae::{CheckedKernel, GpuKernels, Kernel};
use tch::Device;

/// Chooses them, for all jobs: those that the first state names, or else the faster ones.
pub(crate) fn choose_kernels(
    jobs: &mut [JobTrainer],
    order: &Order,
    device: Device,
    ranks: &dyn Ranks,
) -> Result<(), TrainError> {
    if !device.is_cuda() {
        return Ok(());
    }
    let opened = open(device, Some(&order.cache_dir));
    if let Err(error) = &opened {
        log(&format!("kernels of the GPU: none, {error}"));
    }
    let mut opened = opened.ok();
    if let Some(opened) = &mut opened
        && let Some(shape) = largest(order)
    {
        let before = jobs.iter().find_map(|job| job.kernels.clone());
        opened.choose(shape, before.as_deref());
        log_all(opened, shape);
    }
    let ours = opened.as_ref().map(GpuKernels::in_use).unwrap_or_default();
    let common = of_all(&ours, ranks)?;
    if let Some(opened) = &opened {
        opened.use_only(&common);
    }
    let names: Vec<String> = common
        .iter()
        .map(|kernel| kernel.name().to_owned())
        .collect();
    log(&format!("kernels in use: {}", listed(&names)));
    for job in jobs {
        if job.kernels.as_ref().is_some_and(|before| *before != names) {
            log(&format!(
                "job `{}` was begun with other kernels ({}): its result will not be bit-identical",
                job.job.name,
                listed(job.kernels.as_deref().unwrap_or_default())
            ));
        }
        job.kernels = Some(names.clone());
    }
    Ok(())
}

/// The sizes of an update of the SAE with the largest weights.
fn largest(order: &Order) -> Option<UpdateShape> {
    let saes = order.jobs.iter().flat_map(|job| &job.job.saes);
    let largest = saes.max_by_key(|sae| sae.num_latents * sae.d_in)?;
    Some(UpdateShape {
        n_tokens: order.key.batch_size * order.key.ctx_len,
        num_latents: largest.num_latents,
        d_in: largest.d_in,
        k: largest.k.count(),
    })
}

fn log_all(opened: &GpuKernels, shape: UpdateShape) {
    for note in opened.notes() {
        log(note);
    }
    for CheckedKernel {
        kernel,
        rejection,
        seconds,
    } in opened.all(shape)
    {
        let name = kernel.name();
        if let Some(rejection) = rejection {
            log(&format!("kernel `{name}` is not used: {rejection}"));
        } else if let Some([ours, theirs]) = seconds {
            let [ours, theirs] = [ours, theirs].map(|seconds| 1e3 * seconds);
            log(&format!(
                "kernel `{name}`: {ours:.3} ms, libtorch {theirs:.3} ms"
            ));
        }
    }
}

/// Those that all ranks use: they must change the same weights alike.
fn of_all(ours: &[Kernel], ranks: &dyn Ranks) -> Result<Vec<Kernel>, TrainError> {
    let flags: Vec<i64> = Kernel::ALL
        .iter()
        .map(|kernel| ours.contains(kernel).into())
        .collect();
    let of_ranks = ranks.gather("kernels in use", &flags)?;
    let used_by_all = |(idx, _): &(usize, Kernel)| of_ranks.iter().all(|flags| flags[*idx] != 0);
    let common = Kernel::ALL.into_iter().enumerate().filter(used_by_all);
    Ok(common.map(|(_, kernel)| kernel).collect())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "libtorch's operations alone".to_owned()
    } else {
        names.join(", ")
    }
}
