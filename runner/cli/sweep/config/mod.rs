//! Layers of configuration, later ones win: the defaults, the user's `sae-run.toml`, the project's
//! `sae-run.toml`, the sweep file, `SAE_RUN_*` variables, `--set`, or the options of `sae-run train`.

#[cfg(test)]
mod any_bytes;
mod check;
mod finite;
mod given;
mod keys;
mod listed;
mod recorded;
mod secrets;
mod source;

use crate::error::CliError;
use crate::sweep::paths::{Folders, Near};
use args::{StoreArgs, SweepArgs};
use figment::Figment;
use figment::providers::{Data, Env, Format, Serialized, Toml};
use figment::value::{Dict, Value as FigmentValue};
use finite::first_not_finite;
use plan::{RUN_CODE, Sweep, default_of, takes_text, takes_texts};
use serde::de::DeserializeOwned;
use source::SourceFile;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) use given::load_given;
pub(crate) use recorded::{Recorded, load_recorded};
pub(crate) use secrets::check_recipe;

/// Variables that name folders and tools, or say how patient to be with the Hub: no settings of a
/// sweep.
const NOT_SETTINGS: [&str; 15] = [
    "cache",
    "cpu_capability",
    "engine",
    "hub_patience",
    "kernels",
    "libtorch",
    "node_process",
    "nvrtc",
    "program",
    "simulated",
    "slurm",
    "slurm_calls",
    "torch",
    "torchrun",
    "trackers_python",
];

/// `launch.libtorch` of the sweep that this process read.
static LIBTORCH: OnceLock<Option<PathBuf>> = OnceLock::new();

/// A sweep after all overrides.
#[derive(Debug)]
pub(crate) struct LoadedSweep {
    pub(crate) sweep: Sweep,
    /// The folder of the sweep file, which its paths are relative to.
    pub(crate) dir: PathBuf,
    /// The current folder, from which they are looked for next; of a recorded sweep the one that was it then.
    pub(crate) current: PathBuf,
    pub(crate) origin: Origin,
    /// The sweep file's text, for the record; one that says the same as the options if there is
    /// no file.
    pub(crate) text: String,
    /// What its only job is called, if the options do not say it.
    job: Option<String>,
    layers: Layers,
}

/// Where a sweep comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A sweep file, whose recipe says which jobs there are.
    File,
    /// The options of `sae-run train`: one job, of the sweep's name.
    Options,
}

impl LoadedSweep {
    /// Where its relative paths lead.
    pub(crate) fn near(&self) -> Near {
        Near::folders([self.dir.clone(), self.current.clone()])
    }

    /// What the job of options is called: by the settings that were given, such as `k=16,optimizer=adam`.
    pub(crate) fn job_name(&self) -> String {
        let of_options = || given::job_name(&self.layers.sets);
        self.job.clone().unwrap_or_else(of_options)
    }

    /// The error with the file and line of the setting it is about, if there is one.
    pub(crate) fn locate(&self, error: CliError) -> CliError {
        let location = error.setting().and_then(|key| {
            let tables = ["vary", "train"];
            tables
                .iter()
                .find_map(|table| self.layers.location(&[table, key], 2))
        });
        match location {
            Some(location) => error.at(&location),
            None => error,
        }
    }
}

/// The texts a sweep is made of, later ones win; variables are not among them.
#[derive(Debug)]
struct Layers {
    /// The sweep file is the last, if there is one.
    files: Vec<SourceFile>,
    sets: Vec<SourceFile>,
    origin: Origin,
    /// The sweep's name if no layer has one: that of its file.
    name: Option<String>,
}

/// The runs folder, for the commands that look at past runs: the one that was named, else that of the
/// layers below any sweep file.
///
/// # Errors
/// A damaged `sae-run.toml`.
pub(crate) fn runs_dir(args: &StoreArgs) -> Result<PathBuf, CliError> {
    match &args.runs_dir {
        Some(dir) => Ok(dir.clone()),
        None => Ok(of_all_sweeps("runs_dir")?.unwrap_or_else(|| "runs".into())),
    }
}

