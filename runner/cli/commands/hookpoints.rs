//! `sae-run hookpoints`: where SAEs can be trained on a language model.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::hub_access::for_shapes;
use crate::sweep::models::{MODEL_KEYS, ModelName, Search, find_model};
use crate::sweep::paths::Folders;
use args::HookpointsArgs;
use plan::{HookpointFacts, ModelFacts, match_hookpoints};
use std::path::Path;

/// Prints the hookpoints of a model, in natural order.
///
/// # Errors
/// A model that is not there or not known, or a pattern that matches nothing.
pub(crate) fn hookpoints(args: &HookpointsArgs) -> Result<u8, CliError> {
    let shelf = Folders::of_this_machine()?.models();
    let name = ModelName {
        name: args.model.clone(),
        revision: args.revision.clone(),
    };
    let facts = facts_of(&name, &shelf)?;
    let all = ["*".to_owned()];
    let patterns = if args.patterns.is_empty() {
        all.as_slice()
    } else {
        &args.patterns
    };
    let hookpoints = match_hookpoints(&args.model, &facts, patterns)?;
    let text = if args.json {
        json(&hookpoints)
    } else {
        table::render(
            &["hookpoint", "d_in", "d_out", "layers run"],
            hookpoints.iter().map(|hookpoint| row(hookpoint)).collect(),
            1,
        )
    };
    table::print(&text)
}

/// Those of its config.json, or of its published shapes if it is not at hand.
fn facts_of(name: &ModelName, shelf: &Path) -> Result<ModelFacts, CliError> {
    let search = Search {
        hub: for_shapes(&name.name),
        ..Search::from_here(shelf)
    };
    match find_model(name, MODEL_KEYS, search) {
        Ok(model) => Ok(facts::read_facts(&model.dir)?),
        Err(error) => match facts::published_config(&name.name) {
            Some(config) => Ok(config.facts()),
            None => Err(error),
        },
    }
}

fn json(hookpoints: &[&HookpointFacts]) -> String {
    serde_json::to_string_pretty(hookpoints).expect("plain fields serialise to JSON") + "\n"
}

fn row(hookpoint: &HookpointFacts) -> Vec<String> {
    let HookpointFacts {
        name,
        d_in,
        d_out,
        n_layers_needed,
        ..
    } = hookpoint;
    vec![
        name.clone(),
        d_in.map_or_else(|| "-".to_owned(), |d_in| d_in.to_string()),
        d_out.to_string(),
        n_layers_needed.to_string(),
    ]
}
