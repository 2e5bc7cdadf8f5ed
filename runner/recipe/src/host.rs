//! The host: one wasmtime engine, the Python engine component, the cache.

use crate::error::raise;
use crate::guest::Guest;
use crate::limits::MAX_STACK_BYTES;
use crate::source::Code;
use crate::{Limits, Recipe, RecipeError, cache, convert};
use fault::Fault;
use files::bound;
use plan::{Description, PlanRequest, PlanResponse, RecipeIdentity};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

/// Everything the Python engine is built from, as `runner/setup/setup.sh` hashes it.
const ENGINE_INPUTS: [&str; 3] = [
    include_str!("../../../recipes/wit/recipe.wit"),
    include_str!("../../../recipes/engine/app.py"),
    include_str!("../../../recipes/engine/requirements.txt"),
];

/// Where a host finds its parts, and what recipes may use.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Compiled components are kept below it, in `wasm/`, or in the user's own folder if others can
    /// write to that; `None`: compile every time.
    pub cache_dir: Option<PathBuf>,
    /// The Python engine component; read when a Python recipe is first run.
    pub engine_path: PathBuf,
    /// What one call of a recipe may use.
    pub limits: Limits,
}

/// Where `make setup` puts the Python engine of this version of the program.
pub fn engine_path(cache_dir: &Path) -> PathBuf {
    let file = engine_name() + ".wasm";
    cache_dir.join("engine").join(file)
}

/// Where an installation has it, compiled.
pub fn compiled_engine_path(folder: &Path) -> PathBuf {
    folder.join(engine_name() + "." + COMPILED)
}

/// It holds a hash of the engine's sources, so an engine of another version is never used by mistake and several
/// versions can share a cache folder.
fn engine_name() -> String {
    let mut hasher = Sha256::new();
    for text in ENGINE_INPUTS {
        hasher.update(text);
    }
    let digest = hasher.finalize();
    let short: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("python-engine-{short}")
}

/// The kind of machine that installations are for.
const ANY: &str = "x86_64-unknown-linux-gnu";

/// The extension of a compiled component.
pub(crate) const COMPILED: &str = "cwasm";

/// Compiles a component for any processor of this machine's kind: without what only newer ones can do.
///
/// # Errors
/// `bytes` are not a component.
pub fn compile_for_any(bytes: &[u8]) -> Result<Vec<u8>, RecipeError> {
    let mut config = config(&Limits::default());
    let compiled = config
        // A target that is named is not looked at for what it can do.
        .target(ANY)
        .and_then(|config| Engine::new(config))
        .and_then(|engine| engine.precompile_component(bytes));
    compiled.map_err(|source| {
        Fault::input("the component cannot be compiled")
            .because(source)
            .into()
    })
}

/// Runs recipes.
pub struct Host {
    engine: Engine,
    options: HostOptions,
    python: Mutex<Option<Component>>,
}

impl Host {
    /// Sets wasmtime up. Nothing is read or compiled yet.
    ///
    /// # Errors
    /// This machine cannot run WebAssembly.
    pub fn new(options: HostOptions) -> Result<Self, RecipeError> {
        let engine = Engine::new(&config(&options.limits))
            .map_err(|source| Fault::internal("cannot set up WebAssembly").because(source))?;
        Ok(Self {
            engine,
            options,
            python: Mutex::new(None),
        })
    }

    /// What the recipe says about itself. A Python recipe is not run for it.
    ///
    /// # Errors
    /// As `plan`.
    pub fn describe(&self, recipe: &Recipe) -> Result<Description, RecipeError> {
        let component = self.component(recipe)?;
        let guest = Guest::new(&self.engine, &component, recipe, &self.options.limits)?;
        Ok(convert::description(guest.describe()?))
    }

    /// The jobs that the recipe proposes, and what makes the plan replayable.
    ///
    /// # Errors
    /// No engine; not a component, or one with imports or of another world; the recipe's own error; a
    /// limit reached; an answer that breaks the contract (overrides that are not a JSON object, names
    /// that are empty or not unique).
    pub fn plan(
        &self,
        recipe: &Recipe,
        request: &PlanRequest,
    ) -> Result<(PlanResponse, RecipeIdentity), RecipeError> {
        let component = self.component(recipe)?;
        let guest = Guest::new(&self.engine, &component, recipe, &self.options.limits)?;
        let (response, fuel) = guest.plan(&convert::request(request))?;
        let (n_jobs, limit) = (response.jobs.len(), self.options.limits.max_jobs);
        if n_jobs > limit {
            let name = recipe.name();
            return Err(Fault::input(format!(
                "recipe `{name}` proposes {n_jobs} jobs, the limit is {limit}"
            ))
            .with_hint(raise("max_jobs"))
            .into());
        }
        let response = convert::response(response, self.options.limits.max_nesting);
        let response = response.map_err(|problem| {
            let name = recipe.name();
            Fault::input(format!("recipe `{name}` gave a wrong answer: {problem}"))
        })?;
        Ok((response, identity(recipe, request, fuel)))
    }

