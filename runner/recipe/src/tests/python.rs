//! Recipes in Python, run by the engine that `make setup` built.

use super::*;
use plan::JobResult;

fn grid() -> Recipe {
    built_in("grid")
}

fn overrides(response: &PlanResponse) -> Value {
    response
        .jobs
        .iter()
        .map(|job| Value::from(job.overrides.clone()))
        .collect()
}

/// The outcome of one SAE of a job with these overrides.
pub(super) fn result(overrides: Map<String, Value>, k: u64, fvu: f64) -> JobResult {
    JobResult {
        job: format!("k={k}"),
        overrides,
        hookpoint: "layers.0".into(),
        seed: 0,
        k: (k as usize).into(),
        num_latents: 64,
        fvu,
        l0: k as f64,
        dead_pct: 0.0,
        ce_recovered: None,
    }
}

#[test]
fn grid_makes_every_combination_in_the_order_of_the_keys() {
    let vary = json!({
        "k": [16, 32],
        "expansion_factor": 4,
        "lr": [1e-3, null],
        "hookpoints": [["layers.0", "layers.1"]],
    });
    let response = plan(&grid(), &request(vary));
    let names: Vec<_> = response
        .jobs
        .iter()
        .map(|job| job.name.as_deref().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "k=16,expansion_factor=4,lr=0.001,hookpoints=layers.0+layers.1",
            "k=16,expansion_factor=4,lr=None,hookpoints=layers.0+layers.1",
            "k=32,expansion_factor=4,lr=0.001,hookpoints=layers.0+layers.1",
            "k=32,expansion_factor=4,lr=None,hookpoints=layers.0+layers.1",
        ]
    );
    let first = r#"{"k":16,"expansion_factor":4,"lr":0.001,"hookpoints":["layers.0","layers.1"]}"#;
    assert_eq!(
        Value::from(response.jobs[0].overrides.clone()).to_string(),
        first
    );
    assert!(response.done);
}

#[test]
fn grid_refuses_what_would_make_no_job() {
    let said = |vary| HOST.plan(&grid(), &request(vary)).unwrap_err().to_string();
    let empty = said(json!({"k": []}));
    assert!(
        empty.contains("grid.py:") && empty.contains("[vary] k is an empty list"),
        "{empty}"
    );
    assert!(said(json!({"k": [1, 1]})).contains("jobs 1 and 2 are both called `k=1`"));
}

#[test]
fn describe_reads_the_docstring_without_running_the_recipe() {
    let said = HOST.describe(&grid()).unwrap();
    assert_eq!(said.name, "grid");
    assert_eq!(
        said.summary,
        "Every combination of the values in [vary]; the last key varies fastest."
    );
    assert_eq!(said.settings, []);
    assert_eq!(
        HOST.describe(&python("while True: pass")).unwrap().summary,
        ""
    );
    let text = "SETTINGS = {'a': (1, 'an a'), 'b': (..., 'a b'), 'c': (None, ''), 'd': ([1], '')}";
    let settings = HOST.describe(&python(text)).unwrap().settings;
    let settings = settings.into_iter();
    let told: Vec<_> = settings.map(|s| (s.name, s.kind, s.default)).collect();
    let told: Vec<_> = told
        .iter()
        .map(|(name, kind, default)| (name.as_str(), kind.as_str(), default.as_deref()))
        .collect();
    let expected = [
        ("a", "int", Some("1")),
        ("b", "any", None),
        ("c", "any", Some("null")),
        ("d", "list", Some("[1]")),
    ];
    assert_eq!(told, expected);
    for wrong in ["{'a': 1}", "[1]", "{1: (1, '')}", "{'a': (f(), '')}"] {
        let error = HOST.describe(&python(&format!("\nSETTINGS = {wrong}")));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("line 2: `SETTINGS` must be"), "{error}");
    }
    let error = HOST.describe(&python("def (")).unwrap_err().to_string();
    assert!(error.contains("test.py:1: SyntaxError"), "{error}");
}

#[test]
fn a_recipe_sees_the_request() {
    let text = r#"
def plan(request):
    points = [(h.name, h.d_in, h.d_out) for h in request.model.hookpoints]
    return [
        {"points": points, "train": request.train, "vary": request.vary},
        job({"x": [request.sweep, request.model.n_layers, request.seed]}, note="why"),
    ]
"#;
    let response = plan(&python(text), &request(json!({"b": 1, "a": {"c": [true]}})));
    assert_eq!(
        overrides(&response),
        json!([
            {
                "points": [["embed_tokens", null, 8], ["layers.0", 8, 8]],
                "train": {"model": "m", "k": 32, "lr": null},
                "vary": {"b": 1, "a": {"c": [true]}},
            },
            {"x": ["s", 2, 1]},
        ])
    );
    assert_eq!(response.jobs[1].note.as_deref(), Some("why"));
}

