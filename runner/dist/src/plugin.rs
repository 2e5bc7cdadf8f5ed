//! The plug-ins: `shim/plugin.h` in Rust. Each handle is closed when its owner here is dropped.

#![expect(
    unsafe_code,
    reason = "calls through the C ABI of shim/plugin.h; this module is all of it"
)]

use crate::DistError;
use crate::member::Member;
use fault::Fault;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::time::Duration;
use tch::{Device, Tensor};

const ABI: u32 = 3;
const TEXT_BYTES: usize = 2048;

/// What went wrong within a plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) text: String,
}

/// Kinds of failures, as far as c10d's messages tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Timeout,
    Connection,
    AddressInUse,
    Other,
}

#[repr(C)]
struct RawFailure {
    kind: i32,
    text: [c_char; TEXT_BYTES],
}

#[repr(C)]
struct Bytes {
    data: *mut u8,
    len: usize,
}

#[repr(C)]
struct Splits {
    of_output: *const i64,
    of_input: *const i64,
    len: usize,
}

type Handle = *mut c_void;

#[repr(C)]
struct Table {
    abi: u32,
    backend: *const c_char,
    torch_version: *const c_char,
    store_open:
        extern "C" fn(*const c_char, u16, i32, i32, i64, *const c_char, *mut RawFailure) -> Handle,
    store_set: extern "C" fn(Handle, *const c_char, *const u8, usize, *mut RawFailure) -> i32,
    store_get: extern "C" fn(Handle, *const c_char, i64, *mut Bytes, *mut RawFailure) -> i32,
    store_has: extern "C" fn(Handle, *const c_char, *mut i32, *mut RawFailure) -> i32,
    store_close: extern "C" fn(Handle),
    bytes_close: extern "C" fn(Bytes),
    group_open: extern "C" fn(Handle, i32, i32, i64, *const c_char, *mut RawFailure) -> Handle,
    group_close: extern "C" fn(Handle),
    all_reduce: extern "C" fn(Handle, Handle, i64, *mut RawFailure) -> Handle,
    broadcast: extern "C" fn(Handle, Handle, i32, i64, *mut RawFailure) -> Handle,
    all_gather: extern "C" fn(Handle, Handle, Handle, i64, *mut RawFailure) -> Handle,
    all_to_all: extern "C" fn(Handle, Handle, Handle, Splits, i64, *mut RawFailure) -> Handle,
    work_wait: extern "C" fn(Handle, *mut RawFailure) -> i32,
    work_wait_for: extern "C" fn(Handle, i64, *mut i32, *mut RawFailure) -> i32,
    work_is_done: extern "C" fn(Handle) -> i32,
    work_close: extern "C" fn(Handle),
}

/// A plug-in, loaded for the rest of the process.
#[derive(Clone, Copy)]
pub(crate) struct PlugIn(&'static Table);

// SAFETY: the table is constant, and its strings are literals of the library, which is never unloaded.
unsafe impl Send for PlugIn {}
// SAFETY: as above.
unsafe impl Sync for PlugIn {}

impl std::fmt::Debug for PlugIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlugIn({})", self.backend())
    }
}

impl PlugIn {
    /// The one on Gloo.
    pub(crate) fn gloo() -> Result<Self, DistError> {
        static LOADED: OnceLock<Result<PlugIn, String>> = OnceLock::new();
        Self::once(&LOADED, "gloo")
    }

    /// The one for tensors on `device`. For a GPU, libtorch's CUDA half must have been loaded.
    pub(crate) fn of_device(device: Device) -> Result<Self, DistError> {
        static LOADED: OnceLock<Result<PlugIn, String>> = OnceLock::new();
        match device {
            Device::Cuda(_) => Self::once(&LOADED, "nccl"),
            _ => Self::gloo(),
        }
    }