/// What `launch.libtorch` says: in the sweep that was read, else in the layers below any sweep file.
///
/// # Errors
/// A damaged `sae-run.toml`.
pub(crate) fn libtorch() -> Result<Option<PathBuf>, CliError> {
    match LIBTORCH.get() {
        Some(libtorch) => Ok(libtorch.clone()),
        None => of_all_sweeps("launch.libtorch"),
    }
}

/// A setting in the layers below any sweep file.
fn of_all_sweeps<T: DeserializeOwned>(key: &str) -> Result<Option<T>, CliError> {
    let layers = Layers {
        files: common_files(&Folders::of_this_machine()?)?,
        sets: Vec::new(),
        origin: Origin::File,
        name: None,
    };
    match layers.merge()?.extract_inner(key) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.missing() => Ok(None),
        Err(error) => Err(explain(&error, &layers)),
    }
}

/// The user's settings, then the project's.
fn common_files(folders: &Folders) -> Result<Vec<SourceFile>, CliError> {
    let users = folders.config.join("sae-run.toml");
    let files = [users.clone(), PathBuf::from("sae-run.toml")];
    let files = files.iter().filter(|path| path.is_file());
    let read = |path: &PathBuf| {
        let file = SourceFile::read(path)?;
        keys::check(&file)?;
        if *path != users {
            names_no_program(&file)?;
        }
        Ok(file)
    };
    files.map(read).collect()
}

/// Refuses, in a file that may come from anyone, the settings that name what is run as a program.
fn names_no_program(file: &SourceFile) -> Result<(), CliError> {
    const USERS: &str = "`~/.config/sae-run/sae-run.toml`";
    if let Some(location) = file.location(&["launch", "libtorch"], 2) {
        return Err(CliError::input(
            "`launch.libtorch` in this file would run a library that someone else may have chosen",
        )
        .at(&location)
        .with_hint(format!(
            "name it in your own {USERS}, with `--set launch.libtorch=FOLDER`, or in the variable SAE_RUN_LIBTORCH"
        )));
    }
    for key in RUN_CODE {
        if let Some(location) = file.location(&["launch", "slurm", key], 3) {
            return Err(CliError::input(format!(
                "`launch.slurm.{key}` in this file would run what someone else may have written"
            ))
            .at(&location)
            .with_hint(format!(
                "write it in your own {USERS}, or with `--set launch.slurm.{key}=...`"
            )));
        }
    }
    Ok(())
}

impl Layers {
    fn read(args: &SweepArgs, folders: &Folders) -> Result<Self, CliError> {
        let sweep_file = SourceFile::read(&args.sweep)?;
        keys::check(&sweep_file)?;
        names_no_program(&sweep_file)?;
        let mut files = common_files(folders)?;
        files.push(sweep_file);
        let sets = args
            .set
            .iter()
            .map(|set| parse_set(set))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            files,
            sets,
            origin: Origin::File,
            name: args
                .sweep
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        })
    }

    fn merge(&self) -> Result<Figment, CliError> {
        let merge = |figment: Figment, file: &SourceFile| {
            figment.merge(Toml::string(&file.with_quoted_texts()))
        };
        let name = self.name.iter();
        let named = name.map(|name| Serialized::default("name", name));
        let named = named.fold(Figment::new(), Figment::merge);
        let figment = self.files.iter().fold(named, merge);
        let figment = figment.merge(environment()?).merge(environment_texts());
        Ok(self.sets.iter().fold(figment, merge))
    }

    /// What the layers give together.
    fn sweep(&self) -> Result<Sweep, CliError> {
        let mut layers = self.files.iter().chain(&self.sets);
        layers.try_for_each(secrets::check)?;
        let merged = self.merge()?;
        let table: Dict = merged.extract().map_err(|error| explain(&error, self))?;
        let sweep = match first_not_finite(&table, "") {
            None => merged.extract(),
            Some(found) => Err(found.into()),
        };
        let mut sweep: Sweep = sweep.map_err(|error| explain(&error, self))?;
        if let Some(FigmentValue::Dict(_, train)) = table.get("train") {
            sweep.given = train.keys().cloned().collect();
        }
        secrets::check_sweep(&sweep)?;
        // A process reads one sweep; if it reads it again, this says the same.
        let _ = LIBTORCH.set(sweep.launch.libtorch.as_ref().map(PathBuf::from));
        Ok(sweep)
    }

    /// `file:line` of `path` in the layer that wins, if at least `depth` of its keys are there.
    fn location(&self, path: &[&str], depth: usize) -> Option<String> {
        let mut layers = self.sets.iter().rev().chain(self.files.iter().rev());
        layers.find_map(|file| file.location(path, depth))
    }
}

