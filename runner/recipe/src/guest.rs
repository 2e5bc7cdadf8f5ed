//! One call of a recipe: a fresh instance with its own fuel and memory, then thrown away.

use crate::bindings::{Description, PlanRequest, PlanResponse, PythonEngine, PythonSource};
use crate::error::{quoted, raise};
use crate::limits::Limiter;
use crate::source::Code;
use crate::{Limits, Recipe, RecipeError};
use fault::Fault;
use wasmtime::component::{
    Component, ComponentNamedList, Instance, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Engine, Store, Trap};

/// The version of `recipes/wit/recipe.wit`.
const API_VERSION: &str = "0.1.0";
/// The export that components of the world `recipe` have, without its version.
const PLANNER_NAME: &str = "sae-run:recipe/planner";
/// The same with it.
const PLANNER: &str = "sae-run:recipe/planner@0.1.0";

/// What a guest answers: a value, or a message for the user.
type Answer<T> = Result<T, String>;

/// A recipe that is ready to be called once.
pub(crate) struct Guest<'a> {
    recipe: &'a Recipe,
    limits: &'a Limits,
    store: Store<Limiter>,
    component: &'a Component,
    linker: Linker<Limiter>,
}

impl<'a> Guest<'a> {
    /// Prepares a call of `component`: the recipe itself, or the Python engine for a Python recipe.
    ///
    /// # Errors
    /// The component imports something.
    pub(crate) fn new(
        engine: &Engine,
        component: &'a Component,
        recipe: &'a Recipe,
        limits: &'a Limits,
    ) -> Result<Self, RecipeError> {
        refuse_imports(engine, component, recipe)?;
        refuse_other_versions(engine, component, recipe)?;
        let mut store = Store::new(engine, Limiter::new(limits));
        store.limiter(|limiter| limiter);
        store.set_fuel(limits.fuel).expect("the engine counts fuel");
        store.set_hostcall_fuel(limits.output_bytes);
        Ok(Self {
            recipe,
            limits,
            store,
            component,
            linker: Linker::new(engine),
        })
    }

    /// Calls `describe`.
    pub(crate) fn describe(mut self) -> Result<Description, RecipeError> {
        let answer = match self.recipe.code() {
            Code::Python(text) => self.describe_python(&self.python_source(text)),
            Code::Component(_) => {
                let describe = self.export("describe")?;
                describe.call(&mut self.store, ()).map(|(answer,)| answer)
            }
        };
        self.finish(answer)
    }

    /// Calls `plan`; also returns the fuel used.
    pub(crate) fn plan(
        mut self,
        request: &PlanRequest,
    ) -> Result<(PlanResponse, u64), RecipeError> {
        let answer = match self.recipe.code() {
            Code::Python(text) => self.plan_python(&self.python_source(text), request),
            Code::Component(_) => {
                let plan = self.export("plan")?;
                plan.call(&mut self.store, (request,))
                    .map(|(answer,)| answer)
            }
        };
        let response = self.finish(answer)?;
        let fuel_left = self.store.get_fuel().expect("the engine counts fuel");
        Ok((response, self.limits.fuel - fuel_left))
    }

    fn describe_python(&mut self, source: &PythonSource) -> wasmtime::Result<Answer<Description>> {
        let engine = PythonEngine::instantiate(&mut self.store, self.component, &self.linker)?;
        engine
            .sae_run_recipe_python_planner()
            .call_describe(&mut self.store, source)
    }

    fn plan_python(
        &mut self,
        source: &PythonSource,
        request: &PlanRequest,
    ) -> wasmtime::Result<Answer<PlanResponse>> {
        let engine = PythonEngine::instantiate(&mut self.store, self.component, &self.linker)?;
        engine
            .sae_run_recipe_python_planner()
            .call_plan(&mut self.store, source, request)
    }

    fn python_source(&self, text: &str) -> PythonSource {
        PythonSource {
            file_name: self.recipe.file_name(),
            text: text.into(),
        }
    }

