//! circuit-tracer's layout: the transcoders of one job at the MLPs of all layers are a set, with one `config.yaml`; or they
//! are the layers of a cross-layer transcoder.

use super::card::json;
use super::selection::Chosen;
use crate::error::CliError;
use plan::{ModelFacts, SaeForm};
use sae_files::outputs_of;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::Path;

/// Where circuit-tracer puts hooks at the input and at the output of each block's MLP.
const HOOKS: [&str; 2] = ["mlp.hook_in", "mlp.hook_out"];
/// Ends the name of an MLP; in front of it is the number of its layer.
const MLP: &str = ".mlp";

/// The form of each transcoder of a set, by its key. `facts`: of the language model, if it is still there.
///
/// # Errors
/// SAEs of several jobs; one that is not at an MLP, two at one MLP, a layer without one, other numbers of latents; a
/// layer that writes to something else than later MLPs.
pub(super) fn forms(
    chosen: &[&Chosen],
    facts: Option<&ModelFacts>,
    runs_dir: &Path,
) -> Result<HashMap<i64, SaeForm>, CliError> {
    let layers = layers(chosen, facts)?;
    let hookpoints: Vec<_> = layers
        .values()
        .map(|one| one.sae.result.hookpoint.as_str())
        .collect();
    let mut forms = HashMap::new();
    for (layer, one) in layers {
        let outputs = outputs_of(&one.checkpoint(runs_dir))?;
        let form = if outputs.is_empty() {
            SaeForm::CircuitTracer { layer }
        } else {
            check_outputs(one, &outputs, &hookpoints[layer..])?;
            SaeForm::CrossLayer { layer }
        };
        forms.insert(one.sae.sae_id, form);
    }
    Ok(forms)
}

/// The transcoder of each layer, from the first to the last.
fn layers<'a>(
    chosen: &[&'a Chosen],
    facts: Option<&ModelFacts>,
) -> Result<BTreeMap<usize, &'a Chosen>, CliError> {
    let jobs: BTreeSet<_> = chosen.iter().map(|one| &one.sae.result.job_id).collect();
    if jobs.len() > 1 {
        let what = format!("the transcoders of one job, these are of {}", jobs.len());
        let hint = "name one job; `--prefix FOLDER` puts another one into the same repository";
        return Err(refusal(&what, hint));
    }
    let mut of_layer: BTreeMap<usize, &Chosen> = BTreeMap::new();
    for chosen in chosen {
        let Mlp { layer, .. } = Mlp::of(chosen)?;
        if let Some(other) = of_layer.insert(layer, chosen) {
            let (one, two) = (&other.sae.result.sae, &chosen.sae.result.sae);
            let what = format!("one transcoder a layer, `{one}` and `{two}` are of layer {layer}");
            return Err(refusal(&what, "`--where \"seed = 0\"` chooses one of them"));
        }
    }
    check_complete(&of_layer, facts)?;
    let sizes: BTreeSet<_> = chosen
        .iter()
        .map(|one| one.sae.result.num_latents)
        .collect();
    if sizes.len() > 1 {
        let what = format!("transcoders with one number of latents, these have {sizes:?}");
        return Err(refusal(&what, "train a job with one `num_latents`"));
    }
    Ok(of_layer)
}

fn check_complete(
    of_layer: &BTreeMap<usize, &Chosen>,
    facts: Option<&ModelFacts>,
) -> Result<(), CliError> {
    let Some((last, chosen)) = of_layer.last_key_value() else {
        return Ok(());
    };
    let n_layers = facts.map_or(0, |facts| facts.n_layers).max(last + 1);
    let Some(layer) = (0..n_layers).find(|layer| !of_layer.contains_key(layer)) else {
        return Ok(());
    };
    let missing = Mlp {
        layer,
        ..Mlp::of(chosen)?
    };
    let what = format!(
        "a transcoder for each of {n_layers} layers, `{}` is missing",
        missing.name()
    );
    let hint = "a job needs the MLPs of all layers as its hookpoints, and all of it must be chosen";
    Err(refusal(&what, hint))
}

