//! What SAELens's layout says in addition to the weights.

use super::selection::Chosen;
use plan::{Order, SaeLensMetadata, TrainConfig};
use sae_files::transformer_lens_name;

/// Where and how an SAE was trained. `order`: the last order of its worker, if it is still there.
pub(super) fn metadata(chosen: &Chosen, order: Option<&Order>) -> SaeLensMetadata {
    let hookpoint = &chosen.sae.result.hookpoint;
    let config: Option<TrainConfig> = serde_json::from_str(&chosen.sae.provenance.config).ok();
    // Without the model's folder, TransformerLens's name of the hookpoint stays unknown.
    let facts = order.and_then(|order| facts::read_facts(&order.model_dir).ok());
    SaeLensMetadata {
        model_name: Some(chosen.public.model.clone()),
        hook_name: facts.and_then(|facts| transformer_lens_name(&facts, hookpoint)),
        hf_hook_name: Some(hookpoint.clone()),
        context_size: config.as_ref().map(|config| config.ctx_len),
        dataset_path: Some(chosen.public.dataset.clone()),
        prepend_bos: None,
        training_architecture: config.as_ref().and_then(TrainConfig::training_architecture),
        threshold_ema: chosen.sae.result.threshold_ema,
        threshold_ema_by_hookpoint: Vec::new(),
    }
}
