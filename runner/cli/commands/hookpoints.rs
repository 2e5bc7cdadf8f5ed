//! `sae-run hookpoints`: where SAEs can be trained on a language model.

use crate::error::CliError;
use crate::show::{json, table};
use crate::sweep::hub_access::for_shapes;
use crate::sweep::models::{MODEL_KEYS, ModelName, Search, find_model};
use crate::sweep::paths::{Folders, Near};
use args::HookpointsArgs;
use plan::{HookpointFacts, ModelFacts, match_hookpoints};
use serde_json::{Value, json};
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
    let mut given = args::patterns(&[&args.patterns[..], &args.hookpoints].concat());
    if given.is_empty() {
        given.push("*".to_owned());
    }
    let hookpoints = match_hookpoints(&args.model, &facts, &given)?;
    if args.json {
        let hookpoints: Vec<_> = hookpoints.iter().map(|own| as_json(own)).collect();
        return json::print(&json!({"hookpoints": hookpoints}));
    }
    let rows = hookpoints.iter().map(|hookpoint| row(hookpoint));
    let header = ["hookpoint", "d_in", "d_out", "layers run"];
    table::print(&table::render(&header, rows.collect(), 1))
}

/// Those of its config.json, or of its published shapes if it is not available.
fn facts_of(name: &ModelName, shelf: &Path) -> Result<ModelFacts, CliError> {
    let near = Near::folder(Path::new("."));
    let search = Search {
        hub: for_shapes(&name.name),
        ..Search::from(&near, shelf)
    };
    match find_model(name, MODEL_KEYS, search) {
        Ok(model) => Ok(facts::read_facts(&model.dir)?),
        Err(error) => match facts::published_config(&name.name) {
            Some(config) => Ok(config.facts()),
            None => Err(error),
        },
    }
}

fn as_json(hookpoint: &HookpointFacts) -> Value {
    json!({
        "name": hookpoint.name,
        "d_in": hookpoint.d_in,
        "d_out": hookpoint.d_out,
        "n_layers_run": hookpoint.n_layers_needed,
    })
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
