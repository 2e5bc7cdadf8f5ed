//! Where PyTorch is looked for: in environments of Python, which are asked where they have it.

use crate::error::CliError;
use crate::installed;
use crate::sweep::paths::Folders;
use plan::TorchVersion;
use std::env;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Prints the folder of PyTorch without importing it. The current folder is not looked at.
const ASK: &str = "\
import sys
sys.path = [folder for folder in sys.path if folder]
from importlib.util import find_spec
spec = find_spec('torch')
print(spec.submodule_search_locations[0] if spec and spec.origin else '')
";
/// The half of libtorch that every machine needs.
const LIBRARY: &str = "libtorch_cpu.so";
/// How a library for x86-64 begins: ELF, 64 bit, little endian; and its field `e_machine`.
const ELF_64: &[u8] = b"\x7fELF\x02\x01";
const MACHINE_AT: usize = 18;
const X86_64: [u8; 2] = [62, 0];

/// Where PyTorch may be.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// What the user names: PyTorch's folder, an environment, or a Python.
    Named { by: &'static str, path: PathBuf },
    /// The environment that this program is installed in.
    Own { python: PathBuf },
    /// The environment that a variable says is active.
    Active {
        variable: &'static str,
        python: PathBuf,
    },
    /// The Python on PATH.
    OnPath,
    /// What `make setup` installs.
    OfSetup { python: PathBuf },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { by, path } => write!(f, "what {by} names, `{}`", path.display()),
            Self::Own { python } => {
                write!(f, "the environment of `sae-run`, `{}`", python.display())
            }
            Self::Active { variable, python } => write!(f, "{variable}, `{}`", python.display()),
            Self::OnPath => write!(f, "`python3` on PATH"),
            Self::OfSetup { python } => write!(f, "that of `make setup`, `{}`", python.display()),
        }
    }
}

/// A PyTorch, and where it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) torch: Torch,
    pub(super) place: Place,
}

impl Found {
    pub(super) fn describe(&self) -> String {
        let Torch { folder, version } = &self.torch;
        format!(
            "PyTorch {version} in `{}` ({})",
            folder.display(),
            self.place
        )
    }
}

/// PyTorch's package, or an archive of libtorch.
#[derive(Debug)]
pub(super) struct Torch {
    folder: PathBuf,
    pub(super) version: TorchVersion,
}

/// The places where PyTorch is looked for, in this order. What the user names is the only one.
pub(super) fn places(named: Option<Place>) -> Vec<Place> {
    if let Some(named) = named {
        return vec![named];
    }
    let own = installed::program().ok();
    let own = own.and_then(|program| python_in(program.parent()?));
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].map(|variable| {
        let folder = env::var_os(variable).filter(|folder| !folder.is_empty())?;
        let python = python_in(&Path::new(&folder).join("bin"))?;
        Some(Place::Active { variable, python })
    });
    let of_setup = Folders::of_this_machine().ok();
    let of_setup = of_setup.and_then(|folders| python_in(&folders.cache.join("venv/bin")));
    let mut places = vec![own.map(|python| Place::Own { python })];
    places.extend(active);
    places.push(Some(Place::OnPath));
    places.push(of_setup.map(|python| Place::OfSetup { python }));
    places.into_iter().flatten().collect()
}

impl Place {
    /// The PyTorch that is there.
    ///
    /// # Errors
    /// The user names something that is not there, or has no PyTorch.
    pub(super) fn torch(&self) -> Result<Option<Found>, CliError> {
        let torch = match self {
            Self::Named { by, path } => Some(of_named(by, path)?),
            Self::Own { python } | Self::Active { python, .. } | Self::OfSetup { python } => {
                of_python(python)
            }
            Self::OnPath => of_python(Path::new("python3")),
        };
        Ok(torch.map(|torch| Found {
            torch,
            place: self.clone(),
        }))
    }
}

fn of_named(by: &str, path: &Path) -> Result<Torch, CliError> {
    let python = if path.is_file() {
        Some(path.to_path_buf())
    } else {
        python_in(&path.join("bin"))
    };
    let torch = Torch::in_folder(path).or_else(|| of_python(&python?));
    torch.ok_or_else(|| {
        CliError::input(format!("{by} names `{}`, but there is no PyTorch in it", path.display())).with_hint(
            "name the folder of PyTorch's package (it has `version.py` and `lib`), an environment that has PyTorch, \
             or its `python3`"
                .to_owned(),
        )
    })
}

/// The Pythons in which users may have packages: that of the environment of this program, of the active one, and on PATH.
pub(crate) fn pythons() -> Vec<PathBuf> {
    let pythons = places(None).into_iter().filter_map(|place| match place {
        Place::Own { python } | Place::Active { python, .. } => Some(python),
        Place::OnPath => Some("python3".into()),
        Place::Named { .. } | Place::OfSetup { .. } => None,
    });
    pythons.collect()
}

/// The Python in a folder of programs.
fn python_in(bin: &Path) -> Option<PathBuf> {
    let names = ["python3", "python"].map(|name| bin.join(name));
    names.into_iter().find(|path| path.is_file())
}

/// The PyTorch that a Python would import; `None` if there is no such Python, or it has none.
fn of_python(python: &Path) -> Option<Torch> {
    let mut command = Command::new(python);
    command
        .args(["-c", ASK])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command.output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    // What a site's own start-up code prints comes before.
    let folder = folder.lines().last().filter(|folder| !folder.is_empty())?;
    Torch::in_folder(Path::new(folder))
}

impl Torch {
    fn in_folder(folder: &Path) -> Option<Self> {
        let version = TorchVersion::in_folder(folder)?;
        let folder = folder.to_path_buf();
        Some(Self { folder, version })
    }

    /// The folder of its libraries. conda has them in that of the environment.
    pub(super) fn lib(&self) -> PathBuf {
        let own = self.folder.join("lib");
        let of_environment = self.folder.ancestors().nth(3).map(Path::to_path_buf);
        match of_environment {
            Some(lib) if !own.join(LIBRARY).exists() && lib.join(LIBRARY).exists() => lib,
            _ => own,
        }
    }

    /// Looks at how its library begins.
    ///
    /// # Errors
    /// It is not there, or not for this kind of processor.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let path = self.lib().join(LIBRARY);
        let mut start = [0; MACHINE_AT + X86_64.len()];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut start));
        let why = match read {
            Err(error) => format!("cannot read `{}`: {error}", path.display()),
            Ok(()) if !start.starts_with(ELF_64) => format!("`{}` is damaged", path.display()),
            Ok(()) if start[MACHINE_AT..] != X86_64 => {
                format!("`{}` is not for x86-64 processors", path.display())
            }
            Ok(()) => return Ok(()),
        };
        let Self { folder, version } = self;
        Err(CliError::environment(format!(
            "PyTorch {version} in `{}` cannot be used: {why}",
            folder.display()
        ))
        .with_hint("install it again: `pip install --force-reinstall torch`".to_owned()))
    }
}
