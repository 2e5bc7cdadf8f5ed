//! Where recipes come from: next to the sweep, in a folder of recipes, or compiled in.

use crate::RecipeError;
use crate::error::quoted;
use fault::Fault;
use files::bound;
use std::fs;
use std::path::{Path, PathBuf};

/// Recipes that every binary carries.
const BUILT_IN: [(&str, &str); 6] = [
    ("grid", include_str!("../../../recipes/grid.py")),
    ("grids", include_str!("../../../recipes/grids.py")),
    ("zip", include_str!("../../../recipes/zip.py")),
    ("random", include_str!("../../../recipes/random.py")),
    ("layers", include_str!("../../../recipes/layers.py")),
    ("pareto", include_str!("../../../recipes/pareto.py")),
];

/// A recipe's code, read but not yet run.
#[derive(Clone, Debug)]
pub struct Recipe {
    name: String,
    path: Option<PathBuf>,
    code: Code,
}

/// The two forms of a recipe.
#[derive(Clone, Debug)]
pub(crate) enum Code {
    /// Source text for the Python engine.
    Python(String),
    /// A component of the world `recipe`, in binary form.
    Component(Vec<u8>),
}

impl Recipe {
    /// Finds a recipe by name or path.
    ///
    /// A path has a `/` or ends in `.py` or `.wasm`, and is relative to `sweep_dir`. A name is
    /// looked for as `NAME.py` and `NAME.wasm` in `sweep_dir`, in each of `search_dirs`, and among
    /// the built-in recipes, in this order. With `..` and links resolved, a file must be in one of these
    /// folders, below them, or below the current folder.
    ///
    /// # Errors
    /// No such recipe, a file that is elsewhere, or one that cannot be read.
    pub fn find(
        name_or_path: &str,
        sweep_dir: &Path,
        search_dirs: &[PathBuf],
    ) -> Result<Self, RecipeError> {
        let allowed = |path: PathBuf| within(name_or_path, path, sweep_dir, search_dirs);
        if is_path(name_or_path) {
            return Ok(Self::read(
                name_or_path,
                allowed(sweep_dir.join(name_or_path))?,
            )?);
        }
        let dirs = || std::iter::once(sweep_dir).chain(search_dirs.iter().map(PathBuf::as_path));
        let candidates = dirs().flat_map(|dir| {
            ["py", "wasm"].map(|extension| dir.join(format!("{name_or_path}.{extension}")))
        });
        if let Some(path) = candidates.into_iter().find(|path| path.is_file()) {
            return Ok(Self::read(name_or_path, allowed(path)?)?);
        }
        let found = built_in().find(|recipe| recipe.name == name_or_path);
        found.ok_or_else(|| not_found(name_or_path, dirs()).into())
    }

    fn read(name: &str, path: PathBuf) -> Result<Self, Fault> {
        let unreadable = Fault::io("read", &path);
        let code = match path.extension().and_then(|extension| extension.to_str()) {
            Some("py") => {
                Code::Python(files::read_text(&path, bound::SETTINGS).map_err(unreadable)?)
            }
            Some("wasm") => {
                Code::Component(files::read(&path, bound::COMPONENT).map_err(unreadable)?)
            }
            _ => {
                return Err(Fault::input(format!(
                    "`{}` is not a recipe: its name ends neither in `.py` nor in `.wasm`",
                    path.display()
                )));
            }
        };
        Ok(Self {
            name: name.into(),
            path: Some(path),
            code,
        })
    }

    /// Name or path as the sweep has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file it was read from; `None` for a built-in one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Its text, if it is in Python.
    pub fn source(&self) -> Option<&str> {
        match &self.code {
            Code::Python(text) => Some(text),
            Code::Component(_) => None,
        }
    }

    /// BLAKE3 of the source text or the component, in hex.
    pub fn digest(&self) -> String {
        blake3::hash(self.bytes()).to_hex().to_string()
    }

    pub(crate) fn code(&self) -> &Code {
        &self.code
    }

    /// Its file name for messages.
    pub(crate) fn file_name(&self) -> String {
        let file_name = self.path.as_deref().and_then(Path::file_name);
        file_name.map_or_else(
            || format!("{}.py", self.name),
            |name| name.to_string_lossy().into(),
        )
    }

    fn bytes(&self) -> &[u8] {
        match &self.code {
            Code::Python(text) => text.as_bytes(),
            Code::Component(bytes) => bytes,
        }
    }

    #[cfg(test)]
    pub(crate) fn from_code(name: &str, code: Code) -> Self {
        Self {
            name: name.into(),
            path: None,
            code,
        }
    }
}

/// The recipes that every binary carries.
pub fn built_in() -> impl Iterator<Item = Recipe> {
    BUILT_IN.iter().map(|&(name, text)| Recipe {
        name: name.into(),
        path: None,
        code: Code::Python(text.into()),
    })
}

