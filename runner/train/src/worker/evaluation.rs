//! The evaluation of the jobs of an order, as a worker does it when they are trained: on all ranks, each with all SAEs
//! from their files. Rank 0 writes what is found.

use super::calibration::Calibration;
use super::reports::with_reports;
use crate::TrainError;
use crate::events::EventLog;
use crate::ranks::Ranks;
use crate::stop::StopFlag;
use crate::training::Outcome;
use eval::{EvalRequest, evaluate};
use plan::{EvalSae, Evaluated, EventKind, ModelUse, Order, OrderJob, count, eval_batch_size};
use tokens::EvalSequences;

/// What a worker evaluates.
#[derive(Debug)]
pub(crate) struct JobEvaluation<'a> {
    /// Whose jobs.
    pub(crate) order: &'a Order,
    /// On what; `None`: there is nothing to do.
    pub(crate) sequences: Option<EvalSequences>,
    /// Optimizer updates up to the final checkpoints.
    pub(crate) step: u64,
    /// Of the language model.
    pub(crate) vocab_size: usize,
    /// This process's.
    pub(crate) device: String,
    /// Who evaluates.
    pub(crate) ranks: &'a dyn Ranks,
}

impl JobEvaluation<'_> {
    /// Evaluates the final checkpoints of the jobs that ask for it.
    ///
    /// # Errors
    /// A checkpoint or a model that cannot be loaded, or too little memory.
    pub(crate) fn run(self, stop: &StopFlag, events: &mut EventLog) -> Result<Outcome, TrainError> {
        let (order, step, ranks) = (self.order, self.step, self.ranks);
        let jobs: Vec<&OrderJob> = order.jobs_to_evaluate().collect();
        let Some(sequences) = self.sequences.filter(|_| !jobs.is_empty()) else {
            return Ok(Outcome::Finished);
        };
        // Their files are those of all ranks.
        ranks.wait_for_all("trained SAEs")?;
        let (most, ctx_len) = (order.key.batch_size, sequences.ctx_len());
        let request = EvalRequest {
            model: ModelUse {
                second: order.second_model.as_ref().map(|second| second.dir.clone()),
                dir: order.model_dir.clone(),
                dtype: order.key.dtype,
                load_in_8bit: order.key.load_in_8bit,
                device: self.device,
            },
            batch_size: eval_batch_size(most, ctx_len, self.vocab_size),
            saes: jobs.iter().flat_map(|job| saes(order, job)).collect(),
            sequences,
        };
        let calibration = Calibration {
            order,
            request: &request,
            step,
            ranks,
        };
        if !calibration.run(&jobs, stop, events)? {
            return interrupt(step, ranks, events);
        }
        match run(&request, ranks, stop, events)? {
            Some(evaluated) => report(&jobs, evaluated, step, events),
            None => interrupt(step, ranks, events),
        }
    }
}

/// When one process ends, launchers end the others: no process may end before it is said.
fn interrupt(step: u64, ranks: &dyn Ranks, events: &mut EventLog) -> Result<Outcome, TrainError> {
    events.write(EventKind::Interrupted { step })?;
    ranks.wait_for_all("stopped before the evaluation's end")?;
    Ok(Outcome::Interrupted)
}

fn saes(order: &Order, job: &OrderJob) -> Vec<EvalSae> {
    let saes = job.job.saes.iter();
    let of_sae = |sae: &plan::SaeSpec| EvalSae {
        name: sae.name.clone(),
        hookpoint: sae.hookpoint.clone(),
        dir: order.runs_dir.join(&job.dir).join(&sae.name),
        exclude_tokens: job.job.config.exclude_tokens.clone(),
        density: Some(order.runs_dir.join(job.density_path(&sae.name))),
    };
    saes.map(of_sae).collect()
}

fn run(
    request: &EvalRequest,
    ranks: &dyn Ranks,
    stop: &StopFlag,
    events: &mut EventLog,
) -> Result<Option<Vec<Evaluated>>, TrainError> {
    let (n_saes, n_sequences) = (request.saes.len(), request.sequences.n_sequences());
    let message = format!(
        "evaluating {} on {}",
        count(n_saes, "SAE"),
        count(n_sequences, "held-out sequence")
    );
    events.write(EventKind::Note { message })?;
    with_reports(stop, events, |report| {
        Ok(evaluate(request, ranks.evaluators(), report)?)
    })
}

/// The files are in place; then the events about them.
fn report(
    jobs: &[&OrderJob],
    evaluated: Vec<Evaluated>,
    step: u64,
    events: &mut EventLog,
) -> Result<Outcome, TrainError> {
    let owners = jobs
        .iter()
        .flat_map(|job| job.job.saes.iter().map(move |_| job));
    for (job, Evaluated { name, stats, .. }) in owners.zip(evaluated) {
        events.write(EventKind::Evaluation {
            job_id: job.job.job_id.clone(),
            density: job.density_path(&name).to_string_lossy().into_owned(),
            sae: name,
            step,
            stats,
        })?;
    }
    events.sync()?;
    Ok(Outcome::Finished)
}
