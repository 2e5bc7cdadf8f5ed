//! Layers of configuration, later ones win: the defaults, the user's `sae-run.toml`, the project's
//! `sae-run.toml`, the sweep file, `SAE_RUN_*` variables, `--set`.

mod keys;
mod source;

use crate::args::SweepArgs;
use crate::error::CliError;
use crate::paths::Folders;
use figment::Figment;
use figment::providers::{Env, Format, Toml};
use plan::Sweep;
use source::SourceFile;
use std::path::{Path, PathBuf};

/// Variables that name folders and tools rather than settings of a sweep.
const NOT_SETTINGS: [&str; 4] = ["cache", "engine", "torch", "log"];

/// A sweep with everything laid over it.
#[derive(Debug)]
pub(crate) struct LoadedSweep {
    pub(crate) sweep: Sweep,
    /// The folder of the sweep file, which its paths are relative to.
    pub(crate) dir: PathBuf,
    layers: Layers,
}

impl LoadedSweep {
    /// The sweep file's text, for the record.
    pub(crate) fn text(&self) -> &str {
        self.layers.files.last().map_or("", |file| &file.text)
    }

    /// The error with the file and line of the setting it is about, where there is one.
    pub(crate) fn locate(&self, error: CliError) -> CliError {
        let place = error.setting().and_then(|key| {
            let tables = ["vary", "train"];
            tables
                .iter()
                .find_map(|table| self.layers.place(&[table, key], 2))
        });
        match place {
            Some(place) => error.at(&place),
            None => error,
        }
    }
}

/// The texts a sweep is made of, later ones win; variables are not among them.
#[derive(Debug)]
struct Layers {
    /// The sweep file is the last.
    files: Vec<SourceFile>,
    sets: Vec<SourceFile>,
}

impl Layers {
    fn read(args: &SweepArgs, folders: &Folders) -> Result<Self, CliError> {
        let sweep_file = SourceFile::read(&args.sweep)?;
        let below = [
            folders.config.join("sae-run.toml"),
            PathBuf::from("sae-run.toml"),
        ];
        let below = below.iter().filter(|path| path.is_file());
        let mut files = below
            .map(|path| SourceFile::read(path))
            .collect::<Result<Vec<_>, _>>()?;
        files.push(sweep_file);
        files.iter().try_for_each(keys::check)?;
        let sets = args
            .set
            .iter()
            .map(|set| parse_set(set))
            .collect::<Result<_, _>>()?;
        Ok(Self { files, sets })
    }

    fn merge(&self) -> Result<Figment, CliError> {
        let merge = |figment: Figment, file: &SourceFile| figment.merge(Toml::string(&file.text));
        let figment = self.files.iter().fold(Figment::new(), merge);
        Ok(self.sets.iter().fold(figment.merge(environment()?), merge))
    }

    /// `file:line` of `path` in the layer that wins, where at least `depth` keys of it are there.
    fn place(&self, path: &[&str], depth: usize) -> Option<String> {
        let mut layers = self.sets.iter().rev().chain(self.files.iter().rev());
        layers.find_map(|file| file.place(path, depth))
    }
}

/// Reads the sweep file and all layers below and above it.
///
/// # Errors
/// A file that cannot be read, an unknown key or a value of the wrong type, each with file and line.
pub(crate) fn load(args: &SweepArgs, folders: &Folders) -> Result<LoadedSweep, CliError> {
    let layers = Layers::read(args, folders)?;
    let sweep = layers.merge()?.extract();
    let mut sweep: Sweep = sweep.map_err(|error| explain(&error, &layers))?;
    restore_order(&mut sweep, &layers);
    check_name(&sweep, &args.sweep)?;
    let dir = args.sweep.parent().unwrap_or(Path::new("")).to_path_buf();
    Ok(LoadedSweep { sweep, dir, layers })
}

fn environment() -> Result<Env, CliError> {
    let env = Env::prefixed("SAE_RUN_").ignore(&NOT_SETTINGS).split("__");
    for (key, _) in env.iter() {
        let dotted: Vec<&str> = key.as_str().split('.').collect();
        let variable = format!("SAE_RUN_{}", dotted.join("__").to_uppercase());
        keys::check_path(&dotted).map_err(|error| error.at(&format!("variable `{variable}`")))?;
    }
    Ok(env)
}

/// `train.k=64` as a piece of TOML; a value that is not TOML is taken as a string.
fn parse_set(set: &str) -> Result<SourceFile, CliError> {
    let (key, value) = set.split_once('=').ok_or_else(|| {
        CliError::input(format!("--set `{set}` has no `=`"))
            .with_hint("write `--set train.k=64`".to_owned())
    })?;
    let dotted: Vec<&str> = key.trim().split('.').collect();
    keys::check_path(&dotted).map_err(|error| error.at(&format!("--set `{set}`")))?;
    let plain = format!("{key} = {value}\n");
    let text = match toml::from_str::<toml::Table>(&plain) {
        Ok(_) => plain,
        Err(_) => format!("{key} = {}\n", toml::Value::from(value)),
    };
    Ok(SourceFile {
        name: format!("--set {set}"),
        text,
        has_lines: false,
    })
}

/// Figment's error, with the file and line of the key where there is one.
fn explain(error: &figment::Error, layers: &Layers) -> CliError {
    let path: Vec<&str> = error.path.iter().map(String::as_str).collect();
    let key = path.join(".");
    let message = match (&error.kind, key.is_empty()) {
        (figment::error::Kind::MissingField(field), _) => format!("`{field}` is missing"),
        (kind, true) => kind.to_string(),
        (kind, false) => format!("`{key}`: {kind}"),
    };
    let place = layers.place(&path, 1);
    let place = place.or_else(|| layers.files.last().map(|file| file.name.clone()));
    CliError::input(message).at(&place.unwrap_or_else(|| "configuration".into()))
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

/// The name becomes a folder.
fn check_name(sweep: &Sweep, file: &Path) -> Result<(), CliError> {
    let is_portable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !sweep.name.is_empty() && !sweep.name.starts_with('.') && sweep.name.chars().all(is_portable)
    {
        return Ok(());
    }
    let message = format!("{}: `name` is `{}`", file.display(), sweep.name);
    Err(CliError::input(message).with_hint(
        "it names a folder: use letters, digits, `_`, `-` and `.`, not beginning with `.`"
            .to_owned(),
    ))
}
