//! From a recipe's drafts to jobs: overrides applied, hookpoints resolved, ids computed.

use crate::cross::{crosscoders, hookpoints_of_both, write_to_later};
use crate::hookpoint::select_hookpoints;
use crate::identity::{TRAINER_VERSION, digest_json, short};
use crate::preset::Base;
use crate::{HookpointFacts, JobDraft, ModelFacts, Models, PlanError, SaeSpec, TrainConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One resolved training configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Hash of everything that determines the result; 12 hex digits.
    pub job_id: String,
    /// The same of all but how long it is trained: jobs with equal ones begin alike.
    #[serde(default)]
    pub course_id: String,
    /// Name, unique in the sweep.
    pub name: String,
    /// The recipe's remark.
    pub note: Option<String>,
    /// What the recipe changed of `[train]`.
    pub overrides: Map<String, Value>,
    /// The settings.
    pub config: TrainConfig,
    /// The SAEs it trains: one per hookpoint and seed.
    pub saes: Vec<SaeSpec>,
    /// Digest of the model's files.
    pub model_digest: String,
    /// Digest of the files of `crosscoder_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_model_digest: Option<String>,
    /// Digest of the token data.
    pub token_digest: String,
    /// Digest of the token data to evaluate on, if it is not held out of the former.
    pub eval_token_digest: Option<String>,
    /// Digest of the SAEs it begins with.
    pub finetune_digest: Option<String>,
}

/// What a job's resolution needs to know of the world.
#[derive(Clone, Debug)]
pub struct JobInputs {
    /// The model.
    pub facts: Arc<ModelFacts>,
    /// Digest of the model's files.
    pub model_digest: String,
    /// The model of `crosscoder_model`.
    pub second: Option<SecondModel>,
    /// Digest of the token data.
    pub token_digest: String,
    /// Digest of the token data to evaluate on, if it is not held out of the former.
    pub eval_token_digest: Option<String>,
    /// Digest of the SAEs that the job begins with.
    pub finetune_digest: Option<String>,
    /// Processes that train together.
    pub n_ranks: usize,
}

impl JobInputs {
    fn models(&self) -> Models<'_> {
        Models {
            first: &self.facts,
            second: self.second.as_ref().map(|second| &*second.facts),
        }
    }
}

/// The second model of a crosscoder.
#[derive(Clone, Debug)]
pub struct SecondModel {
    /// What planning knows about it.
    pub facts: Arc<ModelFacts>,
    /// Digest of its files.
    pub digest: String,
}

impl Job {
    /// The name of its folder: readable, and unique by the id.
    pub fn folder(&self) -> String {
        format!("{}-{}", folder_name(&self.name), self.job_id)
    }
}

/// A job's name as a folder can have it: readable on every system, and not always unique.
pub fn folder_name(job: &str) -> String {
    let readable: String = job.chars().take(80).map(portable).collect();
    readable.trim_start_matches('.').to_owned()
}

fn portable(c: char) -> char {
    if c.is_ascii_alphanumeric() || "._-=+,".contains(c) {
        c
    } else {
        '_'
    }
}

/// Resolves all drafts; `inputs_of` tells of the world for a job's settings.
///
/// # Errors
/// The first draft that cannot be resolved, with its name; a name used twice; or the error of
/// `inputs_of`.
pub fn resolve_jobs<'a, E: From<PlanError>>(
    base: impl Into<Base<'a>>,
    drafts: &[JobDraft],
    mut inputs_of: impl FnMut(&TrainConfig) -> Result<JobInputs, E>,
) -> Result<Vec<Job>, E> {
    let base = base.into();
    let mut names = BTreeSet::new();
    let mut jobs = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let name = draft.name.clone().unwrap_or_else(|| default_name(draft));
        if !names.insert(name.clone()) {
            let error = PlanError::new(format!("two jobs are called `{name}`"))
                .with_hint("let the recipe give each job a different name, or drop the repetition");
            return Err(error.into());
        }
        let config = base.with(&draft.overrides);
        let config = config.and_then(|config| config.validate().map(|()| config));
        let config = config.map_err(|error| error.in_job(&name))?;
        let inputs = inputs_of(&config)?;
        let config = config.with_tokens_per_update(inputs.n_ranks);
        let config = config.map_err(|error| error.in_job(&name))?;
        jobs.push(resolve_job(name, draft, config, &inputs)?);
    }
    Ok(jobs)
}

