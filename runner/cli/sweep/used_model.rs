//! A model of a stream, and what the stream needs of it.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::models::{FoundModel, ModelName};
use facts::FactsError;
use plan::{Job, ModelFacts};

/// A model of a stream, and how many of its blocks are run.
pub(super) struct UsedModel<'a> {
    pub(super) name: ModelName,
    pub(super) found: &'a FoundModel,
    pub(super) facts: &'a ModelFacts,
    pub(super) n_layers: usize,
}

impl UsedModel<'_> {
    /// Checks that what `jobs` need of the model is there: the whole model if a job is evaluated. Gives the tensors
    /// that are not read.
    pub(super) fn check(&self, jobs: &[&Job]) -> Result<Vec<String>, CliError> {
        let dir = &self.found.dir;
        let left_over = facts::check_model(dir, self.n_layers)?;
        if let Some(job) = jobs.iter().find(|job| job.config.loss_fn.is_end_to_end()) {
            facts::check_head(dir).map_err(|error| without_head(error, job))?;
        }
        if !jobs.iter().any(|job| job.config.wants_evaluation()) {
            return Ok(left_over);
        }
        facts::check_whole_model(dir, self.facts.n_layers).map_err(|error| {
            let hint = "evaluation takes the whole model with its head; `evaluate = false` does \
                        without";
            CliError::from(error).with_hint(hint.to_owned())
        })
    }

    /// Says which tensors are not read.
    pub(super) fn note_left_over(&self, tensors: &[String]) {
        if tensors.is_empty() {
            return;
        }
        let count = table::count(tensors.len(), "tensor");
        table::note(&format!(
            "`{}` has {count} that a {} model does not use: {}",
            self.name.name,
            self.facts.model_type,
            table::first_of(tensors)
        ));
    }
}

/// The error of a loss on the model's output, for a model without a head.
fn without_head(error: FactsError, job: &Job) -> CliError {
    let hint = format!(
        "the loss of job `{}` is taken on the model's output, which needs its head: save the model again \
         with `AutoModelForCausalLM`, or set `loss_fn = \"fvu\"`",
        job.name
    );
    CliError::from(error).with_hint(hint)
}
