//! Recipes: the user's own, and those that misbehave.

use crate::common::{Outcome, Workspace, fixture, replace_line, text, tiny_sweep, tiny_sweep_with};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

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
    jobs.map(|job| job["job"].as_str().unwrap()).collect()
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
fn a_recipe_next_to_the_sweep_is_used() {
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

    // Without its ending it is a name, looked for next to the sweep too, and in `recipes`.
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
        .refuses(&["`mine.py` did not finish within 200000000 instructions"])
        .hints("raise `recipe_limits.fuel`");
    assert!(!workspace.path("runs").exists());
}

#[test]
fn a_recipe_that_wants_too_much_is_stopped() {
    let workspace = with_recipe("def plan(request):\n    yield {'k': len('x' * 10**9)}\n");
    plan(&workspace)
        .refuses(&["`mine.py` needs more than", "of memory"])
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
        ("return [{'k': 0}]", "above 0"),
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
fn nothing_to_vary_is_one_job() {
    let workspace = Workspace::new();
    let sweep = tiny_sweep();
    let (head, _) = sweep.split_once("[vary]").unwrap();
    workspace.write("tiny.toml", head);
    let planned = plan(&workspace).succeeds().json();
    let names = planned["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["job"]);
    assert_eq!(names.collect::<Vec<_>>(), ["job"]);
    let empty = tiny_sweep_with("k = ", "k = []");
    workspace.write("tiny.toml", empty);
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "[vary] k is an empty list"]);
}

