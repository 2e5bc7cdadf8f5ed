//! Components written by hand against the world `recipe`, most of them hostile.

use super::*;

const NOT_A_COMPONENT: &str = "is not a WebAssembly component";
const WRONG_WORLD: &str = "does not export what the world";

const LOOP: &str = "(loop (br 0)) unreachable";
const GROW: &str = "(loop (drop (memory.grow (i32.const 100))) (br 0)) unreachable";
const RECURSE: &str = "(call $plan (local.get 0))";
/// One job called `a`, which sets `k` to 1.
const ONE_JOB: &str = "(i32.const 64)";
/// 1000 jobs of zeros: no name, empty overrides.
const MANY_JOBS: &str = "(i32.store (i32.const 72) (i32.const 1000))
    (i32.store (i32.const 68) (i32.const 65536)) (i32.const 64)";
/// A list that ends outside the memory.
const LONG_LIST: &str = "(i32.store (i32.const 72) (i32.const 100000000)) (i32.const 64)";
/// 60 000 jobs that share the same 2 MB of overrides: 120 GB if the host copied them.
const ALIASES: &str = "(local $i i32) (local.set $i (i32.const 65536))
    (loop
        (i32.store offset=28 (local.get $i) (i32.const 2000000))
        (local.set $i (i32.add (local.get $i) (i32.const 32)))
        (br_if 0 (i32.lt_u (local.get $i) (i32.const 1985536))))
    (i32.store (i32.const 72) (i32.const 60000))
    (i32.store (i32.const 68) (i32.const 65536)) (i32.const 64)";

/// A component of the world `recipe` from the body of its `plan`, which gets the address of the
/// request and returns that of the answer.
fn component(plan: &str) -> Recipe {
    let core = format!(
        r#"(module
            (memory (export "memory") 40)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 2048))
            (func (export "sae-run:recipe/planner@0.1.0#describe") (result i32) unreachable)
            (func $plan (export "sae-run:recipe/planner@0.1.0#plan") (param i32) (result i32)
                {plan})
            (data (i32.const 64) "\00\00\00\00\80\00\00\00\01\00\00\00\01")
            (data (i32.const 128) "\01\00\00\00\00\01\00\00\01\00\00\00")
            (data (i32.const 152) "\10\01\00\00\08\00\00\00")
            (data (i32.const 256) "a")
            (data (i32.const 272) "{{\"k\": 1}}"))"#
    );
    Recipe::from_code("test", Code::Component(encode(&core)))
}

fn encode(core: &str) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/wit");
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some("recipe")).unwrap();
    let mut module = wat::parse_str(core).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    let encoder = wit_component::ComponentEncoder::default()
        .module(&module)
        .unwrap();
    encoder.validate(true).encode().unwrap()
}

fn text_component(text: &str) -> Recipe {
    Recipe::from_code("test", Code::Component(wat::parse_str(text).unwrap()))
}

fn error_of(recipe: &Recipe, limits: Limits) -> RecipeError {
    error(
        &Host::new(HostOptions {
            cache_dir: None,
            ..options(limits)
        })
        .unwrap(),
        recipe,
    )
}

fn options(limits: Limits) -> HostOptions {
    HostOptions {
        cache_dir: None,
        engine_path: PathBuf::new(),
        limits,
    }
}

#[test]
fn a_component_in_any_language_plans() {
    let host = Host::new(options(Limits::default())).unwrap();
    let (response, identity) = host.plan(&component(ONE_JOB), &request(json!({}))).unwrap();
    assert_eq!(response.jobs[0].name.as_deref(), Some("a"));
    assert_eq!(response.jobs[0].overrides, object(json!({"k": 1})));
    assert!(response.done && identity.fuel > 0);
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let limits = Limits {
        fuel: 1_000_000,
        ..Limits::default()
    };
    let error = error_of(&component(LOOP), limits);
    assert_says(&error, "did not finish within 1000000 instructions");
    assert!(error.hint().unwrap().contains("recipe_limits.fuel"));
}

