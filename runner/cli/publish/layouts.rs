//! Which layouts hold which SAEs.

use super::selection::Chosen;
use crate::error::CliError;
use args::LayoutArg;
use plan::{Activation, SaeLayout, TrainConfig};

/// The layouts that were asked for, each once; empty: for each job the first that holds it.
pub(super) fn asked_for(args: &[LayoutArg]) -> Vec<SaeLayout> {
    let layout = |arg: &LayoutArg| match arg {
        LayoutArg::Sparsify => SaeLayout::Sparsify,
        LayoutArg::SaeLens => SaeLayout::SaeLens,
        LayoutArg::CircuitTracer => SaeLayout::CircuitTracer,
        LayoutArg::CrosscoderLearning => SaeLayout::CrosscoderLearning,
    };
    let mut layouts: Vec<_> = args.iter().map(layout).collect();
    layouts.sort_unstable();
    layouts.dedup();
    layouts
}

/// The layouts that an SAE is written in: those that were `asked` for, or the first that holds it. Refuses what no
/// worker could write.
///
/// # Errors
/// A layout that does not hold the SAE; if none was asked for, none that does.
pub(super) fn of(chosen: &Chosen, asked: &[SaeLayout]) -> Result<Vec<SaeLayout>, CliError> {
    let sae = &chosen.sae;
    // Settings that cannot be read are of another version; the worker has the SAE itself.
    let Ok(config) = serde_json::from_str::<TrainConfig>(&sae.provenance.config) else {
        return Ok(match asked {
            [] => vec![SaeLayout::Sparsify],
            asked => asked.to_vec(),
        });
    };
    let refused = |who: &str| {
        let (job, name) = (&sae.result.job, &sae.result.sae);
        let what = described(&sae.result.kind, &config);
        let message = format!("{who} `{name}` of job `{job}`, {what}");
        Err(CliError::input(message).with_hint(hint(&config)))
    };
    if asked.is_empty() {
        let mut all = SaeLayout::ALL.into_iter();
        return match all.find(|layout| holds(*layout, &config)) {
            Some(layout) => Ok(vec![layout]),
            None => refused("no layout supports"),
        };
    }
    match asked.iter().find(|layout| !holds(**layout, &config)) {
        Some(layout) => refused(&format!("{layout}'s layout does not support")),
        None => Ok(asked.to_vec()),
    }
}

fn holds(layout: SaeLayout, config: &TrainConfig) -> bool {
    let is_by_latent = matches!(
        config.activation,
        Activation::JumpRelu | Activation::BatchTopK | Activation::Relu
    );
    if config.crosscoder {
        return layout == SaeLayout::CrosscoderLearning;
    }
    if config.cross_layer {
        return layout == SaeLayout::CircuitTracer && is_by_latent && !config.skip_connection;
    }
    match (layout, config.activation) {
        (SaeLayout::Sparsify, activation) => {
            matches!(activation, Activation::TopK | Activation::GroupMax)
        }
        (SaeLayout::SaeLens, Activation::TopK) => !config.transcode && !config.skip_connection,
        (SaeLayout::SaeLens, Activation::Gated) => !config.transcode,
        (SaeLayout::SaeLens, activation) => activation != Activation::GroupMax,
        (SaeLayout::CircuitTracer, _) => config.transcode && is_by_latent,
        (SaeLayout::CrosscoderLearning, _) => false,
    }
}

/// `a transcoder of the kind gated`.
fn described(kind: &str, config: &TrainConfig) -> String {
    let (what, prefix) = if config.crosscoder {
        ("a crosscoder", "crosscoder ")
    } else if config.cross_layer {
        ("a layer of a cross-layer transcoder", "cross-layer ")
    } else if config.transcode {
        ("a transcoder", "transcoder ")
    } else {
        ("an SAE", "")
    };
    let kind = kind.strip_prefix(prefix).unwrap_or(kind);
    let skip = if config.skip_connection {
        " with a skip connection"
    } else {
        ""
    };
    format!("{what} of the kind {kind}{skip}")
}

fn hint(config: &TrainConfig) -> String {
    let others = SaeLayout::ALL.into_iter();
    let others = others.filter(|layout| holds(*layout, config));
    match others.map(SaeLayout::name).collect::<Vec<_>>()[..] {
        [] if config.cross_layer => {
            "circuit-tracer's supports those with batchtopk, relu or jumprelu and without a \
            skip connection; `--where` leaves this one out"
                .to_owned()
        }
        [] => "no layout does; choose others with `--where`".to_owned(),
        ref others => format!("`--layout {}` does", others.join(",")),
    }
}