#[test]
fn rounds_go_on_while_the_recipe_asks_for_more() {
    let text = r#"
def plan(request):
    if request.round == 0:
        more()
        return [{"k": 1}, {"k": 2}]
    best = min(request.results, key=lambda result: result.fvu)
    return [{**best.overrides, "expansion_factor": 8}]
"#;
    let recipe = python(text);
    assert!(!plan(&recipe, &request(json!({}))).done);
    let result = |k, fvu| result(object(json!({"k": k})), k, fvu);
    let results = vec![result(1, 0.5), result(2, 0.25)];
    let second = PlanRequest {
        round: 1,
        results,
        ..request(json!({}))
    };
    let response = plan(&recipe, &second);
    assert!(response.done);
    assert_eq!(
        overrides(&response),
        json!([{"k": 2, "expansion_factor": 8}])
    );
}

#[test]
fn exceptions_come_back_with_file_and_line() {
    let text = "def plan(request):\n    for k in request.vary['k']:\n        yield {'k': k}\n";
    assert_eq!(message(text), "test.py:2: KeyError: 'k'");
    assert_eq!(
        message("x = 1 / 0"),
        "test.py:1: ZeroDivisionError: division by zero"
    );
    assert_eq!(
        message("def plan(request):\n  import sys\n  sys.exit('no')"),
        "test.py:3: SystemExit: no"
    );
    assert_eq!(
        message("# fine\ndef plan(request:\n"),
        "test.py:2: SyntaxError: '(' was never closed"
    );
    // Raised inside the standard library: the line is the recipe's.
    let text = "import json\n\ndef plan(request):\n    return json.loads('{')\n";
    assert!(
        message(text).starts_with("test.py:4: JSONDecodeError: "),
        "{}",
        message(text)
    );
    assert!(message("def plan(r): return plan(r)").contains("RecursionError"));
}

#[test]
fn what_was_printed_is_shown_when_the_recipe_fails() {
    let text = "def plan(request):\n    print('k is', 3)\n    assert False\n";
    assert_eq!(
        message(text),
        "test.py:3: AssertionError\nprinted before: k is 3"
    );
    let quiet = plan(
        &python("def plan(request):\n    print('x')\n    yield {}"),
        &request(json!({})),
    );
    assert_eq!(quiet.jobs.len(), 1);
}

#[test]
fn wrong_values_are_named() {
    let returns = |value: &str| message(&format!("def plan(request):\n    return {value}\n"));
    assert_eq!(
        message("k = 1"),
        "test.py: there is no function `plan(request)`"
    );
    let expected = "test.py: `plan` must yield dicts or return a list of them, got ";
    assert_eq!(returns("None"), format!("{expected}NoneType"));
    assert_eq!(returns("{'k': 1}"), format!("{expected}dict"));
    assert_eq!(
        returns("[{}, 7]"),
        "test.py: job 2: overrides must be a dict, got int"
    );
    assert_eq!(
        returns("[{'k': range(3)}]"),
        "test.py: job 1: overrides['k'] is range(0, 3), of type range: not a JSON value"
    );
    assert!(
        returns("[{'a': [1, {2: 3}]}]")
            .contains("overrides['a'][1] has the key 2, which is not a str")
    );
    assert!(returns("[{'lr': float('nan')}]").contains("overrides['lr'] is nan"));
    assert_eq!(
        returns("[job({}, name=3)]"),
        "test.py:2: TypeError: name must be a str, got int"
    );
}

#[test]
fn a_whole_k_of_a_result_is_an_int() {
    let text =
        "def plan(request):\n    yield {'ks': [repr(result.k) for result in request.results]}\n";
    let mean = JobResult {
        k: 32.5.into(),
        ..result(Map::new(), 0, 0.5)
    };
    let request = PlanRequest {
        results: vec![result(Map::new(), 32, 0.5), mean],
        ..request(json!({}))
    };
    let response = plan(&python(text), &request);
    assert_eq!(overrides(&response), json!([{"ks": ["32", "32.5"]}]));
}

#[test]
fn the_standard_library_is_there_as_far_as_it_needs_no_machine() {
    let text = "
import abc, bisect, collections, copy, csv, dataclasses, datetime, decimal, enum, fnmatch
import fractions, functools, hashlib, heapq, itertools, json, math, operator, random, re
import statistics, string, textwrap, typing
from dataclasses import dataclass, field

@dataclass
class Point:
    k: int
    tags: list[str] = field(default_factory=list)

class Kind(enum.Enum):
    A = 1

def plan(request):
    yield dataclasses.asdict(Point(math.isqrt(17)))
    yield {'x': statistics.mean([1, 2]), 'y': Kind.A.value, 'z': re.sub('a', 'b', 'aa')}
";
    let response = plan(&python(text), &request(json!({})));
    assert_eq!(
        overrides(&response),
        json!([{"k": 4, "tags": []}, {"x": 1.5, "y": 1, "z": "bb"}])
    );
    let no_module = message("\nimport numpy\n");
    assert!(no_module.starts_with("test.py:2: ModuleNotFoundError: no module `numpy`"));
}

