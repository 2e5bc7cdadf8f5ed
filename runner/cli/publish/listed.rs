//! The SAEs that a repository has after a publication, for its card.

use super::public::PublicJob;
use plan::SaeLayout;
use std::collections::{BTreeMap, HashMap};
use store::{PublishableSae, PublishedSae};

/// An SAE, and where it is in each layout: in its folder, or the file that is all of it.
pub(super) struct Listed {
    pub(super) sae: PublishableSae,
    /// Its job, as strangers may see it.
    pub(super) public: PublicJob,
    pub(super) places: Places,
}

pub(super) type Places = BTreeMap<SaeLayout, String>;

impl Listed {
    /// Where it is in its first layout.
    pub(super) fn folder(&self) -> &str {
        self.places.values().next().map_or("", String::as_str)
    }

    /// Where tools that expect a folder for each SAE find it.
    pub(super) fn in_folder(&self) -> Option<&str> {
        let layouts = [
            SaeLayout::Sparsify,
            SaeLayout::SaeLens,
            SaeLayout::CrosscoderLearning,
        ];
        let mut found = layouts.iter().filter_map(|layout| self.places.get(layout));
        found.next().map(String::as_str)
    }
}

/// Where the SAE is that is found by the file `path`.
pub(super) fn place_of(path: &str) -> &str {
    path.strip_suffix("/cfg.json").unwrap_or(path)
}

/// Where each SAE is, by its key. `published`: in the order of time; a path has what was put there last.
pub(super) fn places(published: Vec<PublishedSae>) -> HashMap<i64, Places> {
    let last: HashMap<_, _> = published
        .iter()
        .map(|found| (found.path.clone(), (found.sae_id, found.layout.clone())))
        .collect();
    let mut places: HashMap<i64, Places> = HashMap::new();
    for PublishedSae {
        path,
        sae_id,
        layout,
    } in published
    {
        let mut known = SaeLayout::ALL.into_iter();
        let known = known.find(|known| known.name() == layout);
        if last[&path] == (sae_id, layout)
            && let Some(layout) = known
        {
            let of_sae = places.entry(sae_id).or_default();
            of_sae.insert(layout, place_of(&path).to_owned());
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_over_others_last_is_there() {
        let found = |path: &str, sae_id, layout: &str| PublishedSae {
            path: path.into(),
            sae_id,
            layout: layout.into(),
        };
        let places = places(vec![
            found("a/cfg.json", 1, "sparsify"),
            found("b/cfg.json", 2, "saelens"),
            found("layer_0.safetensors", 1, "circuit-tracer"),
            found("a/cfg.json", 1, "saelens"),
            found("b/cfg.json", 3, "sparsify"),
            found("c/cfg.json", 3, "sparsify"),
        ]);
        let of = |sae_id| places.get(&sae_id).cloned().unwrap_or_default();
        let one = [
            (SaeLayout::SaeLens, "a".to_owned()),
            (SaeLayout::CircuitTracer, "layer_0.safetensors".to_owned()),
        ];
        assert_eq!(of(1), one.into());
        assert_eq!(of(2), Places::new());
        assert_eq!(of(3), [(SaeLayout::Sparsify, "c".to_owned())].into());
    }
}
