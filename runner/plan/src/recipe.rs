//! What a recipe is asked and what it answers; the same records as in `recipes/wit/recipe.wit`.

use crate::{K, ModelFacts};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a recipe says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name, as a sweep's `recipe` key has it.
    pub name: String,
    /// One line on what it does.
    pub summary: String,
    /// The keys of `[vary]` that have a meaning in it.
    pub settings: Vec<Setting>,
}

/// A key of `[vary]` that a recipe understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The key.
    pub name: String,
    /// Type of its value, as text.
    pub kind: String,
    /// Its default as JSON; `None`: it must be there.
    pub default: Option<String>,
    /// What it means.
    pub summary: String,
}

/// Everything a recipe may know. Equal requests give equal answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The sweep's name.
    pub sweep: String,
    /// The resolved `[train]` table, shared by all jobs.
    pub train: Map<String, Value>,
    /// The `[vary]` table as the user wrote it.
    pub vary: Map<String, Value>,
    /// Facts about the model named in `[train]`.
    pub model: ModelFacts,
    /// Seed for recipes that draw at random.
    pub seed: u64,
    /// Round number, from 0.
    pub round: u32,
    /// Results of the jobs of earlier rounds; empty in round 0.
    pub results: Vec<JobResult>,
}

/// The outcome of one SAE of an earlier round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The name the recipe gave the job.
    pub job: String,
    /// The overrides of `[train]` the recipe gave the job.
    pub overrides: Map<String, Value>,
    /// The SAE's hookpoint.
    pub hookpoint: String,
    /// Seed of its initial weights.
    pub seed: i64,
    /// Latents a token may use.
    pub k: K,
    /// Number of latents.
    pub num_latents: u64,
    /// Fraction of variance unexplained, over the last tenth of the steps.
    pub fvu: f64,
    /// Mean number of active latents a token, over the same steps.
    pub l0: f64,
    /// Dead latents, in percent.
    pub dead_pct: f64,
    /// Share of the cross-entropy lost by mean ablation that the SAE recovers; `None`: not evaluated.
    pub ce_recovered: Option<f64>,
}

/// One job as a recipe proposes it: what it changes of `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDraft {
    /// Name, unique in the sweep; absent: the overrides, as `k=16,expansion_factor=4`.
    pub name: Option<String>,
    /// Free text kept with the job.
    pub note: Option<String>,
    /// Keys of `TrainConfig` and their values.
    pub overrides: Map<String, Value>,
}

/// A recipe's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanResponse {
    /// The jobs, in order.
    pub jobs: Vec<JobDraft>,
    /// False: ask again with results when these jobs have ended.
    pub done: bool,
}

/// What makes a plan replayable: which recipe answered which request, and at what cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeIdentity {
    /// Name or path as the sweep has it.
    pub recipe: String,
    /// Digest of the recipe's source or component.
    pub recipe_digest: String,
    /// Digest of the request's JSON.
    pub request_digest: String,
    /// Fuel the guest used (wasmtime's unit, about one per instruction).
    pub fuel: u64,
}

/// One call of a recipe: what it was asked and what it answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// What it was asked; its `round` is the number of this one.
    pub request: PlanRequest,
    /// What it answered.
    pub response: PlanResponse,
    /// Digest of the request's JSON.
    pub request_digest: String,
    /// Fuel it used.
    pub fuel: u64,
}
