//! The real programs on a CUDA device that is not there: `fake_cuda/` has the device, and what a run may do on it.

mod kernels;
mod library;
mod lists;
mod log;
mod precision;
mod streams;

use crate::common::{
    Outcome, Running, Workspace, finish, fixture, job_dir, signal, text, with_jobs,
};
use crate::interrupt::reported;
use library::{LIBRARIES, Libtorch, build, library};
use lists::{check, check_devices_and_operators};
use log::Log;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use tch::{Device, Kind, Tensor};

/// Of two devices the second, so that what is put on the first by mistake shows.
const DEVICE: &str = "cuda:1";
const ON_DEVICE: [&str; 3] = ["tiny.toml", "--set", "launch.device='cuda:1'"];

/// Eight updates, a report after every second one, two checkpoints, an evaluation.
const SHORT: &str = "batch_size = 8\nmax_examples = 64\neval_fraction = 0.02\neval_max_examples = 1000\nexpansion_factor = 2\n\
                     hookpoints = ['layers.1.mlp']\nlr_warmup_steps = 4\nsave_every = 4\nlog_every = 2";

/// A kind of job, of fixtures/kinds.json.
#[derive(Deserialize)]
struct KindOfJob {
    name: String,
    /// Arguments in a recipe.
    settings: String,
    /// How far its FVU, or a part of it, may be from that on the CPU.
    #[serde(default = "close")]
    tolerance: f64,
}

fn close() -> f64 {
    1e-4
}

fn kinds() -> Vec<KindOfJob> {
    serde_json::from_str(&fs::read_to_string(fixture("kinds.json")).unwrap()).unwrap()
}

/// `sae-run` with two fake devices, whose log is the file `log`.
fn command(workspace: &Workspace, log: &str, args: &[&str]) -> Command {
    let mut command = workspace.command(args);
    on_fake_devices(&mut command, &workspace.path(log));
    command
}

fn on_fake_devices(command: &mut Command, log: &Path) {
    let before = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let paths = [library().into()]
        .into_iter()
        .chain(env::split_paths(&before));
    command
        .env("LD_LIBRARY_PATH", env::join_paths(paths).unwrap())
        .env("FAKE_CUDA_DEVICES", "2")
        .env("FAKE_CUDA_LOG", log);
}

fn run(workspace: &Workspace, log: &str, args: &[&str]) -> Outcome {
    finish(command(workspace, log, args))
}

/// What the workers of all streams have said.
fn worker_logs(workspace: &Workspace) -> String {
    let streams = fs::read_dir(workspace.path("runs/tiny/.streams")).unwrap();
    let logs = streams.map(|stream| stream.unwrap().path().join("worker.log"));
    logs.map(|log| fs::read_to_string(log).unwrap()).collect()
}

/// Reads the log of the worker.
#[track_caller]
fn log_of(workspace: &Workspace, log: &str) -> Log {
    let worker = Path::new(env!("CARGO_BIN_EXE_sae-run")).with_file_name("sae-run-worker");
    Log::read(&workspace.path(log), Some(&worker))
}

