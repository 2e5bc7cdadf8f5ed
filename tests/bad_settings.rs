//! Settings that cannot be used: each is reported with its location and what to do about it, exit code 2,
//! before anything is written.

use crate::common::{Outcome, Workspace, location_of, tiny_sweep_with};

/// Runs a sweep file of this text.
fn run_sweep(sweep: &str) -> Outcome {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep);
    run(&workspace, &["tiny.toml"])
}

/// Runs the tiny sweep with a setting overridden.
fn run_set(set: &str) -> Outcome {
    run(&Workspace::with_tiny_sweep(), &["tiny.toml", "--set", set])
}

/// Runs what must be refused before anything is written.
fn run(workspace: &Workspace, args: &[&str]) -> Outcome {
    let outcome = workspace.run(args);
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert!(!workspace.path("runs").exists(), "{outcome}");
    outcome
}

#[test]
fn an_unknown_key_is_told_with_line_and_nearest_key() {
    run_sweep(&tiny_sweep_with("ctx_len", "ctx_length = 64"))
        .refuses(&[&location_of("ctx_len"), "unknown key `train.ctx_length`"])
        .hints("did you mean `train.ctx_len`?");
    run_sweep(&tiny_sweep_with("[launch]", "[lunch]"))
        .refuses(&[&location_of("[launch]"), "unknown key `lunch`"])
        .hints("did you mean `launch`?");
    run_set("train.kk=3")
        .refuses(&["--set `train.kk`: ", "unknown key `train.kk`"])
        .hints("did you mean `train.k`?");
    let variables = [("SAE_RUN_TRAIN__CTX_LENGTH", "64")];
    Workspace::with_tiny_sweep()
        .run_with(&variables, &["tiny.toml"])
        .refuses(&[
            "variable `SAE_RUN_TRAIN__CTX_LENGTH`: ",
            "unknown key `train.ctx_length`",
        ])
        .hints("did you mean `train.ctx_len`?");
}

#[test]
fn an_unknown_key_in_a_layer_below_is_told_with_its_file() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.write("sae-run.toml", "[train]\nbatchsize = 3\n");
    run(&workspace, &["tiny.toml"])
        .refuses(&["sae-run.toml:2: ", "unknown key `train.batchsize`"])
        .hints("did you mean `train.batch_size`?");
}

#[test]
fn a_wrong_type_is_reported_with_its_location_and_key() {
    run_sweep(&tiny_sweep_with("ctx_len", "ctx_len = 'many'"))
        .refuses(&[&location_of("ctx_len"), "`train.ctx_len`", "\"many\""])
        .hints("`ctx_len = 2048`");
    run_sweep(&tiny_sweep_with("threads", "threads = -1"))
        .refuses(&[&location_of("threads"), "`launch.threads`", "-1"])
        .hints("`threads = 0`");
    run_set("train.k=many")
        .refuses(&["--set train.k=many: ", "`train.k`"])
        .hints("`k = 32`");
    let variables = [("SAE_RUN_TRAIN__CTX_LEN", "many")];
    Workspace::with_tiny_sweep()
        .run_with(&variables, &["tiny.toml"])
        .refuses(&["variable `SAE_RUN_TRAIN__CTX_LEN`: ", "`train.ctx_len`"])
        .hints("`ctx_len = 2048`");
}

#[test]
fn a_file_that_is_no_toml_is_told_with_the_line() {
    run_sweep(&tiny_sweep_with("ctx_len", "ctx_len = = 64"))
        .refuses(&[&location_of("ctx_len")])
        .hints("TOML");
    run_sweep(&tiny_sweep_with("batch_size", "ctx_len = 8"))
        .refuses(&[&location_of("batch_size"), "duplicate key"])
        .hints("TOML");
    run_sweep("").refuses(&["`train.model` is missing"]);
}

#[test]
fn a_word_that_is_no_command_and_a_setting_that_is_no_option_are_told() {
    let workspace = Workspace::with_tiny_sweep();
    let of = |args: &[&str]| run(&workspace, args);
    of(&["rnu", "tiny.toml"])
        .refuses(&["`rnu` is neither a command nor a file"])
        .hints("did you mean `run`?");
    of(&["sho"]).refuses(&["`sho`"]).hints("`show`");
    of(&["qqq", "x"])
        .refuses(&["`qqq`"])
        .hints("a sweep is a file");
    for args in [
        &["tiny.toml", "--k", "32"][..],
        &["run", "tiny.toml", "--k=32"],
        &["plan", "--k", "32", "tiny.toml"],
    ] {
        of(args)
            .refuses(&["`--k` is a setting"])
            .hints("`--set train.k=32`");
    }
    of(&["tiny.toml", "--expansion-factor"]).hints("`--set train.expansion_factor=VALUE`");
    of(&["missing.toml"]).refuses(&["cannot read `missing.toml`"]);
}

