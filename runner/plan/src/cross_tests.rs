//! Crosscoders, and what planning refuses of them.

use crate::{CROSSCODER, Job, JobDraft, JobInputs, ModelFacts, Models, PlanError, SecondModel};
use crate::{StreamKey, TrainConfig, Vectors, group_streams, resolve_jobs};
use fault::Remedy;
use serde_json::{Value, json};

fn inputs(second: Option<(ModelFacts, &str)>) -> JobInputs {
    JobInputs {
        facts: crate::model::tests::facts(3).into(),
        model_digest: "m0".into(),
        second: second.map(|(facts, digest)| SecondModel {
            facts: facts.into(),
            digest: digest.into(),
        }),
        token_digest: "t0".into(),
        eval_token_digest: None,
        finetune_digest: None,
        n_ranks: 1,
    }
}

fn job(settings: Value, inputs: JobInputs) -> Result<Job, PlanError> {
    let base = TrainConfig {
        model: "m".into(),
        dataset: "d".into(),
        ctx_len: 16,
        ..TrainConfig::default()
    };
    let draft = JobDraft {
        name: Some("j".into()),
        note: None,
        overrides: settings.as_object().unwrap().clone(),
    };
    let resolved = resolve_jobs(&base, &[draft], |_| Ok::<_, PlanError>(inputs.clone()));
    resolved.map(|mut jobs| jobs.remove(0))
}

fn on_both(second: ModelFacts, digest: &str) -> Result<Job, PlanError> {
    let settings = json!({"crosscoder": true, "crosscoder_model": "n", "layer_stride": 2});
    job(settings, inputs(Some((second, digest))))
}

/// Facts whose second block gives other vectors.
fn of_heads() -> ModelFacts {
    let mut facts = crate::model::tests::facts(3);
    facts.hookpoints[1].vectors = Vectors::Heads(4);
    facts
}

#[test]
fn a_crosscoder_is_on_the_hookpoints_of_both_models() {
    let on_all = on_both(crate::model::tests::facts(5), "n0").unwrap();
    let [crosscoder] = &on_all.saes[..] else {
        panic!("{:?}", on_all.saes)
    };
    let names = [
        "layers.0",
        "layers.2",
        "2:layers.0",
        "2:layers.2",
        "2:layers.4",
    ];
    assert_eq!(crosscoder.hookpoints, names);
    assert_eq!((crosscoder.d_in, &*crosscoder.name), (5 * 8, CROSSCODER));
    let settings = json!({"crosscoder": true, "crosscoder_model": "n", "layers": [1]});
    let second = Some((crate::model::tests::facts(5), "n0"));
    let one_of_each = job(settings, inputs(second)).unwrap();
    assert_eq!(one_of_each.saes[0].hookpoints, ["layers.1", "2:layers.1"]);
}

#[test]
fn the_second_model_s_content_is_in_the_id_and_its_name_is_not() {
    let facts = || crate::model::tests::facts(3);
    let [one, other] = ["n0", "n1"].map(|digest| on_both(facts(), digest).unwrap());
    assert_ne!(one.job_id, other.job_id);
    assert_ne!(StreamKey::of(&one), StreamKey::of(&other));
    let named = |model: &str| {
        let settings = json!({
            "crosscoder": true, "crosscoder_model": model, "crosscoder_revision": "main", "layer_stride": 2,
            "k": 16,
        });
        job(settings, inputs(Some((facts(), "n0")))).unwrap()
    };
    assert_eq!(named("n").job_id, named("elsewhere/n").job_id);
    assert_eq!(StreamKey::of(&one), StreamKey::of(&named("n")));
    let alone = job(json!({"crosscoder": true}), inputs(None)).unwrap();
    let key = serde_json::to_string(&StreamKey::of(&alone)).unwrap();
    assert!(!key.contains("second"), "as before: {key}");
}

