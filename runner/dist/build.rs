//! Compiles the plug-ins, shared libraries that are loaded when a process group is made: the one on Gloo
//! always, the one on NCCL if CUDA's headers are next to libtorch, as they are with the whole package
//! of PyTorch.

use std::env;
use std::path::{Path, PathBuf};

/// A plug-in: its source, and what it needs besides libtorch's CPU half.
struct PlugIn<'a> {
    name: &'static str,
    define: &'static str,
    includes: Vec<PathBuf>,
    libraries: &'a [&'static str],
}

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let lib = PathBuf::from(var("DEP_TCH_LIBTORCH_LIB"));
    let gloo = PlugIn {
        name: "gloo",
        define: "-DUSE_C10D_GLOO",
        includes: vec!["shim/stubs".into()],
        libraries: &[],
    };
    gloo.compile(&lib);
    let Some(includes) = cuda_includes(&lib) else {
        return;
    };
    let nccl = PlugIn {
        name: "nccl",
        define: "-DUSE_C10D_NCCL",
        includes,
        libraries: &["-ltorch_cuda", "-lc10_cuda"],
    };
    nccl.compile(&lib);
}

impl PlugIn<'_> {
    fn compile(&self, lib: &Path) {
        let include = lib.with_file_name("include");
        let mut command = compiler().to_command();
        command
            .args([
                "-std=c++20",
                "-O1",
                "-shared",
                "-fPIC",
                "-fvisibility=hidden",
            ])
            .arg(self.define);
        let of_torch = [include.clone(), include.join("torch/csrc/api/include")];
        for folder in self.includes.iter().chain(&of_torch) {
            command.arg("-isystem").arg(folder);
        }
        let output =
            PathBuf::from(var("OUT_DIR")).join(format!("libsae_run_dist_{}.so", self.name));
        command
            .arg(format!("shim/{}.cpp", self.name))
            .arg("-o")
            .arg(&output)
            .arg(format!("-L{}", lib.display()))
            .args(self.libraries)
            .args(["-ltorch_cpu", "-lc10"])
            // For use without the program around it; the program has loaded libtorch by then.
            .arg(format!("-Wl,-rpath,{}", lib.display()));
        let status = command.status();
        let status = status.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        assert!(status.success(), "{command:?} failed");
    }
}

fn compiler() -> cc::Tool {
    // The optimisation is set above: without it the headers' inline functions are slow and large.
    cc::Build::new()
        .cpp(true)
        .opt_level(1)
        .debug(false)
        .warnings(false)
        .get_compiler()
}

/// The folders with CUDA's headers, of the packages that PyTorch's comes with and of the two that it
/// does not name (`nvidia-cuda-crt`, `nvidia-cuda-cccl`); or those of a CUDA toolkit.
fn cuda_includes(lib: &Path) -> Option<Vec<PathBuf>> {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let packages = lib.parent()?.with_file_name("nvidia");
    let mut folders = vec![
        packages.join("cu13/include"),
        packages.join("cu13/include/cccl"),
        packages.join("nccl/include"),
    ];
    if let Ok(home) = env::var("CUDA_HOME") {
        folders.extend(["include", "include/cccl"].map(|folder| Path::new(&home).join(folder)));
    }
    let find = |header: &&str| {
        let files = folders.iter().map(|folder| folder.join(header));
        files.into_iter().find(|file| file.is_file())
    };
    // One of each package.
    let needed = [
        "cuda_runtime.h",
        "crt/host_defines.h",
        "nv/target",
        "nccl.h",
        "cublas_v2.h",
        "cusparse.h",
        "cusolverDn.h",
    ];
    let found: Vec<_> = needed.iter().filter_map(find).collect();
    for header in &found {
        println!("cargo::rerun-if-changed={}", header.display());
    }
    (found.len() == needed.len()).then_some(folders)
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for this build script"))
}
