//! What can be wrong with the files of SAEs: made here where several files say the same.

use fault::Fault;
use std::io;
use std::path::Path;

/// How many names a message lists.
const N_LISTED: usize = 12;

/// What a folder with a file too few lacks.
pub(crate) const FOLDER_HINT: &str = "an SAE folder has `cfg.json`, and `sae.safetensors` as sparsify writes it or \
    `sae_weights.safetensors` as SAELens does";

/// A file or folder that cannot be read, or written.
pub fn io_fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Fault {
    let fault = Fault::own_io(action, path);
    move |error| {
        let is_pointer = files::is_lfs_pointer(&error);
        let fault = fault(error);
        match action {
            _ if is_pointer => fault.with_hint(files::LFS_HINT),
            "read" => fault.with_hint("does the file exist, and is it complete?"),
            _ => fault,
        }
    }
}

/// A key of `cfg.json` that asks for something else than an SAE computes here. `value`: as JSON.
pub fn unsupported(path: &Path, key: &str, value: &str, why: &str) -> Fault {
    Fault::input(format!("`{}` has `{key}` = {value}: {why}", path.display()))
}

/// A folder or repository without SAEs. `there`: names of what it has.
pub(crate) fn no_saes(location: &str, there: &[String]) -> Fault {
    let has = listed(", which has", there);
    Fault::input(format!("there is no SAE in `{location}`{has}")).with_hint(
        "name a folder or repository with `cfg.json` and the weights (`sae.safetensors` or \
         `sae_weights.safetensors`), or with such a folder for each SAE",
    )
}

/// A name or pattern that no SAE of a folder or repository has.
pub fn no_such_sae(location: &str, wanted: &str, names: &[&str]) -> Fault {
    let nearest = plan::nearest(wanted, names.iter().copied(), 3);
    let hint = if nearest.is_empty() {
        format!("it has {}", names.len())
    } else {
        format!("the nearest are {}", code_list(&nearest))
    };
    Fault::input(format!("`{location}` has no SAE called `{wanted}`")).with_hint(hint)
}

/// The first of `names`, after `intro`; empty if there are no names.
pub(crate) fn listed(intro: &str, names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("{intro} {}", code_list(names))
    }
}

pub(crate) fn code_list<T: AsRef<str>>(names: &[T]) -> String {
    let first = names.iter().take(N_LISTED);
    let first = first.map(|name| format!("`{}`", name.as_ref()));
    let mut list = first.collect::<Vec<_>>().join(", ");
    if names.len() > N_LISTED {
        list += &format!(" and {} more", names.len() - N_LISTED);
    }
    list
}
