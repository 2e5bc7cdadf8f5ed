//! What can go wrong with a recipe, as the user can mend it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// A recipe that cannot be run, broke a limit, or gave a wrong answer.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// No recipe of that name.
    #[error("there is no recipe `{recipe}`")]
    NotFound {
        /// Name as the sweep has it.
        recipe: String,
        /// Folders that were looked into.
        searched: Vec<PathBuf>,
        /// The built-in recipe that looks most like it.
        nearest: Option<String>,
    },
    /// A file that cannot be read, or a `.py` file that is not UTF-8.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is neither `.py` nor `.wasm`.
    #[error("`{path}` is no recipe: its name ends neither in `.py` nor in `.wasm`")]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// The Python engine is missing.
    #[error("recipe `{recipe}` needs the Python engine, and there is no `{path}`")]
    NoEngine {
        /// The recipe.
        recipe: String,
        /// Where the engine should lie.
        path: PathBuf,
    },
    /// Bytes that are no WebAssembly component.
    #[error("recipe `{recipe}` is not a WebAssembly component")]
    NotAComponent {
        /// The recipe.
        recipe: String,
        /// What the compiler says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A component that wants something from the host.
    #[error("recipe `{recipe}` imports {}, and recipes may import nothing", quoted(.imports))]
    HasImports {
        /// The recipe.
        recipe: String,
        /// Names of its imports.
        imports: Vec<String>,
    },
    /// A component that does not export what a recipe must.
    #[error("recipe `{recipe}` does not export what the world `sae-run:recipe/recipe` asks for")]
    WrongWorld {
        /// The recipe.
        recipe: String,
        /// What is missing or different.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A component of another version of the world.
    #[error("recipe `{recipe}` is of version {version} of `sae-run:recipe`")]
    OtherVersion {
        /// The recipe.
        recipe: String,
        /// Its version.
        version: String,
        /// The version that this program runs.
        supported: &'static str,
    },
    /// A path that leads out of the folders where recipes may lie.
    #[error(
        "recipe `{recipe}` leads to `{path}`, outside the folders of the sweep and the project"
    )]
    OutsideFolders {
        /// The recipe as the sweep has it.
        recipe: String,
        /// The file, with `..` and links resolved.
        path: PathBuf,
    },
    /// The recipe's own error: an exception with file and line for Python.
    #[error("recipe `{recipe}` failed: {message}")]
    Failed {
        /// The recipe.
        recipe: String,
        /// What it says.
        message: String,
    },
    /// It ran for too long.
    #[error("recipe `{recipe}` did not end within {limit} instructions")]
    OutOfFuel {
        /// The recipe.
        recipe: String,
        /// The limit, in wasmtime's fuel.
        limit: u64,
    },
    /// It took too much memory.
    #[error("recipe `{recipe}` wants more than {limit_bytes} bytes of memory")]
    OutOfMemory {
        /// The recipe.
        recipe: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// It recursed too deep.
    #[error("recipe `{recipe}` recursed too deep: its stack of {limit_bytes} bytes is full")]
    StackOverflow {
        /// The recipe.
        recipe: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// Its answer is too long.
    #[error("the answer of recipe `{recipe}` takes more than {limit_bytes} bytes")]
    TooMuchOutput {
        /// The recipe.
        recipe: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// It proposes too many jobs.
    #[error("recipe `{recipe}` proposes {n_jobs} jobs, the limit is {limit}")]
    TooManyJobs {
        /// The recipe.
        recipe: String,
        /// Jobs it proposes.
        n_jobs: usize,
        /// The limit.
        limit: usize,
    },
    /// It trapped without a message of its own.
    #[error("recipe `{recipe}` was stopped: it tried something the sandbox does not have")]
    Trapped {
        /// The recipe.
        recipe: String,
        /// The trap.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Its answer breaks the contract.
    #[error("recipe `{recipe}` gave a wrong answer: {problem}")]
    BadAnswer {
        /// The recipe.
        recipe: String,
        /// Which job, and what is wrong.
        problem: String,
    },
    /// WebAssembly cannot be set up on this machine.
    #[error("cannot set up WebAssembly")]
    NoWebAssembly {
        /// What wasmtime says.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl RecipeError {
    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        let raise = |limit: &str| format!("correct the recipe, or raise `recipe_limits.{limit}`");
        Some(match self {
            Self::NotFound {
                searched, nearest, ..
            } => not_found_hint(searched, nearest.as_deref()),
            Self::NoEngine { .. } => "run `make setup`, which builds the engine".into(),
            Self::HasImports { .. } => {
                "build it without WASI: `componentize-py componentize --stub-wasi`, for example"
                    .into()
            }
            Self::WrongWorld { .. } => "build it against `recipes/wit/recipe.wit`".into(),
            Self::OtherVersion { supported, .. } => format!(
                "build it against `recipes/wit/recipe.wit` of this program, which is {supported}"
            ),
            Self::OutsideFolders { .. } => {
                "copy it next to the sweep, into `recipes`, or into `~/.config/sae-run/recipes`"
                    .into()
            }
            Self::OutOfFuel { .. } => raise("fuel"),
            Self::OutOfMemory { .. } => raise("memory_bytes"),
            Self::TooMuchOutput { .. } => raise("output_bytes"),
            Self::TooManyJobs { .. } => raise("max_jobs"),
            Self::StackOverflow { .. } => "does a function of it call itself without end?".into(),
            Self::Trapped { .. } => "recipes have no files, no network and no clock".into(),
            _ => return None,
        })
    }

    /// True where the recipe or the sweep is to blame, false where it is the machine.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::NoEngine { .. } | Self::NoWebAssembly { .. })
    }
}

fn not_found_hint(searched: &[PathBuf], nearest: Option<&str>) -> String {
    let dirs: Vec<_> = searched
        .iter()
        .map(|dir| match dir.as_os_str().is_empty() {
            true => ".".into(),
            false => dir.display().to_string(),
        })
        .collect();
    let looked = format!("looked into {} and the built-in recipes", quoted(&dirs));
    nearest.map_or(looked.clone(), |nearest| {
        format!("did you mean `{nearest}`? {looked}")
    })
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
