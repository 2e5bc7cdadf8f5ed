//! Predicted space on disk, from shapes alone.

use crate::memory::{FLOAT_BYTES, kept_copies, sae_params};
use crate::{Job, ModelFacts};
use std::collections::HashSet;

/// Ids of larger vocabularies take four bytes.
const MOST_SHORT_IDS: usize = 1 << 16;

/// What jobs write into the runs folder, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskEstimate {
    /// What stays: the weights of all SAEs, the best ones and the last states if they are kept.
    pub saes_bytes: u64,
    /// What is there in training besides, for a resume: of the stream that needs the most.
    pub states_bytes: u64,
}

/// That of `streams`, each a list of jobs that are in training at the same time.
pub fn disk(streams: &[Vec<&Job>]) -> DiskEstimate {
    let mut seen = HashSet::new();
    let jobs = streams.iter().flatten();
    let jobs = jobs.filter(|job| seen.insert(&job.job_id));
    let saes: u128 = jobs
        .map(|job| weights(job) * copies(job) + kept_state(job))
        .sum();
    let states = streams
        .iter()
        .map(|jobs| jobs.iter().map(|job| states(job)).sum::<u128>());
    let bytes = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    DiskEstimate {
        saes_bytes: bytes(saes),
        states_bytes: bytes(states.max().unwrap_or(0)),
    }
}

/// What the tokens of `n_tokens` take in the cache, for a model of `facts`.
pub fn tokens_bytes(facts: &ModelFacts, n_tokens: u64) -> u64 {
    let id_bytes = if facts.vocab_size <= MOST_SHORT_IDS {
        2
    } else {
        4
    };
    n_tokens.saturating_mul(id_bytes)
}

fn copies(job: &Job) -> u128 {
    1 + u128::from(job.config.save_best)
}

fn weights(job: &Job) -> u128 {
    let params = job.saes.iter().map(|sae| sae_params(&job.config, sae));
    FLOAT_BYTES * params.sum::<u128>()
}

/// The state that stays when a job is done.
fn kept_state(job: &Job) -> u128 {
    if job.config.keeps_state() {
        state(job)
    } else {
        0
    }
}

/// Weights and what the optimizer keeps.
fn state(job: &Job) -> u128 {
    weights(job) * (1 + kept_copies(job.config.optimizer))
}

/// Those of a job in training, and one that is being written.
fn states(job: &Job) -> u128 {
    let n_states = job.config.save_total_limit as u128 + 1;
    state(job) * n_states
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::facts;
    use crate::stream::tests::jobs;
    use serde_json::json;

    #[test]
    fn saes_stay_and_states_are_those_of_the_largest_stream() {
        let jobs = jobs(&[
            json!({"layers": [0], "k": 4, "num_latents": 64, "optimizer": "signum"}),
            json!({"layers": [0], "k": 4, "num_latents": 32, "save_best": true, "optimizer": "adam"}),
        ]);
        // On width 8.
        let weights = |num_latents: u64| 4 * (num_latents * 17 + 8);
        let [first, second] = [&jobs[0], &jobs[1]];
        let apart = disk(&[vec![first], vec![second]]);
        assert_eq!(apart.saes_bytes, weights(64) + 2 * weights(32));
        let n_states = first.config.save_total_limit as u64 + 1;
        let states = [2 * weights(64) * n_states, 3 * weights(32) * n_states];
        assert_eq!(apart.states_bytes, states[0].max(states[1]));
        assert_eq!(
            disk(&[vec![first, second]]).states_bytes,
            states[0] + states[1]
        );
        assert_eq!(disk(&[vec![first], vec![first]]).saes_bytes, weights(64));
    }

    #[test]
    fn ids_take_the_bytes_that_the_vocabulary_needs() {
        let mut facts = facts(1);
        assert_eq!(tokens_bytes(&facts, 10), 20);
        facts.vocab_size = 100_000;
        assert_eq!(tokens_bytes(&facts, 10), 40);
    }
}