    fn once(
        loaded: &OnceLock<Result<Self, String>>,
        backend: &'static str,
    ) -> Result<Self, DistError> {
        let loaded = loaded.get_or_init(|| load(backend));
        let plugin = loaded.as_ref().map_err(|reason| {
            let message = format!("cannot load the plug-in for {backend}: {reason}");
            Fault::input(message).with_hint(match backend {
                "nccl" => {
                    "`SAE_RUN_TORCH=full make setup` installs the whole package of PyTorch and compiles it"
                }
                _ => "`make setup` compiles it",
            })
        });
        Ok(*plugin?)
    }

    /// `gloo` or `nccl`.
    pub(crate) fn backend(self) -> &'static str {
        // SAFETY: a literal of the plug-in, which is never unloaded.
        unsafe { text_of(self.0.backend) }
    }
}

fn load(backend: &str) -> Result<PlugIn, String> {
    // libtorch must be there before: the plug-in's names are resolved when it is loaded.
    let _ = tch::get_num_threads();
    let folder = folder_of_libtch().ok_or("`libtch.so` is not loaded into this process")?;
    let path = folder.join(format!("libsae_run_dist_{backend}.so"));
    if !path.is_file() {
        return Err(format!("there is no `{}`", path.display()));
    }
    let table = open(&path)?;
    if table.abi != ABI {
        return Err(format!(
            "`{}` is of another version of this program",
            path.display()
        ));
    }
    Ok(PlugIn(table))
}

/// It has the plug-ins for the libtorch of this process, as `runner/setup/libtch.sh` compiles them.
fn folder_of_libtch() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let library = maps.lines().find(|line| line.ends_with("/libtch.so"))?;
    let library = Path::new(&library[library.find('/')?..]);
    library.parent().map(Path::to_path_buf)
}

fn open(path: &Path) -> Result<&'static Table, String> {
    let c_path = CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| format!("`{}` has a zero in its name", path.display()))?;
    // SAFETY: a C string that outlives the call; the library has no initialisers but those of C++.
    let library = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(loader_message());
    }
    // SAFETY: `library` is open, and never closed.
    let symbol = unsafe { libc::dlsym(library, c"sae_run_dist_plugin".as_ptr()) };
    if symbol.is_null() {
        return Err(loader_message());
    }
    // SAFETY: the function of this name has this type in every version of shim/plugin.h, and gives a
    // constant. Its first field is the version, which is looked at before any other.
    unsafe {
        let plugin: extern "C" fn() -> *const Table = std::mem::transmute(symbol);
        Ok(&*plugin())
    }
}

fn loader_message() -> String {
    // SAFETY: null, or a C string that lives until this thread's next call of the loader.
    unsafe {
        let message = libc::dlerror();
        if message.is_null() {
            "the loader gives no reason".into()
        } else {
            CStr::from_ptr(message).to_string_lossy().into_owned()
        }
    }
}

/// # Safety
/// `text` is a C string that is never freed.
unsafe fn text_of(text: *const c_char) -> &'static str {
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }
        .to_str()
        .unwrap_or("unknown")
}

impl RawFailure {
    fn new() -> Self {
        Self {
            kind: 0,
            text: [0; TEXT_BYTES],
        }
    }

