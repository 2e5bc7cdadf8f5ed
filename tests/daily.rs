//! Commands of every day: a first sweep, one that repeats a job, comparisons, notes, logs, completions, man pages.

use crate::common::{Workspace, fixture, small_sweep, text, tiny_sweep};

fn trained() -> Workspace {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

#[test]
fn a_first_sweep_runs_as_it_is() {
    let workspace = Workspace::new();
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let init = ["init", text(&model), text(&dataset)];
    let outcome = workspace.run(&init).succeeds();
    let outcome = outcome.remarks(&["wrote `sweep.toml`", "`sae-run sweep.toml` trains it"]);
    assert!(outcome.stdout.contains("2 jobs in 1 stream"), "{outcome}");
    workspace
        .run(&init)
        .refuses(&["`sweep.toml` is there already"])
        .hints("--out");
    let small = ["--set", "train.max_examples=8", "--set", "launch.threads=1"];
    let run = workspace
        .run(&[&["sweep.toml"], &small[..]].concat())
        .succeeds();
    run.remarks(&["all 2 jobs are done"]);
    assert_eq!(
        workspace.sql_value("SELECT DISTINCT sweep FROM result"),
        "sweep"
    );
    // What is wrong is found before anything is written.
    let none = ["init", text(&model), "none.jsonl", "--out", "other.toml"];
    workspace
        .run(&none)
        .refuses(&["`none.jsonl` does not exist"]);
    assert!(!workspace.path("other.toml").exists());
}

#[test]
fn a_job_as_a_sweep_file_is_the_same_job() {
    let workspace = trained();
    let ids = "SELECT DISTINCT job_id FROM result ORDER BY job_id";
    for row in workspace.sql(ids) {
        let job_id = row["job_id"].as_str().unwrap();
        let toml = workspace.run(&["show", job_id, "--toml"]).succeeds().stdout;
        assert!(
            toml.contains(&format!("# Repeats job {job_id}, `tiny/")),
            "{toml}"
        );
        workspace.write("again.toml", &toml);
        let again = workspace.run(&["again.toml", "--device", "cpu"]).succeeds();
        again.remarks(&["the job is done already"]);
        let of_again = "SELECT DISTINCT job_id FROM result WHERE sweep = 'again' AND is_current";
        assert_eq!(workspace.sql_value(of_again), job_id);
    }
    workspace
        .run(&["show", "tiny", "--toml"])
        .refuses(&["`tiny` is a sweep"])
        .hints("sae-run show tiny");
}

#[test]
fn jobs_with_a_preset_are_repeated_too() {
    let workspace = Workspace::new();
    let sweep = small_sweep().replace("[train]\n", "[train]\npreset = 'saelens-batchtopk'\n");
    workspace.write("tiny.toml", sweep);
    let plan = |file: &str| {
        let plan = workspace.run(&["plan", file, "--json"]).succeeds().json();
        plan["jobs"][0]["job_id"].as_str().unwrap().to_owned()
    };
    workspace
        .run(&["tiny.toml", "--set", "train.max_examples=8"])
        .succeeds();
    let toml = workspace.run(&["show", "tiny/k=4,hookpoints=layers.0", "--toml"]);
    workspace.write("again.toml", toml.succeeds().stdout);
    let first = "SELECT job_id FROM sweep_listing WHERE job LIKE '%layers.0'";
    assert_eq!(workspace.sql_value(first), plan("again.toml"));
}

#[test]
fn two_jobs_are_compared() {
    let workspace = Workspace::new();
    let sweep = tiny_sweep().replace(
        "[['layers.0'], ['layers.1.mlp', 'layers.2']]",
        "[['layers.0']]",
    );
    workspace.write("tiny.toml", sweep.replace("[2, 4]", "[2]"));
    workspace.run(&["tiny.toml"]).succeeds();
    let diff = ["diff", "tiny/k=4", "tiny/k=8"];
    let outcome = workspace.run_with(&[("COLUMNS", "80")], &diff).succeeds();
    for part in [
        "left ",
        "right",
        "setting",
        "layers.0 fvu",
        "difference",
        "tiny/k=8,expansion_factor=2",
    ] {
        assert!(outcome.stdout.contains(part), "{part}\n{outcome}");
    }
    assert!(!outcome.stdout.contains("batch_size"), "{outcome}");
    let json = workspace
        .run(&[&diff[..], &["--json"]].concat())
        .succeeds()
        .json();
    assert_eq!(json["settings"]["k"], serde_json::json!([4, 8]));
    assert_eq!(json["schema"], 1);
    assert!(json["results"]["layers.0"]["fvu"][0].is_f64(), "{json}");
    let same = workspace.run(&["diff", "tiny/k=4", "k=4"]).succeeds();
    assert!(same.stdout.contains("both are the same job"), "{same}");
}

#[test]
fn notes_and_tags_are_kept_and_found() {
    let workspace = trained();
    let job = "tiny/hookpoints=layers.0";
    workspace
        .run(&["note", job, "good, but many dead latents"])
        .succeeds();
    workspace.run(&["note", "tiny", "first try"]).succeeds();
    workspace
        .run(&["tag", job, "paper", "best"])
        .succeeds()
        .remarks(&["the tags best paper"]);
    workspace.run(&["tag", "tiny", "old"]).succeeds();
    let prints = |args: &[&str], part: &str| {
        let outcome = workspace.run(args).succeeds();
        assert!(outcome.stdout.contains(part), "{part}\n{outcome}");
    };
    prints(&["note", job], "good, but many dead latents");
    prints(&["tag", job], "best\npaper\n");
    prints(&["show", job], "tags       best paper");
    prints(&["show", "tiny"], "first try");
    prints(&["ls"], "first try");
    prints(&["ls", "tiny"], "best paper");
    let tagged = workspace
        .run(&["ls", "--tag", "paper", "--json"])
        .succeeds()
        .listed("saes");
    assert_eq!(tagged.len(), 1);
    assert_eq!(tagged[0]["note"], "good, but many dead latents");
    let none = workspace
        .run(&["ls", "--tag", "pap", "--json"])
        .succeeds()
        .listed("saes");
    assert!(none.is_empty(), "a whole tag");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM tag"), 3);
    // Trained again, a job keeps what was written about it.
    workspace.run(&["tiny.toml", "--fresh", "--yes"]).succeeds();
    prints(&["tag", job], "best\npaper\n");
    workspace.run(&["tag", job, "paper", "--delete"]).succeeds();
    prints(&["tag", job], "best\n");
    workspace
        .run(&["note", job, "--delete"])
        .succeeds()
        .remarks(&["removed 1 note"]);
    workspace.run(&["tag", job, "two words"]).exits(2);
    workspace
        .run(&["note", job, ""])
        .refuses(&["the note is empty"]);
    workspace
        .run(&["note", "nothing", "x"])
        .refuses(&["no job has the id or name"]);
}

#[test]
fn the_log_of_a_job_is_printed() {
    let workspace = trained();
    let whole = workspace
        .run(&["logs", "tiny/hookpoints=layers.0"])
        .succeeds()
        .stdout;
    assert!(!whole.is_empty());
    let last = workspace
        .run(&["logs", "tiny/hookpoints=layers.0", "-n", "1"])
        .succeeds()
        .stdout;
    assert_eq!(last.lines().count(), 1);
    assert!(whole.ends_with(&last));
}

#[test]
fn lists_are_typed_with_commas() {
    let workspace = Workspace::with_tiny_sweep();
    let sets = ["--set", "vary.k=4,8", "--set", "vary.expansion_factor=2"];
    let sets = [
        &sets[..],
        &["--set", "vary.hookpoints=layers.0,layers.1+layers.2"],
    ]
    .concat();
    let plan = workspace.run(&[&["plan", "tiny.toml", "--json"], &sets[..]].concat());
    let plan = plan.succeeds().json();
    let names: Vec<_> = plan["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["job"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 4);
    assert_eq!(
        names[1],
        "k=4,expansion_factor=2,hookpoints=layers.1+layers.2"
    );
}

#[test]
fn what_can_be_no_id_is_not_looked_for_on_the_hub() {
    let workspace = Workspace::with_tiny_sweep();
    for name in ["data/none.jsonl", "./none", "a/b/c", "none.parquet"] {
        let set = format!("train.dataset={name}");
        let missing = format!("dataset `{name}` does not exist");
        workspace
            .run(&["tiny.toml", "--set", &set])
            .refuses(&[&missing])
            .hints("looked for it at");
        workspace
            .run(&["plan", "tiny.toml", "--set", &set])
            .succeeds()
            .remarks(&[&missing]);
    }
    let eval = trained().run(&["eval", "pyck/pysp"]);
    eval.refuses(&["no job has the id or name `pyck/pysp`"])
        .hints("is not a folder either");
}

#[test]
fn man_pages_are_printed_and_written() {
    let workspace = Workspace::new();
    let page = workspace.run(&["man"]).succeeds().stdout;
    assert!(
        page.starts_with(".ie") && page.contains(".TH sae-run 1"),
        "{page}"
    );
    workspace.run(&["man", "--out", "man"]).succeeds();
    let pages = workspace.files("man");
    for name in ["sae-run.1", "sae-run-train.1", "sae-run-recipes-new.1"] {
        assert!(pages.contains_key(name), "{name}: {:?}", pages.keys());
    }
}

#[test]
fn completions_know_jobs_sweeps_settings_and_values() {
    let workspace = trained();
    let complete = |words: &[&str]| {
        let index = (words.len() - 1).to_string();
        let variables = [
            ("_SAE_RUN_COMPLETE", "bash"),
            ("_CLAP_COMPLETE_INDEX", &*index),
        ];
        let variables = [&variables[..], &[("_CLAP_IFS", "\n")]].concat();
        workspace
            .run_with(&variables, &[&["--"], words].concat())
            .succeeds()
            .stdout
    };
    let job = workspace.sql_value("SELECT job_id FROM result ORDER BY job LIMIT 1");
    let job = job.as_str().unwrap();
    assert!(complete(&["sae-run", "show", ""]).contains(job));
    assert!(
        complete(&["sae-run", "show", &job[..4]])
            .lines()
            .any(|line| line == job)
    );
    assert!(complete(&["sae-run", "show", "tiny/"]).contains("tiny/k=4,"));
    assert_eq!(
        complete(&["sae-run", "report", ""]).lines().next(),
        Some("tiny")
    );
    assert_eq!(
        complete(&["sae-run", "train", "m", "d", "--optimizer", "a"]).trim(),
        "adam"
    );
    assert!(
        complete(&["sae-run", "tiny.toml", "--set", "train.batch"]).contains("train.batch_size=")
    );
    assert!(complete(&["sae-run", ""]).contains("tiny.toml"));
    assert!(complete(&["sae-run", "pl"]).contains("plan"));
    // Where there is no database, nothing is proposed and nothing goes wrong.
    let elsewhere = Workspace::new().run_with(
        &[("_SAE_RUN_COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", "2")],
        &["--", "sae-run", "show", ""],
    );
    elsewhere.succeeds();
}
