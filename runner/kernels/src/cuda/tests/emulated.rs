//! The kernels as a library for the CPU, made by the C++ compiler.

#![expect(
    unsafe_code,
    reason = "a library is loaded, and its functions get addresses; this module is all of it"
)]

use crate::cuda::{Argument, Launch, source};
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs, process};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/emulated");
const FLAGS: [&str; 9] = [
    "-O2",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    // Results are those of single operations, as the kernels ask for.
    "-ffp-contract=off",
    "-ftls-model=initial-exec",
    // As on a device, numbers of 16 bytes are at multiples of 16.
    "-fsanitize=alignment",
    "-fsanitize-undefined-trap-on-error",
];

type Emulate =
    unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_uint, *mut *mut c_void) -> c_int;
type Reason = unsafe extern "C" fn() -> *const c_char;
type SetOrder = unsafe extern "C" fn(c_int);

/// Runs a kernel to its end.
#[track_caller]
pub(crate) fn run(launch: &Launch) {
    if let Err(why) = try_run(launch) {
        panic!("{}: {why}", launch.kernel);
    }
}

/// The same, with the threads of each block in the opposite order.
#[track_caller]
pub(crate) fn run_backward(launch: &Launch) {
    // SAFETY: it takes a number, and sets it for this thread.
    let order: Symbol<'_, SetOrder> = unsafe { symbol(c"sae_run_emulate_order") };
    unsafe { order(1) };
    let done = try_run(launch);
    unsafe { order(0) };
    if let Err(why) = done {
        panic!("{} backward: {why}", launch.kernel);
    }
}

pub(crate) fn try_run(launch: &Launch) -> Result<(), String> {
    check_arguments(launch);
    let kernel = CString::new(launch.kernel).expect("a name");
    let mut pointers: Vec<_> = launch.arguments.iter().map(Argument::pointer).collect();
    // SAFETY: these are the functions' types in emulated.cpp. The kernel gets arguments of its parameters' types, whose
    // addresses are of arrays that outlive the call; it writes to those that tests gave it by `Array::address`, which
    // borrows them mutably.
    unsafe {
        let emulate: Symbol<'_, Emulate> = symbol(c"sae_run_emulate");
        let reason: Symbol<'_, Reason> = symbol(c"sae_run_emulate_error");
        let Launch {
            grid,
            block,
            shared_bytes,
            ..
        } = *launch;
        if emulate(
            kernel.as_ptr(),
            grid,
            block,
            shared_bytes,
            pointers.as_mut_ptr(),
        ) == 0
        {
            return Ok(());
        }
        Err(CStr::from_ptr(reason()).to_string_lossy().into_owned())
    }
}

/// Panics unless the arguments are of the types that the sources declare.
fn check_arguments(launch: &Launch) {
    static FAULTY: &str = include_str!("../../../cuda/emulated/faulty.cu");
    let sources = source().to_owned() + FAULTY;
    let Some((_, rest)) = sources.split_once(&format!("\n{}(", launch.kernel)) else {
        return;
    };
    let (parameters, _) = rest.split_once(')').expect("parameters end");
    let declared: Vec<&str> = parameters
        .split(',')
        .map(|parameter| match parameter.trim() {
            pointer if pointer.contains('*') => "pointer",
            number => number.split_once(' ').expect("a type and a name").0,
        })
        .collect();
    let given: Vec<&str> = launch
        .arguments
        .iter()
        .map(|argument| match argument {
            Argument::Address(_) => "pointer",
            Argument::I32(_) => "int",
            Argument::I64(_) => "i64",
            Argument::F32(_) => "float",
            Argument::Levels(_) => "Levels",
        })
        .collect();
    assert_eq!(given, declared, "{}", launch.kernel);
}

/// # Safety
/// `T` is its type.
unsafe fn symbol<T>(name: &CStr) -> Symbol<'static, T> {
    static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
        // SAFETY: its initialisers make a map.
        unsafe { Library::new(library()) }.expect("the library can be loaded")
    });
    // SAFETY: as for this function.
    unsafe { LIBRARY.get(name) }.expect("the library has it")
}

/// Makes the library, unless one of the same sources is there.
fn library() -> PathBuf {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut digest = DefaultHasher::new();
    let emulation = ["emulated.hpp", "emulated.cpp", "faulty.cu"];
    let emulation = emulation.map(|name| fs::read_to_string(Path::new(FOLDER).join(name)).unwrap());
    (&compiler, FLAGS, source(), emulation).hash(&mut digest);
    let test = env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let library = folder.join(format!("libsae_run_emulated-{:016x}.so", digest.finish()));
    if library.exists() {
        return library;
    }
    // Others may do the same.
    let made = library.with_extension(process::id().to_string());
    let out = Command::new(&compiler)
        .args(FLAGS)
        .arg(Path::new(FOLDER).join("emulated.cpp"))
        .arg("-o")
        .arg(&made)
        .output()
        .unwrap_or_else(|error| panic!("cannot run `{compiler}`: {error}\nhint: set `CXX`"));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "`{compiler}`: {errors}");
    fs::rename(&made, &library).unwrap();
    library
}
