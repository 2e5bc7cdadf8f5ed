//! Between the records of the plan and those of `recipes/wit/recipe.wit`.

use crate::bindings as wit;
use plan::{Description, HookpointFacts, JobDraft, JobResult, ModelFacts};
use plan::{PlanRequest, PlanResponse, Setting};
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
        seed: result.seed,
        k: result.k.mean(),
        num_latents: result.num_latents,
        fvu: result.fvu,
        l0: result.l0,
        dead_pct: result.dead_pct,
        ce_recovered: result.ce_recovered,
    }
}

pub(crate) fn description(said: wit::Description) -> Description {
    let setting = |setting: wit::Setting| Setting {
        name: setting.name,
        kind: setting.kind,
        default: setting.default,
        summary: setting.summary,
    };
    Description {
        name: said.name,
        summary: said.summary,
        settings: said.settings.into_iter().map(setting).collect(),
    }
}

fn json_text(map: &Map<String, Value>) -> String {
    serde_json::to_string(map).expect("JSON values have a text")
}

/// Checks the answer, whose values may be nested `max_nesting` deep. An error says which job breaks which rule.
pub(crate) fn response(
    response: wit::PlanResponse,
    max_nesting: usize,
) -> Result<PlanResponse, String> {
    let told = |number, problem| format!("job {number} {problem}");
    let jobs: Vec<_> = (1..)
        .zip(response.jobs)
        .map(|(number, draft)| job(draft, max_nesting).map_err(|problem| told(number, problem)))
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

fn job(draft: wit::JobDraft, max_nesting: usize) -> Result<JobDraft, String> {
    if draft
        .name
        .as_deref()
        .is_some_and(|name| name.trim().is_empty())
    {
        return Err("has an empty name".into());
    }
    let nesting = nesting(&draft.overrides);
    if nesting > max_nesting {
        return Err(format!(
            "has overrides that are nested {nesting} deep, the limit is {max_nesting}"
        ));
    }
    match serde_json::from_str(&draft.overrides) {
        Ok(Value::Object(overrides)) => Ok(JobDraft {
            name: draft.name,
            note: draft.note,
            overrides,
        }),
        Ok(other) => Err(format!(
            "has overrides that are not a JSON object: `{other}`"
        )),
        Err(error) => Err(format!("has overrides that are not JSON: {error}")),
    }
}

/// How deep lists and objects are nested in a JSON text; found before it is parsed.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
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
        let answer = wit::PlanResponse {
            jobs: drafts.iter().map(draft).collect(),
            done,
        };
        response(answer, 3)
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
            "job 2 has overrides that are not a JSON object: `[1]`"
        );
        assert!(
            problem(&[(None, "{")], true).starts_with("job 1 has overrides that are not JSON:")
        );
        assert_eq!(
            problem(&[(Some(" "), "{}")], true),
            "job 1 has an empty name"
        );
        assert_eq!(
            problem(&[(Some("a"), "{}"), (None, "{}"), (Some("a"), "{}")], true),
            "jobs 1 and 3 are both called `a`"
        );
        assert!(problem(&[], false).contains("another round"));
        let deep = problem(&[(None, r#"{"a": [[["]"]]]}"#)], true);
        assert_eq!(
            deep,
            "job 1 has overrides that are nested 4 deep, the limit is 3"
        );
        assert!(answer(&[(None, r#"{"a": [["[[[\"[["]]}"#)], true).is_ok());
        assert!(answer(&[], true).unwrap().jobs.is_empty());
    }
}