/// How often what a run's worker reports has happened since the last time that it was started.
fn units(workspace: &Workspace) -> Vec<(&'static str, usize)> {
    let events = workspace.events();
    let last = events
        .iter()
        .map(|event| event["attempt"].as_u64().unwrap())
        .max();
    let of_kind = |kind: &str| -> Vec<&Value> {
        let events = events
            .iter()
            .filter(|event| event["attempt"].as_u64() == last);
        events.filter(|event| event["event"] == kind).collect()
    };
    let saes: BTreeSet<_> = of_kind("metric")
        .iter()
        .map(|event| [&event["job_id"], &event["sae"]].map(|it| it.as_str().unwrap().to_owned()))
        .collect();
    let n_saved = of_kind("checkpoint")
        .iter()
        .map(|event| {
            saes.iter()
                .filter(|[job, _]| event["job_id"] == job.as_str())
                .count()
        })
        .sum();
    let n_updates = of_kind("ready").into_iter().map(|event| {
        let step = |name: &str| event[name].as_u64().unwrap() as usize;
        step("n_steps") - step("first_step")
    });
    vec![
        ("start", of_kind("started").len()),
        ("SAE", saes.len()),
        ("update", n_updates.sum()),
        ("report", of_kind("progress").len()),
        ("saved SAE", n_saved),
        ("evaluated SAE", of_kind("evaluation").len()),
    ]
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn fvus(workspace: &Workspace) -> Vec<Value> {
    workspace.sql("SELECT job, sae, fvu, fvu_eval FROM result ORDER BY job, sae")
}

// Training

#[test]
fn every_kind_of_job_trains_as_on_the_cpu() {
    let kinds = kinds();
    let jobs: Vec<_> = kinds
        .iter()
        .map(|kind| (&*kind.name, &*kind.settings))
        .collect();
    let [on_device, on_cpu] = [(); 2].map(|()| with_jobs(SHORT, &jobs));
    thread::scope(|scope| {
        scope.spawn(|| on_cpu.run(&["tiny.toml"]).succeeds());
        let mut command = command(&on_device, "log", &ON_DEVICE);
        command.env("SAE_RUN_KERNELS", "own");
        finish(command)
            .succeeds()
            .remarks(&[&format!("all {} jobs are done", kinds.len())]);
    });
    let devices = on_device.sql("SELECT DISTINCT device FROM attempt");
    assert_eq!(json!(devices), json!([{"device": DEVICE}]));
    let pairs: Vec<_> = fvus(&on_device).into_iter().zip(fvus(&on_cpu)).collect();
    assert_eq!(pairs.len(), kinds.len() + 6, "six have two SAEs");
    for (on_device, on_cpu) in pairs {
        let kind = kinds.iter().find(|kind| on_cpu["job"] == *kind.name);
        let most = kind.unwrap().tolerance;
        for column in ["fvu", "fvu_eval"] {
            let difference = float(&on_device[column]) / float(&on_cpu[column]) - 1.0;
            assert!(
                difference.abs() < most,
                "{column}: {on_device}, on the CPU {on_cpu}"
            );
        }
    }
    let log = log_of(&on_device, "log");
    check("sweep", &log, &units(&on_device));
    kernels::all_were_used(&log);
}

/// Jobs whose training has much to remember, over 200 updates.
fn long_jobs() -> Workspace {
    let settings = "batch_size = 2\nmax_examples = 400\nexpansion_factor = 2\nlog_every = 3\nsave_every = 20\n\
                    hookpoints = ['layers.1.mlp']\nk_decay_steps = 100";
    let jobs = [
        ("adam", "optimizer='adam', save_best=True"),
        // Of 128 tokens an update, so that it does not look at each for latents that may be dead.
        ("auxk", "auxk_alpha=0.03125, dead_feature_threshold=4000"),
    ];
    with_jobs(settings, &jobs)
}

/// Starts a run, and stops it when it has reported this number of checkpoints.
fn stop_after(n_checkpoints: usize, workspace: &Workspace, command: Command) {
    let (stdout, stderr) = (workspace.path("stdout.txt"), workspace.path("stderr.txt"));
    let running = Running::start(command, stdout, stderr);
    reported(workspace, "checkpoint", n_checkpoints);
    signal(running.pid(), "INT");
    running.wait().exits(130);
}

#[test]
fn a_run_that_is_stopped_resumes_and_ends_in_the_same_bits() {
    let [stopped, whole] = [(); 2].map(|()| long_jobs());
    stop_after(2, &stopped, command(&stopped, "first", &ON_DEVICE));
    run(&stopped, "resumed", &ON_DEVICE).succeeds();
    run(&whole, "whole", &ON_DEVICE).succeeds();
    assert!(stopped.trained() == whole.trained(), "other bits");
    check("resume", &log_of(&stopped, "resumed"), &units(&stopped));

    let job = stopped.sql_value("SELECT job_id FROM result WHERE job = 'auxk'");
    let args = [
        "verify-resume",
        job.as_str().unwrap(),
        "--steps",
        "5",
        "--kills",
        "2",
    ];
    run(&stopped, "verified", &args)
        .succeeds()
        .remarks(&["resume is exact"]);
    check_devices_and_operators(&log_of(&stopped, "verified"));
}

/// Of 256 latents few fire: after the first report they are listed.
#[test]
fn lists_have_as_much_room_after_a_resume() {
    let settings = "batch_size = 1\nmax_examples = 24\nexpansion_factor = 8\nlog_every = 3\nsave_every = 8\n\
                    hookpoints = ['layers.1.mlp']";
    let job = "activation='jumprelu', init_l0=2.0, target_l0=2.0, jumprelu_sparsity_loss_mode='quadratic', \
               jumprelu_bandwidth=0.01, loss_fn='mse', optimizer='adam'";
    let [stopped, whole] = [(); 2].map(|()| with_jobs(settings, &[("listed", job)]));
    let command = |workspace: &Workspace, log: &str| {
        let mut command = command(workspace, log, &ON_DEVICE);
        command.env("SAE_RUN_KERNELS", "own");
        command
    };
    stop_after(1, &stopped, command(&stopped, "first"));
    finish(command(&stopped, "resumed")).succeeds();
    finish(command(&whole, "whole")).succeeds();
    assert!(stopped.trained() == whole.trained(), "other bits");
    // The host looks while the device has the rest of the update to do: it is not idle for that.
    let looks = |workspace: &Workspace, log: &str| {
        let log = log_of(workspace, log);
        let of_events = |what: &str| {
            log.of_kind("wait")
                .filter(|event| event.what == what)
                .count()
        };
        assert_eq!(of_events("for an event"), 0, "nothing to do for the device");
        of_events("for an event before other work")
    };
    let events = whole.events();
    let ready = events.iter().find(|event| event["event"] == "ready");
    let n_updates = ready.unwrap()["n_steps"].as_u64().unwrap() as usize;
    let n_looks = looks(&whole, "whole");
    assert!(2 * n_looks > n_updates, "{n_looks} of {n_updates}");
    assert!(looks(&stopped, "resumed") > 0);
}

// What uses SAEs

#[test]
fn saes_are_evaluated_encoded_and_trained_further_as_on_the_cpu() {
    let jobs = [
        ("first", "optimizer='adam'"),
        ("second", "finetune='earlier', exclude_tokens=[0, 5]"),
    ];
    let workspace = with_jobs(SHORT, &jobs[..1]);
    run(&workspace, "log", &ON_DEVICE).succeeds();
    let dataset = fixture("tiny.jsonl");
    let data = [
        "--dataset",
        text(&dataset),
        "--max-examples",
        "21",
        "--ctx-len",
        "64",
    ];
    let data = [&data[..], &["--exclude-tokens", "0,5", "--json"]].concat();
    is_as_on_the_cpu(&workspace, "eval", &data);
    let texts = [
        "--text",
        "Call me Ishmael.",
        "--text",
        "Some years ago",
        "--out",
        "latents.parquet",
        "--json",
    ];
    is_as_on_the_cpu(&workspace, "encode", &texts);
    for (log, units) in [
        ("eval", &[("start", 1), ("SAE", 1)][..]),
        ("encode", &[("start", 1), ("SAE", 1), ("batch", 1)]),
    ] {
        check(log, &log_of(&workspace, log), units);
    }

    let [on_device, on_cpu] = [(); 2].map(|()| with_jobs(SHORT, &jobs[1..]));
    for further in [&on_device, &on_cpu] {
        for (path, (_, bytes)) in workspace.files("runs/tiny") {
            if let Some((_, file)) = path.split_once("/layers.1.mlp/") {
                further.write(&format!("earlier/layers.1.mlp/{file}"), bytes);
            }
        }
    }
    run(&on_device, "finetune", &ON_DEVICE).succeeds();
    on_cpu.run(&["tiny.toml"]).succeeds();
    let [a, b] = [&on_device, &on_cpu].map(|workspace| float(&fvus(workspace)[0]["fvu"]));
    assert!((a / b - 1.0).abs() < close(), "{a}, on the CPU {b}");
    check(
        "finetune",
        &log_of(&on_device, "finetune"),
        &units(&on_device),
    );
}

/// A command that answers with JSON gives the same numbers on both; the log has its name.
#[track_caller]
fn is_as_on_the_cpu(workspace: &Workspace, name: &str, args: &[&str]) {
    let on = |device: &str| {
        let args = [&[name, "first", "--device", device][..], args].concat();
        run(workspace, name, &args).succeeds().json()
    };
    let (on_device, on_cpu) = (on(DEVICE), on("cpu"));
    is_close(&on_device, &on_cpu);
}

/// Equal, except for the last digits of numbers.
#[track_caller]
fn is_close(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| is_close(a, b));
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter().for_each(|(key, a)| is_close(a, &b[key]));
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            // Recovered cross-entropy is a quotient of small differences.
            assert!((a - b).abs() <= 2e-3 * b.abs(), "{a}, on the CPU {b}");
        }
        _ => assert_eq!(a, b),
    }
}

