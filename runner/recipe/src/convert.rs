//! Between the records of the plan and those of `recipes/wit/recipe.wit`.

use crate::bindings as wit;
use plan::{HookpointFacts, JobDraft, JobResult, ModelFacts, PlanRequest, PlanResponse};
use serde_json::{Map, Value};
use std::collections::HashMap;

pub(crate) fn request(request: &PlanRequest) -> wit::PlanRequest {
    wit::PlanRequest {
        sweep: request.sweep.clone(),
        train: json_text(&request.train),
        vary: json_text(&request.vary),
        model: model(&request.model),
        seed: request.seed,
        round: request.round,
        results: request.results.iter().map(result).collect(),
    }
}

fn model(facts: &ModelFacts) -> wit::ModelFacts {
    wit::ModelFacts {
        model_type: facts.model_type.clone(),
        n_layers: facts.n_layers as u64,
        hidden_size: facts.hidden_size as u64,
        vocab_size: facts.vocab_size as u64,
        max_ctx_len: facts.max_ctx_len as u64,
        embedding_params: facts.embedding_params,
        layer_params: facts.layer_params,
        layers_name: facts.layers_name.clone(),
        hookpoints: facts.hookpoints.iter().map(hookpoint).collect(),
    }
}

fn hookpoint(facts: &HookpointFacts) -> wit::HookpointFacts {
    wit::HookpointFacts {
        name: facts.name.clone(),
        d_in: facts.d_in.map(|d_in| d_in as u64),
        d_out: facts.d_out as u64,
        n_layers_needed: facts.n_layers_needed as u64,
    }
}

fn result(result: &JobResult) -> wit::JobResult {
    wit::JobResult {
        job: result.job.clone(),
        overrides: json_text(&result.overrides),
        hookpoint: result.hookpoint.clone(),
        fvu: result.fvu,
        l0: result.l0,
    }
}

fn json_text(map: &Map<String, Value>) -> String {
    serde_json::to_string(map).expect("JSON values have a text")
}

/// Checks the answer. An error says which job breaks which rule.
pub(crate) fn response(response: wit::PlanResponse) -> Result<PlanResponse, String> {
    let jobs: Vec<_> = (1..)
        .zip(response.jobs)
        .map(|(number, draft)| job(draft).map_err(|problem| format!("job {number} {problem}")))
        .collect::<Result<_, _>>()?;
    unique_names(&jobs)?;
    if jobs.is_empty() && !response.done {
        return Err("it asks for another round and proposes no job for this one".into());
    }
    Ok(PlanResponse {
        jobs,
        done: response.done,
    })
}

fn job(draft: wit::JobDraft) -> Result<JobDraft, String> {
    if draft
        .name
        .as_deref()
        .is_some_and(|name| name.trim().is_empty())
    {
        return Err("has an empty name".into());
    }
    match serde_json::from_str(&draft.overrides) {
        Ok(Value::Object(overrides)) => Ok(JobDraft {
            name: draft.name,
            note: draft.note,
            overrides,
        }),
        Ok(other) => Err(format!("has overrides that are no JSON object: `{other}`")),
        Err(error) => Err(format!("has overrides that are no JSON: {error}")),
    }
}

fn unique_names(jobs: &[JobDraft]) -> Result<(), String> {
    let mut numbers = HashMap::new();
    for (number, job) in (1..).zip(jobs) {
        let Some(name) = job.name.as_deref() else {
            continue;
        };
        if let Some(first) = numbers.insert(name, number) {
            return Err(format!(
                "jobs {first} and {number} are both called `{name}`"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(drafts: &[(Option<&str>, &str)], done: bool) -> Result<PlanResponse, String> {
        let draft = |&(name, overrides): &(Option<&str>, &str)| wit::JobDraft {
            name: name.map(Into::into),
            note: None,
            overrides: overrides.into(),
        };
        response(wit::PlanResponse {
            jobs: drafts.iter().map(draft).collect(),
            done,
        })
    }

    #[test]
    fn overrides_keep_the_order_of_their_keys() {
        let answer = answer(&[(None, r#"{"k": 1, "auxk_alpha": 0.5}"#)], true).unwrap();
        let keys: Vec<_> = answer.jobs[0].overrides.keys().collect();
        assert_eq!(keys, ["k", "auxk_alpha"]);
    }

    #[test]
    fn answers_that_break_the_contract_are_refused() {
        let problem = |drafts: &[(Option<&str>, &str)], done| answer(drafts, done).unwrap_err();
        assert_eq!(
            problem(&[(None, "{}"), (None, "[1]")], true),
            "job 2 has overrides that are no JSON object: `[1]`"
        );
        assert!(problem(&[(None, "{")], true).starts_with("job 1 has overrides that are no JSON:"));
        assert_eq!(
            problem(&[(Some(" "), "{}")], true),
            "job 1 has an empty name"
        );
        assert_eq!(
            problem(&[(Some("a"), "{}"), (None, "{}"), (Some("a"), "{}")], true),
            "jobs 1 and 3 are both called `a`"
        );
        assert!(problem(&[], false).contains("another round"));
        assert!(answer(&[], true).unwrap().jobs.is_empty());
    }
}
