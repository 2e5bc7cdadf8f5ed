//! Jobs that agree on everything before the SAE share one forward pass: a stream.

use crate::identity::{digest_json, short};
use crate::memory::MemoryDemand;
use crate::owners::too_few_saes;
use crate::{Dtype, Job, LossFn, MemoryEstimate, Models, PlanError, RecipeIdentity, Round};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What the jobs of a stream have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamKey {
    /// Digest of the model's files.
    pub model_digest: String,
    /// Digest of the files of `crosscoder_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_model_digest: Option<String>,
    /// What the language model computes in.
    pub dtype: Dtype,
    /// Whether its linear modules are held in 8 bit.
    pub load_in_8bit: bool,
    /// Digest of the token data.
    pub token_digest: String,
    /// Digest of the token data to evaluate on, if it is not held out of the former.
    pub eval_token_digest: Option<String>,
    /// Length of a sequence, in tokens.
    pub ctx_len: usize,
    /// Sequences in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one optimizer update.
    pub grad_acc_steps: usize,
    /// Batches of `batch_size` that ranks share in each of them.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub batches_per_pass: usize,
    /// Seed of the shuffle.
    pub shuffle_seed: u64,
    /// Limit on the number of sequences.
    pub max_examples: Option<u64>,
    /// How often these are trained on.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub epochs: u64,
    /// Fraction of the sequences that is held out.
    pub eval_fraction: f64,
    /// Limit on the number of sequences that are evaluated on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_max_examples: Option<u64>,
    /// What is minimised: losses on the model's output need a separate pass. `fvu` for the others.
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
    /// The same of the second model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_n_layers_run: Option<usize>,
    /// Processes of its worker that memory is predicted for. It may resume with any number.
    pub n_ranks: usize,
    /// Predicted memory of its worker, of the process that needs the most.
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
    /// after the other. Empty if no recipe was asked.
    #[serde(skip)]
    pub rounds: Vec<Round>,
}

/// Names the origin of the one job that options describe, instead of a recipe.
pub const OF_OPTIONS: &str = "train";

impl Plan {
    /// Whether its job is added to those that the sweep had before, since options describe it and no sweep file.
    pub fn accumulates(&self) -> bool {
        self.rounds.is_empty() && self.recipe.recipe == OF_OPTIONS
    }

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

    /// Processes that train a stream together: those that its memory is predicted for.
    pub fn n_ranks(&self) -> usize {
        let n_ranks = self.streams.iter().map(|stream| stream.n_ranks);
        n_ranks.max().unwrap_or(1)
    }

    /// The job with this id.
    pub fn job(&self, job_id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.job_id == job_id)
    }
}

// Ids of streams stay what they were before there was a choice.
fn one() -> usize {
    1
}

fn is_one(number: &usize) -> bool {
    *number == 1
}

fn once() -> u64 {
    1
}

fn is_once(number: &u64) -> bool {
    *number == 1
}

impl StreamKey {
    /// The key of `job`.
    pub fn of(job: &Job) -> Self {
        Self {
            model_digest: job.model_digest.clone(),
            second_model_digest: job.second_model_digest.clone(),
            dtype: job.config.dtype,
            load_in_8bit: job.config.load_in_8bit,
            token_digest: job.token_digest.clone(),
            eval_token_digest: job.eval_token_digest.clone(),
            ctx_len: job.config.ctx_len,
            batch_size: job.config.batch_size,
            grad_acc_steps: job.config.grad_acc_steps,
            batches_per_pass: job.config.batches_per_pass(),
            shuffle_seed: job.config.shuffle_seed,
            max_examples: job.config.max_examples,
            epochs: job.config.epochs,
            eval_fraction: job.config.eval_fraction,
            eval_max_examples: job.config.eval_max_examples,
            loss_fn: job.config.loss_fn.of_pass(),
        }
    }
}