/// Reads the sweep file and all layers below and above it.
///
/// # Errors
/// A file that cannot be read, an unknown key or a value of the wrong type, each with file and line.
pub(crate) fn load(args: &SweepArgs, folders: &Folders) -> Result<LoadedSweep, CliError> {
    let layers = Layers::read(args, folders)?;
    let mut sweep = layers.sweep()?;
    restore_order(&mut sweep, &layers);
    check::check_sweep(&sweep, &args.sweep.display().to_string())?;
    let dir = args.sweep.parent().unwrap_or(Path::new("")).to_path_buf();
    let text = layers.files.last().map_or("", |file| &file.text).to_owned();
    let loaded = LoadedSweep {
        sweep,
        dir,
        current: PathBuf::new(),
        origin: layers.origin,
        text,
        job: None,
        layers,
    };
    check::check_vary(&loaded.sweep.vary, &loaded.sweep.recipe)
        .map_err(|error| loaded.locate(error))?;
    Ok(loaded)
}

fn environment() -> Result<Env, CliError> {
    let env = variables();
    for (key, value) in env.iter() {
        let dotted: Vec<&str> = key.as_str().split('.').collect();
        let variable = variable_of(&dotted);
        keys::check_path(&dotted).map_err(|error| error.at(&format!("variable `{variable}`")))?;
        secrets::check_variable(&variable, key.as_str(), &value)?;
    }
    Ok(env)
}

fn variables() -> Env {
    Env::prefixed("SAE_RUN_").ignore(&NOT_SETTINGS).split("__")
}

/// The variables that look like something else but are of settings that are text, as TOML.
fn environment_texts() -> Data<Toml> {
    let of_text = |key: &str| takes_text(&key.split('.').collect::<Vec<_>>());
    let variables = variables();
    let lines = variables.iter().filter_map(|(key, text)| {
        let parsed: FigmentValue = text.parse().ok()?;
        let is_bare = parsed.as_str().is_none() && of_text(key.as_str());
        is_bare.then(|| format!("{key} = {}\n", toml::Value::from(text)))
    });
    Toml::string(&lines.collect::<String>())
}

/// `train.k=64` as a piece of TOML; a value that is not TOML is taken as a string, and so is any value of
/// a setting that is text.
fn parse_set(set: &str) -> Result<SourceFile, CliError> {
    let (key, value) = set.split_once('=').ok_or_else(|| {
        CliError::input(format!("--set `{set}` has no `=`"))
            .with_hint("write `--set train.k=64`".to_owned())
    })?;
    let dotted: Vec<&str> = key.trim().split('.').collect();
    // Not the value: the key may be a mistake for one that holds a secret.
    keys::check_path(&dotted).map_err(|error| error.at(&format!("--set `{}`", key.trim())))?;
    let plain = format!("{key} = {value}\n");
    let text = match toml::from_str::<toml::Table>(&plain) {
        Ok(table) if is_as_wanted(&table, &dotted) => plain,
        _ => match listed::as_list(&dotted, value) {
            Some(list) => format!("{key} = {list}\n"),
            None => format!("{key} = {}\n", toml::Value::from(value)),
        },
    };
    let table = toml::from_str(&text).ok();
    if !table.is_some_and(|table| has_one_key(&table, dotted.len())) {
        return Err(
            CliError::input(format!("--set `{}` does not name one key", key.trim()))
                .with_hint("write `--set train.k=64`, once for each key".to_owned()),
        );
    }
    Ok(SourceFile {
        name: format!("--set {set}"),
        text,
        has_lines: false,
    })
}

