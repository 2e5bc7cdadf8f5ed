//! The kernels' compiler, NVRTC, which PyTorch's packages for CUDA bring along; and what it made before.

#![expect(
    unsafe_code,
    reason = "calls of NVRTC, which has a C ABI; with `driver.rs`, this is all of it"
)]

use super::card::{Capability, Unusable};
use cudarc::nvrtc::{result, sys};
use files::{code_folders, open_code, own_code_folder, write_code};
use libloading::Library;
use std::env;
use std::ffi::{CString, c_char};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folder with NVRTC, if it is not where PyTorch has it.
const FOLDER_VARIABLE: &str = "SAE_RUN_NVRTC";
/// The folder in the cache, for compiled kernels and what is known of them.
pub const FOLDER: &str = "kernels";
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

/// What was compiled before for this capability, if it is whole and only this user can have written it.
pub(super) fn cached(capability: Capability, cache: Option<&Path>) -> Option<Vec<u8>> {
    let mut folders = code_folders(cache?, FOLDER).into_iter();
    let mut file = folders.find_map(|folder| open_code(&folder.join(name_of(capability))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let (digest, cubin) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(cubin).as_bytes() == digest).then(|| cubin.to_vec())
}

/// Keeps it for the next start; the error says what could not be done.
pub(super) fn keep(capability: Capability, cache: &Path, cubin: &[u8]) -> Result<(), String> {
    let cannot = |reason: &str| {
        format!(
            "cannot keep the compiled kernels in `{}` ({reason}): each start compiles them again",
            cache.display()
        )
    };
    let folder = own_code_folder(cache, FOLDER)
        .ok_or_else(|| cannot("no folder there is this user's alone"))?;
    let bytes = [blake3::hash(cubin).as_bytes(), cubin].concat();
    write_code(&folder.join(name_of(capability)), &bytes)
        .map_err(|error| cannot(&error.to_string()))
}

/// It holds all that they are made from.
fn name_of(capability: Capability) -> String {
    let digest = blake3::hash(super::source().as_bytes()).to_hex();
    format!("{}-{}.cubin", architecture(capability), &digest[..16])
}

fn architecture(Capability { major, minor }: Capability) -> String {
    format!("sm_{major}{minor}")
}

/// Compiles the kernels for GPUs of this capability.
pub(super) fn compile(capability: Capability, folders: &Folders) -> Result<Vec<u8>, Unusable> {
    compile_with(capability, &[], folders).map(|(cubin, _)| cubin)
}

/// The same with further options; and what the compiler said.
pub(super) fn compile_with(
    capability: Capability,
    further: &[&str],
    folders: &Folders,
) -> Result<(Vec<u8>, String), Unusable> {
    load_nvrtc(folders)?;
    let source = CString::new(super::source()).expect("the sources have no zero");
    let program = result::create_program(&source, Some(c"sae_run_kernels.cu"));
    let program = Program(program.map_err(|error| failed("begin", error))?);
    let architecture = format!("--gpu-architecture={}", architecture(capability));
    let options = [&[architecture.as_str(), "--std=c++17"], further].concat();
    // SAFETY: the program was just made.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    compiled.map_err(|error| {
        let Unusable(message) = failed("compile them", error);
        let log: String = program.log().chars().take(MOST_OF_LOG).collect();
        Unusable(format!("{message}: {log}"))
    })?;
    Ok((program.cubin()?, program.log()))
}

/// A program of NVRTC, until it is dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program is there.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).collect();
        let text = String::from_utf8_lossy(&bytes);
        text.trim_end_matches('\0').trim().to_owned()
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
        // SAFETY: it was made, and is used no more. There is no use for what this may say.
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
