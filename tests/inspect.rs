//! `ls`, `show`, `doctor`, `--help`: what is there.

use crate::common::{Workspace, filters, text};

fn trained() -> Workspace {
    let workspace = Workspace::with_tiny_sweep();
    workspace
        .run(&["tiny.toml", "--set", "vary.expansion_factor=[2]"])
        .succeeds();
    workspace
}

#[test]
fn ls_lists_the_sweeps() {
    let workspace = trained();
    workspace
        .run(&["tiny.toml", "--set", "name=other", "--set", "vary.k=[4]"])
        .succeeds();
    let outcome = workspace.run(&["ls"]).succeeds();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{outcome}");
    let sweep = |name: &str| {
        let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().take(5).collect::<Vec<_>>()
    };
    assert_eq!(sweep("tiny"), ["tiny", "grid", "4/4", "0", "0"]);
    assert_eq!(sweep("other"), ["other", "grid", "4/4", "0", "0"]);
}

#[test]
fn show_finds_a_job_by_name_and_by_the_start_of_its_id() {
    let workspace = trained();
    let name = "k=8,expansion_factor=2,hookpoints=layers.1.mlp+layers.2";
    let sql = format!("SELECT DISTINCT job_id FROM result WHERE job = '{name}'");
    let id = workspace.sql_value(&sql);
    let id = id.as_str().unwrap();
    let by_name = workspace.run(&["show", name]).succeeds();
    for part in [
        id,
        name,
        "done",
        "layers.1.mlp",
        "layers.2",
        "\"ctx_len\": 64",
        "#1",
    ] {
        assert!(by_name.stdout.contains(part), "{part}\n{by_name}");
    }
    let folder = by_name
        .stdout
        .lines()
        .find(|line| line.starts_with("folder"))
        .unwrap();
    let folder = folder.split_whitespace().nth(1).unwrap();
    assert!(
        workspace.path(folder).join("layers.2/cfg.json").is_file(),
        "{folder}"
    );
    for wanted in [id, &id[..6], &format!("tiny/{name}")] {
        assert_eq!(
            workspace.run(&["show", wanted]).succeeds().stdout,
            by_name.stdout
        );
    }
}

#[test]
fn show_of_an_unknown_or_ambiguous_job_is_told() {
    let workspace = trained();
    let wanted = "k=9,expansion_factor=2,hookpoints=layers.0";
    workspace
        .run(&["show", wanted])
        .refuses(&["no job", wanted])
        .hints("did you mean `k=");
    workspace
        .run(&["show", "k=8"])
        .refuses(&["`k=8` is ambiguous: 2 jobs match"])
        .hints("hookpoints = ");
}

#[test]
fn doctor_tells_what_is_there_and_no_secret() {
    let workspace = trained();
    let outcome = workspace.run(&["doctor"]).succeeds();
    let line = |what: &str| {
        let found = outcome.stdout.lines().find(|line| line.starts_with(what));
        found
            .unwrap_or_else(|| panic!("no `{what}`\n{outcome}"))
            .to_owned()
    };
    assert!(line("libtorch").contains("2.13"));
    assert!(line("database").ends_with("runs/runs.db"));
    assert!(line("cache").ends_with(text(&workspace.path("cache"))));
    assert!(line("engine").ends_with(".wasm"));
    assert!(line("settings").contains("none"));
    assert!(line("HF token").ends_with("no") && line("HF offline").ends_with("no"));
    assert!(line("HF cache").contains("home/.cache/huggingface/hub"));
    for what in ["CUDA", "threads", "sae-run"] {
        line(what);
    }

    let secret = "hf_aSecretThatNobodyMaySee";
    workspace.write("home/.cache/huggingface/token", secret);
    let from_file = workspace.run(&["doctor"]).succeeds();
    let from_variable = Workspace::new()
        .run_with(&[("HF_TOKEN", secret)], &["doctor"])
        .succeeds();
    for outcome in [from_file, from_variable] {
        assert!(outcome.stdout.contains("HF token   yes"), "{outcome}");
        assert!(!outcome.to_string().contains("Secret"), "{outcome}");
    }
}

