//! SAEs on several hookpoints: crosscoders, and the transcoders of several layers that write to later ones, too.

use crate::{HookpointFacts, PlanError, SaeSpec, TrainConfig};
use std::collections::BTreeMap;

/// What a crosscoder is called.
pub const CROSSCODER: &str = "crosscoder";

/// The crosscoders of a job: one for each seed.
pub(crate) fn crosscoders(
    config: &TrainConfig,
    hookpoints: &[&HookpointFacts],
) -> Result<Vec<SaeSpec>, PlanError> {
    let width = width_of_all(
        "crosscoder",
        hookpoints.iter().map(|own| (&*own.name, own.d_out)),
    )?;
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
    let widths = hookpoints.iter().map(|own| (&*own.name, own.d_out));
    let width = width_of_all("cross_layer", widths)?;
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

/// The width that all hookpoints have, by name and width.
fn width_of_all<'a>(
    key: &str,
    hookpoints: impl Iterator<Item = (&'a str, usize)>,
) -> Result<usize, PlanError> {
    let hookpoints: Vec<_> = hookpoints.collect();
    let [(first, width), others @ ..] = &hookpoints[..] else {
        return Err(PlanError::setting(key, "needs `hookpoints`"));
    };
    if others.is_empty() {
        let problem = format!("needs several hookpoints, and `hookpoints` gives `{first}` alone");
        return Err(PlanError::setting(key, &problem));
    }
    match others.iter().find(|(_, other)| other != width) {
        None => Ok(*width),
        Some((other, other_width)) => {
            let problem = format!(
                "needs `hookpoints` of one width: `{first}` has {width}, `{other}` has {other_width}"
            );
            Err(PlanError::setting(key, &problem))
        }
    }
}
