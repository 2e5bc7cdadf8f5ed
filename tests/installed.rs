//! Programs as a wheel installs them: which PyTorch they find, and what they say of one that does not work.

use crate::common::{Outcome, Workspace, finish, text, tiny_sweep};
use crate::distributed::{sweep, torchrun};
use crate::programs::{libraries, worker};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const COORDINATOR: &str = env!("CARGO_BIN_EXE_sae-run");

/// An environment of Python with the programs, and with the libtch that they were built with. It has no PyTorch.
struct Installation {
    workspace: Workspace,
    /// The folder of the PyTorch that the programs were built with.
    torch: PathBuf,
}

impl Installation {
    fn new() -> Self {
        let workspace = Workspace::with_tiny_sweep();
        let libtch = library("libtch.so");
        let torch = library("libtorch_cpu.so");
        let torch = torch.ancestors().nth(2).unwrap().to_path_buf();
        let installation = Self { workspace, torch };
        installation.environment("env");
        for program in ["sae-run", "sae-run-worker"] {
            let source = Path::new(COORDINATOR).with_file_name(program);
            let target = installation.path("env/bin").join(program);
            // A second name, if both are on one disk.
            if fs::hard_link(&source, &target).is_err() {
                fs::copy(&source, &target).unwrap();
            }
        }
        let libraries = installation.path("env/share/sae-run/libtch");
        fs::create_dir_all(&libraries).unwrap();
        let minor: Vec<_> = installation
            .version()
            .split('.')
            .take(2)
            .map(str::to_owned)
            .collect();
        symlink(libtch.parent().unwrap(), libraries.join(minor.join("."))).unwrap();
        installation
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.workspace.path(relative)
    }

    /// The version of the PyTorch that there is.
    fn version(&self) -> String {
        let module = fs::read_to_string(self.torch.join("version.py")).unwrap();
        let line = module.lines().find(|line| line.starts_with("__version__"));
        line.unwrap().split('\'').nth(1).unwrap().to_owned()
    }

    /// Makes an environment of Python.
    fn environment(&self, name: &str) {
        let made = Command::new("python3")
            .args(["-m", "venv", "--without-pip"])
            .arg(self.path(name))
            .status();
        assert!(made.unwrap().success());
    }

    /// The folder of PyTorch in an environment.
    fn torch_of(&self, environment: &str) -> PathBuf {
        let lib = fs::read_dir(self.path(environment).join("lib")).unwrap();
        let mut lib = lib.map(|entry| entry.unwrap().path());
        let python = lib.find(|path| text(path).contains("python3")).unwrap();
        python.join("site-packages/torch")
    }

    /// Makes an environment of Python that has the PyTorch that there is.
    fn environment_with_torch(&self, name: &str) {
        self.environment(name);
        symlink(&self.torch, self.torch_of(name)).unwrap();
    }

    /// A PyTorch of another version, or with another library, in the programs' environment.
    fn put_torch(&self, version: &str, library: &[u8]) {
        let folder = self.torch_of("env");
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("__init__.py"), "raise ImportError('imported')").unwrap();
        fs::write(
            folder.join("version.py"),
            format!("__version__ = '{version}'\n"),
        )
        .unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), library).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self
            .workspace
            .command_of(&self.path("env/bin/sae-run"), args);
        // A Python without PyTorch.
        command.env("PATH", self.path("env/bin"));
        command.env_remove("LD_LIBRARY_PATH");
        command
    }

    fn doctor(&self, variables: &[(&str, &Path)]) -> Outcome {
        let mut command = self.command(&["doctor"]);
        command.envs(variables.iter().copied());
        finish(command)
    }

    /// `doctor` finds the PyTorch that there is, and says where.
    #[track_caller]
    fn finds(&self, variables: &[(&str, &Path)], place: &str) {
        let outcome = self.doctor(variables).succeeds();
        let version = format!("libtorch   {} ({}", self.version(), text(&self.torch));
        assert!(outcome.stdout.contains(&version), "{outcome}");
        assert!(
            outcome.stdout.contains(&format!("found in   {place}")),
            "{outcome}"
        );
    }
}