    /// Instantiates a component of the world `recipe` and looks one of its functions up.
    fn export<P, R>(&mut self, name: &str) -> Result<TypedFunc<P, R>, RecipeError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let instance = self.linker.instantiate(&mut self.store, self.component);
        let instance = instance.map_err(|error| self.classify(error))?;
        let function = typed_export(&instance, &mut self.store, name);
        Ok(function.map_err(|source| {
            Fault::input(format!(
                "recipe `{}` does not export what the world `sae-run:recipe/recipe` asks for",
                self.recipe.name()
            ))
            .with_hint("build it against `recipes/wit/recipe.wit`")
            .because(source)
        })?)
    }

    fn finish<T>(&self, answer: wasmtime::Result<Answer<T>>) -> Result<T, RecipeError> {
        let answer = answer.map_err(|error| self.classify(error))?;
        answer.map_err(|message| RecipeError::Failed {
            recipe: self.recipe.name().into(),
            message: message.trim_end().into(),
        })
    }

    /// Which limit stopped the guest, if any.
    fn classify(&self, error: wasmtime::Error) -> Fault {
        let recipe = self.recipe.name();
        let Limits {
            fuel,
            memory_bytes,
            output_bytes,
            stack_bytes,
            ..
        } = self.limits;
        if self.store.data().out_of_memory {
            return Fault::input(format!(
                "recipe `{recipe}` needs more than {memory_bytes} bytes of memory"
            ))
            .with_hint(raise("memory_bytes"));
        }
        if is_hostcall_fuel(&error) {
            return Fault::input(format!(
                "the answer of recipe `{recipe}` takes more than {output_bytes} bytes"
            ))
            .with_hint(raise("output_bytes"));
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Fault::input(format!(
                "recipe `{recipe}` did not finish within {fuel} instructions"
            ))
            .with_hint(raise("fuel")),
            Some(Trap::StackOverflow) => Fault::input(format!(
                "recipe `{recipe}` recursed too deeply: its stack of {stack_bytes} bytes is full"
            ))
            .with_hint("does one of its functions call itself forever?"),
            _ => Fault::input(format!(
                "recipe `{recipe}` was stopped: it tried something the sandbox does not have"
            ))
            .with_hint("recipes have no files, no network and no clock")
            .because(error),
        }
    }
}

fn refuse_imports(engine: &Engine, component: &Component, recipe: &Recipe) -> Result<(), Fault> {
    let component_type = component.component_type();
    let imports: Vec<_> = component_type
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    if imports.is_empty() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "recipe `{}` imports {}, and recipes may import nothing",
        recipe.name(),
        quoted(imports)
    ))
    .with_hint("build it without WASI: `componentize-py componentize --stub-wasi`, for example"))
}

/// Reads the version from the names of the exports, before anything of the component runs.
fn refuse_other_versions(
    engine: &Engine,
    component: &Component,
    recipe: &Recipe,
) -> Result<(), Fault> {
    let component_type = component.component_type();
    let mut names = component_type.exports(engine).map(|(name, _)| name);
    let version = names.find_map(|name| name.strip_prefix(PLANNER_NAME)?.strip_prefix('@'));
    match version {
        Some(version) if version != API_VERSION => Err(Fault::input(format!(
            "recipe `{}` is of version {version} of `sae-run:recipe`",
            recipe.name()
        ))
        .with_hint(format!(
            "build it against `recipes/wit/recipe.wit` of this program, which is {API_VERSION}"
        ))),
        _ => Ok(()),
    }
}

fn typed_export<P, R>(
    instance: &Instance,
    store: &mut Store<Limiter>,
    name: &str,
) -> wasmtime::Result<TypedFunc<P, R>>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let missing = || wasmtime::Error::msg(format!("no function `{name}` in `{PLANNER}`"));
    let planner = instance
        .get_export_index(&mut *store, None, PLANNER)
        .ok_or_else(missing)?;
    let index = instance
        .get_export_index(&mut *store, Some(&planner), name)
        .ok_or_else(missing)?;
    instance.get_typed_func(store, index)
}

/// wasmtime keeps the type of this error to itself: its text tells.
fn is_hostcall_fuel(error: &wasmtime::Error) -> bool {
    error
        .root_cause()
        .to_string()
        .contains("fuel allocated for hostcalls")
}
