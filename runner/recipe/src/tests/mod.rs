//! Recipes that behave and recipes that do not.

mod built_in;
mod hostile;
mod python;

use crate::source::Code;
use crate::{Host, HostOptions, Limits, Recipe, RecipeError, engine_path};
use fault::{FailureKind, Remedy};
use plan::{HookpointFacts, ModelFacts, PlanRequest, PlanResponse, Vectors};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// One host for all tests that need no special limits: the engine is loaded once.
static HOST: LazyLock<Host> = LazyLock::new(|| host(Limits::default()));

fn host(limits: Limits) -> Host {
    let cache_dir = cache_dir();
    let engine_path = engine_path(&cache_dir);
    Host::new(HostOptions {
        cache_dir: Some(cache_dir),
        engine_path,
        limits,
    })
    .unwrap()
}

/// The folder that `make setup` fills.
fn cache_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let user_cache = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let default = || Some(user_cache()?.join("sae-run"));
    var("SAE_RUN_CACHE").or_else(default).expect("HOME is set")
}

fn python(text: &str) -> Recipe {
    Recipe::from_code("test", Code::Python(text.into()))
}

fn built_in(name: &str) -> Recipe {
    let found = crate::built_in().find(|recipe| recipe.name() == name);
    found.expect("it is built in")
}

fn request(vary: Value) -> PlanRequest {
    PlanRequest {
        sweep: "s".into(),
        train: object(json!({"model": "m", "k": 32, "lr": null})),
        vary: object(vary),
        model: model(),
        seed: 1,
        round: 0,
        results: Vec::new(),
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn model() -> ModelFacts {
    let hookpoint = |name: &str, d_in| HookpointFacts {
        name: name.into(),
        d_in,
        d_out: 8,
        n_layers_needed: 1,
        vectors: Vectors::Token,
    };
    ModelFacts {
        model_type: "llama".into(),
        n_layers: 2,
        hidden_size: 8,
        vocab_size: 64,
        max_ctx_len: 128,
        embedding_params: 512,
        layer_params: 1000,
        layer_8bit_params: 1000,
        layers_name: "layers".into(),
        hookpoints: vec![
            hookpoint("embed_tokens", None),
            hookpoint("layers.0", Some(8)),
        ],
    }
}

/// The answer of a recipe that should succeed.
fn plan(recipe: &Recipe, request: &PlanRequest) -> PlanResponse {
    match HOST.plan(recipe, request) {
        Ok((response, _)) => response,
        Err(error) => panic!("{error}\nhint: {:?}", error.hint()),
    }
}

/// The error of a recipe that should fail.
fn error(host: &Host, recipe: &Recipe) -> RecipeError {
    let error = host
        .plan(recipe, &request(json!({})))
        .map(|(response, _)| response)
        .unwrap_err();
    let hint = error.hint();
    assert_eq!(error.kind(), FailureKind::Input, "{error}\nhint: {hint:?}");
    error
}

/// That it is not the recipe's own error, and that its message has this.
fn assert_says(error: &RecipeError, part: &str) {
    let is_own = matches!(error, RecipeError::Failed { .. });
    assert!(!is_own && error.to_string().contains(part), "{error:?}");
}

/// What the user of a failing Python recipe reads.
fn message(text: &str) -> String {
    match error(&HOST, &python(text)) {
        RecipeError::Failed { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_setup_script_and_this_crate_agree_on_the_engine() {
    let path = engine_path(&cache_dir());
    assert!(
        path.is_file(),
        "no {}\nhint: run `make setup`",
        path.display()
    );
}

#[test]
fn a_missing_engine_says_what_to_do() {
    let engine_path = Path::new("no").join("engine.wasm");
    let options = HostOptions {
        cache_dir: None,
        engine_path,
        limits: Limits::default(),
    };
    let error = Host::new(options)
        .unwrap()
        .describe(&python(""))
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::Internal, "{error}");
    assert!(error.hint().unwrap().contains("make setup"));
}
