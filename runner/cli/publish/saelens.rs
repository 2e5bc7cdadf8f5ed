//! What SAELens's layout says beside the weights.

use super::card::public;
use crate::error::CliError;
use crate::past_job;
use plan::ModelFacts;
use std::path::Path;
use store::Store;
use train::TrainConfig;
use train::sae::{SaeLensMetadata, transformer_lens_name};

/// What is known of how a job's SAEs were trained.
pub(super) struct TrainedJob {
    config: TrainConfig,
    /// Of its model, where that is still there.
    facts: Option<ModelFacts>,
}

impl TrainedJob {
    /// # Errors
    /// A record that is damaged.
    pub(super) async fn read(
        store: &Store,
        runs_dir: &Path,
        job_id: &str,
    ) -> Result<Self, CliError> {
        let job = store.job(job_id).await?;
        let order = past_job::last_order(runs_dir, &job).ok();
        Ok(Self {
            config: past_job::config(&job)?,
            facts: order.and_then(|order| train::read_facts(&order.model_dir).ok()),
        })
    }

    /// Where the SAE of a hookpoint was trained.
    pub(super) fn metadata(&self, hookpoint: &str) -> SaeLensMetadata {
        // Without the model's folder, TransformerLens's name of the place stays unknown.
        let facts = self.facts.as_ref();
        SaeLensMetadata {
            model_name: Some(public(&self.config.model)),
            hook_name: facts.and_then(|facts| transformer_lens_name(facts, hookpoint)),
            hf_hook_name: Some(hookpoint.to_owned()),
            context_size: Some(self.config.ctx_len),
            dataset_path: Some(public(&self.config.dataset)),
            prepend_bos: None,
        }
    }
}
