//! The kernels of a GPU, opened once a process: each is checked there, and used where it is faster than libtorch.

use super::check::{Rejection, check, time_all};
use super::cuda::{self, Opened};
use super::kernel::Kernel;
use super::slices::{Choice, choice};
use files::{OutputFile, bound, own_code_folder};
use kernels::cuda::{Card, FOLDER, Folders, Unusable};
use plan::UpdateShape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::Device;

/// How long the measurements of a shape may take.
const MOST_TIME: Duration = Duration::from_secs(2);

/// The kernels on a GPU.
#[derive(Debug)]
pub struct GpuKernels {
    device: Device,
    opened: &'static Opened,
    memory: Memory,
    /// Where that is kept.
    path: Option<PathBuf>,
}

/// What is remembered of a GPU, its driver and these kernels.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Memory {
    /// By the kernel's name.
    checks: BTreeMap<String, Option<Rejection>>,
    /// Seconds of kernels and of libtorch's operations, by shape.
    seconds: BTreeMap<String, BTreeMap<String, [f64; 2]>>,
}

/// What is known of a kernel on a GPU.
#[derive(Clone, Debug)]
pub struct CheckedKernel {
    /// Which.
    pub kernel: Kernel,
    /// Why it cannot be used.
    pub rejection: Option<Rejection>,
    /// Its seconds, and those of libtorch's operations, at a shape that was measured.
    pub seconds: Option<[f64; 2]>,
}

impl GpuKernels {
    /// Opens the kernels on the GPU `device`, and holds each to libtorch's operations there, unless that was done
    /// before. None is in use then. `libtorch`: its version.
    ///
    /// # Errors
    /// They cannot be used on this machine.
    pub fn open(device: Device, folders: &Folders, libtorch: &str) -> Result<Self, Unusable> {
        let Device::Cuda(index) = device else {
            return Err(Unusable("it is not an NVIDIA GPU".into()));
        };
        let opened = cuda::open(index, folders)?;
        let own = |cache| own_code_folder(cache, FOLDER);
        let path = folders.cache.as_deref().and_then(own);
        let path = path.map(|folder| folder.join(name_of(opened.gpu().card(), libtorch)));
        let memory = path.as_deref().and_then(Memory::read).unwrap_or_default();
        let mut kernels = Self {
            device,
            opened,
            memory,
            path,
        };
        kernels.check_all();
        Ok(kernels)
    }

    /// The GPU.
    pub fn card(&self) -> &Card {
        self.opened.gpu().card()
    }

    /// What did not go as it should, but keeps no kernel from being used.
    pub fn notes(&self) -> &[String] {
        self.opened.gpu().notes()
    }

    fn check_all(&mut self) {
        let n_known = self.memory.checks.len();
        for kernel in Kernel::ALL {
            let name = kernel.name().to_owned();
            let checked = || check(kernel, self.opened, self.device).err();
            self.memory.checks.entry(name).or_insert_with(checked);
        }
        if self.memory.checks.len() > n_known {
            self.remember();
        }
    }

    fn is_sound(&self, kernel: Kernel) -> bool {
        matches!(self.memory.checks.get(kernel.name()), Some(None))
    }

    /// Uses those that an earlier start used, `before`, or those that are faster than libtorch's operations at this
    /// shape; and no kernel that computes something else. `SAE_RUN_KERNELS=own` takes all others, `aten` none.
    pub fn choose(&mut self, shape: UpdateShape, before: Option<&[String]>) {
        let named: Vec<Kernel> = match (choice(), before) {
            (Choice::Aten, _) => Vec::new(),
            (Choice::Own, _) => Kernel::ALL.to_vec(),
            (_, Some(names)) => Kernel::with_names(names),
            (_, None) => self.faster(shape),
        };
        self.use_only(&named);
    }

    /// Uses those of these that compute what libtorch does, and no others.
    pub fn use_only(&self, kernels: &[Kernel]) {
        for kernel in Kernel::ALL {
            let is_used = kernels.contains(&kernel) && self.is_sound(kernel);
            self.opened.set_used(kernel, is_used);
        }
    }

    fn faster(&mut self, shape: UpdateShape) -> Vec<Kernel> {
        self.measure(shape);
        let seconds = self.memory.seconds.get(&shape.to_string());
        let is_faster = |kernel: &Kernel| {
            let seconds = seconds.and_then(|seconds| seconds.get(kernel.name()));
            seconds.is_some_and(|[ours, theirs]| ours < theirs)
        };
        Kernel::ALL.into_iter().filter(is_faster).collect()
    }

    /// Measures those that compute what libtorch does, unless that was done before.
    pub fn measure(&mut self, shape: UpdateShape) {
        let key = shape.to_string();
        if self.memory.seconds.contains_key(&key) {
            return;
        }
        let sound = Kernel::ALL
            .into_iter()
            .filter(|kernel| self.is_sound(*kernel));
        let seconds = time_all(sound, self.opened, (shape, self.device), MOST_TIME);
        let by_name = seconds
            .into_iter()
            .map(|(kernel, seconds)| (kernel.name().to_owned(), seconds));
        self.memory.seconds.insert(key, by_name.collect());
        self.remember();
    }

    /// Those in use.
    pub fn in_use(&self) -> Vec<Kernel> {
        let used = |kernel: &Kernel| self.opened.uses(*kernel);
        Kernel::ALL.into_iter().filter(used).collect()
    }

    /// All of them, with what was measured at `shape`.
    pub fn all(&self, shape: UpdateShape) -> Vec<CheckedKernel> {
        let seconds = self.memory.seconds.get(&shape.to_string());
        let of_kernel = |kernel: Kernel| CheckedKernel {
            kernel,
            rejection: self.memory.checks.get(kernel.name()).cloned().flatten(),
            seconds: seconds.and_then(|seconds| seconds.get(kernel.name()).copied()),
        };
        Kernel::ALL.into_iter().map(of_kernel).collect()
    }

    /// For the next start. Where that cannot be written, it is found out again.
    fn remember(&self) {
        let Some(path) = &self.path else { return };
        let mut memory = self.memory.clone();
        // Another time there may be enough.
        memory
            .checks
            .retain(|_, check| !check.as_ref().is_some_and(Rejection::is_of_memory));
        let text = serde_json::to_vec(&memory).expect("plain fields serialise to JSON");
        let write = || -> std::io::Result<()> {
            let mut file = OutputFile::create(path)?;
            file.write_all(&text)?;
            file.finish()
        };
        let _ = write();
    }
}

impl Memory {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&files::read(path, bound::OWN).ok()?).ok()
    }
}

/// A name for all that decides on checks and times.
fn name_of(card: &Card, libtorch: &str) -> String {
    let names = Kernel::ALL.map(Kernel::name).join(" ");
    let source = kernels::cuda::source();
    let text = format!("{card:?} {libtorch} {names} {source}");
    let digest = blake3::hash(text.as_bytes()).to_hex();
    format!("{}.json", &digest[..16])
}
