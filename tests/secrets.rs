//! Secrets that were put where they do not belong: refused without being repeated, and found nowhere
//! afterwards. And those that are where they belong: no worker gets them.

use crate::common::{Outcome, Workspace, replace_line, signal, small_sweep, until};
use std::fs;

/// As the Hub makes them.
const TOKEN: &str = "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh";
/// One that does not look like a secret.
const PLAIN: &str = "correct horse battery";

/// The outcome is an error that does not repeat the secret, and no file has it but `given`.
#[track_caller]
fn refused_unrepeated(workspace: &Workspace, outcome: Outcome, given: &str) -> Outcome {
    let outcome = outcome.exits(2);
    for secret in [TOKEN, PLAIN] {
        let said = outcome.stdout.contains(secret) || outcome.stderr.contains(secret);
        assert!(!said, "it repeats the secret\n{outcome}");
        for (path, (_, bytes)) in workspace.files("") {
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                path == given || !text.contains(secret),
                "a secret in {path}"
            );
        }
    }
    assert!(!workspace.path("runs").exists(), "{outcome}");
    outcome
}

#[test]
fn a_secret_in_an_option_is_refused() {
    let workspace = Workspace::with_small_sweep();
    for (set, message) in [
        (
            format!("train.hf_token={TOKEN}"),
            "unknown key `train.hf_token`",
        ),
        (
            format!("train.hf_token={PLAIN}"),
            "unknown key `train.hf_token`",
        ),
        (
            format!("hub_secret = '{PLAIN}'"),
            "unknown key `hub_secret`",
        ),
        (
            format!("launch.api_key={PLAIN}"),
            "unknown key `launch.api_key`",
        ),
        (format!("vary.hf_token={PLAIN}"), "--set vary.hf_token: "),
        (
            format!("vary.access.secret=['{PLAIN}']"),
            "--set vary.access.secret: ",
        ),
        (format!("train.split={TOKEN}"), "--set train.split: "),
        (
            format!("train.model=https://me:{TOKEN}@hub/x"),
            "--set train.model: ",
        ),
        (
            r#"train.split="hf\u005fAbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh""#.into(),
            "the sweep: ",
        ),
    ] {
        let outcome = workspace.run(&["tiny.toml", "--set", &set]);
        refused_unrepeated(&workspace, outcome, "")
            .refuses(&[message])
            .hints("`HF_TOKEN`");
    }
    // Arguments that are not settings at all.
    for args in [
        &["tiny.toml", "--set", TOKEN][..],
        &["tiny.toml", "--set", "x=1", TOKEN],
    ] {
        refused_unrepeated(&workspace, workspace.run(args), "");
    }
    let train = ["train", "model", "data.jsonl", "--split", TOKEN];
    refused_unrepeated(&workspace, workspace.run(&train), "");
}

#[test]
fn a_secret_in_a_file_or_a_variable_is_refused_with_its_location() {
    let sweep = small_sweep();
    for (text, part) in [
        (format!("# my token is {TOKEN}\n{sweep}"), "tiny.toml:1: "),
        (
            replace_line(&sweep, "[vary]", &format!("[vary]\nhf_token = '{PLAIN}'")),
            "`hf_token`",
        ),
    ] {
        let workspace = Workspace::new();
        workspace.write("tiny.toml", text);
        let outcome = workspace.run(&["tiny.toml"]);
        refused_unrepeated(&workspace, outcome, "tiny.toml")
            .refuses(&[part])
            .hints("`HF_TOKEN`");
    }
    let workspace = Workspace::with_small_sweep();
    let common = format!("[train]\nsplit = '{TOKEN}'\n");
    workspace.write("sae-run.toml", common);
    let outcome = workspace.run(&["tiny.toml"]);
    refused_unrepeated(&workspace, outcome, "sae-run.toml").refuses(&["sae-run.toml:2: "]);
    let workspace = Workspace::with_small_sweep();
    for (variable, value) in [
        ("SAE_RUN_VARY__HF_TOKEN", PLAIN),
        ("SAE_RUN_TRAIN__SPLIT", TOKEN),
    ] {
        let outcome = workspace.run_with(&[(variable, value)], &["tiny.toml"]);
        refused_unrepeated(&workspace, outcome, "").refuses(&[variable]);
    }
    // The very token that is there for the Hub, whatever it looks like.
    let variables = [("HF_TOKEN", PLAIN), ("SAE_RUN_TRAIN__SPLIT", PLAIN)];
    let outcome = workspace.run_with(&variables, &["tiny.toml"]);
    refused_unrepeated(&workspace, outcome, "").refuses(&["SAE_RUN_TRAIN__SPLIT"]);
}

