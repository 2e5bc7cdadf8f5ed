//! SAEs in their layouts, and where they go in the repository.

use super::listed::place_of;
use super::selection::{self, Chosen};
use crate::error::CliError;
use args::PublishArgs;
use plan::{SaeForm, SaeLayout};
use sae_files::files_of;
use std::collections::HashSet;
use store::PublishedSae;

/// An SAE in a layout, and where it goes.
pub(super) struct Part<'a> {
    pub(super) chosen: &'a Chosen,
    pub(super) form: SaeForm,
    /// Folder of the repository; empty for the root.
    pub(super) folder: String,
}

impl<'a> Part<'a> {
    /// In the SAE's folder.
    pub(super) fn new(chosen: &'a Chosen, form: SaeForm) -> Self {
        Self {
            chosen,
            form,
            folder: chosen.folder.clone(),
        }
    }

    pub(super) fn within(mut self, subfolder: Option<&str>) -> Self {
        self.folder = selection::joined([Some(&self.folder), subfolder]);
        self
    }

    /// The path in the repository of one of its files.
    pub(super) fn path_of(&self, file: &str) -> String {
        let folder = Some(self.folder.as_str()).filter(|folder| !folder.is_empty());
        selection::joined([folder, Some(file)])
    }

    /// As the database finds it again.
    pub(super) fn published(&self) -> PublishedSae {
        PublishedSae {
            path: self.path_of(&files_of(&self.form)[0]),
            sae_id: self.chosen.sae.sae_id,
            layout: self.form.layout().name().to_owned(),
        }
    }
}

/// Refuses to replace other SAEs of this runs folder, unless it is forced.
///
/// # Errors
/// A path of the repository that another SAE was published at.
pub(super) fn check_paths(
    parts: &[Part<'_>],
    published: &[PublishedSae],
    args: &PublishArgs,
) -> Result<(), CliError> {
    if args.force {
        return Ok(());
    }
    let new_ids: HashSet<_> = parts.iter().map(|part| part.chosen.sae.sae_id).collect();
    for new in parts.iter().map(Part::published) {
        let is_other = |other: &&PublishedSae| {
            let is_at_path = other.path == new.path && other.sae_id != new.sae_id;
            is_at_path || are_of_one_set(other, &new) && !new_ids.contains(&other.sae_id)
        };
        let other = published.iter().find(is_other);
        if let Some(PublishedSae { path, sae_id, .. }) = other {
            let message = format!(
                "`{}` of `{}` has another SAE, number {sae_id} of the database",
                place_of(path),
                args.repo
            );
            return Err(CliError::input(message).with_hint(
                "`--prefix FOLDER` puts these elsewhere, `--force` replaces it".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Whether circuit-tracer takes both for the same set: they are in the folder of one `config.yaml`.
fn are_of_one_set(a: &PublishedSae, b: &PublishedSae) -> bool {
    let folder = |sae: &PublishedSae| {
        let folder = sae
            .path
            .rsplit_once('/')
            .map(|(folder, _)| folder.to_owned());
        (sae.layout == SaeLayout::CircuitTracer.name()).then_some(folder)
    };
    folder(a).is_some_and(|of_a| folder(b) == Some(of_a))
}