    fn into_failure(self) -> Failure {
        let bytes: Vec<u8> = self.text.iter().map(|&byte| byte as u8).collect();
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let kind = match self.kind {
            2 => FailureKind::Timeout,
            3 => FailureKind::Connection,
            4 => FailureKind::AddressInUse,
            _ => FailureKind::Other,
        };
        Failure {
            kind,
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

/// Runs a call that fills a failure if it gives null.
fn made(call: impl FnOnce(*mut RawFailure) -> Handle) -> Result<NonNull<c_void>, Failure> {
    let mut failure = RawFailure::new();
    NonNull::new(call(&raw mut failure)).ok_or_else(|| failure.into_failure())
}

/// Runs a call that fills a failure if it gives another code than 0.
fn done(call: impl FnOnce(*mut RawFailure) -> i32) -> Result<(), Failure> {
    let mut failure = RawFailure::new();
    match call(&raw mut failure) {
        0 => Ok(()),
        _ => Err(failure.into_failure()),
    }
}

fn c_string(text: &str) -> CString {
    let text: Vec<u8> = text.bytes().filter(|&byte| byte != 0).collect();
    CString::new(text).expect("no zero is left in it")
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A tensor as it is passed to the plug-in, which takes its own reference to the tensor's data.
fn handle_of(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

/// A key-value store, as server or client.
#[derive(Debug)]
pub(crate) struct RawStore {
    plugin: PlugIn,
    handle: NonNull<c_void>,
}

// SAFETY: c10d's TCP store locks each of its calls, and nothing in it belongs to a thread.
unsafe impl Send for RawStore {}
// SAFETY: as above.
unsafe impl Sync for RawStore {}

/// What a process does with a store.
#[derive(Debug)]
pub(crate) enum Side {
    /// It connects to one.
    Client,
    /// It serves one, on all interfaces.
    Server,
    /// It serves one on this socket.
    ServerOn(TcpListener),
}

impl RawStore {
    pub(crate) fn open(
        plugin: PlugIn,
        (host, port): (&str, u16),
        side: Side,
        timeout: Duration,
        prefix: &str,
    ) -> Result<Self, Failure> {
        let (host, prefix) = (c_string(host), c_string(prefix));
        let is_server = !matches!(side, Side::Client);
        let listen_fd = match side {
            // c10d closes it with the store.
            Side::ServerOn(socket) => socket.into_raw_fd(),
            _ => -1,
        };
        let handle = made(|failure| {
            let (host, prefix) = (host.as_ptr(), prefix.as_ptr());
            (plugin.0.store_open)(
                host,
                port,
                i32::from(is_server),
                listen_fd,
                millis(timeout),
                prefix,
                failure,
            )
        })?;
        Ok(Self { plugin, handle })
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        let (key, handle) = (c_string(key), self.handle.as_ptr());
        done(|failure| {
            (self.plugin.0.store_set)(handle, key.as_ptr(), value.as_ptr(), value.len(), failure)
        })
    }

    /// Waits until the key is there.
    pub(crate) fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, Failure> {
        let (key, handle) = (c_string(key), self.handle.as_ptr());
        let mut bytes = Bytes {
            data: std::ptr::null_mut(),
            len: 0,
        };
        done(|failure| {
            let bytes = &raw mut bytes;
            (self.plugin.0.store_get)(handle, key.as_ptr(), millis(timeout), bytes, failure)
        })?;
        // SAFETY: the call filled it with an array of that length, which is ours until `bytes_close`.
        let value = unsafe { std::slice::from_raw_parts(bytes.data, bytes.len) }.to_vec();
        (self.plugin.0.bytes_close)(bytes);
        Ok(value)
    }

    pub(crate) fn has(&self, key: &str) -> Result<bool, Failure> {
        let (key, handle) = (c_string(key), self.handle.as_ptr());
        let mut has = 0;
        done(|failure| (self.plugin.0.store_has)(handle, key.as_ptr(), &raw mut has, failure))?;
        Ok(has != 0)
    }
}

impl Drop for RawStore {
    fn drop(&mut self) {
        (self.plugin.0.store_close)(self.handle.as_ptr());
    }
}

/// A process group.
#[derive(Debug)]
pub(crate) struct RawGroup {
    plugin: PlugIn,
    handle: NonNull<c_void>,
    is_left_open: bool,
}

impl RawGroup {
    /// `interface`: the network interface of Gloo, `lo` for this machine alone; empty: its choice.
    pub(crate) fn open(
        plugin: PlugIn,
        store: &RawStore,
        member: Member,
        timeout: Duration,
        interface: &str,
    ) -> Result<Self, Failure> {
        let interface = c_string(interface);
        let (rank, size) = (to_i32(member.rank), to_i32(member.world_size));
        let handle = made(|failure| {
            let (store, interface) = (store.handle.as_ptr(), interface.as_ptr());
            (plugin.0.group_open)(store, rank, size, millis(timeout), interface, failure)
        })?;
        Ok(Self {
            plugin,
            handle,
            is_left_open: false,
        })
    }

    /// Leaves it to the end of the process to close the group.
    pub(crate) fn leave_open(&mut self) {
        self.is_left_open = true;
    }

    pub(crate) fn backend(&self) -> &'static str {
        self.plugin.backend()
    }

    /// Sums `tensor` over all ranks, in place.
    pub(crate) fn all_reduce(
        &self,
        tensor: &Tensor,
        timeout: Option<Duration>,
    ) -> Result<RawWork, Failure> {
        self.begin(timeout, |group, timeout, failure| {
            (self.plugin.0.all_reduce)(group, handle_of(tensor), timeout, failure)
        })
    }

    pub(crate) fn broadcast(
        &self,
        tensor: &Tensor,
        root: usize,
        timeout: Option<Duration>,
    ) -> Result<RawWork, Failure> {
        self.begin(timeout, |group, timeout, failure| {
            (self.plugin.0.broadcast)(group, handle_of(tensor), to_i32(root), timeout, failure)
        })
    }

    pub(crate) fn all_gather(
        &self,
        output: &Tensor,
        input: &Tensor,
        timeout: Option<Duration>,
    ) -> Result<RawWork, Failure> {
        self.begin(timeout, |group, timeout, failure| {
            let (output, input) = (handle_of(output), handle_of(input));
            (self.plugin.0.all_gather)(group, output, input, timeout, failure)
        })
    }

    /// The splits are rows of `output` from each rank, and rows of `input` to each.
    pub(crate) fn all_to_all(
        &self,
        (output, of_output): (&Tensor, &[i64]),
        (input, of_input): (&Tensor, &[i64]),
        timeout: Option<Duration>,
    ) -> Result<RawWork, Failure> {
        assert_eq!(
            of_output.len(),
            of_input.len(),
            "one of each for every rank"
        );
        self.begin(timeout, |group, timeout, failure| {
            let splits = Splits {
                of_output: of_output.as_ptr(),
                of_input: of_input.as_ptr(),
                len: of_output.len(),
            };
            let (output, input) = (handle_of(output), handle_of(input));
            (self.plugin.0.all_to_all)(group, output, input, splits, timeout, failure)
        })
    }

    /// `timeout`: `None`: the group's.
    fn begin(
        &self,
        timeout: Option<Duration>,
        call: impl FnOnce(Handle, i64, *mut RawFailure) -> Handle,
    ) -> Result<RawWork, Failure> {
        let timeout = timeout.map_or(-1, millis);
        let handle = made(|failure| call(self.handle.as_ptr(), timeout, failure))?;
        Ok(RawWork {
            plugin: self.plugin,
            handle,
        })
    }
}

impl Drop for RawGroup {
    fn drop(&mut self) {
        if !self.is_left_open {
            (self.plugin.0.group_close)(self.handle.as_ptr());
        }
    }
}

/// A collective in progress. c10d holds the tensors' memory until it has ended.
#[derive(Debug)]
pub(crate) struct RawWork {
    plugin: PlugIn,
    handle: NonNull<c_void>,
}

impl RawWork {
    /// On a GPU, the device's queue waits and not this thread.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        done(|failure| (self.plugin.0.work_wait)(self.handle.as_ptr(), failure))
    }

    /// Waits no longer than `time` for a work of Gloo. Gives whether it has ended.
    pub(crate) fn wait_for(&self, time: Duration) -> Result<bool, Failure> {
        let mut is_done = 0;
        done(|failure| {
            let handle = self.handle.as_ptr();
            (self.plugin.0.work_wait_for)(handle, millis(time), &raw mut is_done, failure)
        })?;
        Ok(is_done != 0)
    }

    pub(crate) fn is_done(&self) -> bool {
        (self.plugin.0.work_is_done)(self.handle.as_ptr()) != 0
    }
}

impl Drop for RawWork {
    fn drop(&mut self) {
        (self.plugin.0.work_close)(self.handle.as_ptr());
    }
}

fn to_i32(rank: usize) -> i32 {
    i32::try_from(rank).expect("ranks were read as such")
}