#[test]
fn equal_jobs_are_told() {
    let workspace = with_recipe("def plan(request):\n    return [{'k': 4}, {'k': 4}]\n");
    plan(&workspace)
        .exits(2)
        .remarks(&["error: ", "two jobs are called `k=4`"]);
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

#[test]
fn a_recipe_outside_the_folders_is_refused() {
    let workspace = Workspace::new();
    workspace.write("elsewhere.py", "def plan(request):\n    yield {'k': 4}\n");
    let elsewhere = workspace.path("elsewhere.py");
    let inside = Workspace::new();
    std::os::unix::fs::symlink(&elsewhere, inside.path("link.py")).unwrap();
    for name in [text(&elsewhere), "link.py", "link"] {
        inside.write("tiny.toml", with_recipe_named(name));
        plan(&inside)
            .refuses(&["leads to", "elsewhere.py"])
            .hints("next to the sweep");
    }
}

#[test]
fn nesting_and_depth_are_limited() {
    let body = "x = []\n    for _ in range(40): x = [x]\n    yield {'k': x}";
    let workspace = with_recipe(&format!("def plan(request):\n    {body}\n"));
    plan(&workspace)
        .exits(2)
        .remarks(&["job 1 has overrides that are nested 42 deep, the limit is 16"]);
    let more = ["plan", "tiny.toml", "--set", "recipe_limits.max_nesting=50"];
    workspace.run(&more).exits(2).remarks(&["setting `k`"]);
    workspace.write("mine.py", "def plan(request):\n    return plan(request)\n");
    plan(&workspace)
        .exits(2)
        .remarks(&["mine.py:2: RecursionError"]);
}

#[test]
fn a_million_jobs_and_numbers_that_are_none_are_refused() {
    let workspace = with_recipe("def plan(request):\n    return [{'k': 1}] * 150_000\n");
    plan(&workspace)
        .refuses(&["`mine.py` proposes 150000 jobs, the limit is 100000"])
        .hints("`recipe_limits.max_jobs`");
    // Enough jobs that the limit on instructions comes first.
    workspace.write(
        "mine.py",
        "def plan(request):\n    return [{'k': 1}] * 10**6\n",
    );
    workspace
        .run(&[
            "plan",
            "tiny.toml",
            "--set",
            "recipe_limits.fuel=2000000000",
        ])
        .refuses(&["`mine.py` did not finish within 2000000000 instructions"]);
    for number in ["float('nan')", "float('inf')", "1e999"] {
        let recipe = format!("def plan(request):\n    yield {{'lr': {number}}}\n");
        workspace.write("mine.py", recipe);
        plan(&workspace).exits(2).remarks(&["not a JSON value"]);
    }
    workspace.write("mine.py", [0xE9]);
    plan(&workspace).refuses(&["cannot read", "mine.py"]);
}

#[test]
fn the_list_of_recipes_shows_what_each_is_for() {
    let workspace = Workspace::new();
    let list = workspace.run(&["recipes"]).succeeds().stdout;
    for part in [
        "grid (built in)",
        "grids",
        "zip",
        "random",
        "layers",
        "pareto",
        "stride",
    ] {
        assert!(list.contains(part), "no {part} in\n{list}");
    }
    workspace.write("recipes/grid.py", "'''Mine.'''\n");
    workspace.write("recipes/broken.py", "def (\n");
    let list = workspace.run(&["recipes", "--json"]).succeeds();
    let list = list.listed("recipes");
    let of = |name: &str| -> Vec<Value> {
        list.iter()
            .filter(|recipe| recipe["name"] == name)
            .cloned()
            .collect()
    };
    assert_eq!(of("grid").len(), 1, "it hides the built-in one");
    assert_eq!(of("grid")[0]["description"]["summary"], "Mine.");
    let error = of("broken")[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("broken.py:1: SyntaxError"), "{error}");
}

#[test]
fn a_new_recipe_runs_at_once() {
    let workspace = Workspace::new();
    let outcome = workspace.run(&["recipes", "new", "mine"]).succeeds();
    outcome.remarks(&["wrote `recipes/mine.py`; use it with `recipe = \"mine\"`"]);
    assert!(workspace.path("recipes/recipe.pyi").is_file());
    workspace
        .run(&["recipes", "new", "mine"])
        .refuses(&["recipes/mine.py"]);
    workspace
        .run(&["recipes", "new", "../mine"])
        .refuses(&["`../mine` is not a valid recipe name"]);

    let sweep = with_recipe_named("mine");
    let (head, _) = sweep.split_once("[vary]").unwrap();
    workspace.write("tiny.toml", format!("{head}[vary]\nks = [4, 8]\n"));
    assert_eq!(names(&plan(&workspace).succeeds().json()), ["k=4", "k=8"]);

    let request = workspace.run(&["recipes", "request", "tiny.toml"]);
    workspace.write("request.json", request.succeeds().stdout);
    let test = [
        "recipes",
        "test",
        "recipes/mine.py",
        "--request",
        "request.json",
    ];
    let outcome = workspace.run(&test).succeeds();
    for part in ["k=8", r#"{"k":4}"#, "what is special", "2 jobs, done\n"] {
        assert!(outcome.stdout.contains(part), "no {part}\n{outcome}");
    }
    let verbose = workspace.run(&[&test[..], &["-v"]].concat()).succeeds();
    assert!(verbose.stdout.contains(" fuel\n"), "{verbose}");
    let json = workspace.run(&[&test[..], &["--json"]].concat()).succeeds();
    assert_eq!(json.json()["jobs"][1]["overrides"], json!({"k": 8}));
    workspace.write("request.json", "{}");
    workspace
        .run(&test)
        .refuses(&["`request.json` is not a request"])
        .hints("recipes request");
}

#[test]
fn a_diff_tells_what_appears_vanishes_and_changes() {
    let workspace = Workspace::with_small_sweep();
    let diff = |set: &[&str]| {
        let args = [&["plan", "tiny.toml", "--diff"][..], set].concat();
        workspace.run(&args).succeeds()
    };
    let new = diff(&[]).stdout;
    assert!(
        new.starts_with("+ k=4") && new.ends_with("0 jobs unchanged\n"),
        "{new}"
    );
    workspace.run(&["tiny.toml"]).succeeds();
    assert_eq!(diff(&[]).stdout, "2 jobs unchanged\n");
    let changed = diff(&["--set", "train.batch_size=4"]).stdout;
    assert_eq!(
        changed.matches("batch_size: 8 -> 4").count(),
        2,
        "{changed}"
    );
    let more = diff(&["--json", "--set", "vary.k=[4, 6]"]).json();
    assert_eq!(more["n_unchanged"], 2);
    let changes = more["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2, "{more}");
    assert!(changes.iter().all(|change| change["change"] == "appears"));
    let other = diff(&["--set", "vary.expansion_factor=[8]"]).stdout;
    let gone = other.matches("\n- k=4,expansion_factor=2,").count();
    assert_eq!(gone, 2, "{other}");
}

#[test]
fn a_verbose_plan_shows_digests_and_limits() {
    let workspace = Workspace::with_tiny_sweep();
    let limit = "recipe_limits.fuel=1000000000";
    let outcome = workspace.run(&["plan", "tiny.toml", "-v", "--set", limit]);
    let outcome = outcome.succeeds();
    for part in [
        "recipe digest",
        "request digest",
        "of 1000000000",
        "100000 jobs",
    ] {
        assert!(outcome.stdout.contains(part), "no {part}\n{outcome}");
    }
}

/// On the tiny model, which is always there; those on Llama are planned in `llama`.
#[test]
fn every_sweep_of_the_project_plans() {
    let workspace = Workspace::new();
    let sweeps = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let paths = fs::read_dir(sweeps)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_sweep = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".toml") && !name.starts_with("llama_")
    };
    let mut n_sweeps = 0;
    for path in paths.filter(is_sweep) {
        let tiny = fs::read_to_string(&path)
            .unwrap()
            .replace("SmolLM2-135M-Instruct", text(&fixture("tiny-llama")))
            .replace("data/moby_dick.jsonl", text(&fixture("tiny.jsonl")))
            .replace("ctx_len = 256", "ctx_len = 64")
            .replace("layers.10", "layers.3")
            .replace("layers.5", "layers.2");
        workspace.write("tiny.toml", tiny);
        let plan = plan(&workspace).succeeds().json();
        let n_jobs = plan["jobs"].as_array().unwrap().len();
        assert!(n_jobs >= 2, "{}: {n_jobs} jobs", path.display());
        n_sweeps += 1;
    }
    assert!(n_sweeps >= 5);
}
