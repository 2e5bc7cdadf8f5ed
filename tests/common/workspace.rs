//! A separate folder for a test.

use super::{Outcome, Running, fixture, small_sweep, text, tiny_sweep};
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::SystemTime;
use tempfile::TempDir;

/// Files by their path: when each was written, and its bytes.
pub(crate) type Files = BTreeMap<String, (SystemTime, Vec<u8>)>;

/// Variables of a test that `sae-run` sees, too: where programs are, and what `make test-processors` and
/// `make test-torch` set.
const KEPT: [&str; 14] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LLVM_PROFILE_FILE",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "SAE_RUN_CPU_CAPABILITY",
    "SAE_RUN_KERNELS",
    "OMP_NUM_THREADS",
    "TZ",
    "LANG",
    "LC_ALL",
];

/// The recipe engine is compiled before the first test.
static COMPILED: LazyLock<()> = LazyLock::new(|| {
    let workspace = Workspace::unprepared();
    workspace.write("tiny.toml", tiny_sweep());
    workspace.run(&["plan", "tiny.toml"]).succeeds();
});

/// A folder where a test runs `sae-run`, which sees none of the user's settings.
pub(crate) struct Workspace {
    dir: TempDir,
}

impl Workspace {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        // So that no test sees the remark that it takes a while.
        LazyLock::force(&COMPILED);
        Self::unprepared()
    }

    /// An empty folder for what does not ask a recipe.
    pub(crate) fn unprepared() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Self { dir };
        // Its own tokens and digests; the recipe engine is compiled once, for `make demo`, too.
        let compiled = cache_of_setup().join("wasm");
        fs::create_dir_all(&compiled).unwrap();
        fs::create_dir(workspace.path("cache")).unwrap();
        symlink(compiled, workspace.path("cache/wasm")).unwrap();
        workspace
    }

    /// A folder with `tiny.toml`: [`tiny_sweep`].
    pub(crate) fn with_tiny_sweep() -> Self {
        let workspace = Self::new();
        workspace.write("tiny.toml", tiny_sweep());
        workspace
    }

    /// A folder with `tiny.toml`: [`small_sweep`].
    pub(crate) fn with_small_sweep() -> Self {
        let workspace = Self::new();
        workspace.write("tiny.toml", small_sweep());
        workspace
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Copies the tiny model into the folder `to`.
    pub(crate) fn write_model(&self, to: &str) {
        for name in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            let bytes = fs::read(fixture("tiny-llama").join(name)).unwrap();
            self.write(&format!("{to}/{name}"), bytes);
        }
    }

    /// `sae-run` with `args`, in this folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_sae-run")), args)
    }

    /// Another program with `args`, in this folder.
    pub(crate) fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        let kept = KEPT.map(|name| (name, env::var_os(name)));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(
                kept.into_iter()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("HOME", self.path("home"))
            // No test asks the real Hub, not even by a mistyped name.
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .env("SAE_RUN_CACHE", self.path("cache"))
            .env("SAE_RUN_ENGINE", engine())
            .stdin(Stdio::null());
        command
    }

    /// Runs `sae-run` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        finish(self.command(args))
    }

    /// Runs `sae-run` to its end, with variables.
    pub(crate) fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Outcome {
        let mut command = self.command(args);
        command.envs(variables.iter().copied());
        finish(command)
    }

    /// Starts `sae-run`.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(
            self.command(args),
            self.path("stdout.txt"),
            self.path("stderr.txt"),
        )
    }

    /// The rows of a query, as objects.
    #[track_caller]
    pub(crate) fn sql(&self, statement: &str) -> Vec<Value> {
        let outcome = self.run(&["sql", "--json", statement]).succeeds();
        outcome.listed("rows")
    }

    /// The only value of a query's only row.
    #[track_caller]
    pub(crate) fn sql_value(&self, statement: &str) -> Value {
        let rows = self.sql(statement);
        match rows.as_slice() {
            [Value::Object(row)] if row.len() == 1 => row.values().next().unwrap().clone(),
            other => panic!("{other:?}"),
        }
    }

    /// All files below a folder of this one, by their path in it; empty if there is no such folder. What
    /// goes while we look, as a worker's unfinished files do, is left out.
    pub(crate) fn files(&self, below: &str) -> Files {
        let root = self.path(below);
        let mut files = Files::new();
        let mut folders: Vec<_> = root.is_dir().then(|| root.clone()).into_iter().collect();
        while let Some(folder) = folders.pop() {
            for entry in there(fs::read_dir(&folder)).into_iter().flatten() {
                let entry = entry.unwrap();
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file()
                    && let (Some(metadata), Some(bytes)) =
                        (there(entry.metadata()), there(fs::read(&path)))
                {
                    let name = text(path.strip_prefix(&root).unwrap()).to_owned();
                    files.insert(name, (metadata.modified().unwrap(), bytes));
                }
            }
        }
        files
    }

    /// What the jobs of sweep `tiny` have left for others: the files of their folders.
    pub(crate) fn trained(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files("runs/tiny");
        let visible = files.into_iter().filter(|(path, _)| !path.starts_with('.'));
        visible.map(|(path, (_, bytes))| (path, bytes)).collect()
    }

    /// The folder of sweep `tiny`'s only stream.
    pub(crate) fn stream_dir(&self) -> PathBuf {
        let streams = fs::read_dir(self.path("runs/tiny/.streams")).unwrap();
        let streams: Vec<_> = streams.map(|entry| entry.unwrap().path()).collect();
        match streams.as_slice() {
            [stream] => stream.clone(),
            other => panic!("not one stream: {other:?}"),
        }
    }

    /// What the workers of sweep `tiny` have reported so far, stream by stream.
    pub(crate) fn events(&self) -> Vec<Value> {
        let files = self.files("runs/tiny/.streams");
        let logs = files
            .into_iter()
            .filter(|(path, _)| path.ends_with("/events.jsonl"));
        let text: Vec<u8> = logs.flat_map(|(_, (_, text))| text).collect();
        let whole = text.split_inclusive(|&byte| byte == b'\n');
        let whole = whole.filter(|line| line.ends_with(b"\n"));
        whole
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("what is printed is UTF-8");
    Outcome {
        status: output.status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// The recipe engine that `make setup` has built.
fn engine() -> PathBuf {
    let given = folder("SAE_RUN_ENGINE");
    let engine = given.unwrap_or_else(|| recipe::engine_path(&cache_of_setup()));
    let missing = "is missing; `make setup` builds it";
    assert!(engine.is_file(), "{} {missing}", engine.display());
    engine
}

/// The folder that `make setup` fills.
fn cache_of_setup() -> PathBuf {
    let user_cache = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let cache = folder("SAE_RUN_CACHE").or_else(|| Some(user_cache()?.join("sae-run")));
    cache.expect("there is a home folder")
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// `None`: it is gone.
fn there<T>(found: io::Result<T>) -> Option<T> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found.unwrap()),
    }
}