/// Whether a table has one key, and so has each of the `depth` tables within.
fn has_one_key(table: &toml::Table, depth: usize) -> bool {
    let is_one_below = |value: &toml::Value| match value.as_table() {
        Some(inner) if depth > 1 => has_one_key(inner, depth - 1),
        _ => true,
    };
    table.len() == 1 && table.values().all(is_one_below)
}

/// Whether the value at `path` may be what it looks like.
fn is_as_wanted(table: &toml::Table, path: &[&str]) -> bool {
    let (first, below) = path.split_first().expect("a split text has a first part");
    let value = below
        .iter()
        .try_fold(table.get(*first), |value, key| Some(value?.get(key)));
    match value.flatten() {
        Some(toml::Value::String(_)) => true,
        Some(toml::Value::Array(_)) if takes_texts(path) => true,
        _ => !takes_text(path),
    }
}

/// Figment's error, with the location of the value it is about: the layer that wins and has the whole
/// key, else the nearest table in the sweep file.
fn explain(error: &figment::Error, layers: &Layers) -> CliError {
    let path: Vec<&str> = error.path.iter().map(String::as_str).collect();
    let key = path.join(".");
    let message = match (&error.kind, key.is_empty()) {
        (figment::error::Kind::MissingField(field), _) => format!("`{field}` is missing"),
        (kind, true) => kind.to_string(),
        (kind, false) => format!("`{key}`: {kind}"),
    };
    // An item of a list has no separate location.
    let is_item = |key: &&str| key.parse::<usize>().is_ok();
    let n_items = path.iter().rev().take_while(|key| is_item(key)).count();
    let path = &path[..path.len() - n_items];
    let variable = variable_of(path);
    let location = match std::env::var_os(&variable) {
        Some(_)
            if layers
                .sets
                .iter()
                .all(|set| set.location(path, path.len()).is_none()) =>
        {
            Some(format!("variable `{variable}`"))
        }
        _ => layers.location(path, path.len()),
    };
    let sweep_file = layers.files.last();
    let location = location
        .or_else(|| sweep_file.and_then(|file| file.location(path, 1)))
        .or_else(|| sweep_file.map(|file| file.name.clone()));
    CliError::input(message)
        .at(&location.unwrap_or_else(|| "configuration".into()))
        .with_hint(hint_on(error, path, layers.origin))
}

/// How the value could be written.
fn hint_on(error: &figment::Error, path: &[&str], origin: Origin) -> Option<String> {
    if let figment::error::Kind::MissingField(field) = &error.kind {
        return Some(format!("add a line `{field} = ...`"));
    }
    let key = path.last()?;
    let written = |default: String| match origin {
        Origin::File => format!("{key} = {default}"),
        Origin::Options => {
            let value = default.replace(['"', '[', ']', ','], "");
            let option = key.replace('_', "-");
            format!("--{option} {value}").trim_end().to_owned()
        }
    };
    Some(match default_of(path).map(written) {
        Some(default) => format!("the default is `{default}`"),
        None => format!("leave `{key}` out for the default"),
    })
}

/// `SAE_RUN_TRAIN__K` for `train.k`.
fn variable_of(path: &[&str]) -> String {
    format!("SAE_RUN_{}", path.join("__").to_uppercase())
}

/// Figment sorts keys; recipes see what varies in the order in which the user wrote it.
fn restore_order(sweep: &mut Sweep, layers: &Layers) {
    let order: Vec<String> = layers
        .files
        .iter()
        .rev()
        .flat_map(|file| file.keys_of("vary"))
        .collect();
    let mut vary: Vec<_> = std::mem::take(&mut sweep.vary).into_iter().collect();
    vary.sort_by_key(|(key, _)| {
        order
            .iter()
            .position(|known| known == key)
            .unwrap_or(order.len())
    });
    sweep.vary = vary.into_iter().collect();
}
