//! The recipes that every binary carries, except `grid`.

use super::python::result;
use super::*;
use std::collections::BTreeSet;

fn names(recipe: &str, vary: Value) -> Vec<String> {
    let response = plan(&built_in(recipe), &request(vary));
    let name = |job: plan::JobDraft| job.name.expect("built-in recipes name their jobs");
    response.jobs.into_iter().map(name).collect()
}

/// Why a recipe refuses.
fn refusal(recipe: &str, vary: Value) -> String {
    let answer = HOST.plan(&built_in(recipe), &request(vary));
    answer
        .map(|(response, _)| response)
        .unwrap_err()
        .to_string()
}

#[test]
fn each_has_a_summary_and_describes_its_settings() {
    for recipe in crate::built_in() {
        let said = HOST.describe(&recipe).unwrap();
        assert!(said.summary.len() > 20, "{said:?}");
        assert!(
            said.settings.iter().all(|s| s.summary.len() > 5),
            "{said:?}"
        );
    }
}

#[test]
fn zip_puts_values_side_by_side() {
    let vary = json!({"k": [16, 32], "activation": "topk", "expansion_factor": [32, 16]});
    let response = plan(&built_in("zip"), &request(vary.clone()));
    let overrides: Vec<_> = response.jobs.iter().map(|job| &job.overrides).collect();
    assert_eq!(
        json!(overrides),
        json!([
            {"k": 16, "activation": "topk", "expansion_factor": 32},
            {"k": 32, "activation": "topk", "expansion_factor": 16},
        ])
    );
    assert_eq!(
        names("zip", vary),
        ["k=16,expansion_factor=32", "k=32,expansion_factor=16"]
    );
    let uneven = refusal("zip", json!({"k": [1, 2], "lr": [0.1]}));
    assert!(uneven.contains("k has 2, lr has 1"), "{uneven}");
    assert!(refusal("zip", json!({"k": 1})).contains("no list"));
    assert!(refusal("zip", json!({"k": []})).contains("no job"));
}

#[test]
fn grids_combine_the_values_of_each_table() {
    let vary = json!({
        "topk": {"k": [32, 64], "matryoshka_widths": [[8, 16]]},
        "relu": {"activation": "relu", "l1_coefficient": 2.0},
    });
    let response = plan(&built_in("grids"), &request(vary.clone()));
    let overrides: Vec<_> = response.jobs.iter().map(|job| &job.overrides).collect();
    assert_eq!(
        json!(overrides),
        json!([
            {"k": 32, "matryoshka_widths": [8, 16]},
            {"k": 64, "matryoshka_widths": [8, 16]},
            {"activation": "relu", "l1_coefficient": 2.0},
        ])
    );
    assert_eq!(names("grids", vary), ["topk,k=32", "topk,k=64", "relu"]);
    assert!(refusal("grids", json!({})).contains("[vary] is empty"));
    assert!(refusal("grids", json!({"k": [1]})).contains("[vary] k must be a table"));
    assert!(refusal("grids", json!({"a": {"k": []}})).contains("[vary] a has an empty list"));
}

#[test]
fn random_draws_different_jobs_by_the_seed() {
    let vary = json!({
        "n": 12,
        "k": [16, 32, 64],
        "lr": {"log_uniform": [1e-4, 1e-2]},
        "expansion_factor": {"log_uniform_int": [4, 64]},
        "auxk_alpha": {"uniform": [0, 1]},
    });
    let ask = |seed| {
        let request = PlanRequest {
            seed,
            ..request(vary.clone())
        };
        plan(&built_in("random"), &request).jobs
    };
    let jobs = ask(1);
    assert_eq!(jobs, ask(1));
    assert_ne!(jobs, ask(2));
    let names: BTreeSet<_> = jobs.iter().map(|job| job.name.clone()).collect();
    assert_eq!(names.len(), 12);
    for job in &jobs {
        let value = |key: &str| job.overrides[key].as_f64().unwrap();
        assert!((1e-4..=1e-2).contains(&value("lr")), "{job:?}");
        assert!((4.0..=64.0).contains(&value("expansion_factor")), "{job:?}");
        assert!(job.overrides["expansion_factor"].is_u64(), "{job:?}");
        assert!((0.0..=1.0).contains(&value("auxk_alpha")), "{job:?}");
        assert!([16.0, 32.0, 64.0].contains(&value("k")), "{job:?}");
    }
}

#[test]
fn random_says_what_it_cannot_draw() {
    for (vary, problem) in [
        (json!({"k": [1]}), "n must be the number of jobs"),
        (json!({"n": 2}), "nothing to draw"),
        (json!({"n": 3, "k": [1, 2]}), "only 2 different jobs"),
        (json!({"n": 1, "k": []}), "k is an empty list"),
        (
            json!({"n": 1, "lr": {"log_uniform": [0, 1]}}),
            "lr must be one of",
        ),
        (
            json!({"n": 1, "lr": {"normal": [0, 1]}}),
            "lr must be one of",
        ),
        (
            json!({"n": 1, "lr": {"uniform": [2, 1]}}),
            "lr must be one of",
        ),
    ] {
        let refusal = refusal("random", vary.clone());
        assert!(refusal.contains(problem), "{vary}: {refusal}");
    }
}