// Devices that cannot be used

#[test]
fn a_device_that_is_missing_or_runs_out_of_memory_is_reported() {
    let workspace = with_jobs(SHORT, &[("signum", "")]);
    let doctor = run(&workspace, "log", &["doctor"]).succeeds();
    assert!(doctor.stdout.contains("CUDA       2 devices"), "{doctor}");
    run(
        &workspace,
        "log",
        &["tiny.toml", "--set", "launch.device='cuda:2'"],
    )
    .refuses(&["cannot use device `cuda:2`", "2 CUDA devices"])
    .hints("doctor");
    let with_memory = |bytes: &str, args: &[&str]| {
        let mut command = command(&workspace, "log", args);
        command.env("FAKE_CUDA_MEMORY", bytes);
        finish(command).exits(1)
    };
    // Too little for the model's weights, and too little for a forward pass.
    for (bytes, doing) in [
        ("100000", "loading tensor `model."),
        ("300000", "in the forward pass"),
    ] {
        let outcome = with_memory(bytes, &ON_DEVICE);
        assert!(!outcome.stderr.contains("frame #"), "{outcome}");
        outcome
            .remarks(&["error: stream", doing, "CUDA out of memory", "worker.log"])
            .hints("lower `batch_size` or `ctx_len`");
    }
    run(&workspace, "log", &ON_DEVICE).succeeds();
    let dir = job_dir(&workspace, "signum");
    let encode = [
        "encode",
        text(&dir),
        "--text",
        "a",
        "--device",
        DEVICE,
        "--out",
        "a.parquet",
    ];
    with_memory("100000", &encode).remarks(&["CUDA out of memory"]);
    assert!(!workspace.path("a.parquet").exists());
}

