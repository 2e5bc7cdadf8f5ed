//! Held-out evaluation: at the end of a sweep, after a kill, and by `sae-run eval`.

use crate::common::{Workspace, fixture, replace_line, signal, small_sweep, text, until};
use serde_json::{Value, json};
use std::fs;
use tch::{Device, Kind};

/// Of 1025 sequences, rounded up.
const N_HELD_OUT: u64 = 52;

/// The small sweep with data to evaluate on.
fn with_held_out(eval_fraction: &str) -> Workspace {
    let workspace = Workspace::new();
    // All of them, so that there is something to disturb.
    let lines =
        format!("ctx_len = 64\neval_fraction = {eval_fraction}\neval_max_examples = 100_000");
    let sweep = replace_line(&small_sweep(), "ctx_len", &lines);
    workspace.write("tiny.toml", sweep);
    workspace
}

fn trained() -> Workspace {
    let workspace = with_held_out("0.05");
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

fn n_rows(workspace: &Workspace) -> Value {
    workspace.sql_value("SELECT count(*) AS n FROM evaluation")
}

/// Every SAE's evaluation, without what may change from one to the next.
fn sums(workspace: &Workspace) -> Vec<Value> {
    workspace.sql(
        "SELECT name, step, n_tokens, squared_error, total_variance, l0_sum, n_dead, n_predicted,
             ce_clean_sum, ce_spliced_sum, ce_ablated_sum, kl_sum, density
         FROM evaluation JOIN sae USING (sae_id) ORDER BY name",
    )
}

fn attempts(workspace: &Workspace) -> Value {
    json!(workspace.sql("SELECT status FROM attempt ORDER BY number"))
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[track_caller]
fn close(a: &Value, b: &Value) {
    let (a, b) = (float(a), float(b));
    assert!((a - b).abs() <= 1e-4 * b.abs().max(0.01), "{a} and {b}");
}

#[test]
fn a_sweep_with_held_out_data_ends_in_evaluations() {
    let workspace = with_held_out("0.05");
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    let outcome = outcome.remarks(&["evaluating 3 SAEs on 52 held-out sequences"]);
    for column in ["FVU held out", "CE recovered"] {
        assert!(outcome.stdout.contains(column), "{outcome}");
    }
    let odd = format!(
        "SELECT * FROM evaluation JOIN attempt USING (attempt_id)
         WHERE n_tokens <> {N_HELD_OUT} * 64 OR n_predicted <> {N_HELD_OUT} * 63 OR step <> 8
             OR number <> 1"
    );
    assert_eq!(json!(workspace.sql(&odd)), json!([]));
    let odd = "SELECT * FROM result
        WHERE fvu_eval IS NULL OR fvu_eval NOT BETWEEN 0.05 AND 0.95
            OR l0_eval NOT BETWEEN 0.5 * k AND k OR dead_pct_eval NOT BETWEEN 0 AND 100
            OR ce_clean <= 0 OR ce_spliced <= 0 OR kl <= 0";
    assert_eq!(json!(workspace.sql(odd)), json!([]));
    let same = "SELECT count(DISTINCT ce_clean) AS n FROM result";
    assert_eq!(workspace.sql_value(same), 1, "all on the same sequences");
    densities_are_next_to_the_jobs(&workspace);
    let rows = sums(&workspace);
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["all 2 jobs are done already"]);
    assert_eq!(sums(&workspace), rows);
}

#[test]
fn an_evaluation_takes_a_tenth_of_the_sequences_of_training() {
    let workspace = Workspace::new();
    let lines = "ctx_len = 64\neval_fraction = 0.05";
    workspace.write("tiny.toml", replace_line(&small_sweep(), "ctx_len", lines));
    let n_sequences = |set: &[&str]| {
        let args = [&["tiny.toml", "--fresh", "--yes"], set].concat();
        workspace.run(&args).succeeds();
        workspace.sql_value("SELECT DISTINCT n_tokens / 64 FROM evaluation")
    };
    assert_eq!(n_sequences(&[]), 6, "of 64");
    assert_eq!(n_sequences(&["--set", "train.eval_max_examples=3"]), 3);
    assert_eq!(
        n_sequences(&["--set", "train.eval_max_examples=1000"]),
        N_HELD_OUT
    );
    // It is no other job.
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 2);
    let plan = [
        "plan",
        "tiny.toml",
        "--json",
        "--set",
        "train.eval_max_examples=3",
    ];
    let plan = workspace.run(&plan).succeeds().json();
    let stream = &plan["forecast"]["streams"][0];
    assert_eq!(stream["n_eval_sequences"], 3);
    assert!(stream["evaluation_s"].as_f64().unwrap() > 0.0, "{stream}");
}

