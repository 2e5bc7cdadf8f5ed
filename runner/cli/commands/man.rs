//! `sae-run man`: man pages.

use crate::error::CliError;
use crate::show::table;
use args::ManArgs;
use clap::Command;
use clap_mangen::Man;
use std::fs;
use std::path::Path;

/// `sae-run man`.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<u8, CliError> {
    let mut command = args::command();
    command.build();
    let Some(dir) = &args.out else {
        return table::print(&page(&command)?);
    };
    fs::create_dir_all(dir).map_err(|error| CliError::io("create", dir, &error))?;
    let n_pages = write(&command, "sae-run", dir)?;
    table::note(&format!(
        "wrote {} into `{}`",
        table::count(n_pages, "page"),
        dir.display()
    ));
    Ok(0)
}

/// Writes the pages of a command and those below it, as `sae-run-recipes-new.1`; how many.
fn write(command: &Command, name: &str, dir: &Path) -> Result<usize, CliError> {
    let named = command
        .clone()
        .name(name.to_owned())
        .display_name(name.to_owned());
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(&named)?).map_err(|error| CliError::io("write", &path, &error))?;
    let mut n_pages = 1;
    let shown = |below: &&Command| !below.is_hide_set() && below.get_name() != "help";
    for below in command.get_subcommands().filter(shown) {
        n_pages += write(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(n_pages)
}

fn page(command: &Command) -> Result<String, CliError> {
    let mut page = Vec::new();
    let rendered = Man::new(command.clone()).render(&mut page);
    rendered.map_err(|error| CliError::environment(format!("cannot write the page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