#[test]
fn a_missing_sweep_or_half_an_option_is_told() {
    run(&Workspace::new(), &["tiny.toml"])
        .refuses(&["cannot read `tiny.toml`", "no such file"])
        .hints("`sae-run SWEEP.toml`");
    run_set("train.k")
        .refuses(&["--set `train.k` has no `=`"])
        .hints("`--set train.k=64`");
    run_set("name=../elsewhere")
        .refuses(&["`name` is `../elsewhere`"])
        .hints("it names a folder");
}

#[test]
fn settings_out_of_range_or_against_each_other_are_told() {
    run_set("train.batch_size=0").refuses(&["`batch_size` must be at least 1", "got 0"]);
    run_set("train.lr=-1").refuses(&["`lr` must be at least 0 and finite"]);
    for loss_fn in ["ce", "kl"] {
        // All SAEs of a job must be in the model.
        let line = format!("distribute_modules = true\nloss_fn = '{loss_fn}'\n[vary]");
        run_sweep(&tiny_sweep_with("[vary]", &line)).refuses(&[
            &location_of("[vary]"),
            "`distribute_modules` cannot be used with a `loss_fn` on the model's output (ce, kl)",
        ]);
    }
    let workspace = Workspace::new();
    workspace.write(
        "tiny.toml",
        tiny_sweep_with("hookpoints", "layers = [[0], [1]]"),
    );
    run(&workspace, &["tiny.toml", "--set", "train.layer_stride=2"]).refuses(&[
        &location_of("hookpoints"),
        "job `k=4,expansion_factor=2,layers=0`",
        "`layers` cannot be used with `layer_stride`",
    ]);
    run(
        &workspace,
        &["tiny.toml", "--set", "train.hookpoints=[\"layers.0\"]"],
    )
    .refuses(&["`layers` cannot be used with `hookpoints`"]);
}

#[test]
fn more_workers_than_any_machine_has_are_told() {
    run_set("launch.jobs=18446744073709551615")
        .refuses(&["`launch.jobs`"])
        .hints("");
    run_set("launch.jobs=1025")
        .refuses(&["`launch.jobs` asks for 1025 workers"])
        .hints("the most is 1024");
    let devices = vec!["'cpu'"; 1025].join(",");
    run_set(&format!("launch.devices=[{devices}]"))
        .refuses(&["`launch.devices` asks for 1025 workers"])
        .hints("the most is 1024");
}

#[test]
fn settings_that_the_model_does_not_fit_are_told() {
    run_sweep(&tiny_sweep_with(
        "hookpoints",
        "hookpoints = [['layers.0', 'layer.1*']]",
    ))
    .refuses(&[
        &location_of("hookpoints"),
        "job `k=4,expansion_factor=2,hookpoints=layers.0+layer.1*`",
        "pattern `layer.1*` matches no module",
    ])
    .hints("`layers.1`");
    run_sweep(&tiny_sweep_with("k = ", "k = [4, 100]"))
        .refuses(&[
            &location_of("k = "),
            "job `k=100,expansion_factor=2,hookpoints=layers.0`",
            "k = 100 is larger than num_latents = 64",
            "hookpoint `layers.0`",
        ])
        .hints("raise `num_latents` or `expansion_factor`");
    run_sweep(&tiny_sweep_with("ctx_len", "ctx_len = 129"))
        .refuses(&[&location_of("ctx_len"), "ctx_len = 129", "128 positions"])
        .hints("at most 128");
    run_sweep(&tiny_sweep_with("hookpoints", "layers = [[3], [4]]"))
        .refuses(&[
            &location_of("hookpoints"),
            "layer 4 does not exist",
            "4 layers",
        ])
        .hints("3");
}

#[test]
fn a_missing_model_or_data_set_is_told_with_the_line() {
    run_sweep(&tiny_sweep_with("dataset", "dataset = 'none.jsonl'"))
        .refuses(&[
            &location_of("dataset"),
            "dataset `none.jsonl` does not exist",
        ])
        .hints("`none.jsonl`");
    run_sweep(&tiny_sweep_with("model", "model = './no-model'"))
        .refuses(&[&location_of("model"), "model `./no-model` does not exist"])
        .hints("cache/models/./no-model`");
    // This may be the name of a model of the Hub, which is out of a test's reach.
    run_sweep(&tiny_sweep_with("model", "model = 'no-model'"))
        .refuses(&[&location_of("model"), "`no-model`"])
        .hints("cache/models/no-model`");
    run_sweep(&tiny_sweep_with("model", ""))
        .refuses(&["`train.model` is missing"])
        .hints("folder");
}

#[test]
fn a_device_that_is_not_there_is_told() {
    let workspace = Workspace::with_small_sweep();
    let hint = "`--device cpu`";
    let device = |device| workspace.run(&["tiny.toml", "--device", device]);
    // No machine has that many.
    device("cuda:99")
        .refuses(&["cannot use device `cuda:99`"])
        .hints(hint);
    device("gpu")
        .refuses(&["`gpu` is not a device", "`cuda:N`"])
        .hints(hint);
    assert!(workspace.trained().is_empty());
    // The jobs were not the cause.
    workspace.run(&["tiny.toml"]).succeeds();
}

