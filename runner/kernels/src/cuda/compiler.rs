//! The kernels' compiler, NVRTC, which PyTorch's packages for CUDA bring along; and what it made before.

#![expect(
    unsafe_code,
    reason = "calls of NVRTC, which has a C ABI; with `driver.rs`, this is all of it"
)]

use super::driver::{Capability, Unusable};
use cudarc::nvrtc::{result, sys};
use files::OutputFile;
use libloading::Library;
use std::env;
use std::ffi::{CString, c_char};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Folder with NVRTC, if it is not where PyTorch has it.
const FOLDER_VARIABLE: &str = "SAE_RUN_NVRTC";
/// Characters of the compiler's messages that are shown.
const MOST_OF_LOG: usize = 2000;

/// Where to look for files, and where to put them.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// That with libtorch's libraries: NVIDIA's are near it.
    pub libtorch: Option<PathBuf>,
    /// Folder of the cache: compiled kernels go into `kernels/` there.
    pub cache: Option<PathBuf>,
}

/// What was compiled before for this capability, if it is whole.
pub(super) fn cached(capability: Capability, cache: Option<&Path>) -> Option<Vec<u8>> {
    let bytes = fs::read(path_in(cache?, capability)).ok()?;
    let (digest, cubin) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(cubin).as_bytes() == digest).then(|| cubin.to_vec())
}

/// Keeps it for the next start; the error says what could not be done.
pub(super) fn keep(capability: Capability, cache: &Path, cubin: &[u8]) -> Result<(), String> {
    let path = path_in(cache, capability);
    let write = || -> io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(cache))?;
        let mut file = OutputFile::create(&path)?;
        file.write_all(blake3::hash(cubin).as_bytes())?;
        file.write_all(cubin)?;
        file.finish()
    };
    write().map_err(|error| {
        format!(
            "cannot keep the compiled kernels in `{}` ({error}): each start compiles them again",
            path.display()
        )
    })
}

/// The name holds all that they are made from.
fn path_in(cache: &Path, capability: Capability) -> PathBuf {
    let digest = blake3::hash(super::source().as_bytes()).to_hex();
    let architecture = architecture(capability);
    cache.join(format!("kernels/{architecture}-{}.cubin", &digest[..16]))
}

fn architecture(Capability { major, minor }: Capability) -> String {
    format!("sm_{major}{minor}")
}

/// Compiles the kernels for GPUs of this capability.
pub(super) fn compile(capability: Capability, folders: &Folders) -> Result<Vec<u8>, Unusable> {
    load_nvrtc(folders)?;
    let source = CString::new(super::source()).expect("the sources have no zero");
    let program = result::create_program(&source, Some(c"sae_run_kernels.cu"));
    let program = Program(program.map_err(|error| failed("begin", error))?);
    let options = [
        format!("--gpu-architecture={}", architecture(capability)),
        "--std=c++17".to_owned(),
    ];
    // SAFETY: the program was just made.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    compiled.map_err(|error| {
        let Unusable(message) = failed("compile them", error);
        Unusable(format!("{message}: {}", program.log()))
    })?;
    program.cubin()
}

/// A program of NVRTC, until it is dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program is there.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\0').trim();
        text.chars().take(MOST_OF_LOG).collect()
    }

    fn cubin(&self) -> Result<Vec<u8>, Unusable> {
        let mut n_bytes = 0;
        // SAFETY: the program is there, and NVRTC writes a size to a place for one.
        let sized = unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut n_bytes) };
        sized.result().map_err(|error| failed("give them", error))?;
        let mut cubin = vec![0u8; n_bytes];
        // SAFETY: NVRTC writes as many bytes as it said.
        let given = unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast::<c_char>()) };
        given.result().map_err(|error| failed("give them", error))?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made, and nobody has it any more. There is no use for what this may say.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn failed(doing: &str, error: result::NvrtcError) -> Unusable {
    Unusable(format!(
        "CUDA's compiler NVRTC cannot {doing} ({:?})",
        error.0
    ))
}

/// Loads NVRTC and its other half from where they are; later they are found by their names.
fn load_nvrtc(folders: &Folders) -> Result<(), Unusable> {
    for folder in folders.nvrtc() {
        // The builtins first: NVRTC opens them by name.
        for prefix in ["libnvrtc-builtins.so.", "libnvrtc.so."] {
            for path in files_with_prefix(&folder, prefix) {
                // SAFETY: NVIDIA's libraries are made to be loaded this way.
                if let Ok(library) = unsafe { Library::new(&path) } {
                    // For the rest of the process.
                    std::mem::forget(library);
                }
            }
        }
    }
    // SAFETY: as above.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Unusable(format!(
        "CUDA's compiler NVRTC was not found: install the package `nvidia-cuda-nvrtc` next to PyTorch, or name \
         the folder of `libnvrtc.so` in {FOLDER_VARIABLE}"
    )))
}

impl Folders {
    /// Where NVRTC can be: the folder that is named, or those of NVIDIA's packages next to PyTorch's.
    fn nvrtc(&self) -> Vec<PathBuf> {
        if let Some(folder) = env::var_os(FOLDER_VARIABLE) {
            return vec![folder.into()];
        }
        let Some(libtorch) = &self.libtorch else {
            return Vec::new();
        };
        let packages = libtorch.join("../../nvidia");
        let of_packages = fs::read_dir(packages).into_iter().flatten().flatten();
        let libs = of_packages.map(|package| package.path().join("lib"));
        // A plain libtorch has it among its own.
        libs.chain([libtorch.clone()]).collect()
    }
}

fn files_with_prefix(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.path());
    let begins = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix) && !name.contains(".alt."))
    };
    let mut paths: Vec<_> = names.filter(begins).collect();
    paths.sort();
    paths
}
