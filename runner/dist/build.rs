//! Has `shim/compile.sh` compile the plug-ins, shared libraries that are loaded when a process group is made.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=shim");
    for name in ["CXX", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let lib = PathBuf::from(var("DEP_TCH_LIBTORCH_LIB"));
    let mut command = Command::new("shim/compile.sh");
    command.arg(lib.with_file_name("")).arg(var("OUT_DIR"));
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{said}");
    for header in String::from_utf8_lossy(&output.stdout).lines() {
        println!("cargo::rerun-if-changed={header}");
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for this build script"))
}
