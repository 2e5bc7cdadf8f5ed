//! Which rank trains which SAE, if `distribute_modules` gives each to one.

use crate::cross::by_layers;
use crate::{Job, SaeSpec, TrainConfig};
use std::collections::BTreeMap;

/// How much more the busiest rank may have to do, in percent, for the SAEs of a hookpoint to be together:
/// its activations are then sent to one rank.
const MOST_OVERLOAD_PCT: u128 = 5;

/// The ranks that train the SAEs of each job, one for each; `None`: all ranks have all of the job's, and sum
/// their gradients. The predicted work is spread evenly over `n_ranks`, over all jobs at once. The same
/// wherever it is asked for.
///
/// # Panics
/// `n_ranks` is 0.
pub fn owners(jobs: &[&Job], n_ranks: usize) -> Vec<Option<Vec<usize>>> {
    let is_spread = |job: &Job| job.config.distribute_modules && n_ranks > 1;
    let spread = jobs.iter().filter(|job| is_spread(job));
    let of_units: Vec<_> = spread.flat_map(|job| costs_of(job)).collect();
    let mut ranks = assign(&of_units, n_ranks).into_iter();
    let mut of_job = |job: &Job| {
        let mut of_saes = vec![0; job.saes.len()];
        for unit in units(job) {
            let rank = ranks.next().expect("there is one for each unit");
            for sae_idx in unit {
                of_saes[sae_idx] = rank;
            }
        }
        of_saes
    };
    let jobs = jobs.iter();
    jobs.map(|job| is_spread(job).then(|| of_job(job)))
        .collect()
}

/// The number of SAEs of all `jobs`, if each is on one rank and some of `n_ranks` would have none.
pub fn too_few_saes(jobs: &[&Job], n_ranks: usize) -> Option<usize> {
    let are_spread = jobs.iter().all(|job| job.config.distribute_modules);
    let n_units = jobs.iter().map(|job| units(job).len()).sum();
    (are_spread && n_units < n_ranks).then_some(n_units)
}

/// The indices of the SAEs of `job` that are on one rank together: the layers of a cross-layer transcoder, or one.
fn units(job: &Job) -> Vec<Vec<usize>> {
    if job.config.cross_layer {
        by_layers(&job.saes)
    } else {
        (0..job.saes.len()).map(|sae_idx| vec![sae_idx]).collect()
    }
}

/// Of each unit of `job`, its first hookpoint and what it costs.
fn costs_of(job: &Job) -> Vec<(String, u128)> {
    let of_unit = |unit: Vec<usize>| {
        let saes = unit.iter().map(|sae_idx| &job.saes[*sae_idx]);
        let hookpoint = job.saes[unit[0]].hookpoint.clone();
        (hookpoint, saes.map(|sae| cost(&job.config, sae)).sum())
    };
    units(job).into_iter().map(of_unit).collect()
}

/// A rank for each SAE, given as its hookpoint and its cost.
fn assign(saes: &[(String, u128)], n_ranks: usize) -> Vec<usize> {
    let costs: Vec<u128> = saes.iter().map(|(_, cost)| *cost).collect();
    let one_by_one = spread(&costs, n_ranks);
    let mut together: BTreeMap<&str, u128> = BTreeMap::new();
    for (hookpoint, cost) in saes {
        *together.entry(hookpoint).or_default() += cost;
    }
    let of_hookpoints: Vec<u128> = together.values().copied().collect();
    let ranks: BTreeMap<&str, usize> = together
        .into_keys()
        .zip(spread(&of_hookpoints, n_ranks))
        .collect();
    let by_hookpoint: Vec<usize> = saes
        .iter()
        .map(|(hookpoint, _)| ranks[hookpoint.as_str()])
        .collect();
    let [least, most] = [&one_by_one, &by_hookpoint].map(|ranks| busiest(&costs, ranks, n_ranks));
    if most * 100 <= least * (100 + MOST_OVERLOAD_PCT) {
        by_hookpoint
    } else {
        one_by_one
    }
}

/// The largest first, each to the rank that has the least to do so far (Graham 1969): at most 4/3 of the
/// best there is.
fn spread(costs: &[u128], n_ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&idx| std::cmp::Reverse(costs[idx]));
    let (mut loads, mut ranks) = (vec![0; n_ranks], vec![0; costs.len()]);
    for idx in order {
        let rank = (0..n_ranks).min_by_key(|&rank| loads[rank]);
        ranks[idx] = rank.expect("there is at least one rank");
        loads[ranks[idx]] += costs[idx];
    }
    ranks
}

fn busiest(costs: &[u128], ranks: &[usize], n_ranks: usize) -> u128 {
    let mut loads = vec![0; n_ranks];
    for (cost, &rank) in costs.iter().zip(ranks) {
        loads[rank] += cost;
    }
    loads.into_iter().max().unwrap_or(0)
}

/// Multiplications for a token: the encoder's product, and decoder and gradients at the active latents.
fn cost(config: &TrainConfig, sae: &SaeSpec) -> u128 {
    let [d_in, d_out, num_latents, k] =
        [sae.d_in, sae.d_out(), sae.num_latents, sae.k.count()].map(|width| width as u128);
    let n_decoded = if config.multi_topk { 5 * k } else { k };
    d_in * num_latents + 2 * n_decoded * (d_in + d_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(saes: &[(&str, u128)]) -> Vec<(String, u128)> {
        let saes = saes.iter();
        saes.map(|&(hookpoint, cost)| (hookpoint.to_owned(), cost))
            .collect()
    }

    #[test]
    fn the_work_is_even_and_a_hookpoint_is_sent_to_one_rank() {
        // Two jobs on four hookpoints of one width.
        let saes =
            named(&["a", "b", "c", "d", "a", "b", "c", "d"].map(|hookpoint| (hookpoint, 10)));
        assert_eq!(assign(&saes, 2), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(assign(&saes, 4), [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn hookpoints_are_split_where_ranks_would_wait() {
        let saes = named(&[("a", 10), ("a", 10), ("a", 10), ("b", 10)]);
        assert_eq!(busiest(&[10; 4], &assign(&saes, 4), 4), 10);
        let saes = named(&[("b", 20), ("a", 50), ("b", 20)]);
        assert_eq!(assign(&saes, 2), [1, 0, 1]);
    }

    #[test]
    fn there_may_be_more_ranks_than_saes() {
        assert_eq!(assign(&named(&[("a", 1), ("b", 1)]), 5), [0, 1]);
        assert_eq!(assign(&[], 5), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn no_rank_has_more_than_a_share_and_one_sae_more(
            costs in prop::collection::vec(1u128..1000, 1..40),
            n_ranks in 1usize..9,
        ) {
            let names = (0..costs.len()).map(|idx| (idx % 7).to_string());
            let saes: Vec<_> = names.zip(costs.iter().copied()).collect();
            let ranks = assign(&saes, n_ranks);
            prop_assert!(ranks.iter().all(|&rank| rank < n_ranks));
            let share = costs.iter().sum::<u128>() / n_ranks as u128;
            let largest = *costs.iter().max().unwrap();
            let most = busiest(&costs, &ranks, n_ranks);
            prop_assert!(most * 100 <= (share + largest) * (100 + MOST_OVERLOAD_PCT));
        }
    }
}
