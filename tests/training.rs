//! What goes wrong in training, on the real binary: numbers that are none, and full disks.

use crate::common::{Workspace, finish, fixture, replace_line, small_sweep, text};
use serde_json::json;
use std::process::Command;

/// Two jobs, of which the second diverges at once.
fn diverging_sweep() -> String {
    let sweep = replace_line(
        &small_sweep(),
        "hookpoints = ",
        "hookpoints = [['layers.0']]\nlr = [0.001, 1e37]",
    );
    replace_line(
        &sweep,
        "save_every",
        "save_every = 3\nnormalize_decoder = false",
    )
}

#[test]
fn a_job_that_diverges_ends_with_a_reason_and_the_others_go_on() {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", diverging_sweep());
    let outcome = workspace.run(&["tiny.toml"]).exits(1);
    outcome.remarks(&["ended early", "the loss is NaN or infinite", "lower `lr`"]);
    let jobs = workspace.sql("SELECT status FROM job JOIN sae USING (job_id) ORDER BY lr");
    assert_eq!(
        jobs,
        [json!({"status": "done"}), json!({"status": "failed"})]
    );
    let verdict =
        workspace.sql("SELECT is_fatal, lr > 1 AS is_wild FROM verdict JOIN sae USING (sae_id)");
    assert_eq!(verdict, [json!({"is_fatal": 1, "is_wild": 1})]);
    let folders: Vec<_> = workspace.trained().into_keys().collect();
    let is_good = |path: &String| path.contains("lr=0.001");
    assert!(folders.iter().all(is_good), "no NaN is saved: {folders:?}");
}

/// With less room for files than a checkpoint needs, as on a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_while_saving_keeps_the_last_checkpoint_and_says_why() {
    let workspace = Workspace::new();
    let sweep = replace_line(&small_sweep(), "save_every", "save_every = 1");
    workspace.write("tiny.toml", &sweep);
    let whole = Workspace::new();
    whole.write("tiny.toml", &sweep);
    whole.run(&["tiny.toml"]).succeeds();

    // The tokens are made, the recipe is compiled; then the files of SAEs no longer fit.
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let data = [
        "data",
        text(&dataset),
        "--model",
        text(&model),
        "--ctx-len",
        "64",
    ];
    workspace.run(&data).succeeds();
    workspace.run(&["plan", "tiny.toml"]).succeeds();
    let command = workspace.command(&["tiny.toml"]);
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "bash"]);
    limited.arg(command.get_program()).args(command.get_args());
    limited.envs(
        command
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    limited.current_dir(workspace.path(""));
    let outcome = finish(limited);
    assert_ne!(outcome.status.code(), Some(0), "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");

    // With room again it goes on, to the same bits.
    workspace.run(&["tiny.toml"]).succeeds();
    assert!(workspace.trained() == whole.trained());
}