#[test]
fn shares_of_next_to_nothing_and_fvus_above_1_are_pointed_out() {
    let workspace = with_held_out("0.05");
    // Far too large, so that the SAEs are worse than the mean.
    let outcome = workspace
        .run(&["tiny.toml", "--set", "train.lr=3.0"])
        .succeeds();
    let outcome = outcome.remarks(&["worse than predicting the mean", "lower `lr`"]);
    let sql = "SELECT count(*) FROM result WHERE ce_recovered IS NULL";
    let n_open = workspace.sql_value(sql).as_u64().unwrap();
    let sql = "SELECT count(*) FROM result JOIN sae_evaluation USING (sae_id)
        WHERE (ce_ablated - sae_evaluation.ce_clean < 0.01) <> (result.ce_recovered IS NULL)";
    assert_eq!(workspace.sql_value(sql), 0);
    let of_run = "CE recovered is `-`";
    assert_eq!(outcome.stderr.contains(of_run), n_open > 0, "{outcome}");
    let listed = workspace.run(&["ls", "--sweep", "tiny"]).succeeds();
    let listed = listed.remarks(&["above 1, worse than predicting the mean"]);
    let message = "no CE recovered for ";
    assert_eq!(listed.stderr.contains(message), n_open > 0, "{listed}");
    workspace.run(&["report"]).succeeds();
    let report = fs::read_to_string(workspace.path("report.html")).unwrap();
    assert!(report.contains("worse than predicting the mean"));
    assert_eq!(report.contains(message), n_open > 0);
}

fn densities_are_next_to_the_jobs(workspace: &Workspace) {
    let sql = "SELECT density, l0, num_latents FROM sae_evaluation JOIN sae USING (sae_id)";
    for row in workspace.sql(sql) {
        let path = workspace
            .path("runs")
            .join(row["density"].as_str().unwrap());
        let density = &sae::tensors_by_name(&path).unwrap()["firing_density"];
        assert_eq!(json!(density.size()), json!([row["num_latents"]]));
        close(
            &json!(density.sum(Kind::Double).double_value(&[])),
            &row["l0"],
        );
    }
    // Nothing but what sparsify loads is in the jobs' folders.
    assert_eq!(workspace.trained().len(), 2 + 2 * 3);
}

#[test]
fn jobs_without_an_evaluation_get_it_when_it_is_asked_for() {
    let workspace = with_held_out("0.05");
    let off = ["tiny.toml", "--set", "train.evaluate=false"];
    let outcome = workspace.run(&off).succeeds();
    assert!(!outcome.stdout.contains("held out"), "{outcome}");
    assert_eq!(n_rows(&workspace), 0);
    let weights = workspace.files("runs/tiny");
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["evaluating 3 SAEs", "all 2 jobs are done"]);
    assert_eq!(n_rows(&workspace), 3);
    for (path, file) in workspace.files("runs/tiny") {
        if path.ends_with("sae.safetensors") {
            assert!(weights[&path] == file, "{path} was written again");
        }
    }
    let expected = json!([{"status": "done"}, {"status": "done"}]);
    assert_eq!(attempts(&workspace), expected);
}

#[test]
fn what_is_stopped_before_it_is_evaluated_is_evaluated_next_time() {
    let undisturbed = with_held_out("0.9");
    undisturbed.run(&["tiny.toml"]).succeeds();
    for (name, exit_code, status) in [("KILL", 1, "crashed"), ("INT", 130, "interrupted")] {
        let workspace = with_held_out("0.9");
        let running = workspace.start(&["tiny.toml"]);
        let worker = until("the evaluation", || {
            let events = workspace.events();
            let is_it = |event: &&Value| {
                let message = event["message"].as_str();
                message.is_some_and(|message| message.starts_with("evaluating"))
            };
            events.iter().find(is_it)?;
            u32::try_from(events[0]["pid"].as_u64()?).ok()
        });
        signal(worker, name);
        running.wait().exits(exit_code);
        assert_eq!(n_rows(&workspace), 0, "too late to disturb it");
        let jobs = "SELECT DISTINCT status FROM job";
        assert_eq!(workspace.sql_value(jobs), "done");
        workspace.run(&["tiny.toml"]).succeeds();
        assert_eq!(sums(&workspace), sums(&undisturbed));
        assert!(workspace.trained() == undisturbed.trained());
        let expected = json!([{"status": status}, {"status": "done"}]);
        assert_eq!(attempts(&workspace), expected);
        let ready = workspace.events();
        let ready = ready.iter().filter(|event| event["event"] == "ready");
        assert_eq!(ready.count(), 1, "trained once");
    }
}