#[test]
fn a_memory_hog_is_stopped() {
    let limits = Limits {
        memory_bytes: 4 << 20,
        ..Limits::default()
    };
    let error = error_of(&component(GROW), limits);
    assert_says(&error, "needs more than 4194304 bytes of memory");
    assert!(error.hint().unwrap().contains("recipe_limits.memory_bytes"));

    let limits = Limits {
        memory_bytes: 1 << 20,
        ..Limits::default()
    };
    let error = error_of(&component(ONE_JOB), limits);
    assert_says(&error, "needs more than 1048576 bytes of memory");
}

#[test]
fn endless_recursion_fills_the_stack() {
    let error = error_of(&component(RECURSE), Limits::default());
    assert_says(&error, "recursed too deep");
}

#[test]
fn a_long_answer_is_refused_before_it_is_copied() {
    let limits = Limits {
        output_bytes: 1 << 20,
        ..Limits::default()
    };
    let error = error_of(&component(ALIASES), limits);
    assert_says(&error, "takes more than 1048576 bytes");
    assert!(error.hint().unwrap().contains("recipe_limits.output_bytes"));
}

#[test]
fn too_many_jobs_are_refused() {
    let limits = Limits {
        max_jobs: 999,
        ..Limits::default()
    };
    let error = error_of(&component(MANY_JOBS), limits);
    assert_says(&error, "proposes 1000 jobs, the limit is 999");
    assert!(error.hint().unwrap().contains("recipe_limits.max_jobs"));
}

#[test]
fn answers_that_are_no_json_or_no_list_are_refused() {
    let error = error_of(&component(MANY_JOBS), Limits::default());
    assert_says(
        &error,
        "gave a wrong answer: job 1 has overrides that are not JSON",
    );
    let error = error_of(&component(LONG_LIST), Limits::default());
    assert_says(&error, "was stopped");
    let error = error_of(&component("unreachable"), Limits::default());
    assert_says(&error, "was stopped");
}

#[test]
fn imports_are_refused_by_name() {
    let text = r#"(component
        (import "now" (func (result u64)))
        (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let error = error_of(&text_component(text), Limits::default());
    assert_says(&error, "imports `now`, `wasi:cli/environment@0.2.0`, and");
}

#[test]
fn another_version_is_told_before_anything_runs() {
    let recipe = component(ONE_JOB);
    let Code::Component(bytes) = recipe.code() else {
        panic!("a component");
    };
    // As long as the right one: nothing else of the file changes.
    let (ours, other) = (b"planner@0.1.0".as_slice(), b"planner@0.2.7");
    let mut bytes = bytes.clone();
    for start in 0..bytes.len() - ours.len() {
        if bytes[start..].starts_with(ours) {
            bytes[start..start + ours.len()].copy_from_slice(other);
        }
    }
    let error = error_of(
        &Recipe::from_code("test", Code::Component(bytes)),
        Limits::default(),
    );
    assert_says(&error, "is of version 0.2.7");
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("recipe.wit") && hint.ends_with("0.1.0"),
        "{hint}"
    );
}

#[test]
fn truncated_components_are_refused() {
    let recipe = component(ONE_JOB);
    let Code::Component(bytes) = recipe.code() else {
        panic!("a component");
    };
    for n_bytes in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        let cut = Recipe::from_code("test", Code::Component(bytes[..n_bytes].into()));
        let error = error_of(&cut, Limits::default());
        let says = error.to_string();
        let is_told = [NOT_A_COMPONENT, WRONG_WORLD].map(|part| says.contains(part));
        assert!(is_told.contains(&true), "{n_bytes} bytes: {error:?}");
    }
}

#[test]
fn a_smaller_stack_is_full_sooner() {
    let limits = Limits {
        stack_bytes: 64 << 10,
        ..Limits::default()
    };
    let error = error_of(&component(RECURSE), limits);
    assert_says(&error, "its stack of 65536 bytes is full");
}

#[test]
fn other_bytes_and_other_worlds_are_refused() {
    let error = error_of(&text_component("(component)"), Limits::default());
    assert_says(&error, WRONG_WORLD);
    let module = text_component("(module)");
    assert_says(&error_of(&module, Limits::default()), NOT_A_COMPONENT);
    let noise = Recipe::from_code("test", Code::Component(b"\x7fELF".into()));
    assert_says(&error_of(&noise, Limits::default()), NOT_A_COMPONENT);
}
