//! Jobs that agree on everything before the SAE share one forward pass: a stream.

use crate::identity::{digest_json, short};
use crate::memory::MemoryDemand;
use crate::{Dtype, Job, LossFn, MemoryEstimate, ModelFacts, RecipeIdentity, Round};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What the jobs of a stream have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamKey {
    /// Digest of the model's files.
    pub model_digest: String,
    /// What the language model computes in.
    pub dtype: Dtype,
    /// Whether its linear modules are held in 8 bit.
    pub load_in_8bit: bool,
    /// Digest of the token data.
    pub token_digest: String,
    /// Digest of the token data to evaluate on, where it is not held out of the former.
    pub eval_token_digest: Option<String>,
    /// Length of a sequence, in tokens.
    pub ctx_len: usize,
    /// Sequences in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one optimizer update.
    pub grad_acc_steps: usize,
    /// Seed of the shuffle.
    pub shuffle_seed: u64,
    /// Limit on the number of sequences.
    pub max_examples: Option<u64>,
    /// Fraction of the sequences that is held out.
    pub eval_fraction: f64,
    /// What is minimised: losses on the model's output need a pass of their own.
    pub loss_fn: LossFn,
}

/// Jobs trained side by side in one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Hash of the key and the jobs; 12 hex digits.
    pub stream_id: String,
    /// What its jobs share.
    pub key: StreamKey,
    /// Its jobs.
    pub job_ids: Vec<String>,
    /// Blocks of the model its forward pass runs, of how many the model has.
    pub n_layers_run: usize,
    /// Predicted memory of its worker.
    pub memory: MemoryEstimate,
}

/// A recipe's answer, resolved and grouped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The sweep's name.
    pub sweep: String,
    /// Which recipe answered which request.
    pub recipe: RecipeIdentity,
    /// The jobs, in the recipe's order.
    pub jobs: Vec<Job>,
    /// The streams, in the order of their first jobs.
    pub streams: Vec<Stream>,
    /// What the recipe was asked and answered, from round 0; the jobs are those of the answers, one
    /// after the other. Empty where no recipe was asked.
    #[serde(skip)]
    pub rounds: Vec<Round>,
}

impl Plan {
    /// The jobs of round 0.
    pub fn first_jobs(&self) -> &[Job] {
        let n_jobs = self.rounds.first().map(|round| round.response.jobs.len());
        &self.jobs[..n_jobs.unwrap_or(self.jobs.len()).min(self.jobs.len())]
    }

    /// Forgets what was added by later rounds than the first.
    pub fn keep_first_round(&mut self) {
        let n_jobs = self.first_jobs().len();
        self.jobs.truncate(n_jobs);
        self.rounds.truncate(1);
        let known: Vec<_> = self.jobs.iter().map(|job| &job.job_id).collect();
        self.streams
            .retain(|stream| stream.job_ids.iter().all(|id| known.contains(&id)));
    }

    /// The jobs of one of its streams, each once.
    pub fn jobs_of(&self, stream: &Stream) -> Vec<&Job> {
        let mut wanted: HashSet<&String> = stream.job_ids.iter().collect();
        let jobs = self.jobs.iter();
        jobs.filter(|job| wanted.remove(&job.job_id)).collect()
    }

    /// The job with this id.
    pub fn job(&self, job_id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.job_id == job_id)
    }
}

impl StreamKey {
    /// The key of `job`.
    pub fn of(job: &Job) -> Self {
        Self {
            model_digest: job.model_digest.clone(),
            dtype: job.config.dtype,
            load_in_8bit: job.config.load_in_8bit,
            token_digest: job.token_digest.clone(),
            eval_token_digest: job.eval_token_digest.clone(),
            ctx_len: job.config.ctx_len,
            batch_size: job.config.batch_size,
            grad_acc_steps: job.config.grad_acc_steps,
            shuffle_seed: job.config.shuffle_seed,
            max_examples: job.config.max_examples,
            eval_fraction: job.config.eval_fraction,
            loss_fn: job.config.loss_fn,
        }
    }
}