    /// False when the next call for `recipe` must first compile for 10 to 25 s. The Python engine that is
    /// found compiled is kept for that call.
    ///
    /// # Errors
    /// No engine.
    pub fn is_compiled(&self, recipe: &Recipe) -> Result<bool, RecipeError> {
        let cache_dir = self.cache_dir();
        match recipe.code() {
            Code::Component(bytes) => {
                let digest = cache::digest_of(bytes);
                Ok(cache::is_compiled(&self.engine, cache_dir, &digest))
            }
            Code::Python(_) => {
                let mut python = self.python();
                if python.is_none() {
                    *python = self.compiled_engine(recipe)?;
                }
                Ok(python.is_some())
            }
        }
    }

    /// A compiled component that is passed over because others than this user can write to it or to its folder: it
    /// would be run as it is there.
    ///
    /// # Errors
    /// No engine.
    pub fn distrusted(&self, recipe: &Recipe) -> Result<Option<PathBuf>, RecipeError> {
        let cache_dir = self.cache_dir();
        Ok(match recipe.code() {
            Code::Component(bytes) => {
                cache::distrusted(&self.engine, cache_dir, &cache::digest_of(bytes))
            }
            Code::Python(_) if self.is_installed() => None,
            Code::Python(_) => {
                cache::distrusted(&self.engine, cache_dir, &self.engine_digest(recipe)?)
            }
        })
    }

    fn component(&self, recipe: &Recipe) -> Result<Component, Fault> {
        match recipe.code() {
            Code::Component(bytes) => self.compile(recipe, (&cache::digest_of(bytes), bytes)),
            Code::Python(_) => {
                // Held while compiling, so that threads do not do it twice.
                let mut python = self.python();
                if let Some(component) = &*python {
                    return Ok(component.clone());
                }
                let component = match self.compiled_engine(recipe)? {
                    Some(component) => component,
                    None => {
                        let digest = self.engine_digest(recipe)?;
                        self.compile(recipe, (&digest, &self.read_engine(recipe)?))?
                    }
                };
                Ok(python.insert(component).clone())
            }
        }
    }

    /// The Python engine, if it need not be compiled.
    fn compiled_engine(&self, recipe: &Recipe) -> Result<Option<Component>, Fault> {
        if !self.is_installed() {
            let digest = self.engine_digest(recipe)?;
            return Ok(cache::load(&self.engine, self.cache_dir(), &digest));
        }
        let path = self.engine_path(recipe)?;
        let loaded = cache::load_installed(&self.engine, path);
        loaded.map(Some).map_err(|source| {
            let path = path.display();
            Fault::internal(format!("the Python engine `{path}` cannot be used"))
                .because(source)
                .with_hint("install sae-run again")
        })
    }

    /// Whether the engine is that of an installation, which is compiled.
    fn is_installed(&self) -> bool {
        let extension = self.options.engine_path.extension();
        extension.is_some_and(|extension| extension == COMPILED)
    }

    fn python(&self) -> std::sync::MutexGuard<'_, Option<Component>> {
        self.python.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache_dir(&self) -> Option<&Path> {
        self.options.cache_dir.as_deref()
    }

    fn compile(&self, recipe: &Recipe, source: (&str, &[u8])) -> Result<Component, Fault> {
        cache::compile(&self.engine, self.cache_dir(), source).map_err(|source| {
            let name = recipe.name();
            Fault::input(format!("recipe `{name}` is not a WebAssembly component")).because(source)
        })
    }

    fn read_engine(&self, recipe: &Recipe) -> Result<Vec<u8>, Fault> {
        let path = self.engine_path(recipe)?;
        files::read(path, bound::ENGINE).map_err(Fault::io("read", path))
    }

    fn engine_digest(&self, recipe: &Recipe) -> Result<String, Fault> {
        cache::digest_of_file(self.cache_dir(), self.engine_path(recipe)?)
    }

    fn engine_path(&self, recipe: &Recipe) -> Result<&Path, Fault> {
        let path = &self.options.engine_path;
        if path.exists() {
            Ok(path)
        } else {
            Err(Fault::internal(format!(
                "recipe `{}` needs the Python engine, and there is no `{}`",
                recipe.name(),
                path.display()
            ))
            .with_hint("run `make setup`, which builds the engine"))
        }
    }
}

/// Settings under which equal requests give equal answers, on every machine.
fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // A guest's first memory is copied, not mapped: the kernel refuses to seal the file that such a map is of
        // (EBUSY) while it moves the file's pages, as it does under load.
        .memory_init_cow(false)
        // Guests run on the host's stack, of which a thread has 2 MiB by default.
        .max_wasm_stack(limits.stack_bytes.min(MAX_STACK_BYTES));
    config
}

fn identity(recipe: &Recipe, request: &PlanRequest, fuel: u64) -> RecipeIdentity {
    // Not `plan::digest_json`, which sorts keys: their order in `[vary]` matters to a recipe.
    let request = serde_json::to_vec(request).expect("plain data serialises to JSON");
    RecipeIdentity {
        recipe: recipe.name().into(),
        recipe_digest: recipe.digest(),
        request_digest: blake3::hash(&request).to_hex().to_string(),
        fuel,
    }
}
