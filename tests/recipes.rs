//! Recipes: the user's own, and those that misbehave.

use crate::common::{Outcome, Workspace, replace_line, tiny_sweep, tiny_sweep_with};
use serde_json::{Value, json};

fn with_recipe_named(name: &str) -> String {
    format!("recipe = '{name}'\n{}", tiny_sweep())
}

/// A sweep with recipe `mine.py` of this text.
fn with_recipe(source: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", with_recipe_named("mine.py"));
    workspace.write("mine.py", source);
    workspace
}

fn plan(workspace: &Workspace) -> Outcome {
    workspace.run(&["plan", "tiny.toml", "--json"])
}

fn names(plan: &Value) -> Vec<&str> {
    let jobs = plan["jobs"].as_array().unwrap().iter();
    jobs.map(|job| job["name"].as_str().unwrap()).collect()
}

#[test]
fn names_follow_the_order_of_the_file() {
    let workspace = Workspace::new();
    let without = tiny_sweep_with("k = ", "");
    let sweep = replace_line(&without, "[launch]", "k = [8, 4]\n[launch]");
    workspace.write("tiny.toml", sweep);
    let plan = plan(&workspace).succeeds().json();
    let expected = [
        "expansion_factor=2,hookpoints=layers.0,k=8",
        "expansion_factor=2,hookpoints=layers.0,k=4",
    ];
    assert_eq!(names(&plan)[..2], expected, "the last key varies fastest");
}

#[test]
fn a_recipe_beside_the_sweep_is_used() {
    let recipe = "\
'''Twice as many latents for half the k.'''

def plan(request):
    print('this is not shown')
    for k in request.vary['k']:
        overrides = {'k': k, 'num_latents': 512 // k, 'layers': [request.model.n_layers - 1]}
        yield job(overrides, name=f'k{k}', note=f'{len(request.model.hookpoints)} hookpoints')
";
    let workspace = with_recipe(recipe);
    let plan = plan(&workspace).succeeds().json();
    assert_eq!(names(&plan), ["k4", "k8"]);
    let latents: Vec<_> = plan["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["saes"][0]["num_latents"])
        .collect();
    assert_eq!(json!(latents), json!([128, 64]));
    assert_eq!(plan["recipe"]["recipe"], "mine.py");

    // Without its ending it is a name, looked for beside the sweep too, and in `recipes`.
    workspace.write("sweeps/tiny.toml", with_recipe_named("mine"));
    workspace.write("recipes/mine.py", recipe.replace("f'k{k}'", "f'{k}k'"));
    let outcome = workspace
        .run(&["plan", "sweeps/tiny.toml", "--json"])
        .succeeds();
    assert_eq!(names(&outcome.json()), ["4k", "8k"]);
}

#[test]
fn a_recipe_that_loops_forever_is_stopped() {
    let workspace = with_recipe("def plan(request):\n    while True:\n        pass\n");
    let outcome = workspace.run(&["tiny.toml", "--set", "recipe_limits.fuel=200000000"]);
    outcome
        .refuses(&["`mine.py` did not end within 200000000 instructions"])
        .hints("raise `recipe_limits.fuel`");
    assert!(!workspace.path("runs").exists());
}

#[test]
fn a_recipe_that_wants_too_much_is_stopped() {
    let workspace = with_recipe("def plan(request):\n    yield {'k': len('x' * 10**9)}\n");
    plan(&workspace)
        .refuses(&["`mine.py` wants more than", "of memory"])
        .hints("`recipe_limits.memory_bytes`");
    workspace.write(
        "mine.py",
        "def plan(request):\n    return [{'k': 1}] * 30\n",
    );
    let outcome = workspace.run(&["plan", "tiny.toml", "--set", "recipe_limits.max_jobs=20"]);
    outcome
        .refuses(&["`mine.py` proposes 30 jobs", "20"])
        .hints("`recipe_limits.max_jobs`");
}

#[test]
fn an_error_of_a_recipe_names_file_and_line() {
    let workspace = with_recipe("def plan(request):\n    yield {'k': request.vary['kk']}\n");
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "`mine.py`", "mine.py:2: KeyError: 'kk'"]);
    workspace.write("mine.py", "def plan(request):\n    yield {'k': 1\n");
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "mine.py:2: SyntaxError"]);
    workspace.write(
        "mine.py",
        "def plan(request):\n    return open('/etc/passwd')\n",
    );
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "mine.py:2: PermissionError", "no files"]);
    assert!(!workspace.path("runs").exists());
}

#[test]
fn rubbish_is_refused() {
    let cases = [
        ("return 3", "got int"),
        ("return [3]", "job 1"),
        ("return [{'k': object()}]", "not a JSON value"),
        ("return [{'k': 'many'}]", "setting `k`"),
        ("return [{'k': -1}]", "setting `k`"),
        ("return [{'k': 0}]", "at least 1"),
        ("return [{'kk': 4}]", "unknown setting `kk`"),
        ("return []", "proposed no jobs"),
        (
            "yield job({'k': 4}, name='a'); yield job({'k': 8}, name='a')",
            "both called `a`",
        ),
        ("yield job({'k': 4}, name='')", "name"),
    ];
    for (body, problem) in cases {
        let workspace = with_recipe(&format!("def plan(request):\n    {body}\n"));
        plan(&workspace).exits(2).remarks(&["error: ", problem]);
    }
}

#[test]
fn nothing_to_vary_is_told() {
    let workspace = Workspace::new();
    let sweep = tiny_sweep();
    let (head, _) = sweep.split_once("[vary]").unwrap();
    workspace.write("tiny.toml", head);
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "[vary] is empty"]);
    let empty = tiny_sweep_with("k = ", "k = []");
    workspace.write("tiny.toml", empty);
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "[vary] k is an empty list"]);
}

#[test]
fn equal_jobs_are_told() {
    let workspace = Workspace::new();
    workspace.write(
        "tiny.toml",
        tiny_sweep().replace("k = [4, 8]", "k = [4, 4]"),
    );
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "both called `k=4,expansion_factor=2,"]);
}

#[test]
fn a_misspelt_recipe_is_told_with_its_nearest() {
    let workspace = Workspace::new();
    workspace.write(
        "tiny.toml",
        tiny_sweep().replace("[train]", "recipe = 'gird'\n[train]"),
    );
    plan(&workspace)
        .refuses(&["there is no recipe `gird`"])
        .hints("did you mean `grid`?");
}

#[test]
fn a_missing_engine_is_told() {
    let workspace = Workspace::with_tiny_sweep();
    let outcome = workspace.run_with(
        &[("SAE_RUN_ENGINE", "no-engine.wasm")],
        &["plan", "tiny.toml"],
    );
    outcome
        .refuses(&["needs the Python engine", "no-engine.wasm"])
        .hints("`make setup`");
}