#[test]
fn a_number_that_is_not_one_is_reported_with_its_location_and_key() {
    for number in ["nan", "-nan", "inf", "-inf"] {
        run_sweep(&tiny_sweep_with("ctx_len", &format!("lr = {number}")))
            .refuses(&[
                &location_of("ctx_len"),
                "`train.lr`",
                "is not a finite number",
            ])
            .hints("leave `lr` out for the default");
    }
    run_sweep(&tiny_sweep_with("k = ", "k = [4]\nlr = [0.1, nan]"))
        .refuses(&["`vary.lr.1`", "is not a finite number"]);
    for set in [
        "train.lr=nan",
        "train.auxk_alpha=inf",
        "launch.timeout_minutes=inf",
        "vary.anything={deep=[1.0,{er=nan}]}",
    ] {
        let key = set.split('=').next().unwrap();
        run_set(set).refuses(&[key, "is not a finite number"]);
    }
    let workspace = Workspace::with_tiny_sweep();
    workspace
        .run_with(&[("SAE_RUN_TRAIN__LR", "NaN")], &["tiny.toml"])
        .refuses(&["variable `SAE_RUN_TRAIN__LR`", "NaN"]);
    run(&workspace, &["train", "model", "data", "--lr", "inf"])
        .refuses(&["--lr", "is not a finite number"]);
    let held_out = ["data", "--model", "m", "--eval-fraction", "nan", "texts"];
    run(&workspace, &held_out).exits(2);
}

#[test]
fn a_value_that_is_varied_twice_is_told_with_its_line() {
    run_sweep(&tiny_sweep_with("k = ", "k = [4, 8, 4]"))
        .refuses(&[&location_of("k = "), "`vary.k` has 4 twice"])
        .hints("remove one");
    run_set("vary.hookpoints=[['layers.0'], ['layers.0']]")
        .refuses(&["--set vary.hookpoints", "has [\"layers.0\"] twice"]);
}

#[test]
fn no_message_fills_more_than_a_screen_whatever_was_given() {
    let long = "x".repeat(50_000);
    let words = "word ".repeat(10_000);
    for sweep in [
        tiny_sweep_with("name", &format!("name = '{long}'")),
        tiny_sweep_with("ctx_len", &format!("{long} = 64")),
        tiny_sweep_with("model", &format!("model = '{words}'")),
        tiny_sweep_with("ctx_len", &format!("ctx_len = '{words}'")),
        tiny_sweep_with("k = ", &format!("k = ['{words}']")),
        tiny_sweep_with("hookpoints", &format!("hookpoints = [['{long}']]")),
    ] {
        let outcome = run_sweep(&sweep).exits(2);
        let n_chars = outcome.stderr.chars().count();
        assert!(
            n_chars < 24 * 80,
            "{n_chars} characters: {}",
            outcome.stderr
        );
    }
    let workspace = Workspace::with_tiny_sweep();
    for args in [
        &["plan", &long][..],
        &["show", &long],
        &["sql", &long],
        &["tiny.toml", "--set", &long],
        &["train", "--ctx_len", &long],
    ] {
        let outcome = workspace.run(args).exits(2);
        let n_chars = outcome.stderr.chars().count();
        assert!(
            n_chars < 24 * 80,
            "{n_chars} characters: {}",
            outcome.stderr
        );
    }
}

#[test]
fn an_unknown_preset_is_refused_with_the_nearest() {
    run_sweep(&tiny_sweep_with(
        "batch_size",
        "batch_size = 8\npreset = 'saelens-batchtop'",
    ))
    .refuses(&["tiny.toml:7: ", "unknown preset `saelens-batchtop`"])
    .hints("saelens-batchtopk");
}

#[test]
fn settings_of_kinds_that_contradict_each_other_name_both() {
    for (sets, key, other) in [
        (
            "activation = 'groupmax'\nmatryoshka_widths = [4]",
            "matryoshka_widths",
            "activation",
        ),
        (
            "activation = 'jumprelu'\ntarget_l0 = 8",
            "target_l0",
            "jumprelu_sparsity_loss_mode",
        ),
        (
            "matryoshka_widths = [0.5, 0.25]",
            "matryoshka_widths",
            "0.25 follows 0.5",
        ),
        (
            "matryoshka_widths = [16, 4096]",
            "matryoshka_widths",
            "num_latents",
        ),
    ] {
        run_sweep(&tiny_sweep_with(
            "batch_size",
            &format!("batch_size = 8\n{sets}"),
        ))
        .refuses(&["tiny.toml:", &format!("`{key}`"), other]);
    }
}
