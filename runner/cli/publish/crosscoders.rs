//! What a model card says of crosscoders.

use super::listed::Listed;
use crate::show::table::k_of;
use plan::{CrosscoderNorm, SaeLayout, TrainConfig};
use sae_files::crosscoder_class;
use serde::Serialize;
use std::path::Path;

/// What a crosscoder is.
#[derive(Serialize)]
pub(super) struct Crosscoder<'a> {
    folder: &'a str,
    hookpoints: Vec<&'a str>,
    /// Setting of `crosscoder_norm`.
    norm: String,
    /// In words.
    counted_by: &'static str,
    k: String,
    /// Whether each hookpoint has its own active latents.
    is_decoupled: bool,
}

/// How a crosscoder is loaded.
#[derive(Serialize)]
pub(super) struct CrosscoderUse<'a> {
    folder: &'a str,
    /// Of crosscoder_learning.
    class: String,
}

impl<'a> Crosscoder<'a> {
    /// `None`: it is not one.
    pub(super) fn of(listed: &'a Listed) -> Option<Self> {
        let folder = listed.places.get(&SaeLayout::CrosscoderLearning)?;
        let result = &listed.sae.result;
        let config: Option<TrainConfig> = serde_json::from_str(&listed.sae.provenance.config).ok();
        let norm = config.map_or_else(CrosscoderNorm::default, |config| config.crosscoder_norm);
        let name = serde_json::to_value(norm).expect("a name serialises");
        Some(Self {
            folder,
            hookpoints: result.hookpoint.split('+').collect(),
            norm: name.as_str().unwrap_or_default().to_owned(),
            counted_by: match norm {
                CrosscoderNorm::Crosscoder => "the sum of the norms of its decoder's rows",
                CrosscoderNorm::Sae => "the norm of all its decoder's rows together",
                CrosscoderNorm::Mixed => {
                    "the norm of all its decoder's rows together, plus a tenth of the sum of their norms"
                }
                CrosscoderNorm::None => "1",
                CrosscoderNorm::Decoupled => "the norm of its decoder's row at each hookpoint",
            },
            k: k_of(&result.kind, result.k),
            is_decoupled: norm == CrosscoderNorm::Decoupled,
        })
    }
}

impl<'a> CrosscoderUse<'a> {
    /// `None`: it is no crosscoder, or crosscoder_learning has no class for it.
    pub(super) fn of(listed: &'a Listed, runs_dir: &Path) -> Option<Self> {
        let folder = listed.places.get(&SaeLayout::CrosscoderLearning)?;
        let checkpoint = listed.sae.result.checkpoint.as_ref()?;
        let class = crosscoder_class(&runs_dir.join(checkpoint))?;
        Some(Self { folder, class })
    }
}