/// The overrides themselves: `k=16,expansion_factor=4`.
fn default_name(draft: &JobDraft) -> String {
    let plain = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let settings = draft
        .overrides
        .iter()
        .map(|(key, value)| format!("{key}={}", plain(value)));
    let name = settings.collect::<Vec<_>>().join(",");
    if name.is_empty() { "job".into() } else { name }
}

/// Resolves a draft whose settings are `config`.
fn resolve_job(
    name: String,
    draft: &JobDraft,
    config: TrainConfig,
    inputs: &JobInputs,
) -> Result<Job, PlanError> {
    let saes = check_contexts(&config, inputs)
        .and_then(|()| check_tokens(&config, &inputs.facts))
        .and_then(|()| resolve_saes(&config, inputs))
        .map_err(|error| error.in_job(&name))?;
    let identity = identity(&config, &saes, inputs);
    Ok(Job {
        job_id: short(&digest_json(&identity)),
        course_id: short(&digest_json(&without_length(identity))),
        name,
        note: draft.note.clone(),
        overrides: draft.overrides.clone(),
        config,
        saes,
        model_digest: inputs.model_digest.clone(),
        second_model_digest: inputs.second.as_ref().map(|second| second.digest.clone()),
        token_digest: inputs.token_digest.clone(),
        eval_token_digest: inputs.eval_token_digest.clone(),
        finetune_digest: inputs.finetune_digest.clone(),
    })
}

fn check_contexts(config: &TrainConfig, inputs: &JobInputs) -> Result<(), PlanError> {
    check_context(config.ctx_len, &config.model, &inputs.facts)?;
    match (&config.crosscoder_model, &inputs.second) {
        (Some(model), Some(second)) => check_context(config.ctx_len, model, &second.facts),
        _ => Ok(()),
    }
}

fn check_context(ctx_len: usize, model: &str, facts: &ModelFacts) -> Result<(), PlanError> {
    let max_ctx_len = facts.max_ctx_len;
    if ctx_len <= max_ctx_len {
        return Ok(());
    }
    let message =
        format!("ctx_len = {ctx_len} is longer than the {max_ctx_len} positions of `{model}`");
    let hint = format!("set `ctx_len` to at most {max_ctx_len}");
    Err(PlanError::about("ctx_len", message).with_hint(hint))
}

fn check_tokens(config: &TrainConfig, facts: &ModelFacts) -> Result<(), PlanError> {
    let is_unknown = |token: &&u32| **token as usize >= facts.vocab_size;
    match config.exclude_tokens.iter().find(is_unknown) {
        None => Ok(()),
        Some(token) => {
            let vocab_size = facts.vocab_size;
            let problem = format!("has token {token}, but the model's vocab_size is {vocab_size}");
            Err(PlanError::setting("exclude_tokens", &problem))
        }
    }
}

fn resolve_saes(config: &TrainConfig, inputs: &JobInputs) -> Result<Vec<SaeSpec>, PlanError> {
    if config.crosscoder {
        return crosscoders(config, &hookpoints_of_both(config, inputs.models())?);
    }
    let mut saes = Vec::new();
    let hookpoints = select_hookpoints(config, &config.model, &inputs.facts)?;
    for hookpoint in &hookpoints {
        for &seed in &config.init_seeds {
            saes.push(resolve_sae(config, hookpoint, seed)?);
        }
    }
    if config.cross_layer {
        write_to_later(&mut saes, &hookpoints)?;
    }
    Ok(saes)
}

fn resolve_sae(
    config: &TrainConfig,
    hookpoint: &HookpointFacts,
    seed: i64,
) -> Result<SaeSpec, PlanError> {
    let (d_in, d_out) = widths(config, hookpoint)?;
    let num_latents = config.latents_at(d_in, &hookpoint.name)?;
    Ok(SaeSpec {
        name: config.sae_name(&hookpoint.name, seed),
        hookpoint: hookpoint.name.clone(),
        hookpoints: Vec::new(),
        seed,
        d_in,
        d_out: (d_out != d_in).then_some(d_out),
        num_latents,
        k: config.k,
        lr: config.lr_for(num_latents),
    })
}

