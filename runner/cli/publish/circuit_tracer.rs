//! circuit-tracer's layout: the transcoders of one job at the MLPs of all layers are a set, with one `config.yaml`.

use super::card::json;
use super::selection::Chosen;
use crate::error::CliError;
use plan::ModelFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What replaces MLPs one by one.
const MODEL_KIND: &str = "transcoder_set";
/// Where circuit-tracer puts hooks at the input and at the output of each block's MLP.
const HOOKS: [&str; 2] = ["mlp.hook_in", "mlp.hook_out"];
/// Ends the name of an MLP; in front of it is the number of its layer.
const MLP: &str = ".mlp";

/// The layer of each transcoder of a set. `facts`: of the language model, if it is still there.
///
/// # Errors
/// SAEs of several jobs; one that is not at an MLP, two at one MLP, a layer without one, other numbers of latents.
pub(super) fn layers(
    chosen: &[Chosen],
    facts: Option<&ModelFacts>,
) -> Result<Vec<usize>, CliError> {
    let jobs: BTreeSet<_> = chosen.iter().map(|one| &one.sae.result.job_id).collect();
    if jobs.len() > 1 {
        let what = format!("the transcoders of one job, these are of {}", jobs.len());
        let hint = "name one job; `--prefix FOLDER` puts another one into the same repository";
        return Err(refusal(&what, hint));
    }
    let layers: Vec<_> = chosen.iter().map(layer).collect::<Result<_, _>>()?;
    let mut of_layer: BTreeMap<usize, &Chosen> = BTreeMap::new();
    for (&layer, chosen) in layers.iter().zip(chosen) {
        if let Some(other) = of_layer.insert(layer, chosen) {
            let (one, two) = (&other.sae.result.sae, &chosen.sae.result.sae);
            let what = format!("one transcoder a layer, `{one}` and `{two}` are of layer {layer}");
            return Err(refusal(&what, "`--where \"seed = 0\"` chooses one of them"));
        }
    }
    let last = layers.iter().max().map_or(0, |last| last + 1);
    let n_layers = facts.map_or(0, |facts| facts.n_layers).max(last);
    if let Some(missing) = (0..n_layers).find(|layer| !of_layer.contains_key(layer)) {
        let what =
            format!("a transcoder for each of {n_layers} layers, there is none of layer {missing}");
        let hint = "it replaces the MLP of every layer: train a job with all of them as hookpoints";
        return Err(refusal(&what, hint));
    }
    let sizes: BTreeSet<_> = chosen
        .iter()
        .map(|one| one.sae.result.num_latents)
        .collect();
    if sizes.len() > 1 {
        let what = format!("transcoders with one number of latents, these have {sizes:?}");
        return Err(refusal(&what, "train a job with one `num_latents`"));
    }
    Ok(layers)
}

fn refusal(what: &str, hint: &str) -> CliError {
    CliError::input(format!("circuit-tracer's layout holds {what}")).with_hint(hint.to_owned())
}

/// The layer that `layers.3.mlp` is in.
fn layer(chosen: &Chosen) -> Result<usize, CliError> {
    let hookpoint = &chosen.sae.result.hookpoint;
    let block = hookpoint.strip_suffix(MLP);
    let number = block.and_then(|block| block.rsplit('.').next()?.parse().ok());
    number.ok_or_else(|| {
        let what = format!("transcoders of MLPs, `{hookpoint}` is not the MLP of a layer");
        refusal(&what, "such as `layers.3.mlp`; `--where` leaves others out")
    })
}

/// Where a set is, and what it was trained on.
pub(super) struct Set<'a> {
    pub(super) repo: &'a str,
    pub(super) prefix: Option<&'a str>,
    pub(super) model: &'a str,
}

impl Set<'_> {
    /// The text of `config.yaml`, as `load_transcoder_from_hub` of circuit-tracer 0.5.0 takes it. Without a list of
    /// files it takes those next to it: of the same branch, and of a copy of the repository too.
    pub(super) fn config(&self) -> String {
        let prefix = self.prefix.map(|prefix| format!("//{prefix}"));
        let scan = format!("{}{}", self.repo, prefix.unwrap_or_default());
        let [input, output] = HOOKS;
        let mut text = String::new();
        for (key, value) in [
            ("model_kind", MODEL_KIND),
            ("model_name", self.model),
            ("scan", &scan),
            ("feature_input_hook", input),
            ("feature_output_hook", output),
        ] {
            let _ = writeln!(text, "{key}: {}", json(value));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_the_set_is_of() {
        let set = Set {
            repo: "org/set",
            prefix: Some("v1"),
            model: "org/model",
        };
        let expected = r#"model_kind: "transcoder_set"
model_name: "org/model"
scan: "org/set//v1"
feature_input_hook: "mlp.hook_in"
feature_output_hook: "mlp.hook_out"
"#;
        assert_eq!(set.config(), expected);
    }
}
