//! Builds the fake device against the libtorch that the tests have loaded, once for each.

use crate::common::text;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// A library: its source, its name, and what it is linked with.
pub(super) type Library = (&'static str, &'static str, &'static [&'static str]);

/// A program looks for the driver first.
pub(super) const LIBRARIES: [Library; 2] = [
    ("driver.cpp", "libcuda.so.1", &[]),
    (
        "fake_cuda.cpp",
        "libtorch_cuda.so",
        &["-ltorch_cpu", "-lc10"],
    ),
];
/// The last one: a function that libtorch lacks is found here, not in a program.
const FLAGS: [&str; 9] = [
    "-std=c++20",
    "-O1",
    "-Wall",
    "-Wextra",
    // Of the kernels, which are CUDA C++.
    "-Wno-unknown-pragmas",
    "-Wno-unused-variable",
    "-shared",
    "-fPIC",
    "-Wl,-z,defs",
];
/// How much of what the compiler says is shown.
const MOST_LINES: usize = 20;

/// The folder of the built libraries.
#[track_caller]
pub(super) fn library() -> &'static Path {
    static LIBRARY: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        build(&LIBRARIES, &Libtorch::loaded(), parent)
    });
    LIBRARY.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// A folder with `lib` and `include`, and its version.
pub(super) struct Libtorch {
    folder: PathBuf,
    version: String,
}

impl Libtorch {
    pub(super) fn in_folder(folder: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        // PyTorch's package has it in version.py, a plain libtorch in build-version.
        let of_package = |text: String| {
            let line = text.lines().find(|line| line.starts_with("__version__"));
            line.map(|line| line.split('\'').nth(1).unwrap_or(line).to_owned())
        };
        let version = read("version.py").and_then(of_package);
        let version = version.or_else(|| Some(read("build-version")?.trim().to_owned()));
        Self {
            folder: folder.into(),
            version: version.unwrap_or_else(|| "of an unknown version".into()),
        }
    }

    /// That of this process, and of the worker.
    fn loaded() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let library = maps.lines().find_map(|line| {
            let path = Path::new(&line[line.find('/')?..]);
            path.ends_with("lib/libtorch_cpu.so").then_some(path)
        });
        let lib = library.and_then(Path::parent).and_then(Path::parent);
        Self::in_folder(lib.expect("this program is linked with libtorch"))
    }
}

/// Builds libraries into a folder within `parent`, if they are not there. The name holds a digest of what
/// they are made from, and the folder gets it when it is complete: several processes may build at once.
pub(super) fn build(
    libraries: &[Library],
    libtorch: &Libtorch,
    parent: &Path,
) -> Result<PathBuf, String> {
    let in_words = |error| format!("the fake CUDA device: {}: {error}", parent.display());
    let dir = parent.join(format!("fake-cuda-{}", digest(libraries, libtorch)));
    if dir.is_dir() {
        return Ok(dir);
    }
    fs::create_dir_all(parent).map_err(in_words)?;
    let unfinished = tempfile::tempdir_in(parent).map_err(in_words)?;
    for library in libraries {
        compile(libtorch, library, unfinished.path())?;
    }
    match fs::rename(unfinished.path(), &dir) {
        Err(error) if !dir.is_dir() => Err(in_words(error)),
        // Or another process was first.
        _ => Ok(dir),
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda/src")
}

/// The kernels, and what runs them on the host.
fn kernels() -> [PathBuf; 2] {
    ["runner/kernels/cuda", "runner/kernels/cuda/emulated"]
        .map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
}

fn digest(libraries: &[Library], libtorch: &Libtorch) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&bytes.len().to_le_bytes()).update(bytes);
    };
    let folders = kernels().into_iter().chain([sources()]);
    let entries = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.into_iter().filter(|path| path.is_file()) {
        add(text(&path).as_bytes());
        add(&fs::read(&path).unwrap());
    }
    add(text(&libtorch.folder).as_bytes());
    add(libtorch.version.as_bytes());
    add(format!("{FLAGS:?} {libraries:?}").as_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

fn compile(
    libtorch: &Libtorch,
    (source, name, linked): &Library,
    into: &Path,
) -> Result<(), String> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    let include = libtorch.folder.join("include");
    let mut command = Command::new(&compiler);
    command.args(FLAGS);
    for include in [&include, &include.join("torch/csrc/api/include")] {
        command.arg("-isystem").arg(include);
    }
    for folder in kernels() {
        command.arg("-I").arg(folder);
    }
    command.arg(sources().join(source));
    command.arg("-o").arg(into.join(name));
    command.arg(format!("-Wl,-soname,{name}"));
    command.arg(format!("-L{}", libtorch.folder.join("lib").display()));
    command.args(*linked);
    let output = command.output().map_err(|error| {
        format!("cannot run `{compiler}` to build the fake CUDA device: {error}")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said.lines().take(MOST_LINES).collect();
    Err(format!(
        "`{compiler}` cannot build the fake CUDA device (tests/fake_cuda/src/{source}) against libtorch {} in `{}`; \
         if that is another version, the device must be changed for it:\n{}",
        libtorch.version,
        libtorch.folder.display(),
        said.join("\n")
    ))
}