/// Where the loader finds a library of the worker.
fn library(name: &str) -> PathBuf {
    let listed = libraries(&worker());
    let line = listed.iter().find(|line| line.starts_with(name));
    let path = line.and_then(|line| line.split_whitespace().nth(2));
    PathBuf::from(path.unwrap_or_else(|| panic!("no {name} in {listed:?}")))
}

#[test]
fn pytorch_is_found_in_the_order_that_the_docs_name() {
    let it = Installation::new();
    let on_path = it.path("python/bin");
    it.environment_with_torch("python");
    it.finds(&[("PATH", &on_path)], "`python3` on PATH");
    for variable in ["CONDA_PREFIX", "VIRTUAL_ENV"] {
        it.environment_with_torch(variable);
        let active = it.path(variable);
        it.finds(&[("PATH", &on_path), (variable, &active)], variable);
    }
    symlink(&it.torch, it.torch_of("env")).unwrap();
    let active = it.path("VIRTUAL_ENV");
    it.finds(&[("VIRTUAL_ENV", &active)], "the environment of `sae-run`");
    for named in [it.torch.clone(), active.clone(), active.join("bin/python3")] {
        it.finds(
            &[("SAE_RUN_LIBTORCH", &named)],
            "what SAE_RUN_LIBTORCH names",
        );
    }
}

/// conda has PyTorch's libraries, and those that they need, in one folder of the environment.
#[test]
fn the_libraries_may_be_in_the_folder_of_the_environment() {
    let it = Installation::new();
    it.environment("conda");
    let torch = it.torch_of("conda");
    fs::create_dir(&torch).unwrap();
    for name in ["__init__.py", "version.py"] {
        symlink(it.torch.join(name), torch.join(name)).unwrap();
    }
    for folder in [
        it.torch.join("lib"),
        it.torch.with_file_name("nvidia/cu13/lib"),
    ] {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let library = entry.unwrap();
            let link = it.path("conda/lib").join(library.file_name());
            symlink(library.path(), link).unwrap();
        }
    }
    let outcome = it.doctor(&[("CONDA_PREFIX", &it.path("conda"))]).succeeds();
    let library = it.path("conda/lib/libtorch_cpu.so");
    assert!(
        outcome.stdout.contains("found in   CONDA_PREFIX"),
        "{outcome}"
    );
    let real = library.canonicalize().unwrap();
    let is_named = [library, real]
        .iter()
        .any(|path| outcome.stdout.contains(text(path)));
    assert!(is_named, "{outcome}");
}

#[test]
fn a_sweep_trains_on_the_pytorch_that_it_names() {
    let it = Installation::new();
    it.environment_with_torch("other");
    let named = format!("launch.libtorch={}", text(&it.path("other")));
    let args = ["tiny.toml", "--set", &named];
    finish(it.command(&args)).succeeds();
    let status = it.workspace.sql("SELECT DISTINCT status FROM job");
    assert_eq!(status, [json!({"status": "done"})]);

    let settings = format!("[launch]\nlibtorch = \"{}\"\n", text(&it.path("other")));
    it.workspace
        .write("home/.config/sae-run/sae-run.toml", &settings);
    it.finds(&[], "what launch.libtorch names");
}

/// A sweep and the settings next to it may come from anyone.
#[test]
fn no_file_from_elsewhere_names_what_is_loaded() {
    let workspace = Workspace::with_tiny_sweep();
    let settings = "[launch]\nlibtorch = \"evil\"\n";
    workspace.write("sae-run.toml", settings);
    let refused = [
        "sae-run.toml:2",
        "`launch.libtorch` in this file would run a library",
    ];
    for args in [&["tiny.toml"][..], &["ls"]] {
        workspace
            .run(args)
            .refuses(&refused)
            .hints("SAE_RUN_LIBTORCH");
    }
    fs::remove_file(workspace.path("sae-run.toml")).unwrap();
    workspace.write("evil.toml", tiny_sweep().replace("[launch]\n", settings));
    let refused = [
        "evil.toml:",
        "`launch.libtorch` in this file would run a library",
    ];
    for args in [&["evil.toml"][..], &["plan", "evil.toml"]] {
        workspace.run(args).refuses(&refused);
    }
}