#[test]
fn an_update_that_finds_no_memory_is_made_in_smaller_parts() {
    let large = SHORT.replace("expansion_factor = 2", "expansion_factor = 64");
    let large = large.replace("eval_fraction = 0.02\neval_max_examples = 1000\n", "");
    let [little, enough] = [(); 2].map(|()| with_jobs(&large, &[("adam", "optimizer='adam'")]));
    let mut command = command(&little, "log", &ON_DEVICE);
    // For the model and one of 2048 latents, and not for the activations of 512 tokens.
    command.env("FAKE_CUDA_MEMORY", "4000000");
    finish(command).succeeds();
    let log = log_of(&little, "log");
    let full: Vec<_> = log.of_kind("full").collect();
    assert!(!full.is_empty(), "there was enough memory");
    for event in full {
        // Or when a kernel is checked, which is then left out.
        let places = ["memory.rs in_parts_that_fit", "check.rs draw"];
        let is_allowed = |caller: &String| places.iter().any(|place| caller.ends_with(place));
        assert!(event.callers.iter().any(is_allowed), "{event}");
    }
    run(&enough, "log", &ON_DEVICE).succeeds();
    let [a, b] = [&little, &enough].map(|workspace| float(&fvus(workspace)[0]["fvu"]));
    assert!((a / b - 1.0).abs() < close(), "{a}, with enough memory {b}");
    check_devices_and_operators(&log);
}

// The device itself

/// What the other tests start, with the name of what it does in this variable.
const PART: &str = "SAE_RUN_TEST_FAKE_CUDA";

/// Starts a process with the device that does what `name` says; its log has that name.
fn part(workspace: &Workspace, name: &str) -> (Outcome, Log) {
    let test = [
        "--exact",
        "fake_cuda::a_process_with_the_device",
        "--nocapture",
    ];
    let mut command = workspace.command_of(&env::current_exe().unwrap(), &test);
    on_fake_devices(&mut command, &workspace.path(name));
    command.env(PART, name);
    (finish(command), Log::read(&workspace.path(name), None))
}

/// No test, but what others start.
#[test]
fn a_process_with_the_device() {
    match env::var(PART).as_deref() {
        Ok("operators") => operators(),
        Ok("fault") => fault(),
        Ok("streams") => streams::mistakes(),
        Ok("memory") => streams::memory(),
        _ => {}
    }
}

fn on(idx: usize) -> Device {
    lm::init_backends();
    Device::Cuda(idx)
}