#[test]
fn models_that_do_not_go_together_are_refused() {
    let facts = || crate::model::tests::facts(3);
    let error = |second| on_both(second, "n0").unwrap_err();
    let mut wider = facts();
    wider.hookpoints[2].d_out = 16;
    let message = error(wider).to_string();
    let expected = "setting `crosscoder_model` needs a model with hookpoints as wide as those of `model`: \
                    `layers.0` has 8, `2:layers.2` has 16";
    assert!(message.contains(expected), "{message}");
    let shorter = ModelFacts {
        max_ctx_len: 8,
        ..facts()
    };
    let short = error(shorter);
    let expected = "ctx_len = 16 is longer than the 8 positions of `n`";
    assert!(short.to_string().contains(expected), "{short}");
    assert_eq!(short.setting_key(), Some("ctx_len"));
    let settings = json!({"crosscoder": true, "crosscoder_model": "n", "layers": [2]});
    let few = job(
        settings,
        inputs(Some((crate::model::tests::facts(2), "n0"))),
    );
    let message = few.unwrap_err().to_string();
    let expected = "layer 2 does not exist: `n` has 2 layers";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn hookpoints_with_other_vectors_are_refused() {
    let crosscoder = json!({"crosscoder": true});
    let layers = json!({"cross_layer": true, "transcode": true});
    for settings in [crosscoder, layers] {
        let inputs = JobInputs {
            facts: of_heads().into(),
            ..inputs(None)
        };
        let error = job(settings, inputs).unwrap_err();
        let expected = "needs `hookpoints` with as many vectors: `layers.0` has 1 vector for a token, \
                        `layers.1` has 4 vectors for a token";
        assert!(error.to_string().contains(expected), "{error}");
        let hint = error.hint().unwrap();
        assert_eq!(hint, "choose `hookpoints` with one vector for each token");
    }
    // All have the same number.
    let mut facts = of_heads();
    let heads = facts.hookpoints[1].vectors;
    facts
        .hookpoints
        .iter_mut()
        .for_each(|own| own.vectors = heads);
    let inputs = JobInputs {
        facts: facts.into(),
        ..inputs(None)
    };
    job(json!({"crosscoder": true}), inputs).unwrap();
}

#[test]
fn a_second_model_that_was_not_read_is_an_error() {
    let settings = json!({"crosscoder": true, "crosscoder_model": "n"});
    let message = job(settings, inputs(None)).unwrap_err().to_string();
    let expected = "setting `crosscoder_model` names a second model, which only `sae-run` reads";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn memory_is_that_of_both_models() {
    let facts = crate::model::tests::facts(3);
    let larger = ModelFacts {
        layer_params: 5000,
        hidden_size: 80,
        ..crate::model::tests::facts(3)
    };
    let memory = |eval_fraction| {
        let settings = json!({
            "crosscoder": true, "crosscoder_model": "n", "layers": [0, 1], "eval_fraction": eval_fraction,
        });
        let jobs = [job(settings, inputs(Some((larger.clone(), "n0")))).unwrap()];
        let models = Models {
            first: &facts,
            second: Some(&larger),
        };
        let stream = group_streams(&jobs, |_| models, 1, None).unwrap().remove(0);
        assert_eq!(
            (stream.n_layers_run, stream.second_n_layers_run),
            (2, Some(2))
        );
        stream.memory
    };
    let training = memory(0.0);
    let both = 2 * 800 + 2 * 1000 + 2 * 5000;
    assert_eq!(training.model_bytes, 4 * both);
    assert_eq!(training.evaluation_bytes, 0);
    // Four hookpoints, which are joined, in the workspace: more than those of one model.
    let jobs = [job(json!({"crosscoder": true, "layers": [0, 1]}), inputs(None)).unwrap()];
    let one = group_streams(&jobs, |_| &facts, 1, None).unwrap().remove(0);
    assert_eq!(one.second_n_layers_run, None);
    assert!(training.workspace_bytes > one.memory.workspace_bytes);
    let heads = 100 * 8 + 100 * 80;
    let models = 2 * 800 + 3 * 1000 + 3 * 5000 + heads;
    assert!(memory(0.5).evaluation_bytes > 4 * models);
}