#[test]
fn the_machine_is_out_of_reach() {
    for attempt in [
        "open('/etc/passwd')",
        "open('x', 'w')",
        "__import__('os').listdir('/')",
        "__import__('os').getenv('HOME')[0]",
        "__import__('os').urandom(8)",
        "__import__('os').system('ls')",
        "__import__('socket').create_connection(('127.0.0.1', 80))",
        "__import__('subprocess').run(['ls'])",
        "__import__('threading').Thread(target=print).start()",
        "__import__('time').time()",
        "__import__('time').sleep(1)",
        "__import__('datetime').datetime.now()",
        "__import__('ctypes').CDLL(None)",
        "input()[0]",
    ] {
        let recipe = python(&format!(
            "def plan(request):\n    {attempt}\n    yield {{}}\n"
        ));
        let error = error(&HOST, &recipe);
        let clean = matches!(error, RecipeError::Failed { .. })
            || error.to_string().contains("the sandbox does not have");
        assert!(clean, "{attempt}: {error:?}");
    }
}

#[test]
fn what_python_can_refuse_itself_comes_with_a_line() {
    let why = "a recipe has no files, no network and no clock";
    let said = message("\nopen('/etc/passwd')\n");
    assert_eq!(said, format!("test.py:2: PermissionError: `open`: {why}"));
    let said = message("import os\n\nos.listdir('/')\n");
    assert_eq!(
        said,
        format!("test.py:3: PermissionError: `os.listdir`: {why}")
    );
}

#[test]
fn an_endless_recipe_runs_out_of_fuel() {
    let host = host(Limits {
        fuel: 300_000_000,
        ..Limits::default()
    });
    for text in [
        "while True: pass",
        "def plan(request):\n    while True: pass",
    ] {
        let error = error(&host, &python(text));
        assert_says(&error, "did not finish within");
    }
}

#[test]
fn a_huge_string_runs_out_of_memory() {
    for text in [
        "x = 'x' * 10**9",
        "x = ['x' * 10**6 * i for i in range(100000)]",
    ] {
        let error = error(&HOST, &python(text));
        assert_says(&error, "bytes of memory");
    }
}

#[test]
fn equal_requests_give_equal_answers_at_equal_cost() {
    let text = "
import random
start = random.random()

def plan(request):
    yield {'x': start, 'y': random.sample(range(1000), 5), 'z': list({'a', 'b', 'c'})}
";
    let recipe = python(text);
    let ask = |seed| {
        HOST.plan(
            &recipe,
            &PlanRequest {
                seed,
                ..request(json!({}))
            },
        )
        .unwrap()
    };
    let ((first, cost), (second, same_cost), (other, _)) = (ask(1), ask(1), ask(2));
    assert_eq!(first, second);
    assert_eq!(cost.fuel, same_cost.fuel);
    assert_eq!(cost.request_digest, same_cost.request_digest);
    assert_eq!(cost.recipe_digest, recipe.digest());
    assert_ne!(first.jobs[0].overrides["y"], other.jobs[0].overrides["y"]);
    // Python's own `random.seed(1)`.
    assert_eq!(first.jobs[0].overrides["x"], json!(0.13436424411240122));
}

#[test]
fn the_digest_of_a_request_depends_on_the_order_of_vary() {
    let digest = |vary| HOST.plan(&grid(), &request(vary)).unwrap().1.request_digest;
    assert_ne!(
        digest(json!({"k": 1, "lr": 2})),
        digest(json!({"lr": 2, "k": 1}))
    );
}

#[test]
fn a_thousand_runs_and_a_fresh_cache_give_equal_bytes() {
    let recipe = built_in("random");
    let vary = json!({"n": 5, "k": [4, 8, 16], "lr": {"log_uniform": [1e-4, 1e-2]}});
    let request = request(vary);
    let bytes = |host: &Host| {
        let (response, identity) = host.plan(&recipe, &request).unwrap();
        serde_json::to_vec(&(response, identity)).unwrap()
    };
    let first = bytes(&HOST);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..500).for_each(|_| assert!(bytes(&HOST) == first)));
        }
    });
    let without_cache = Host::new(HostOptions {
        cache_dir: None,
        engine_path: engine_path(&cache_dir()),
        limits: Limits::default(),
    });
    assert!(bytes(&without_cache.unwrap()) == first);
}
