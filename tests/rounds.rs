//! Recipes that ask for another round: trained, stored, replayed.

use crate::common::{Workspace, replace_line, signal, small_sweep, until};
use serde_json::{Value, json};
use std::fs;

/// Two jobs; then the better one's neighbour, as long as `rounds` in `[vary]` says.
const RECIPE: &str = "\
def plan(request):
    last = request.vary['rounds']
    if request.round < last:
        more()
    if request.round == 0:
        return [job({'k': k}, name=f'k={k}') for k in (2, 8)]
    assert len({result.job for result in request.results}) == 1 + request.round
    best = min(request.results, key=lambda result: result.fvu)
    k = best.overrides['k'] + request.round
    return [job({'k': k}, name=f'k={k}', note=f'after {best.job}, L0 {best.l0:.0f}')]
";

fn workspace(n_rounds: usize) -> Workspace {
    let workspace = Workspace::new();
    let sweep = small_sweep();
    let (head, _) = sweep.split_once("[vary]").unwrap();
    let launch = "[launch]\ndevice = 'cpu'\nthreads = 1\n";
    workspace.write(
        "tiny.toml",
        format!("recipe = 'climb.py'\n{head}hookpoints = ['layers.2']\n[vary]\nrounds = {n_rounds}\n{launch}"),
    );
    workspace.write("climb.py", RECIPE);
    workspace
}

fn names(workspace: &Workspace) -> Value {
    json!(workspace.sql(
        "SELECT sweep_job.name, status FROM sweep_job JOIN job USING (job_id) ORDER BY ordinal"
    ))
}

fn expected(names: &[&str]) -> Value {
    let row = |name: &&str| json!({"name": name, "status": "done"});
    names.iter().map(row).collect()
}

#[test]
fn a_recipe_is_asked_again_with_the_results_until_it_is_done() {
    let workspace = workspace(2);
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    let outcome = outcome.remarks(&[
        "round 1: the recipe asks for 1 job",
        "round 2: ",
        "all 4 jobs",
    ]);
    assert!(outcome.stdout.contains("k=11"), "{outcome}");
    assert_eq!(names(&workspace), expected(&["k=2", "k=8", "k=9", "k=11"]));
    let rounds = workspace.sql(
        "SELECT number, first_ordinal, request ->> 'round' AS asked,
             json_array_length(request, '$.results') AS n_results, response ->> 'done' AS done
         FROM round ORDER BY number",
    );
    let round = |number: u32, first_ordinal: u32, n_results: u32, done: u32| {
        json!({"number": number, "first_ordinal": first_ordinal, "asked": number,
            "n_results": n_results, "done": done})
    };
    let all = [round(0, 0, 0, 0), round(1, 2, 2, 0), round(2, 3, 3, 1)];
    assert_eq!(rounds, all);

    let again = workspace.run(&["tiny.toml"]).succeeds();
    again.remarks(&["all 4 jobs are done already"]);
    assert_eq!(workspace.sql_value("SELECT count(*) AS n FROM attempt"), 3);
}

#[test]
fn a_sweep_that_is_killed_replays_its_rounds() {
    let undisturbed = workspace(2);
    undisturbed.run(&["tiny.toml"]).succeeds();
    let workspace = workspace(2);
    let mut running = workspace.start(&["tiny.toml"]);
    running.says("round 1:");
    signal(running.pid(), "KILL");
    running.wait();
    workspace.run(&["tiny.toml"]).succeeds();
    assert_eq!(names(&workspace), names(&undisturbed));
    assert!(workspace.trained() == undisturbed.trained());
    let requests = "SELECT request_digest FROM round ORDER BY number";
    assert_eq!(workspace.sql(requests), undisturbed.sql(requests));
}

#[test]
fn a_worker_that_is_killed_once_too_often_changes_no_plan() {
    // Long enough to be killed.
    let workspace = |n_rounds| {
        let workspace = workspace(n_rounds);
        let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
        let sweep = replace_line(&sweep, "batch_size", "batch_size = 2");
        let sweep = replace_line(&sweep, "max_examples", "max_examples = 640");
        workspace.write("tiny.toml", sweep);
        workspace
    };
    let undisturbed = workspace(1);
    undisturbed.run(&["tiny.toml"]).succeeds();
    let workspace = workspace(1);
    let running = workspace.start(&["tiny.toml", "--set", "launch.retries=0"]);
    let pid = until("the worker", || {
        let trees = workspace.path("runs/tiny/.streams");
        let events = trees.is_dir().then(|| workspace.events())?;
        let reports = events.iter().filter(|event| event["event"] == "metric");
        let started = events.iter().find(|event| event["event"] == "started")?;
        (reports.count() > 1).then(|| started["pid"].as_u64().unwrap())
    });
    signal(u32::try_from(pid).unwrap(), "KILL");
    let outcome = running.wait().exits(1);
    outcome.remarks(&[
        "SIGKILL",
        "round 1 is not planned",
        "hint: run the same command",
    ]);
    assert_eq!(workspace.sql_value("SELECT count(*) AS n FROM round"), 1);
    workspace.run(&["tiny.toml"]).succeeds();
    assert_eq!(names(&workspace), names(&undisturbed));
}

#[test]
fn a_fresh_start_asks_the_recipe_anew() {
    let workspace = workspace(1);
    workspace.run(&["tiny.toml"]).succeeds();
    let trained = workspace.trained();
    let outcome = workspace.run(&["tiny.toml", "--fresh", "--yes"]).succeeds();
    outcome.remarks(&["round 1: the recipe asks for 1 job"]);
    assert_eq!(names(&workspace), expected(&["k=2", "k=8", "k=9"]));
    assert!(workspace.trained() == trained);
    assert_eq!(workspace.sql_value("SELECT count(*) AS n FROM attempt"), 4);
}

#[test]
fn rounds_end_at_their_limit_and_names_are_not_given_twice() {
    let workspace = workspace(9);
    let limit = ["tiny.toml", "--set", "recipe_limits.max_rounds=1"];
    let outcome = workspace.run(&limit).succeeds();
    outcome.remarks(&["asks for round 2; `recipe_limits.max_rounds` is 1"]);
    assert_eq!(names(&workspace), expected(&["k=2", "k=8", "k=9"]));

    workspace.write(
        "climb.py",
        RECIPE.replace("name=f'k={k}', note", "name='k=8', note"),
    );
    workspace
        .run(&["tiny.toml"])
        .refuses(&["round 1", "job name `k=8` was already used"]);
    let planned = workspace.run(&["plan", "tiny.toml"]).succeeds();
    planned.remarks(&["plans another round"]);
}