/// Widths of the input and the output of an SAE at `hookpoint`.
fn widths(config: &TrainConfig, hookpoint: &HookpointFacts) -> Result<(usize, usize), PlanError> {
    match (config.transcode, hookpoint.d_in) {
        (false, _) => Ok((hookpoint.d_out, hookpoint.d_out)),
        (true, Some(d_in)) => Ok((d_in, hookpoint.d_out)),
        (true, None) => {
            let name = &hookpoint.name;
            let problem = format!("has no vectors to begin with at `{name}`: its input is ids");
            Err(PlanError::setting("transcode", &problem))
        }
    }
}

/// Settings that name others, change how the work is cut or how often something is written, but not what is
/// trained (beyond the rounding of sums).
pub const WITHOUT_EFFECT: [&str; 10] = [
    "preset",
    "eval_max_examples",
    "save_total_limit",
    "keep_state",
    "micro_acc_steps",
    "distribute_modules",
    "save_every",
    "save_best",
    "evaluate",
    "log_every",
];

/// Settings that name an input, whose content is in the id instead.
const NAMES_OF_INPUTS: [&str; 11] = [
    "finetune",
    "model",
    "revision",
    "crosscoder_model",
    "crosscoder_revision",
    "dataset",
    "split",
    "data_args",
    "eval_dataset",
    "eval_split",
    "eval_data_args",
];

/// Settings that only serve to choose the SAEs, which are in the id themselves.
const SELECTORS: [&str; 8] = [
    "hookpoints",
    "layers",
    "layer_stride",
    "init_seeds",
    "expansion_factor",
    "num_latents",
    "k",
    "lr",
];

/// What a job's id is made of.
fn identity(config: &TrainConfig, saes: &[SaeSpec], inputs: &JobInputs) -> Value {
    let mut settings = config.to_map();
    for key in WITHOUT_EFFECT
        .iter()
        .chain(&NAMES_OF_INPUTS)
        .chain(&SELECTORS)
    {
        settings.remove(*key);
    }
    if config.calibrates_threshold() {
        // The held-out sequences decide on the threshold: `null` means a certain number of them, too.
        settings.insert("calibrated_on".into(), json!(config.eval_max_examples));
    }
    // A setting that is added later, and has its default value, leaves old ids as they are.
    let defaults = TrainConfig::default().to_map();
    settings.retain(|key, value| defaults.get(key) != Some(value));
    if config.tokens_per_update == Some(config.tokens_of_one_process()) {
        settings.remove("tokens_per_update");
    }
    let mut parts = json!({
        "settings": settings,
        "saes": saes,
        "model": inputs.model_digest,
        "tokens": inputs.token_digest,
        "trainer": TRAINER_VERSION,
    });
    if let Some(second) = &inputs.second {
        parts["second_model"] = json!(second.digest);
    }
    if let Some(eval_tokens) = &inputs.eval_token_digest {
        parts["eval_tokens"] = json!(eval_tokens);
    }
    if let Some(finetune) = &inputs.finetune_digest {
        parts["finetune"] = json!(finetune);
    }
    parts
}