/// Groups jobs by what they share; `facts_of` gives the facts of a job's models, and `n_ranks` processes
/// train together. A group that would need more than `most_bytes` of a process's memory side by side becomes
/// several streams, one after the other; a job that needs more alone is a separate stream.
///
/// # Errors
/// A stream that has fewer SAEs than there are ranks, if each SAE is on one.
pub fn group_streams<'a, M: Into<Models<'a>>>(
    jobs: &'a [Job],
    mut facts_of: impl FnMut(&Job) -> M,
    n_ranks: usize,
    most_bytes: Option<u64>,
) -> Result<Vec<Stream>, PlanError> {
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
    let mut streams = Vec::new();
    for (key, group) in groups {
        let models = facts_of(group[0]).into();
        let demand = |jobs: &[&'a Job]| MemoryDemand::of(jobs, models, n_ranks);
        let most_bytes = most_bytes.unwrap_or(u64::MAX);
        let fits = |jobs: &[&'a Job]| demand(jobs).estimate().total_bytes() <= most_bytes;
        let mut rest = &group[..];
        while !rest.is_empty() {
            let (part, others) = rest.split_at(n_that_fit(rest, fits));
            if let Some(n_saes) = too_few_saes(part, n_ranks) {
                return Err(more_ranks_than_saes(&part[0].name, n_ranks, n_saes));
            }
            streams.push(stream(key.clone(), part, &demand(part), n_ranks));
            rest = others;
        }
    }
    Ok(streams)
}

/// More processes than the SAEs of the stream whose first job is `job`.
fn more_ranks_than_saes(job: &str, n_ranks: usize, n_saes: usize) -> PlanError {
    let message = format!(
        "{n_ranks} processes are more than the SAEs ({n_saes}) of the stream of job `{job}`, each of which \
         `distribute_modules` gives to one"
    );
    PlanError::about("distribute_modules", message).with_hint(format!(
        "start at most {n_saes}, or leave `distribute_modules` out: then all have all SAEs"
    ))
}

/// How many of `items`, from the first on, fit together: at least one. Asks for parts of about twice that
/// number at most, and for few of them: what is asked may take as long as a part is large.
fn n_that_fit<T>(items: &[T], fits: impl Fn(&[T]) -> bool) -> usize {
    let (mut fit, mut too_many) = (1, 2);
    while too_many <= items.len() && fits(&items[..too_many]) {
        (fit, too_many) = (too_many, 2 * too_many);
    }
    too_many = too_many.min(items.len() + 1);
    while too_many - fit > 1 {
        let middle = fit.midpoint(too_many);
        if fits(&items[..middle]) {
            fit = middle;
        } else {
            too_many = middle;
        }
    }
    fit
}

fn stream(key: StreamKey, jobs: &[&Job], demand: &MemoryDemand<'_>, n_ranks: usize) -> Stream {
    let job_ids = jobs.iter().map(|job| job.job_id.clone()).collect();
    Stream {
        stream_id: short(&digest_json(&(&key, &job_ids))),
        n_layers_run: demand.n_layers(),
        second_n_layers_run: demand.second_n_layers(),
        n_ranks,
        memory: demand.estimate(),
        key,
        job_ids,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{JobDraft, JobInputs, PlanError, TrainConfig, resolve_jobs};
    use serde_json::json;

    /// Of a model of four blocks.
    pub(crate) fn jobs(overrides: &[serde_json::Value]) -> Vec<Job> {
        jobs_on(4, overrides)
    }

    pub(crate) fn jobs_on(n_layers: usize, overrides: &[serde_json::Value]) -> Vec<Job> {
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
            facts: crate::model::tests::facts(n_layers).into(),
            model_digest: "m".into(),
            second: None,
            token_digest: "t".into(),
            eval_token_digest: None,
            finetune_digest: None,
            n_ranks: 1,
        };
        resolve_jobs(&base, &drafts, |_| Ok::<_, PlanError>(inputs.clone())).unwrap()
    }

    /// On a model of four blocks of width 8.
    pub(crate) fn group(jobs: &[Job], n_ranks: usize, most_bytes: Option<u64>) -> Vec<Stream> {
        try_group(jobs, n_ranks, most_bytes).unwrap()
    }

    fn try_group(
        jobs: &[Job],
        n_ranks: usize,
        most_bytes: Option<u64>,
    ) -> Result<Vec<Stream>, PlanError> {
        let facts = crate::model::tests::facts(4);
        group_streams(jobs, |_| &facts, n_ranks, most_bytes)
    }

    #[test]
    fn what_the_sae_alone_changes_shares_a_stream() {
        let jobs = jobs(&[
            json!({"k": 4, "layers": [0]}),
            json!({"k": 8, "layers": [2], "loss_fn": "mse"}),
            json!({"k": 4, "layers": [0], "batch_size": 2}),
            json!({"k": 4, "layers": [0], "load_in_8bit": true}),
            json!({"k": 4, "layers": [0], "dtype": "bfloat16"}),
        ]);
        let streams = group(&jobs, 1, None);
        assert_eq!(streams.len(), 4);
        assert_eq!(streams[0].job_ids.len(), 2);
        assert_eq!(streams[0].n_layers_run, 3, "stops after layers.2");
    }

    #[test]
    fn what_does_not_fit_side_by_side_becomes_several_streams() {
        let job = |k, num_latents| json!({"layers": [1], "k": k, "num_latents": num_latents});
        let jobs = jobs(&[job(1, 64), job(2, 64), job(3, 4096), job(4, 64)]);
        let n_jobs = |most_bytes| -> Vec<usize> {
            let streams = group(&jobs, 1, most_bytes);
            streams.iter().map(|stream| stream.job_ids.len()).collect()
        };
        let [two, all] = [2, 4].map(|n| group(&jobs[..n], 1, None)[0].memory.total_bytes());
        assert_eq!(n_jobs(None), [4]);
        assert_eq!(n_jobs(Some(all)), [4]);
        assert_eq!(n_jobs(Some(two)), [2, 1, 1], "what does not fit is alone");
        assert_eq!(n_jobs(Some(two - 1)), [1, 1, 1, 1]);
        let whole = group(&jobs, 1, None).remove(0);
        let parts = group(&jobs, 1, Some(two));
        let in_parts = parts.iter().flat_map(|stream| stream.job_ids.clone());
        assert_eq!(
            in_parts.collect::<Vec<_>>(),
            whole.job_ids,
            "no job is lost"
        );
    }

    #[test]
    fn streams_are_cut_so_that_each_rank_has_room() {
        let job = |k| {
            json!({
                "layers": [0, 1, 2, 3], "num_latents": 64, "batch_size": 1, "k": k,
                "distribute_modules": true,
            })
        };
        let jobs = jobs(&[job(1), job(2), job(3), job(4)]);
        let two = group(&jobs[..2], 4, None)[0].memory.total_bytes();
        let n_jobs = |n_ranks, most_bytes| -> Vec<usize> {
            let streams = group(&jobs, n_ranks, Some(most_bytes));
            assert!(streams.iter().all(|stream| stream.n_ranks == n_ranks));
            streams.iter().map(|stream| stream.job_ids.len()).collect()
        };
        assert_eq!(n_jobs(4, two), [2, 2]);
        assert_eq!(n_jobs(4, two - 1), [1, 1, 1, 1]);
        assert_eq!(n_jobs(1, two), [1, 1, 1, 1], "four SAEs a rank and job");
    }

    #[test]
    fn more_ranks_than_saes_are_refused_where_each_sae_is_on_one() {
        let spread = || json!({"layers": [0, 1], "k": 4, "distribute_modules": true});
        let jobs_of_both = jobs(&[spread(), json!({"layers": [2], "k": 4})]);
        let spread = jobs(&[spread()]);
        group(&spread, 2, None);
        let error = try_group(&spread, 3, None).unwrap_err();
        assert_eq!(error.setting_key(), Some("distribute_modules"));
        let message = error.to_string();
        let expected = "3 processes are more than the SAEs (2) of the stream";
        assert!(message.starts_with(expected), "{message}");
        // All have the SAE of the other job.
        group(&jobs_of_both, 4, None);
    }

    #[test]
    fn few_questions_find_how_many_fit() {
        for n_items in 1..40usize {
            let items: Vec<usize> = (0..n_items).collect();
            for n_fit in 0..=n_items {
                let asked = std::cell::RefCell::new(Vec::new());
                let found = n_that_fit(&items, |part| {
                    asked.borrow_mut().push(part.len());
                    part.len() <= n_fit
                });
                assert_eq!(found, n_fit.max(1), "of {n_items}");
                let asked = asked.into_inner();
                assert!(asked.len() <= 12, "{asked:?}");
                assert!(asked.iter().all(|&len| len <= 2 * found), "{asked:?}");
            }
        }
    }
}
