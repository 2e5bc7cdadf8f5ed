//! The sources, compiled for each generation of cards by the compiler that users have. It needs no GPU.

#![expect(
    unsafe_code,
    reason = "NVRTC is a C library; this module is all that calls it"
)]

use crate::cuda::source;
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::Mutex;
use std::{env, ptr, thread};

const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];
const BUILTINS: &str = "libnvrtc-builtins.so.13.0";
const NVRTC: &str = "libnvrtc.so.13";

/// Of one kernel, as `ptxas -v` tells it.
struct Usage {
    kernel: String,
    registers: u32,
    spilled_bytes: u32,
}

type Create = unsafe extern "C" fn(
    *mut *mut c_void,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;

/// `SAE_RUN_NVRTC`, or where pip puts it beside torch.
fn folder() -> PathBuf {
    let named = env::var_os("SAE_RUN_NVRTC").map(PathBuf::from);
    let beside_torch = || {
        let torch = PathBuf::from(env::var_os("LIBTORCH")?);
        Some(torch.parent()?.join("nvidia/cu13/lib"))
    };
    let folder = named.or_else(beside_torch).unwrap_or_default();
    assert!(
        folder.join(NVRTC).exists(),
        "there is no {NVRTC} in `{}`\nhint: run `make setup`, or set `SAE_RUN_NVRTC` to its folder",
        folder.display()
    );
    folder
}

/// The library of builtins first: NVRTC looks for it by name, and takes the one that is loaded.
fn load() -> [Library; 2] {
    let folder = folder();
    // SAFETY: these libraries are made to be loaded this way.
    [BUILTINS, NVRTC].map(|name| unsafe { Library::new(folder.join(name)) }.unwrap())
}

/// Gives the log, and the size of the machine code.
fn compile(nvrtc: &Library, source: &CStr, architecture: &str) -> (String, usize) {
    let options = [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        "--ptxas-options=-v".to_owned(),
    ];
    let options = options.map(|option| CString::new(option).unwrap());
    let options = options.each_ref().map(|option| option.as_ptr());
    // SAFETY: these are the functions' types in nvrtc.h; the strings outlive the calls, and a log is read into as many
    // bytes as it is said to have.
    unsafe {
        let create: Symbol<'_, Create> = nvrtc.get(c"nvrtcCreateProgram").unwrap();
        let compile: Symbol<'_, Compile> = nvrtc.get(c"nvrtcCompileProgram").unwrap();
        let log_size: Symbol<'_, Size> = nvrtc.get(c"nvrtcGetProgramLogSize").unwrap();
        let log: Symbol<'_, Read> = nvrtc.get(c"nvrtcGetProgramLog").unwrap();
        let cubin_size: Symbol<'_, Size> = nvrtc.get(c"nvrtcGetCUBINSize").unwrap();
        let destroy: Symbol<'_, Destroy> = nvrtc.get(c"nvrtcDestroyProgram").unwrap();
        let mut program = ptr::null_mut();
        let name = c"sae-run.cu".as_ptr();
        let (none, no_names) = (ptr::null(), ptr::null());
        let created = create(&mut program, source.as_ptr(), name, 0, none, no_names);
        assert_eq!(created, 0, "a program is made");
        let compiled = compile(program, options.len() as c_int, options.as_ptr());
        let mut n_bytes = 0;
        assert_eq!(log_size(program, &mut n_bytes), 0);
        let mut bytes = vec![0u8; n_bytes];
        assert_eq!(log(program, bytes.as_mut_ptr().cast()), 0);
        let text = CStr::from_bytes_until_nul(&bytes)
            .unwrap()
            .to_string_lossy();
        assert_eq!(compiled, 0, "{architecture}: {text}");
        let mut n_code_bytes = 0;
        assert_eq!(cubin_size(program, &mut n_code_bytes), 0);
        assert_eq!(destroy(&mut program), 0);
        (text.into_owned(), n_code_bytes)
    }
}

/// The number before words.
fn number_before(line: &str, words: &str) -> Option<u32> {
    let before = line.split_once(words)?.0.trim_end();
    before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            usages.push(Usage {
                kernel: rest.split('\'').next().unwrap().to_owned(),
                registers: 0,
                spilled_bytes: 0,
            });
        }
        let Some(usage) = usages.last_mut() else {
            continue;
        };
        let spilled =
            ["bytes spill stores", "bytes spill loads"].map(|words| number_before(line, words));
        usage.spilled_bytes += spilled.into_iter().flatten().sum::<u32>();
        if let Some(registers) = number_before(line, "registers") {
            usage.registers = registers;
        }
    }
    usages
}

#[test]
fn every_kernel_compiles_for_every_card_and_spills_nothing() {
    let libraries = load();
    let source = CString::new(source()).unwrap();
    let n_kernels = source.to_string_lossy().matches("\nKERNEL(").count();
    let next = Mutex::new(ARCHITECTURES.iter());
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..n_threads.min(ARCHITECTURES.len()) {
            scope.spawn(|| {
                loop {
                    let Some(architecture) = next.lock().unwrap().next() else {
                        return;
                    };
                    let (log, n_bytes) = compile(&libraries[1], &source, architecture);
                    report(architecture, &log, n_kernels);
                    assert!(n_bytes > 0, "{architecture}: no machine code");
                }
            });
        }
    });
}

#[track_caller]
fn report(architecture: &str, log: &str, n_kernels: usize) {
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("warning"))
        .collect();
    assert!(warnings.is_empty(), "{architecture}: {log}");
    let usages = usages(log);
    assert_eq!(usages.len(), n_kernels, "{architecture}: {log}");
    for usage in &usages {
        let Usage {
            kernel,
            registers,
            spilled_bytes,
        } = usage;
        println!(
            "{architecture:7} {kernel:18} {registers:3} registers, {spilled_bytes} bytes spilled"
        );
        assert!(*registers > 0, "{architecture}: {log}");
        assert_eq!(*spilled_bytes, 0, "{architecture}, {kernel}");
    }
}
