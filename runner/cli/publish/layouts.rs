//! Which layouts hold which SAEs.

use super::selection::Chosen;
use crate::error::CliError;
use plan::{Activation, SaeLayout, TrainConfig};

/// All layouts.
const LAYOUTS: [SaeLayout; 2] = [SaeLayout::Sparsify, SaeLayout::SaeLens];

/// Refuses what no worker could write.
///
/// # Errors
/// A layout of `layouts` that does not hold one of the SAEs.
pub(super) fn check(chosen: &[Chosen], layouts: &[SaeLayout]) -> Result<(), CliError> {
    for Chosen { sae, .. } in chosen {
        // Settings that cannot be read are of another version; the worker has the SAE itself.
        let Ok(config) = serde_json::from_str::<TrainConfig>(&sae.provenance.config) else {
            continue;
        };
        if let Some(layout) = layouts.iter().find(|layout| !holds(**layout, &config)) {
            let (job, name) = (&sae.result.job, &sae.result.sae);
            let message = format!(
                "{layout}'s layout cannot hold `{name}` of job `{job}`, {}",
                described(&sae.result.kind, &config)
            );
            return Err(CliError::input(message).with_hint(hint(&config)));
        }
    }
    Ok(())
}

fn holds(layout: SaeLayout, config: &TrainConfig) -> bool {
    match (layout, config.activation) {
        (SaeLayout::Sparsify, activation) => {
            matches!(activation, Activation::TopK | Activation::GroupMax)
        }
        (SaeLayout::SaeLens, Activation::TopK) => !config.transcode && !config.skip_connection,
        (SaeLayout::SaeLens, Activation::Gated) => !config.transcode,
        (SaeLayout::SaeLens, activation) => activation != Activation::GroupMax,
    }
}

/// `a transcoder of the kind gated`.
fn described(kind: &str, config: &TrainConfig) -> String {
    let what = if config.transcode {
        "a transcoder"
    } else {
        "an SAE"
    };
    let skip = if config.skip_connection {
        " with a skip connection"
    } else {
        ""
    };
    format!("{what} of the kind {kind}{skip}")
}

fn hint(config: &TrainConfig) -> String {
    let others = LAYOUTS.into_iter().filter(|layout| holds(*layout, config));
    match others.map(SaeLayout::name).collect::<Vec<_>>()[..] {
        [] => "no layout does; choose others with `--where`".to_owned(),
        ref others => format!("`--layout {}` does", others.join(",")),
    }
}