/// The launcher may have another PyTorch, whose libraries the loader would mix with these.
#[test]
fn torchrun_is_started_without_the_workers_libraries() {
    let Some(torchrun) = torchrun() else { return };
    let it = Installation::new();
    it.environment_with_torch("other");
    let launch = "launcher = 'torchrun'\nnproc_per_node = 2\nretries = 0";
    it.workspace.write("tiny.toml", sweep(2, launch));
    let mut command = it.command(&["tiny.toml"]);
    let path = format!("{}:/usr/bin:/bin", text(&it.path("env/bin")));
    command
        .env("PATH", path)
        .env("SAE_RUN_TORCHRUN", torchrun)
        .env("VIRTUAL_ENV", it.path("other"));
    finish(command).succeeds();
    let status = it.workspace.sql("SELECT DISTINCT status FROM job");
    assert_eq!(status, [json!({"status": "done"})]);
}

#[test]
fn without_pytorch_all_places_are_named() {
    let it = Installation::new();
    // Python would import it, as it is in the current folder.
    symlink(&it.torch, it.path("torch")).unwrap();
    let outcome = it.doctor(&[("CONDA_PREFIX", &it.path("env"))]);
    let outcome = outcome.refuses(&[
        "there is no PyTorch in the environment of `sae-run`",
        "CONDA_PREFIX",
    ]);
    assert!(
        outcome.stdout.contains("libtorch   none that works"),
        "{outcome}"
    );
    outcome.hints("pip install 'torch==2.");
    // What needs no worker does without.
    finish(it.command(&["recipes"])).succeeds();
}

#[test]
fn a_pytorch_that_does_not_work_is_named() {
    let it = Installation::new();
    it.put_torch("2.9.1+cu128", b"");
    it.doctor(&[])
        .refuses(&[
            "PyTorch 2.9.1+cu128 in",
            "not one that this program runs on: 2.",
        ])
        .hints("SAE_RUN_LIBTORCH");
    let version = it.version();
    let library = fs::read(it.torch.join("lib/libc10.so")).unwrap();
    let mut of_arm = library.clone();
    of_arm[18] = 183;
    for (library, why) in [
        (&b""[..], "cannot read"),
        (&[0; 64], "is damaged"),
        (&of_arm, "is not for x86-64"),
        (&library, "cannot be loaded"),
    ] {
        it.put_torch(&version, library);
        it.doctor(&[]).refuses(&[why, &version]).hints("install");
    }
    // No second attempt ends better.
    it.put_torch(&version, &library);
    let sweep = finish(it.command(&["tiny.toml"])).refuses(&["127", "sae-run-worker"]);
    sweep.hints("install PyTorch again");
    assert_eq!(it.workspace.sql_value("SELECT count(*) FROM attempt"), 1);
    it.put_torch(&version, &library[..1000]);
    let outcome = it.doctor(&[]).exits(1);
    outcome.remarks(&["ended without an answer", &version]);
    let no_torch = it.path("home");
    it.doctor(&[("SAE_RUN_LIBTORCH", &no_torch)])
        .refuses(&["SAE_RUN_LIBTORCH names", "there is no PyTorch"])
        .hints("an environment that has PyTorch");
}

#[test]
fn a_program_from_source_does_not_choose() {
    let workspace = Workspace::unprepared();
    workspace
        .run_with(&[("SAE_RUN_LIBTORCH", "/opt/torch")], &["doctor"])
        .refuses(&["was built from source", "/opt/torch"])
        .hints("make setup");
}