/// Groups jobs by what they share; `facts_of` tells of a job's model. A group that would need more than
/// `most_bytes` of memory side by side becomes several streams, one after the other; a job that needs
/// more alone is a stream of its own.
pub fn group_streams<'a>(
    jobs: &'a [Job],
    mut facts_of: impl FnMut(&Job) -> &'a ModelFacts,
    most_bytes: Option<u64>,
) -> Vec<Stream> {
    let mut groups: Vec<(StreamKey, Vec<&Job>)> = Vec::new();
    let mut seen = HashSet::new();
    // Two drafts with the same settings are one job.
    for job in jobs.iter().filter(|job| seen.insert(&job.job_id)) {
        let key = StreamKey::of(job);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => group.push(job),
            None => groups.push((key, vec![job])),
        }
    }
    let streams = groups.into_iter().flat_map(|(key, group)| {
        let parts = parts_that_fit(&group, facts_of(group[0]), most_bytes);
        let of_part = |part: Part| stream(key.clone(), &part);
        parts.into_iter().map(of_part).collect::<Vec<_>>()
    });
    streams.collect()
}

/// Jobs that fit beside each other.
struct Part<'a> {
    job_ids: Vec<String>,
    demand: MemoryDemand<'a>,
}

/// Cuts `jobs` where the next one would be too much.
fn parts_that_fit<'a>(
    jobs: &[&'a Job],
    facts: &'a ModelFacts,
    most_bytes: Option<u64>,
) -> Vec<Part<'a>> {
    let most_bytes = most_bytes.unwrap_or(u64::MAX);
    let mut parts: Vec<Part> = Vec::new();
    for job in jobs {
        let with_job = parts.last().map(|part| {
            let mut demand = part.demand.clone();
            demand.add(job);
            demand
        });
        let fits = |demand: &MemoryDemand| demand.estimate().total_bytes() <= most_bytes;
        match (parts.last_mut(), with_job.filter(fits)) {
            (Some(part), Some(demand)) => {
                part.demand = demand;
                part.job_ids.push(job.job_id.clone());
            }
            _ => parts.push(Part {
                job_ids: vec![job.job_id.clone()],
                demand: MemoryDemand::of(job, facts),
            }),
        }
    }
    parts
}