/// The recipes in some folders, by name; those of earlier folders first. Files that cannot be read are left out, and so
/// are the template and files whose names begin with a dot.
pub fn in_folders(dirs: &[PathBuf]) -> impl Iterator<Item = Recipe> {
    dirs.iter().flat_map(|dir| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths.into_iter().filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            if name.starts_with('.') || name == TEMPLATE {
                return None;
            }
            Recipe::read(&name, path).ok()
        })
    })
}

/// Name of the file that new recipes begin as, in this project's own folder.
const TEMPLATE: &str = "template";

/// `path`, if it is where recipes may be. A missing file is reported by the code that reads it.
fn within(
    recipe: &str,
    path: PathBuf,
    sweep_dir: &Path,
    search_dirs: &[PathBuf],
) -> Result<PathBuf, Fault> {
    let Ok(real) = path.canonicalize() else {
        return Ok(path);
    };
    let dirs = search_dirs.iter().map(PathBuf::as_path);
    let dirs = dirs.chain([sweep_dir, Path::new("")]);
    let real_dir = |dir: &Path| {
        if dir.as_os_str().is_empty() {
            Path::new(".").canonicalize()
        } else {
            dir.canonicalize()
        }
    };
    if dirs.flat_map(real_dir).any(|dir| real.starts_with(dir)) {
        Ok(path)
    } else {
        Err(Fault::input(format!(
            "recipe `{recipe}` leads to `{}`, outside the folders of the sweep and the project",
            real.display()
        ))
        .with_hint(
            "copy it next to the sweep, into `recipes`, or into `~/.config/sae-run/recipes`",
        ))
    }
}

fn not_found<'a>(recipe: &str, searched: impl Iterator<Item = &'a Path>) -> Fault {
    let searched = searched.map(|dir| {
        if dir.as_os_str().is_empty() {
            ".".into()
        } else {
            dir.display().to_string()
        }
    });
    let looked = format!(
        "looked in {} and among the built-in recipes",
        quoted(searched)
    );
    let nearest = plan::nearest(recipe, BUILT_IN.map(|(name, _)| name), 1).pop();
    let hint = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`? {looked}"),
        None => looked,
    };
    Fault::input(format!("there is no recipe `{recipe}`")).with_hint(hint)
}

fn is_path(name_or_path: &str) -> bool {
    name_or_path.contains('/')
        || [".py", ".wasm"]
            .iter()
            .any(|extension| name_or_path.ends_with(extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    #[test]
    fn a_file_next_to_the_sweep_hides_the_search_folders_and_the_built_in_recipe() {
        let (sweep_dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [other_dir.path().to_path_buf()];
        let find = |name: &str| Recipe::find(name, sweep_dir.path(), &dirs);
        assert_eq!(find("grid").unwrap().path(), None);

        let other = other_dir.path().join("grid.py");
        fs::write(&other, "# other").unwrap();
        assert_eq!(find("grid").unwrap().path(), Some(other.as_path()));

        let next_to = sweep_dir.path().join("grid.wasm");
        fs::write(&next_to, [0]).unwrap();
        assert_eq!(find("grid").unwrap().path(), Some(next_to.as_path()));
        assert_eq!(
            find("grid.wasm").unwrap().digest(),
            find("./grid.wasm").unwrap().digest()
        );
        assert_ne!(
            find("grid").unwrap().digest(),
            find(other.to_str().unwrap()).unwrap().digest()
        );
        assert_eq!(built_in().count(), 6);
    }

    #[test]
    fn a_path_that_leaves_the_folders_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let (sweep_dir, secret) = (
            outer.path().join("a/sweeps"),
            outer.path().join("secret.py"),
        );
        fs::create_dir_all(&sweep_dir).unwrap();
        fs::write(&secret, "# secret").unwrap();
        fs::write(outer.path().join("a/near.py"), "# near").unwrap();
        std::os::unix::fs::symlink(&secret, sweep_dir.join("link.py")).unwrap();
        let find = |name: &str, dirs: &[PathBuf]| Recipe::find(name, &sweep_dir, dirs);
        for name in [
            "../../secret.py",
            "link.py",
            "link",
            secret.to_str().unwrap(),
        ] {
            let error = find(name, &[]).unwrap_err();
            let says = error.to_string();
            assert!(says.contains("outside the folders"), "{name}: {says}");
        }
        assert!(find("../near.py", &[]).is_err());
        assert!(find("../near.py", &[outer.path().join("a")]).is_ok());
    }

    #[test]
    fn a_recipe_that_is_not_there_or_not_readable_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("latin.py"), [0xE9]).unwrap();
        fs::write(dir.path().join("a.rs"), "").unwrap();
        let find = |name: &str| Recipe::find(name, dir.path(), &[]).unwrap_err();
        assert_eq!(find("gird").to_string(), "there is no recipe `gird`");
        let hint = find("gird").hint().unwrap();
        assert!(hint.starts_with("did you mean `grid`?"), "{hint}");
        let says = |name: &str| find(name).to_string();
        assert!(says("gone.py").starts_with("cannot read"));
        assert!(says("latin.py").starts_with("cannot read"));
        assert!(says("./a.rs").contains("is not a recipe"));
    }
}
