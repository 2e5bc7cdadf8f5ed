//! Evaluation, encoding and the proof of resuming by several processes: what they find is what one finds.

use crate::common::{Outcome, Workspace, fixture, replace_line, small_sweep, text};
use crate::distributed::{assert_codes, free_port, rank, start, wait, workspace};
use serde_json::Value;
use std::fs;

/// Every SAE's sums, and the threshold that was found for it.
fn sums(workspace: &Workspace) -> Vec<Value> {
    workspace.sql(
        "SELECT name, step, n_tokens, squared_error, total_variance, l0_sum, n_dead, n_predicted,
             ce_clean_sum, ce_spliced_sum, ce_ablated_sum, kl_sum, density
         FROM evaluation JOIN sae USING (sae_id) ORDER BY name, job_id",
    )
}

/// The small sweep with held-out data in updates of any number of ranks, and more lines of `[train]`.
fn sweep(lines: &str) -> String {
    let lines = format!(
        "ctx_len = 64\neval_fraction = 0.05\neval_max_examples = 100_000\ntokens_per_update = 512\n{lines}"
    );
    let sweep = replace_line(&small_sweep(), "ctx_len", &lines);
    replace_line(&sweep, "batch_size", "batch_size = 4")
}

/// One process with as many threads as the ranks have.
fn alone(workspace: &Workspace, args: &[&str]) -> Outcome {
    workspace.run_with(&[("OMP_NUM_THREADS", "1")], args)
}

/// Rank 0 says all there is to say.
#[track_caller]
fn ranks(workspace: &Workspace, n_ranks: usize, args: &[&str]) -> Outcome {
    let mut outcomes = wait(start(workspace, n_ranks, args));
    assert_codes(&outcomes, 0);
    for other in &outcomes[1..] {
        assert_eq!((other.stdout.as_str(), other.stderr.as_str()), ("", ""));
    }
    outcomes.swap_remove(0)
}

fn jobs(workspace: &Workspace) -> Vec<String> {
    let rows = workspace.sql("SELECT DISTINCT job_id FROM result ORDER BY job_id");
    let ids = rows
        .iter()
        .map(|row| row["job_id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[test]
fn ranks_evaluate_what_they_have_trained_as_one_process_does() {
    for (n_ranks, lines) in [(2, ""), (3, ""), (2, "distribute_modules = true")] {
        let workspace = workspace(&sweep(lines));
        let outcome = ranks(&workspace, n_ranks, &["tiny.toml"]);
        outcome.remarks(&["evaluating 3 SAEs on 52 held-out sequences"]);
        let by_ranks = sums(&workspace);
        assert_eq!(by_ranks.len(), 3);
        for job in jobs(&workspace) {
            alone(&workspace, &["eval", &job]).succeeds();
        }
        assert_eq!(sums(&workspace), by_ranks, "{n_ranks} ranks, {lines}");
    }
}

#[test]
fn ranks_find_the_threshold_of_one_process() {
    let workspace = workspace(&sweep("activation = 'batchtopk'\nevaluate = false"));
    alone(&workspace, &["tiny.toml"]).succeeds();
    let copy = workspace_like(&workspace);
    let with = ["tiny.toml", "--set", "train.evaluate=true"];
    alone(&workspace, &with).succeeds();
    // The same SAEs, which are evaluated by two.
    ranks(&copy, 2, &with);
    let thresholds = "SELECT name, threshold, l0,
            n_tokens, threshold_ema, l0_ema
        FROM calibration JOIN sae USING (sae_id) ORDER BY name, job_id";
    let thresholds = [&workspace, &copy].map(|workspace| workspace.sql(thresholds));
    assert_eq!(thresholds[0].len(), 3);
    assert_eq!(thresholds[0], thresholds[1]);
    assert_eq!(sums(&workspace), sums(&copy));
    assert!(workspace.trained() == copy.trained(), "the same files");
}

/// Another folder with the same files.
fn workspace_like(workspace: &Workspace) -> Workspace {
    let copy = Workspace::new();
    for (path, (_, bytes)) in workspace.files("") {
        let to = copy.path(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    copy
}

#[test]
fn eval_by_ranks_gives_the_sums_of_one_process() {
    let workspace = workspace(&sweep(""));
    alone(&workspace, &["tiny.toml"]).succeeds();
    let expected = sums(&workspace);
    for n_ranks in [2, 3] {
        for job in jobs(&workspace) {
            let outcome = ranks(&workspace, n_ranks, &["eval", &job, "--json"]);
            assert!(!outcome.json()["saes"].as_array().unwrap().is_empty());
        }
        assert_eq!(sums(&workspace), expected, "{n_ranks} ranks");
    }
    let left = workspace.files("home");
    let left: Vec<_> = left
        .keys()
        .filter(|path| path.contains("task-") || path.contains(".key"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn encode_by_ranks_writes_the_file_of_one_process() {
    let workspace = workspace(&sweep(""));
    alone(&workspace, &["tiny.toml"]).succeeds();
    let job = &jobs(&workspace)[0];
    let dataset = fixture("tiny.jsonl");
    let dataset = text(&dataset);
    let args = |out| {
        [
            "encode",
            job,
            "--dataset",
            dataset,
            "--ctx-len",
            "64",
            "--max-examples",
            "40",
            "--batch-tokens",
            "256",
            "--out",
            out,
        ]
        .map(str::to_owned)
    };
    let one = args("one.parquet");
    alone(&workspace, &one.each_ref().map(String::as_str)).succeeds();
    let expected = fs::read(workspace.path("one.parquet")).unwrap();
    for n_ranks in [2, 3] {
        let several = args("several.parquet");
        ranks(&workspace, n_ranks, &several.each_ref().map(String::as_str));
        let written = fs::read(workspace.path("several.parquet")).unwrap();
        assert!(written == expected, "{n_ranks} ranks");
    }
}

#[test]
fn what_one_rank_cannot_do_all_say() {
    let workspace = workspace(&sweep(""));
    alone(&workspace, &["tiny.toml"]).succeeds();
    let job = &jobs(&workspace)[0];
    let ranks = wait(start(
        &workspace,
        2,
        &["eval", job, "--hookpoints", "layers.9"],
    ));
    assert_codes(&ranks, 2);
    assert!(ranks[0].stderr.contains("layers.9"), "{}", ranks[0]);
    // Alone, a rank waits for the others, and says so when it gives up.
    let port = free_port();
    let second = rank(&workspace, (1, 2), &port, &["eval", "nothing"]);
    let first = rank(&workspace, (0, 2), &port, &["eval", "nothing"]);
    let ranks = wait(vec![first, second]);
    assert_codes(&ranks, 2);
    assert!(ranks[0].stderr.contains("nothing"), "{}", ranks[0]);
}

#[test]
fn ranks_that_are_killed_resume_in_the_same_bits() {
    let workspace = workspace(&sweep(""));
    alone(&workspace, &["tiny.toml"]).succeeds();
    let job = &jobs(&workspace)[0];
    let before = workspace.files("runs/tiny");
    let args = ["verify-resume", job, "--steps", "6", "--kills", "2"];
    let outcome = ranks(&workspace, 2, &args);
    outcome.remarks(&["killed after step", "resume is exact"]);
    assert!(
        workspace.files("runs/tiny") == before,
        "nothing else was touched"
    );
}
