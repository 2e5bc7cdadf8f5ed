//! SAEs on several hookpoints: crosscoders, and the transcoders of several layers that write to later ones, too.

use crate::hookpoint::select_hookpoints;
use crate::{HookpointFacts, Models, PlanError, SaeSpec, TrainConfig};
use std::collections::BTreeMap;

/// What a crosscoder is called.
pub const CROSSCODER: &str = "crosscoder";

/// What comes before the names of hookpoints of a crosscoder's second model.
pub const SECOND: &str = "2:";

/// The name that the hookpoint `name` has in the first model, or in the second one; `None`: it is in the other.
pub fn name_in_model(name: &str, is_second: bool) -> Option<&str> {
    match name.strip_prefix(SECOND) {
        Some(of_second) => is_second.then_some(of_second),
        None => (!is_second).then_some(name),
    }
}

/// The hookpoints of a crosscoder: those of the model, then those of the second model, which have [`SECOND`] before
/// their names.
pub(crate) fn hookpoints_of_both(
    config: &TrainConfig,
    models: Models<'_>,
) -> Result<Vec<HookpointFacts>, PlanError> {
    let first = select_hookpoints(config, &config.model, models.first)?;
    let mut hookpoints: Vec<HookpointFacts> = first.into_iter().cloned().collect();
    let Some(model) = &config.crosscoder_model else {
        return Ok(hookpoints);
    };
    let Some(second) = models.second else {
        return Err(PlanError::setting(
            "crosscoder_model",
            "names a second model, which only `sae-run` reads",
        ));
    };
    let second = select_hookpoints(config, model, second)?;
    hookpoints.extend(second.into_iter().map(of_second));
    Ok(hookpoints)
}

/// A hookpoint of the second model, by its name in a crosscoder.
pub fn of_second(own: &HookpointFacts) -> HookpointFacts {
    HookpointFacts {
        name: format!("{SECOND}{}", own.name),
        ..own.clone()
    }
}

/// The crosscoders of a job: one for each seed.
pub(crate) fn crosscoders(
    config: &TrainConfig,
    hookpoints: &[HookpointFacts],
) -> Result<Vec<SaeSpec>, PlanError> {
    let width = width_of_all("crosscoder", &hookpoints.iter().collect::<Vec<_>>())?;
    let num_latents = config.latents_at(width, CROSSCODER)?;
    let names: Vec<String> = hookpoints.iter().map(|own| own.name.clone()).collect();
    let of_seed = |&seed: &i64| SaeSpec {
        name: config.sae_name(CROSSCODER, seed),
        hookpoint: names.join("+"),
        hookpoints: names.clone(),
        seed,
        d_in: width * names.len(),
        d_out: None,
        num_latents,
        k: config.k,
        lr: config.lr_for(num_latents),
    };
    Ok(config.init_seeds.iter().map(of_seed).collect())
}

/// Lets each of the transcoders `saes`, which are those at `hookpoints`, write to its own and all later ones.
pub(crate) fn write_to_later(
    saes: &mut [SaeSpec],
    hookpoints: &[&HookpointFacts],
) -> Result<(), PlanError> {
    let width = width_of_all("cross_layer", hookpoints)?;
    let names: Vec<String> = hookpoints.iter().map(|own| own.name.clone()).collect();
    for sae in saes {
        let own = names.iter().position(|name| *name == sae.hookpoint);
        let own = own.expect("its hookpoint is one of them");
        sae.hookpoints = names[own..].to_vec();
        let d_out = width * sae.hookpoints.len();
        sae.d_out = (d_out != sae.d_in).then_some(d_out);
    }
    Ok(())
}

/// The indices of the SAEs of a job with `cross_layer`, those of each seed together, in the order of the layers.
pub fn by_layers(saes: &[SaeSpec]) -> Vec<Vec<usize>> {
    let mut by_seed: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (sae_idx, sae) in saes.iter().enumerate() {
        by_seed.entry(sae.seed).or_default().push(sae_idx);
    }
    by_seed.into_values().collect()
}

/// The width of all `hookpoints`, which must be several and give as many vectors of one width.
fn width_of_all(key: &str, hookpoints: &[&HookpointFacts]) -> Result<usize, PlanError> {
    let [first, others @ ..] = hookpoints else {
        return Err(PlanError::setting(key, "needs `hookpoints`"));
    };
    if others.is_empty() {
        let name = &first.name;
        let problem = format!("needs several hookpoints, and `hookpoints` gives `{name}` alone");
        return Err(PlanError::setting(key, &problem));
    }
    if let Some(other) = others.iter().find(|other| other.d_out != first.d_out) {
        return Err(other_width(key, first, other));
    }
    match others.iter().find(|other| other.vectors != first.vectors) {
        None => Ok(first.d_out),
        Some(other) => {
            let problem = format!(
                "needs `hookpoints` with as many vectors: `{}` has {}, `{}` has {}",
                first.name, first.vectors, other.name, other.vectors
            );
            let hint = "choose `hookpoints` with one vector for each token";
            Err(PlanError::setting(key, &problem).with_hint(hint))
        }
    }
}

fn other_width(key: &str, first: &HookpointFacts, other: &HookpointFacts) -> PlanError {
    let widths = format!(
        "`{}` has {}, `{}` has {}",
        first.name, first.d_out, other.name, other.d_out
    );
    if other.name.starts_with(SECOND) {
        let problem =
            format!("needs a model with hookpoints as wide as those of `model`: {widths}");
        PlanError::setting("crosscoder_model", &problem)
    } else {
        PlanError::setting(key, &format!("needs `hookpoints` of one width: {widths}"))
    }
}