#[test]
fn a_fresh_run_replaces_evaluations() {
    let workspace = trained();
    let before = sums(&workspace);
    workspace.run(&["tiny.toml", "--fresh", "--yes"]).succeeds();
    assert_eq!(sums(&workspace), before, "the same seed and data");
    let attempts = "SELECT DISTINCT number FROM evaluation JOIN attempt USING (attempt_id)";
    assert_eq!(workspace.sql_value(attempts), 2);
}

#[test]
fn a_data_set_of_its_own_is_evaluated_on_whole() {
    let workspace = Workspace::with_small_sweep();
    let whole = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let some: Vec<_> = whole.lines().take(200).collect();
    workspace.write("other.jsonl", some.join("\n"));
    let set = ["tiny.toml", "--set", "train.eval_dataset=other.jsonl"];
    workspace.run(&set).succeeds();
    let sql = "SELECT DISTINCT n_tokens FROM evaluation";
    let n_tokens = workspace.sql_value(sql).as_u64().unwrap();
    assert!(n_tokens.is_multiple_of(64) && n_tokens > 64, "{n_tokens}");
}

#[test]
fn eval_of_a_job_prints_and_records() {
    let workspace = trained();
    let sql = "SELECT * FROM result WHERE job LIKE '%layers.2'";
    let results = workspace.sql(sql);
    let job = results[0]["job"].as_str().unwrap();
    let args = [
        "eval",
        job,
        "--json",
        "--batch-size",
        "3",
        "--device",
        "cpu",
    ];
    let evaluated = workspace.run(&args).succeeds().listed("saes");
    assert_eq!(evaluated.len(), 2);
    for (object, row) in evaluated.iter().zip(&results) {
        assert_eq!(object["sae"], row["sae"]);
        assert_eq!(object["n_predicted"], N_HELD_OUT * 63);
        for (key, column) in [
            ("fvu", "fvu_eval"),
            ("l0", "l0_eval"),
            ("dead_pct", "dead_pct_eval"),
            ("ce_clean", "ce_clean"),
            ("ce_spliced", "ce_spliced"),
            ("kl", "kl"),
        ] {
            close(&object[key], &row[column]);
        }
    }
    let by_hand = "SELECT count(*) AS n FROM evaluation WHERE attempt_id IS NULL AND density <> ''";
    assert_eq!(workspace.sql_value(by_hand), 2);
    assert_eq!(n_rows(&workspace), 3, "in place of the earlier ones");
    let table = workspace.run(&["eval", job]).succeeds().stdout;
    for part in ["SAE", "recovered", "layers.1.mlp", "layers.2"] {
        assert!(table.contains(part), "{table}");
    }

    let rows = sums(&workspace);
    let data = fixture("tiny.jsonl");
    let other = ["eval", job, "--json", "--dataset", text(&data)];
    let other = [&other[..], &["--max-examples", "5"]].concat();
    let outcome = workspace.run(&other).succeeds().remarks(&["not recorded"]);
    assert_eq!(outcome.json()["saes"][0]["n_tokens"], 5 * 64);
    assert_eq!(sums(&workspace), rows);
}

#[test]
fn eval_of_a_folder_takes_model_and_data() {
    let workspace = trained();
    let sql = "SELECT checkpoint FROM result ORDER BY sae_id";
    let folders = workspace.sql(sql);
    let folders = folders
        .iter()
        .map(|row| row["checkpoint"].as_str().unwrap());
    let folders: Vec<_> = folders.map(|folder| format!("runs/{folder}")).collect();
    let (model, data) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let eval = |folder: &str| {
        let named = ["--model", text(&model), "--dataset", text(&data)];
        let some = ["--ctx-len", "64", "--max-examples", "6", "--json"];
        workspace.run(&[&["eval", folder][..], &named, &some].concat())
    };
    let alone = eval(&folders[1]).succeeds().listed("saes");
    let job = folders[1].rsplit_once('/').unwrap().0;
    let together = eval(job).succeeds().listed("saes");
    let names: Vec<_> = together.iter().map(|object| &object["sae"]).collect();
    assert_eq!(names, ["layers.1.mlp", "layers.2"]);
    assert_eq!(alone[0], together[0]);
    assert_eq!(alone[0]["n_tokens"], 6 * 64);
    let rows = "SELECT count(*) AS n FROM evaluation WHERE attempt_id IS NULL";
    assert_eq!(workspace.sql_value(rows), 0);

    let without = |args: &[&str]| workspace.run(&[&["eval", job][..], args].concat());
    without(&[])
        .refuses(&["is a folder", "`--dataset` is missing"])
        .hints("trained on");
    without(&["--dataset", text(&data)]).refuses(&["`--model` is missing"]);
    without(&["--model", text(&model)])
        .exits(2)
        .remarks(&["--dataset"]);
}