fn operators() {
    let x = Tensor::from_slice(&[1_f32, 2.0, 3.0, 4.0]).to_device(on(1));
    assert_eq!(x.device(), Device::Cuda(1));
    let elsewhere = [
        Tensor::ones([4], (Kind::Float, on(0))),
        Tensor::ones([4], (Kind::Float, Device::Cpu)),
    ];
    let [other, cpu] = &elsewhere;
    let index = Tensor::from_slice(&[1_i64]);
    let mut written = cpu.copy();
    let refused = [
        x.f_add(other),
        x.f_add(cpu),
        x.f_index_select(0, &index),
        written.f_add_(&x),
    ];
    for refused in refused {
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("all tensors to be on the same device"),
            "{error}"
        );
    }
    // A view shares its memory.
    let _ = x.view([2, 2]).select(0, 1).fill_(7.0);
    assert_eq!(Vec::<f32>::try_from(&x).unwrap(), [1.0, 2.0, 7.0, 7.0]);
    let w = Tensor::ones([3], (Kind::Float, on(1))).set_requires_grad(true);
    (&w * &w).sum(Kind::Float).backward();
    assert_eq!(w.grad().device(), on(1));
    assert_eq!(Vec::<f32>::try_from(w.grad()).unwrap(), [2.0; 3]);
    assert_eq!(x.nonzero().size(), [4, 1]);
    let zeros = Tensor::zeros([4], (Kind::Float, on(1)));
    let _ = zeros.scatter_add(0, &x.zeros_like().to_kind(Kind::Int64), &x);
    // This one does not wait.
    let pinned = cpu.pin_memory(on(1));
    let _ = pinned.to_device_(on(1), Kind::Float, true, false);
}

#[expect(unsafe_code, reason = "the fault is what is tested")]
fn fault() {
    let x = Tensor::ones([4], (Kind::Float, on(1)));
    let address = x.data_ptr().cast::<f32>();
    // SAFETY: no process has memory at this address, so the read ends this one.
    let number = unsafe { address.read_volatile() };
    panic!("the host has read {number}");
}

#[test]
fn the_device_refuses_and_writes_down_what_it_should() {
    let workspace = Workspace::unprepared();
    let (outcome, log) = part(&workspace, "operators");
    outcome.succeeds();
    let what = |kind: &str| {
        log.of_kind(kind)
            .map(|event| event.what.as_str())
            .collect::<Vec<_>>()
    };
    let refused = [
        "aten::add.Tensor",
        "aten::add.Tensor",
        "aten::index_select",
        "aten::add_.Tensor",
    ];
    assert_eq!(what("mismatch"), refused);
    let (up, down) = ("copy to the device", "copy to the host");
    assert_eq!(what("wait"), [up, down, down, "aten::nonzero"]);
    assert_eq!(what("copy"), [up]);
    assert_eq!(what("order"), ["aten::scatter_add"]);

    let (outcome, log) = part(&workspace, "fault");
    assert_eq!(outcome.status.signal(), Some(11), "{outcome}");
    assert!(outcome.stderr.contains("memory of the device"), "{outcome}");
    assert_eq!(log.of_kind("fault").count(), 1);
}

#[test]
fn another_libtorch_is_named_and_several_may_build_at_once() {
    let workspace = Workspace::unprepared();
    workspace.write("torch/version.py", "__version__ = '9.9.9'\n");
    let libtorch = Libtorch::in_folder(&workspace.path("torch"));
    let parent = workspace.path("built");
    let error = build(&LIBRARIES, &libtorch, &parent).unwrap_err();
    for part in [
        "libtorch 9.9.9 in `",
        "must be changed for it",
        "fatal error: ",
    ] {
        assert!(error.contains(part), "no `{part}`: {error}");
    }
    assert_eq!(
        fs::read_dir(&parent).unwrap().count(),
        0,
        "something is left"
    );

    // The driver needs no libtorch.
    let driver = || build(&LIBRARIES[..1], &libtorch, &parent).unwrap();
    let dirs: BTreeSet<_> = thread::scope(|scope| {
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(driver)).collect();
        builds
            .into_iter()
            .map(|build| build.join().unwrap())
            .collect()
    });
    assert_eq!(dirs.len(), 1);
    let [dir] = &fs::read_dir(&parent).unwrap().collect::<Vec<_>>()[..] else {
        panic!("something is left");
    };
    assert!(dirs.contains(&dir.as_ref().unwrap().path()));
    let mut left = fs::read_dir(dirs.first().unwrap()).unwrap();
    assert_eq!(left.next().unwrap().unwrap().file_name(), "libcuda.so.1");
}