#[test]
fn a_secret_in_a_recipe_is_refused() {
    let workspace = Workspace::new();
    workspace.write(
        "tiny.toml",
        format!("recipe = 'mine.py'\n{}", small_sweep()),
    );
    let recipe = format!("TOKEN = '{TOKEN}'\ndef plan(request):\n    yield job({{}}, name='a')\n");
    workspace.write("mine.py", recipe);
    let outcome = workspace.run(&["tiny.toml"]);
    refused_unrepeated(&workspace, outcome, "mine.py").refuses(&["recipe `mine"]);
}

/// Variables that nothing but the program itself may see.
const SECRETS: [(&str, &str); 4] = [
    ("HF_TOKEN", TOKEN),
    ("HUGGING_FACE_HUB_TOKEN", TOKEN),
    ("HF_TOKEN_PATH", "/nowhere/token"),
    ("HF_ENDPOINT", "http://127.0.0.1:9/?secret"),
];

#[track_caller]
fn assert_no_secret(environment: &str) {
    assert!(
        environment.contains("PATH="),
        "no environment: {environment}"
    );
    for (name, value) in SECRETS {
        let has = environment.contains(name) || environment.contains(value);
        assert!(!has, "{name} in {environment}");
    }
}

#[test]
fn a_worker_has_no_token() {
    let workspace = Workspace::new();
    let sweep = replace_line(&small_sweep(), "max_examples", "max_examples = 640");
    workspace.write("tiny.toml", sweep);
    let mut command = workspace.command(&["tiny.toml"]);
    command.envs(SECRETS);
    let (stdout, stderr) = (workspace.path("stdout.txt"), workspace.path("stderr.txt"));
    let running = crate::common::Running::start(command, stdout, stderr);
    let pid = until("a worker", || {
        let events = workspace.events();
        let started = events.iter().find(|event| event["event"] == "started")?;
        started["pid"].as_u64()
    });
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert_no_secret(&String::from_utf8_lossy(&environment));
    signal(running.pid(), "INT");
    running.wait();
    // Neither does anything that is left have it.
    for (path, (_, bytes)) in workspace.files("runs") {
        assert!(!String::from_utf8_lossy(&bytes).contains(TOKEN), "{path}");
    }
}

/// torchrun is a program like any other: it gets what its workers get.
#[test]
fn torchrun_has_no_token() {
    let workspace = Workspace::new();
    let launch = "launcher = 'torchrun'\nnproc_per_node = 1\nretries = 0";
    workspace.write("tiny.toml", replace_line(&small_sweep(), "retries", launch));
    workspace.write("torchrun", "#!/bin/sh\nenv > environment.txt\nexit 3\n");
    let torchrun = workspace.path("torchrun");
    let mut mode = fs::metadata(&torchrun).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&torchrun, mode).unwrap();
    let torchrun = [("SAE_RUN_TORCHRUN", crate::common::text(&torchrun))];
    let variables = [&SECRETS[..], &torchrun].concat();
    workspace.run_with(&variables, &["tiny.toml"]).exits(1);
    let environment = fs::read_to_string(workspace.path("environment.txt")).unwrap();
    assert_no_secret(&environment);
}