/// The same without what says how long it is trained, and what only matters once it is.
fn without_length(mut identity: Value) -> Value {
    if let Some(settings) = identity["settings"].as_object_mut() {
        settings.remove("max_examples");
        settings.remove("epochs");
        settings.remove("calibrated_on");
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    fn base() -> TrainConfig {
        TrainConfig {
            model: "m".into(),
            dataset: "d".into(),
            ctx_len: 16,
            ..Default::default()
        }
    }

    fn inputs() -> JobInputs {
        JobInputs {
            facts: crate::model::tests::facts(3).into(),
            model_digest: "m0".into(),
            second: None,
            token_digest: "t0".into(),
            eval_token_digest: None,
            finetune_digest: None,
            n_ranks: 1,
        }
    }

    fn job(overrides: Value) -> Result<Job, PlanError> {
        let Value::Object(overrides) = overrides else {
            panic!("not an object")
        };
        let draft = JobDraft {
            name: Some("j".into()),
            note: None,
            overrides,
        };
        let mut jobs = resolve_jobs(&base(), &[draft], |_| Ok::<_, PlanError>(inputs()))?;
        Ok(jobs.remove(0))
    }

    #[test]
    fn the_id_is_of_what_determines_the_result() {
        let id = |overrides| job(overrides).unwrap().job_id;
        let plain = id(json!({}));
        assert_eq!(
            plain,
            id(json!({"save_every": 7})),
            "saving changes nothing that is trained"
        );
        assert_eq!(
            plain,
            id(json!({"hookpoints": ["layers.*"]})),
            "the same SAEs"
        );
        assert_eq!(plain, id(json!({"num_latents": 256})), "32 x 8 is 256");
        assert_eq!(
            plain,
            id(json!({"ctx_len": 16, "lr": 5e-3 / (256.0f64 / 16384.0).sqrt()}))
        );
        assert_eq!(plain, id(json!({"tokenizer_class": "file"})));
        assert_ne!(plain, id(json!({"tokenizer_class": "transformers"})));
        assert_eq!(plain, id(json!({"encoder_dtype": "auto"})));
        assert_ne!(plain, id(json!({"encoder_dtype": "bfloat16"})));
        assert_eq!(plain, id(json!({"preset": "saelens-topk"})), "a name");
        assert_ne!(plain, id(json!({"k": 16})));
        assert_ne!(plain, id(json!({"shuffle_seed": 1})));
        assert_ne!(plain, id(json!({"epochs": 2})));
        assert_eq!(plain, id(json!({"epochs": 1})));
        assert_ne!(plain, id(json!({"layers": [0]})));
    }

    #[test]
    fn a_setting_with_its_default_leaves_the_id_as_it_was() {
        let plain = job(json!({})).unwrap().job_id;
        assert_eq!(plain, "4ffe72122a01", "as in version 0.1");
        for (key, default) in TrainConfig::default().to_map() {
            if !["model", "dataset", "ctx_len"].contains(&key.as_str()) {
                let given = job(json!({ &key: default })).unwrap();
                assert_eq!(given.job_id, plain, "{key}");
            }
        }
    }

    #[test]
    fn several_seeds_get_folders_of_their_own() {
        let job = job(json!({"layers": [1], "init_seeds": [3, 5]})).unwrap();
        let names: Vec<_> = job.saes.iter().map(|sae| sae.name.as_str()).collect();
        assert_eq!(names, ["layers.1/seed3", "layers.1/seed5"]);
    }

    #[test]
    fn errors_name_job_and_setting() {
        let message = |overrides| job(overrides).unwrap_err().to_string();
        assert!(message(json!({"k": 300})).contains("num_latents = 256"));
        assert!(message(json!({"ctx_len": 65})).contains("64 positions"));
        assert!(message(json!({"k": "many"})).starts_with("job `j`: setting `k`"));
        let unknown = job(json!({"expansion_facto": 2})).unwrap_err();
        assert_eq!(unknown.hint().unwrap(), "did you mean `expansion_factor`?");
    }

    #[test]
    fn an_explicit_lr_of_zero_is_zero() {
        assert_eq!(job(json!({"lr": 0.0})).unwrap().saes[0].lr, 0.0);
        let by_law = job(json!({"num_latents": 16384})).unwrap().saes[0].lr;
        assert!((by_law - 5e-3).abs() < 1e-12);
    }

    #[test]
    fn a_folder_is_one_path_component() {
        let mut job = job(json!({})).unwrap();
        job.name = "../k=16,hookpoints=layers.1/x".into();
        assert_eq!(
            job.folder(),
            format!("_k=16,hookpoints=layers.1_x-{}", job.job_id)
        );
    }

    #[test]
    fn a_job_without_a_name_is_called_by_its_overrides() {
        let overrides = json!({"k": 16, "hookpoints": ["layers.1"], "text_column": "t"});
        let draft = JobDraft {
            name: None,
            note: None,
            overrides: overrides.as_object().unwrap().clone(),
        };
        let jobs = resolve_jobs(&base(), &[draft], |_| Ok::<_, PlanError>(inputs())).unwrap();
        assert_eq!(jobs[0].name, "k=16,hookpoints=[\"layers.1\"],text_column=t");
    }

    #[test]
    fn absurd_numbers_are_errors_and_no_overflow() {
        for key in [
            "expansion_factor",
            "batch_size",
            "num_latents",
            "k",
            "ctx_len",
        ] {
            let error = job(json!({key: u64::MAX})).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("at most"), "{error}");
        }
    }
}