#[test]
fn doctor_works_where_nothing_is_set_up() {
    let workspace = Workspace::new();
    let variables = [("SAE_RUN_CACHE", "none"), ("SAE_RUN_ENGINE", "")];
    let outcome = workspace.run_with(&variables, &["doctor"]).succeeds();
    for part in ["`make setup` builds it", "not made yet", "none yet"] {
        assert!(outcome.stdout.contains(part), "{outcome}");
    }
    assert!(!workspace.path("none").exists());
}

#[test]
fn doctor_explains_itself_without_a_gpu() {
    let workspace = Workspace::new();
    let outcome = workspace.run(&["doctor", "--gpu"]).succeeds();
    assert!(outcome.stdout.starts_with("GPU        none: "), "{outcome}");
    let mut explanation = outcome.stdout.lines().skip(1);
    assert!(explanation.all(|line| line.len() < 80), "{outcome}");
    assert!(
        outcome.stdout.contains("compute capability 8.0 or\nabove"),
        "{outcome}"
    );
    let json = workspace
        .run(&["doctor", "--gpu", "--json"])
        .succeeds()
        .json();
    assert!(json["no_gpu"]["reason"].is_string(), "{json}");
    workspace
        .run(&["doctor", "--gpu", "--shape", "1,2,3"])
        .refuses(&["tokens, latents, d_in and k"]);
}

#[test]
fn help_tells_the_commands() {
    let workspace = Workspace::new();
    insta::with_settings!({filters => filters()}, {
        for (name, args) in [("help", &["--help"][..]), ("help_sql", &["sql", "--help"])] {
            insta::assert_snapshot!(name, workspace.run(args));
        }
    });
    workspace.run(&[]).exits(2).remarks(&["SWEEP.toml"]);
    workspace
        .run(&["tiny.toml", "--bogus"])
        .exits(2)
        .remarks(&["--bogus"]);
}

#[test]
fn completions_ask_the_program() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = Workspace::new().run(&["completions", shell]).succeeds();
        assert!(outcome.stdout.contains("_SAE_RUN_COMPLETE"), "{shell}");
        assert!(outcome.stdout.contains("sae-run"), "{shell}");
    }
}

#[test]
fn ls_filters_and_sorts() {
    let workspace = trained();
    let list = |args: &[&str]| {
        let outcome = workspace
            .run(&[&["ls", "--json"], args].concat())
            .succeeds();
        outcome.listed(if args.is_empty() { "sweeps" } else { "saes" })
    };
    assert_eq!(list(&[]).len(), 1, "sweeps");
    assert_eq!(list(&["--sweep", "tiny"]).len(), 6);
    let found = list(&["--where", "k = 8", "--sort", "-fvu", "--limit", "2"]);
    assert_eq!(found.len(), 2);
    assert!(found[0]["fvu"].as_f64() >= found[1]["fvu"].as_f64());
    let table = workspace.run(&["ls", "--sweep", "tiny"]);
    let table = table.succeeds().stdout;
    for part in ["hookpoint", "FVU", "tokens/s", "layers.1.mlp", "done"] {
        assert!(table.contains(part), "{table}");
    }
    let narrow = [("COLUMNS", "80")];
    let outcome = workspace.run_with(&narrow, &["ls", "--sweep", "tiny"]);
    let outcome = outcome
        .succeeds()
        .remarks(&["no space for `status`", "`--json` shows all"]);
    let table = &outcome.stdout;
    for part in ["layers.1.mlp+layers.2 ", "FVU"] {
        assert!(table.contains(part), "{table}");
    }
    let widest = table.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{table}");
    workspace
        .run(&["ls", "--sort", "fvuu"])
        .refuses(&["no column `fvuu`"])
        .hints("`fvu`");
    workspace
        .run(&["ls", "--where", "1) OR (1"])
        .refuses(&["not one SQL expression"])
        .hints("k <= 64");
    workspace
        .run(&["ls", "--sweep", "tny"])
        .refuses(&["no sweep"])
        .hints("`tiny`");
}

#[test]
fn show_has_everything_as_json() {
    let workspace = trained();
    let name = "k=8,expansion_factor=2,hookpoints=layers.0";
    let job = workspace.run(&["show", "--json", name]).succeeds().json();
    for part in ["saes", "attempts", "checkpoints", "curve", "files"] {
        assert!(!job[part].as_array().unwrap().is_empty(), "{part}");
    }
    assert_eq!(job["config"]["k"], 8);
    let text = workspace.run(&["show", name]).succeeds().stdout;
    assert!(text.contains("FVU of layers.0"), "{text}");
}
