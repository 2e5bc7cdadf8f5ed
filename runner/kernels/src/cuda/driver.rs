//! An NVIDIA GPU that the kernels run on: compiled for it once, and started on the stream that libtorch uses.
//!
//! Nothing of CUDA is needed to build or to start this program: the driver and the compiler are loaded when a
//! GPU is asked for.

#![expect(
    unsafe_code,
    reason = "calls of CUDA's driver, which has a C ABI; with `compiler.rs`, this is all of it"
)]

use super::card::{Capability, Card, Unusable};
use super::compiler::{self, Folders};
use super::{Argument, Launch};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUevent, CUevent_flags, CUfunction,
    CUfunction_attribute, CUmodule,
};
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Below this compute capability there is no product in bfloat16, and ours were never compiled.
const LEAST_CAPABILITY: Capability = Capability { major: 8, minor: 0 };

/// A GPU with the kernels on it.
#[derive(Debug)]
pub struct Device {
    card: Card,
    context: CUcontext,
    module: CUmodule,
    functions: Mutex<HashMap<&'static str, Function>>,
    /// What did not go as it should, but keeps no kernel from being used.
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Function(CUfunction);

// SAFETY: handles of the driver may be used from any thread, in the context that is set before each use.
unsafe impl Send for Function {}
// SAFETY: as above; what changes is within a mutex.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// The GPU number `index`, in libtorch's counting, with the kernels compiled for it.
    ///
    /// # Errors
    /// No driver or an old one, an old GPU, no compiler.
    pub fn open(index: usize, folders: &Folders) -> Result<Self, Unusable> {
        // SAFETY: it loads the driver's library, which is made for that.
        if !unsafe { sys::is_culib_present() } {
            return Err(Unusable("there is no NVIDIA driver".into()));
        }
        result::init().map_err(failed("start"))?;
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let device = result::device::get(ordinal).map_err(failed("give the GPU"))?;
        let card = Card::of(device)?;
        if card.capability < LEAST_CAPABILITY {
            return Err(Unusable(format!(
                "{} has compute capability {}, and they need {LEAST_CAPABILITY}",
                card.name, card.capability
            )));
        }
        // SAFETY: the device was just given. libtorch uses the same context; it is never released here.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(failed("give the GPU's context"))?;
        set_current(context)?;
        let (module, notes) = compiled(card.capability, folders)?;
        Ok(Self {
            card,
            context,
            module,
            functions: Mutex::default(),
            notes,
        })
    }

    /// What the driver says of it.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// What did not go as it should, but keeps no kernel from being used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a block of it has the memory that `launch` needs.
    pub fn has_memory_for(&self, launch: &Launch) -> bool {
        launch.shared_bytes <= self.card.shared_bytes
    }

    /// Starts a kernel after all work of the same device that was started before; nothing is waited for.
    ///
    /// # Errors
    /// The driver refuses it.
    ///
    /// # Safety
    /// The addresses are those of memory of this device, as large as the kernel's sizes say, which stays
    /// until the kernel has ended; until then, nothing else uses what it writes to.
    pub unsafe fn start(&self, launch: &Launch) -> Result<(), Unusable> {
        set_current(self.context)?;
        let Function(function) = self.function(launch.kernel)?;
        let mut arguments: Vec<_> = launch.arguments.iter().map(Argument::pointer).collect();
        // SAFETY: the arguments are of the kernel's kinds, as `launches/` makes them, and the caller vouches for
        // what they point at. The null stream is libtorch's: nothing in this program sets another.
        let started = unsafe {
            result::launch_kernel(
                function,
                (launch.grid, 1, 1),
                (launch.block, 1, 1),
                launch.shared_bytes,
                result::stream::null(),
                &mut arguments,
            )
        };
        started.map_err(failed(&format!("start `{}`", launch.kernel)))
    }

