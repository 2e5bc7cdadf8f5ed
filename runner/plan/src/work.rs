//! How much there is to compute: floating-point operations, an estimate from shapes alone. Divided by a speed, it gives
//! the time that a plan predicts.

use crate::cross::name_in_model;
use crate::memory::{n_active_sets, n_dense, sae_params};
use crate::{Job, ModelFacts, Models, SaeSpec, Stream, TrainConfig};

/// Operations for a multiplication and an addition.
const MULTIPLY_ADD: f64 = 2.0;
/// A backward pass takes about twice what the forward pass takes.
const FORWARD_AND_BACKWARD: f64 = 3.0;
/// Operations for a weight in an optimizer update, which waits for memory rather than for these: its gradient is
/// cleared and added up, the moments and the weight are read and written.
const UPDATE: f64 = 40.0;
/// Products of the size `k * d_in` in the update of an SAE with `k` active latents: decoding, and the gradients of
/// both weights and of the latents.
const SPARSE_PRODUCTS: f64 = 4.0;

/// Operations of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// For each token that is trained on.
    pub training: f64,
    /// For each held-out token, with all SAEs that are evaluated.
    pub evaluation: f64,
}

/// That of the jobs of a stream on `models`.
pub fn work(stream: &Stream, jobs: &[&Job], models: Models<'_>) -> Work {
    let ctx_len = stream.key.ctx_len;
    let mut training = blocks(models.first, stream.n_layers_run, ctx_len);
    if let (Some(second), Some(n_layers)) = (models.second, stream.second_n_layers_run) {
        training += blocks(second, n_layers, ctx_len);
    }
    let mut evaluation = Vec::new();
    for job in jobs {
        if job.config.loss_fn.is_end_to_end() {
            // Every SAE has a pass through the model.
            let pass = whole(models.first, ctx_len) * FORWARD_AND_BACKWARD;
            training += pass * job.saes.len() as f64;
        }
        for sae in &job.saes {
            training += sae_work(&job.config, sae);
            if job.config.wants_evaluation() {
                evaluation.push(after(models, sae, ctx_len) + encoder(sae));
            }
        }
    }
    Work {
        training,
        evaluation: evaluation_work(&evaluation, stream, models),
    }
}

/// What training of one SAE takes for a token.
pub fn sae_work(config: &TrainConfig, sae: &SaeSpec) -> f64 {
    let both = (sae.d_in + sae.d_out()) as f64;
    let products = if n_dense(config) > 1 {
        FORWARD_AND_BACKWARD * MULTIPLY_ADD * sae.num_latents as f64 * both
    } else {
        let of_set = encoder(sae) + SPARSE_PRODUCTS * MULTIPLY_ADD * sae.k.mean() * both;
        n_active_sets(config, sae) as f64 * of_set
    };
    let tokens = config.tokens_per_update.unwrap_or(1).max(1) as f64;
    products + UPDATE * sae_params(config, sae) as f64 / tokens
}

/// What the first `n_layers` blocks of a model take for a token.
pub fn blocks(facts: &ModelFacts, n_layers: usize, ctx_len: usize) -> f64 {
    // Scores and values, of half of the context on average.
    let attention = 2.0 * (ctx_len * facts.hidden_size) as f64;
    n_layers as f64 * (MULTIPLY_ADD * facts.layer_params as f64 + attention)
}

fn whole(facts: &ModelFacts, ctx_len: usize) -> f64 {
    let head = MULTIPLY_ADD * (facts.vocab_size * facts.hidden_size) as f64;
    blocks(facts, facts.n_layers, ctx_len) + head
}

/// What the blocks after an SAE's hookpoint take, and the head.
fn after(models: Models<'_>, sae: &SaeSpec, ctx_len: usize) -> f64 {
    let of_model = |facts: &ModelFacts, is_second: bool| {
        let names = sae
            .outputs()
            .iter()
            .filter_map(|name| name_in_model(name, is_second));
        let layers = names.map(|name| facts.hookpoint(name).map_or(0, |h| h.n_layers_needed));
        let before = layers.min()?.saturating_sub(1);
        Some(whole(facts, ctx_len) - blocks(facts, before, ctx_len))
    };
    let second = models.second.and_then(|facts| of_model(facts, true));
    of_model(models.first, false).unwrap_or(0.0) + second.unwrap_or(0.0)
}

/// A pass for the means, a clean one, for each SAE one from its hookpoint on, and about as many with means there.
fn evaluation_work(of_saes: &[f64], stream: &Stream, models: Models<'_>) -> f64 {
    if of_saes.is_empty() {
        return 0.0;
    }
    let ctx_len = stream.key.ctx_len;
    let most = of_saes.iter().copied().fold(0.0, f64::max);
    let second = models.second.map_or(0.0, |facts| whole(facts, ctx_len));
    let clean = whole(models.first, ctx_len) + second;
    blocks(models.first, stream.n_layers_run, ctx_len) + clean + most + of_saes.iter().sum::<f64>()
}

fn encoder(sae: &SaeSpec) -> f64 {
    MULTIPLY_ADD * (sae.d_in * sae.num_latents) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::facts;
    use crate::stream::tests::{group, jobs};
    use serde_json::{Value, json};

    fn work_of(overrides: &[Value]) -> Work {
        let jobs = jobs(overrides);
        let streams = group(&jobs, 1, None);
        let facts = facts(4);
        work(
            &streams[0],
            &jobs.iter().collect::<Vec<_>>(),
            (&facts).into(),
        )
    }

    #[test]
    fn more_layers_latents_and_jobs_are_more_work() {
        let job = |layer, num_latents: usize| json!({"layers": [layer], "k": 4, "num_latents": num_latents});
        let one = work_of(&[job(0, 64)]).training;
        assert!(work_of(&[job(3, 64)]).training > one, "more blocks");
        assert!(
            work_of(&[job(0, 4096)]).training > 10.0 * one,
            "more latents"
        );
        let two = work_of(&[job(0, 64), job(0, 65)]).training;
        assert!(two > one && two < 2.0 * one, "one pass for both");
        assert_eq!(work_of(&[job(0, 64)]).evaluation, 0.0);
    }

    #[test]
    fn kinds_without_k_multiply_by_all_latents() {
        let job = |activation| json!({"layers": [0], "k": 4, "num_latents": 4096, "activation": activation});
        let [topk, relu] = ["topk", "relu"].map(|name| work_of(&[job(name)]).training);
        assert!(relu > 2.0 * topk, "{relu} {topk}");
    }

    #[test]
    fn an_evaluation_has_one_clean_pass_and_a_part_of_one_for_each_sae() {
        let job =
            |layer, k| json!({"layers": [layer], "k": k, "num_latents": 64, "eval_fraction": 0.1});
        let one = work_of(&[job(3, 4)]).evaluation;
        let two = work_of(&[job(3, 4), job(3, 5)]).evaluation;
        let early = work_of(&[job(0, 4)]).evaluation;
        assert!(one > 0.0 && two < 2.0 * one, "{one} {two}");
        assert!(early > one, "all blocks follow");
    }
}
