//! The jobs of an order as their states left them, and where they tap the model.

use super::base::Length;
use super::job_trainer::JobTrainer;
use crate::TrainError;
use crate::ranks::Ranks;
use crate::ranks::owners::Owners;
use fault::Fault;
use lm::Taps;
use plan::{Job, ModelFacts, Order, OrderJob, SaeSpec, name_in_model};
use tch::Device;

/// The jobs of the order as their states left them, the same on all ranks.
pub(crate) fn open_jobs(
    order: &Order,
    length: Length,
    device: Device,
    ranks: &dyn Ranks,
) -> Result<Vec<JobTrainer>, TrainError> {
    if !ranks.has_writer() {
        ranks.wait_for_all("states in order")?;
    }
    let of_order: Vec<&Job> = order.jobs.iter().map(|job| &job.job).collect();
    let owners = plan::owners(&of_order, ranks.number()).into_iter();
    let owners = owners.map(|by_sae| Owners::new(by_sae, ranks.rank()));
    let open = |(job, owners): (&OrderJob, Owners)| {
        let mut opened = JobTrainer::open(job, &order.runs_dir, device, owners)?;
        opened.begin_from(&job.bases, (&order.runs_dir, device), length)?;
        Ok::<_, TrainError>(opened)
    };
    let jobs = order.jobs.iter().zip(owners).map(open);
    let jobs: Vec<JobTrainer> = jobs.collect::<Result<_, _>>()?;
    if ranks.has_writer() {
        // It puts damaged states aside: the others look when that is done.
        ranks.wait_for_all("states in order")?;
    }
    let steps: Vec<i64> = jobs.iter().map(|job| job.step as i64).collect();
    ranks.must_agree("set of checkpoints", &steps)?;
    // What is left of a stream that was begun may have fewer SAEs.
    let is_fresh = steps.iter().all(|step| *step == 0);
    match plan::too_few_saes(&of_order, ranks.number()).filter(|_| is_fresh) {
        None => Ok(jobs),
        Some(n_saes) => {
            let message = format!(
                "{} ranks are more than the SAEs of the stream ({n_saes}), each of which `distribute_modules` gives \
                 to one",
                ranks.number()
            );
            let hint =
                "start fewer processes, or leave `distribute_modules` out: then all have all SAEs";
            Err(Fault::input(message).with_hint(hint).into())
        }
    }
}

/// Taps on the outputs of all hookpoints of `jobs` in the first model, and on the inputs of those of transcoders.
pub(crate) fn taps<'a>(
    jobs: impl IntoIterator<Item = &'a Job>,
    facts: &ModelFacts,
) -> Result<Taps, TrainError> {
    let (mut outputs, mut inputs) = (Vec::new(), Vec::new());
    for job in jobs {
        let of_job = job.saes.iter().flat_map(SaeSpec::outputs);
        outputs.extend(of_job.filter_map(|name| name_in_model(name, false)));
        if job.config.transcode {
            inputs.extend(job.saes.iter().map(|sae| &sae.hookpoint));
        }
    }
    Ok(Taps::new(facts, &outputs)?.with_inputs(facts, &inputs)?)
}

/// Taps on the outputs of all hookpoints of `jobs` in the second model.
pub(crate) fn second_taps<'a>(
    jobs: impl IntoIterator<Item = &'a Job>,
    facts: &ModelFacts,
) -> Result<Taps, TrainError> {
    let saes = jobs.into_iter().flat_map(|job| &job.saes);
    let outputs = saes.flat_map(SaeSpec::outputs);
    let outputs: Vec<&str> = outputs
        .filter_map(|name| name_in_model(name, true))
        .collect();
    Ok(Taps::new(facts, &outputs)?)
}