    /// The end of all work that was started so far.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn mark(&self) -> Result<Mark, Unusable> {
        set_current(self.context)?;
        let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let mark = Mark {
            event: event.map_err(failed("make an event"))?,
            context: self.context,
        };
        // SAFETY: the event was just made, and the null stream is libtorch's.
        unsafe { result::event::record(mark.event, result::stream::null()) }
            .map_err(failed("record an event"))?;
        Ok(mark)
    }

    fn function(&self, name: &'static str) -> Result<Function, Unusable> {
        let functions = self.functions.lock();
        let mut functions = functions.unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let c_name = CString::new(name).expect("names of kernels have no zero");
        // SAFETY: the module is loaded, and never unloaded.
        let function = unsafe { result::module::get_function(self.module, c_name) };
        let function = function.map_err(failed(&format!("give the kernel `{name}`")))?;
        // SAFETY: the function was just given.
        let allowed = unsafe { allow_memory(function, self.card.shared_bytes) };
        allowed.map_err(failed(&format!("give memory to `{name}`")))?;
        functions.insert(name, Function(function));
        Ok(Function(function))
    }
}

/// A point in the work of a device.
#[derive(Debug)]
pub struct Mark {
    event: CUevent,
    context: CUcontext,
}

impl Mark {
    /// Returns when the device was there. Work that was started later may still run.
    ///
    /// # Errors
    /// The work before it failed.
    pub fn wait(&self) -> Result<(), Unusable> {
        set_current(self.context)?;
        // SAFETY: the event was made with the mark, and recorded.
        unsafe { result::event::synchronize(self.event) }.map_err(failed("wait for an event"))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if set_current(self.context).is_ok() {
            // SAFETY: the event was made with the mark, and nothing uses it later. Of a failure nothing follows.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Lets a block ask for all shared memory that is left beside the kernel's own arrays.
///
/// # Safety
/// The function belongs to a loaded module.
unsafe fn allow_memory(function: CUfunction, most: u32) -> Result<(), DriverError> {
    use CUfunction_attribute::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
    };
    // SAFETY: as this function's.
    unsafe {
        let own = result::function::get_function_attribute(
            function,
            CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        )?;
        let most = c_int::try_from(most).unwrap_or(c_int::MAX) - own;
        result::function::set_function_attribute(
            function,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            most,
        )
    }
}

/// The kernels for GPUs of this capability, on the GPU whose context is set; and notes.
fn compiled(
    capability: Capability,
    folders: &Folders,
) -> Result<(CUmodule, Vec<String>), Unusable> {
    let cached = compiler::cached(capability, folders.cache.as_deref());
    if let Some(module) = cached.and_then(|cubin| load(&cubin).ok()) {
        return Ok((module, Vec::new()));
    }
    let cubin = compiler::compile(capability, folders)?;
    let module = load(&cubin).map_err(failed("load what was compiled"))?;
    let kept = |cache: &Path| compiler::keep(capability, cache, &cubin);
    let notes = folders.cache.as_deref().map(kept).and_then(Result::err);
    Ok((module, notes.into_iter().collect()))
}

fn load(cubin: &[u8]) -> Result<CUmodule, DriverError> {
    // SAFETY: the driver reads the image as far as its own header says. It was made by the compiler here, or read
    // whole from our cache folder, with its digest.
    unsafe { result::module::load_data(cubin.as_ptr().cast()) }
}

fn set_current(context: CUcontext) -> Result<(), Unusable> {
    // SAFETY: the context is retained for the life of the process.
    unsafe { result::ctx::set_current(context) }.map_err(failed("use the GPU's context"))
}

impl Card {
    fn of(device: CUdevice) -> Result<Self, Unusable> {
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
        };
        let attribute = |attribute| {
            // SAFETY: the device was given by the driver.
            let number = unsafe { result::device::get_attribute(device, attribute) };
            let number = number.map_err(failed("describe the GPU"))?;
            Ok(u32::try_from(number).unwrap_or(0))
        };
        let mut driver = 0;
        // SAFETY: the driver writes a number to a place for one.
        let version = unsafe { sys::cuDriverGetVersion(&raw mut driver) };
        version.result().map_err(failed("give its version"))?;
        Ok(Self {
            name: result::device::get_name(device).map_err(failed("name the GPU"))?,
            capability: Capability {
                major: attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                minor: attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            },
            driver: u32::try_from(driver).unwrap_or(0),
            n_multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        })
    }
}

/// What the driver could not do.
fn failed(doing: &str) -> impl FnOnce(DriverError) -> Unusable {
    move |error| {
        let name = error.error_name().map(|name| name.to_string_lossy());
        let name = name.unwrap_or_else(|_| "an unknown error".into());
        Unusable(format!("the NVIDIA driver cannot {doing} ({name})"))
    }
}