/// The blocks that `layers` takes of a model with nine.
fn blocks(vary: Value) -> Vec<PlanResponse> {
    let request = PlanRequest {
        model: ModelFacts {
            n_layers: 9,
            ..model()
        },
        ..request(vary)
    };
    vec![plan(&built_in("layers"), &request)]
}

fn hookpoints(vary: Value) -> Vec<Value> {
    let jobs = blocks(vary).remove(0).jobs;
    jobs.into_iter()
        .map(|job| job.overrides["hookpoints"][0].clone())
        .collect()
}

#[test]
fn layers_takes_blocks_by_stride_ends_and_depth() {
    assert_eq!(hookpoints(json!({})).len(), 9);
    let every_third = json!({"stride": 3, "first": 1});
    assert_eq!(
        hookpoints(every_third),
        ["layers.1", "layers.4", "layers.7"]
    );
    let last_two = json!({"first": -2, "submodule": "mlp"});
    assert_eq!(hookpoints(last_two), ["layers.7.mlp", "layers.8.mlp"]);
    let by_depth = json!({"fractions": [0.75, 0.25, 0.5]});
    assert_eq!(hookpoints(by_depth), ["layers.2", "layers.4", "layers.6"]);
}

#[test]
fn layers_grades_settings_from_the_first_block_to_the_last() {
    let vary = json!({
        "stride": 4,
        "k": [16, 32],
        "by_layer": {"expansion_factor": [8, 32], "lr": [0.1, 0.2]},
    });
    let jobs = blocks(vary).remove(0).jobs;
    let values: Vec<_> = jobs
        .iter()
        .map(|job| [&job.overrides["k"], &job.overrides["expansion_factor"]])
        .collect();
    let expected = json!([[16, 8], [32, 8], [16, 20], [32, 20], [16, 32], [32, 32]]);
    assert_eq!(json!(values), expected);
    assert_eq!(jobs[2].overrides["lr"], json!(0.15000000000000002));
    assert_eq!(jobs[2].name.as_deref(), Some("layers.4,k=16"));
}

#[test]
fn layers_says_which_blocks_there_are_not() {
    for (vary, problem) in [
        (json!({"first": 2}), "first = 2, and the model has 2 blocks"),
        (
            json!({"first": 1, "last": 0}),
            "no block lies between 1 and 0",
        ),
        (json!({"stride": 0}), "stride of 0"),
        (json!({"fractions": [1.5]}), "between 0 and 1"),
        (json!({"k": []}), "empty list"),
        (json!({"by_layer": {"k": 3}}), "by_layer.k must be"),
    ] {
        let refusal = refusal("layers", vary.clone());
        assert!(refusal.contains(problem), "{vary}: {refusal}");
    }
}

/// Asks `pareto` until it is done, with an FVU that falls steeply below `k = 32`; the jobs of each
/// round.
fn rounds_of_pareto(vary: Value) -> Vec<Vec<(u64, u64)>> {
    let (mut rounds, mut results) = (Vec::new(), Vec::new());
    for round in 0.. {
        let request = PlanRequest {
            round,
            results: results.clone(),
            ..request(vary.clone())
        };
        let response = plan(&built_in("pareto"), &request);
        let mut points = Vec::new();
        for job in response.jobs {
            let value = |key: &str| job.overrides[key].as_u64().unwrap();
            let (width, k) = (value("expansion_factor"), value("k"));
            points.push((width, k));
            let fvu = if k < 32 { 1.0 / k as f64 } else { 1.0 / 32.0 };
            results.push(result(job.overrides, k, fvu / width as f64));
        }
        rounds.push(points);
        if response.done {
            break;
        }
    }
    rounds
}

#[test]
fn pareto_looks_closer_where_the_frontier_is_steep() {
    let vary = json!({"k": [4, 256], "expansion_factor": [8, 16], "rounds": 2});
    let rounds = rounds_of_pareto(vary);
    assert_eq!(
        rounds[0],
        [(8, 4), (8, 32), (8, 256), (16, 4), (16, 32), (16, 256)]
    );
    assert_eq!(rounds[1], [(8, 11), (16, 11)], "between 4 and 32");
    assert_eq!(rounds.len(), 3);
    assert!(rounds[2].iter().all(|(_, k)| *k < 32), "{rounds:?}");
}

#[test]
fn pareto_ends_when_there_is_nothing_between() {
    let vary = json!({"k": [4, 6], "expansion_factor": [8], "rounds": 9});
    let rounds = rounds_of_pareto(vary);
    assert_eq!(rounds, [vec![(8, 4), (8, 5), (8, 6)], vec![]]);
}

#[test]
fn pareto_says_what_it_needs() {
    assert!(refusal("pareto", json!({"k": [8]})).contains("k = [smallest, largest]"));
    let lists = json!({"k": [8, 16], "expansion_factor": [8], "lr": [1, 2]});
    assert!(refusal("pareto", lists).contains("lr is a list"));
}

/// A benchmark measures the time it takes; this tests that it works at all.
#[test]
fn ten_thousand_jobs_are_planned() {
    let values: Vec<u32> = (1..=100).collect();
    let vary = json!({"k": values, "expansion_factor": values});
    assert_eq!(names("grid", vary).len(), 10_000);
}