/// Refuses a layer of a cross-layer transcoder that does not write to `later`, its own MLP and all later ones.
fn check_outputs(chosen: &Chosen, outputs: &[String], later: &[&str]) -> Result<(), CliError> {
    if outputs == later {
        return Ok(());
    }
    let is_of_them = |output: &&String| later.contains(&output.as_str());
    let other = outputs.iter().find(|output| !is_of_them(output));
    let what = format!(
        "cross-layer transcoders of MLPs, `{}` writes to `{}` too",
        chosen.sae.result.sae,
        other.map_or_else(|| outputs.join("+"), String::clone)
    );
    Err(refusal(
        &what,
        "train a job with the MLPs of all layers as its only hookpoints",
    ))
}

fn refusal(what: &str, hint: &str) -> CliError {
    CliError::input(format!("circuit-tracer's layout takes {what}")).with_hint(hint.to_owned())
}

/// The MLP of a layer: `layers.3.mlp`.
struct Mlp<'a> {
    blocks: &'a str,
    layer: usize,
}

impl<'a> Mlp<'a> {
    fn of(chosen: &'a Chosen) -> Result<Self, CliError> {
        let hookpoint = &chosen.sae.result.hookpoint;
        let block = hookpoint.strip_suffix(MLP);
        let parts = block.and_then(|block| block.rsplit_once('.'));
        let own = parts.and_then(|(blocks, layer)| {
            let layer = layer.parse().ok()?;
            Some(Self { blocks, layer })
        });
        own.ok_or_else(|| {
            let what = format!("transcoders of MLPs, `{hookpoint}` is not the MLP of a layer");
            refusal(&what, "such as `layers.3.mlp`; `--where` leaves others out")
        })
    }

    fn name(&self) -> String {
        format!("{}.{}{MLP}", self.blocks, self.layer)
    }
}

/// Where a set is, and what it was trained on.
pub(super) struct Set<'a> {
    pub(super) repo: &'a str,
    pub(super) prefix: Option<&'a str>,
    pub(super) model: &'a str,
    /// That of one of its transcoders.
    pub(super) form: &'a SaeForm,
}

impl Set<'_> {
    /// The text of `config.yaml`, as `load_transcoder_from_hub` of circuit-tracer 0.5.0 takes it. Without a list of
    /// files it takes those next to it: of the same branch, and of a copy of the repository too.
    pub(super) fn config(&self) -> String {
        let prefix = self.prefix.map(|prefix| format!("//{prefix}"));
        let scan = format!("{}{}", self.repo, prefix.unwrap_or_default());
        let [input, output] = HOOKS;
        // What replaces MLPs one by one, or all of them together.
        let model_kind = match self.form {
            SaeForm::CrossLayer { .. } => "cross_layer_transcoder",
            _ => "transcoder_set",
        };
        let mut text = String::new();
        for (key, value) in [
            ("model_kind", model_kind),
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
        let config = |form: &SaeForm| {
            let set = Set {
                repo: "org/set",
                prefix: Some("v1"),
                model: "org/model",
                form,
            };
            set.config()
        };
        let expected = r#"model_kind: "transcoder_set"
model_name: "org/model"
scan: "org/set//v1"
feature_input_hook: "mlp.hook_in"
feature_output_hook: "mlp.hook_out"
"#;
        assert_eq!(config(&SaeForm::CircuitTracer { layer: 0 }), expected);
        let cross_layer = config(&SaeForm::CrossLayer { layer: 0 });
        let (kind, rest) = cross_layer.split_once('\n').unwrap();
        assert_eq!(kind, "model_kind: \"cross_layer_transcoder\"");
        assert!(expected.ends_with(rest), "{rest}");
    }
}