#[test]
fn eval_on_named_data_is_bounded_and_says_so() {
    let sweep = replace_line(&small_sweep(), "hookpoints", "hookpoints = [['layers.0']]");
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    let whole = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let some: Vec<_> = whole.lines().take(40).collect();
    workspace.write("some.jsonl", some.join("\n"));
    let named = ["eval", "k=4", "--dataset", "some.jsonl", "--ctx-len", "4"];
    let eval = |more: &[&str]| {
        let args = [&named[..], &["--json"], more].concat();
        let outcome = workspace.run(&args).succeeds();
        let n_tokens = outcome.json()["saes"][0]["n_tokens"].as_u64().unwrap();
        (
            n_tokens / 4,
            outcome.stderr.contains("the evaluation takes"),
        )
    };
    let (n_sequences, is_noted) = eval(&["--max-examples", "all"]);
    assert!(
        (1001..2000).contains(&n_sequences) && !is_noted,
        "{n_sequences}"
    );
    assert_eq!(eval(&[]), (1000, true));
    let note = format!(
        "the evaluation takes 1000 of {n_sequences} sequences; `--max-examples all` takes all"
    );
    workspace.run(&named).succeeds().remarks(&[&note]);
    for wrong in ["0", "some", "1.5"] {
        let args = [&named[..], &["--max-examples", wrong]].concat();
        workspace.run(&args).exits(2).remarks(&["--max-examples"]);
    }
    // A job's setting is the default on other data, too.
    let limited = [
        "tiny.toml",
        "--set",
        "train.eval_fraction=0.1",
        "--set",
        "train.eval_max_examples=7",
    ];
    workspace.run(&limited).succeeds();
    assert_eq!(eval(&[]), (7, true));
}

#[test]
fn eval_of_nothing_is_told() {
    let workspace = Workspace::with_small_sweep();
    workspace
        .run(&["eval", "k=4"])
        .refuses(&["no database"])
        .hints("`k=4` is not a folder either");
    assert!(!workspace.path("runs").exists());
    workspace.run(&["tiny.toml"]).succeeds();
    let jobs = workspace.sql("SELECT DISTINCT job FROM result");
    workspace
        .run(&["eval", jobs[0]["job"].as_str().unwrap()])
        .refuses(&["has no held-out data"])
        .hints("`eval_fraction`");
    workspace
        .run(&["eval", "k=9,expansion_factor=2"])
        .refuses(&["no job", "k=9"])
        .hints("did you mean `k=4");
    fs::create_dir(workspace.path("empty")).unwrap();
    workspace
        .run(&["eval", "empty"])
        .refuses(&["there is no SAE in", "empty"])
        .hints("cfg.json");
}

#[test]
fn eval_of_an_sae_that_does_not_fit_is_told() {
    let workspace = Workspace::new();
    let narrow = sae::SaeConfig::topk(16, 32, 4);
    let narrow = sae::Sae::new(narrow, 0, Device::Cpu).unwrap();
    for name in ["layers.2", "layers.2.mpl"] {
        narrow.save_to_disk(&workspace.path(name)).unwrap();
    }
    let (model, data) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let eval = |folder: &str| {
        let named = ["--model", text(&model), "--dataset", text(&data)];
        workspace.run(&[&["eval", folder, "--ctx-len", "64"][..], &named].concat())
    };
    eval("layers.2")
        .refuses(&["widths (16, 16)", "`layers.2` of the model needs (32, 32)"])
        .hints("another model");
    eval("layers.2.mpl")
        .refuses(&["layers.2.mpl"])
        .hints("did you mean `layers.2.mlp`?");
    let weights = workspace.path("layers.2/sae.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    eval("layers.2")
        .refuses(&["sae.safetensors"])
        .hints("completely");
    fs::write(workspace.path("layers.2/cfg.json"), "{}").unwrap();
    eval("layers.2").refuses(&["cfg.json"]).hints("sparsify");
}

#[test]
fn a_model_without_a_head_is_refused_before_it_is_trained_on() {
    let workspace = with_held_out("0.05");
    workspace.write_model("headless");
    let config = fs::read(fixture("tiny-llama").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["tie_word_embeddings"] = false.into();
    workspace.write("headless/config.json", config.to_string());
    let args = ["tiny.toml", "--set", "train.model=headless"];
    workspace
        .run(&args)
        .refuses(&["lm_head.weight"])
        .hints("`evaluate = false`");
    assert!(workspace.trained().is_empty());
    let off = [&args[..], &["--set", "train.evaluate=false"]].concat();
    workspace.run(&off).succeeds();
}
