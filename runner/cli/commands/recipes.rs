//! `sae-run recipes`: which recipes there are, a new one, and one tried out.

use crate::error::CliError;
use crate::show::{json, table};
use crate::sweep::config;
use crate::sweep::inputs::Inputs;
use crate::sweep::paths::Folders;
use crate::sweep::rounds;
use args::{RecipesArgs, RecipesCommand, SweepArgs};
use files::bound;
use plan::{Description, JobDraft, PlanRequest, PlanResponse};
use recipe::{Host, Limits, Recipe};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

/// What a new recipe begins as.
const TEMPLATE: &str = include_str!("../../../recipes/template.py");
/// The types of recipes, for editors.
const STUB: &str = include_str!("../../../recipes/recipe.pyi");

/// Lists recipes, or does what the subcommand says.
///
/// # Errors
/// No such recipe, its own error, or a file that cannot be read or written.
pub(crate) fn recipes(args: &RecipesArgs) -> Result<u8, CliError> {
    match &args.command {
        None => list(args.json),
        Some(RecipesCommand::New { name }) => new(name),
        Some(RecipesCommand::Request(sweep)) => request(sweep),
        Some(RecipesCommand::Test {
            recipe,
            request,
            verbose,
            json,
        }) => test(recipe, request, (*json, *verbose)),
    }
}

/// A recipe as the list shows it.
struct Listed {
    recipe: Recipe,
    location: String,
    /// What it says, or what is wrong with it.
    said: Result<Description, CliError>,
}

fn list(as_json: bool) -> Result<u8, CliError> {
    let folders = Folders::of_this_machine()?;
    let host = rounds::host(&folders, Limits::default())?;
    let dirs = rounds::search_dirs(&folders);
    let mut listed = Vec::new();
    for recipe in recipe::in_folders(&dirs).chain(recipe::built_in()) {
        let hidden = listed
            .iter()
            .any(|other: &Listed| other.recipe.name() == recipe.name());
        if !hidden {
            listed.push(describe(&host, recipe)?);
        }
    }
    if as_json {
        let objects: Vec<_> = listed.iter().map(Listed::to_json).collect();
        return json::print(&json!({"recipes": objects}));
    }
    let texts: Vec<_> = listed.iter().map(Listed::text).collect();
    table::print(&texts.join("\n"))
}

fn describe(host: &Host, recipe: Recipe) -> Result<Listed, CliError> {
    rounds::note_compiling(host, &recipe)?;
    let location = recipe
        .path()
        .map_or("built in".into(), |path| path.display().to_string());
    Ok(Listed {
        said: host.describe(&recipe).map_err(CliError::from),
        recipe,
        location,
    })
}

impl Listed {
    fn text(&self) -> String {
        let name = self.recipe.name();
        let mut text = table::escaped(&format!("{name} ({})", self.location)) + "\n";
        match &self.said {
            Err(error) => text += &format!("  cannot be used: {error}\n"),
            Ok(said) => {
                text += &format!("  {}\n", table::escaped(&said.summary));
                for setting in &said.settings {
                    let default = match &setting.default {
                        Some(default) => format!("{}, by default {default}", setting.kind),
                        None => "must be there".into(),
                    };
                    let line = format!("    {:<16} {} ({default})", setting.name, setting.summary);
                    text += &(table::escaped(&line) + "\n");
                }
            }
        }
        text
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.recipe.name(),
            "place": self.location,
            "digest": self.recipe.digest(),
            "description": self.said.as_ref().ok(),
            "error": self.said.as_ref().err().map(ToString::to_string),
        })
    }
}

fn new(name: &str) -> Result<u8, CliError> {
    let is_portable = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if name.is_empty() || !name.chars().all(is_portable) {
        let message = format!("`{name}` is not a valid recipe name");
        return Err(
            CliError::input(message).with_hint("use letters, digits, `_` and `-`".to_owned())
        );
    }
    let dir = rounds::project_dir();
    fs::create_dir_all(dir).map_err(|error| CliError::io("create", dir, &error))?;
    let path = dir.join(format!("{name}.py"));
    write_new(&path, &TEMPLATE.replace("TEMPLATE", name))?;
    let stub = dir.join("recipe.pyi");
    if !stub.exists() {
        write_new(&stub, STUB)?;
    }
    table::note(&format!(
        "wrote `{}`; use it with `recipe = \"{name}\"` in a sweep",
        path.display()
    ));
    Ok(0)
}

/// Nothing is written over.
fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CliError::io("write", path, &error))
}

fn request(args: &SweepArgs) -> Result<u8, CliError> {
    let folders = Folders::of_this_machine()?;
    let sweep = config::load(args, &folders)?;
    // It asks for the facts of a model alone.
    let mut inputs = Inputs::for_plan(&sweep.near(), &folders);
    let request =
        rounds::first_request(&sweep, &mut inputs).map_err(|error| sweep.locate(error))?;
    table::print(&(serde_json::to_string_pretty(&request).expect("JSON serialises") + "\n"))
}

fn test(name: &str, request: &Path, (as_json, with_fuel): (bool, bool)) -> Result<u8, CliError> {
    let folders = Folders::of_this_machine()?;
    let recipe = Recipe::find(name, Path::new(""), &rounds::search_dirs(&folders))?;
    let text = files::read(request, bound::SETTINGS)
        .map_err(|error| CliError::io("read", request, &error))?;
    let request: PlanRequest = files::from_json(&text).map_err(|error| {
        CliError::input(format!("`{}` is not a request: {error}", request.display()))
            .with_hint("`sae-run recipes request SWEEP.toml` prints one".to_owned())
    })?;
    let host = rounds::host(&folders, Limits::default())?;
    rounds::note_compiling(&host, &recipe)?;
    let (answer, identity) = host.plan(&recipe, &request)?;
    if as_json {
        let object = json!({"jobs": answer.jobs, "done": answer.done, "fuel": identity.fuel});
        return json::print(&object);
    }
    table::print(&proposed(&answer, with_fuel.then_some(identity.fuel)))
}

fn proposed(answer: &PlanResponse, fuel: Option<u64>) -> String {
    let row = |job: &JobDraft| {
        let overrides = Value::Object(job.overrides.clone()).to_string();
        let name = job.name.clone().unwrap_or_else(|| overrides.clone());
        vec![name, overrides, job.note.clone().unwrap_or_default()]
    };
    let rows = answer.jobs.iter().map(row).collect();
    let end = if answer.done {
        "done"
    } else {
        "asks for another round"
    };
    let fuel = fuel
        .map(|fuel| format!(", {fuel} fuel"))
        .unwrap_or_default();
    let jobs = table::render(&["job", "overrides", "note"], rows, usize::MAX);
    format!(
        "{jobs}\n{}, {end}{fuel}\n",
        table::count(answer.jobs.len(), "job")
    )
}