fn stream(key: StreamKey, part: &Part) -> Stream {
    let job_ids = part.job_ids.clone();
    Stream {
        stream_id: short(&digest_json(&(&key, &job_ids))),
        n_layers_run: part.demand.n_layers(),
        memory: part.demand.estimate(),
        key,
        job_ids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JobDraft, JobInputs, PlanError, TrainConfig, resolve_jobs, sae_memory};
    use serde_json::json;

    fn jobs(overrides: &[serde_json::Value]) -> Vec<Job> {
        let base = TrainConfig {
            model: "m".into(),
            dataset: "d".into(),
            ctx_len: 8,
            ..Default::default()
        };
        let drafts: Vec<_> = overrides
            .iter()
            .map(|value| JobDraft {
                name: Some(value.to_string()),
                note: None,
                overrides: value.as_object().unwrap().clone(),
            })
            .collect();
        let inputs = JobInputs {
            facts: crate::model::tests::facts(4).into(),
            model_digest: "m".into(),
            token_digest: "t".into(),
            eval_token_digest: None,
            finetune_digest: None,
        };
        resolve_jobs(&base, &drafts, |_| Ok::<_, PlanError>(inputs.clone())).unwrap()
    }

    #[test]
    fn what_the_sae_alone_changes_shares_a_stream() {
        let jobs = jobs(&[
            json!({"k": 4, "layers": [0]}),
            json!({"k": 8, "layers": [2]}),
            json!({"k": 4, "layers": [0], "batch_size": 2}),
            json!({"k": 4, "layers": [0], "load_in_8bit": true}),
            json!({"k": 4, "layers": [0], "dtype": "bfloat16"}),
        ]);
        let facts = crate::model::tests::facts(4);
        let streams = group_streams(&jobs, |_| &facts, None);
        assert_eq!(streams.len(), 4);
        assert_eq!(streams[0].job_ids.len(), 2);
        assert_eq!(streams[0].n_layers_run, 3, "stops after layers.2");
    }

    #[test]
    fn what_does_not_fit_side_by_side_becomes_several_streams() {
        let job = |k, num_latents| json!({"layers": [1], "k": k, "num_latents": num_latents});
        let jobs = jobs(&[job(1, 64), job(2, 64), job(3, 4096), job(4, 64)]);
        let facts = crate::model::tests::facts(4);
        let n_jobs = |most_bytes| -> Vec<usize> {
            let streams = group_streams(&jobs, |_| &facts, most_bytes);
            streams.iter().map(|stream| stream.job_ids.len()).collect()
        };
        let [two, all] = [2, 4].map(|n| {
            let stream = &group_streams(&jobs[..n], |_| &facts, None)[0];
            stream.memory.total_bytes()
        });
        assert_eq!(n_jobs(None), [4]);
        assert_eq!(n_jobs(Some(all)), [4]);
        assert_eq!(n_jobs(Some(two)), [2, 1, 1], "what does not fit is alone");
        assert_eq!(n_jobs(Some(two - 1)), [1, 1, 1, 1]);
        let whole = group_streams(&jobs, |_| &facts, None).remove(0);
        let parts = group_streams(&jobs, |_| &facts, Some(two));
        let in_parts = parts.iter().flat_map(|stream| stream.job_ids.clone());
        assert_eq!(
            in_parts.collect::<Vec<_>>(),
            whole.job_ids,
            "no job is lost"
        );
    }

    #[test]
    fn memory_counts_weights_three_times_and_the_model_once() {
        let jobs = jobs(&[
            json!({"layers": [1], "num_latents": 64}),
            json!({"layers": [1], "num_latents": 64, "k": 8}),
        ]);
        let facts = crate::model::tests::facts(4);
        let memory = group_streams(&jobs, |_| &facts, None)[0].memory;
        assert_eq!(memory.model_bytes, 4 * (800 + 2 * 1000));
        assert_eq!(memory.sae_bytes, 2 * 3 * 4 * (2 * 64 * 8 + 64 + 8));
        assert!(memory.workspace_bytes > 0);

        let model_bytes = |overrides: serde_json::Value| {
            let jobs = self::jobs(&[overrides]);
            group_streams(&jobs, |_| &facts, None)[0].memory.model_bytes
        };
        let bf16 = json!({"layers": [1], "dtype": "bfloat16"});
        assert_eq!(model_bytes(bf16), 2 * (800 + 2 * 1000));
        let in_8bit = json!({"layers": [1], "dtype": "bfloat16", "load_in_8bit": true});
        assert_eq!(model_bytes(in_8bit), 2 * 800 + 2 * (900 + 2 * 100));
        let with_head = json!({"layers": [1], "loss_fn": "ce"});
        assert_eq!(model_bytes(with_head), 4 * (800 + 4 * 1000 + 100 * 8));
    }

    #[test]
    fn memory_of_an_sae_is_that_of_its_copies() {
        let job = &jobs(&[json!({"layers": [1], "num_latents": 64, "optimizer": "adam"})])[0];
        let memory = sae_memory(&job.config, &job.saes[0]);
        let weights = 4 * (2 * 64 * 8 + 64 + 8);
        assert_eq!(memory.weights_bytes, weights);
        assert_eq!(memory.gradients_bytes, weights);
        assert_eq!(memory.optimizer_bytes, 2 * weights);
        assert_eq!(memory.activations_bytes, 4 * (64 + 4 * 8) * 32 * 8);
    }

    #[test]
    fn evaluation_takes_the_whole_model_after_training() {
        let memory = |settings| {
            let facts = crate::model::tests::facts(4);
            group_streams(&jobs(&[settings]), |_| &facts, None)[0].memory
        };
        let without = memory(json!({"layers": [0], "num_latents": 32}));
        assert_eq!(without.evaluation_bytes, 0);
        let with = memory(json!({"layers": [0], "num_latents": 32, "eval_fraction": 0.5}));
        let model = 4 * (800 + 4 * 1000 + 100 * 8);
        let logits = 3 * 4 * 32 * 8 * 100;
        let weights = 4 * (2 * 32 * 8 + 32 + 8);
        assert_eq!(with.evaluation_bytes, model + weights + logits);
        assert_eq!(with.total_bytes(), with.evaluation_bytes);
    }
}
