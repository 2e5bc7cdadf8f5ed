//! SAEs of a Hub on this machine.

use super::*;
use fault::Remedy;
use hub_server::HubServer;
use plan::SaeLensMetadata;
use sae_files::{CONFIG_FILE, SaeConfig};
use std::fs;
use std::path::Path;
use tch::{Device, Kind};
use tempfile::{TempDir, tempdir};

const REPO: &str = "org/saes";

/// A Hub, and a cache for what comes from it.
struct There {
    server: HubServer,
    cache: TempDir,
}

impl There {
    /// With the files of `folder` as a repository.
    fn with(folder: &Path) -> Self {
        let server = HubServer::start();
        server.add_model(REPO, folder);
        Self {
            server,
            cache: tempdir().unwrap(),
        }
    }

    fn options(&self) -> LoadOptions {
        let settings = HubSettings::new(&self.server.url(), self.cache.path());
        LoadOptions {
            hub: Some(Hub::new(settings).unwrap()),
            ..LoadOptions::default()
        }
    }

    /// Names of the files that were downloaded, each time.
    fn downloaded(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        let gets = requests.filter(|request| request.method == "GET" && !request.is_to_store);
        let files = gets.filter_map(|request| {
            let (_, file) = request.target.split_once("/resolve/")?;
            Some(file.split_once('/')?.1.to_owned())
        });
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    }
}

fn sae(seed: i64) -> Sae {
    Sae::new(SaeConfig::topk(4, 12, 2), seed, Device::Cpu).unwrap()
}

/// As EleutherAI's `sae-llama-3-8b-32x` is: settings of the training at the top, folders by layer, and
/// a `cfg.json` from before `activation`.
fn as_of_eleuther() -> TempDir {
    let folder = tempdir().unwrap();
    for layer in [0, 2, 10] {
        let dir = folder.path().join(format!("layers.{layer}"));
        sae(layer).save_to_disk(&dir).unwrap();
        let old = r#"{"expansion_factor": 3, "normalize_decoder": true, "num_latents": 12, "k": 2,
                      "signed": false, "d_in": 4}"#;
        fs::write(dir.join(CONFIG_FILE), old).unwrap();
    }
    let settings = r#"{"model": "meta-llama/Meta-Llama-3-8B", "ctx_len": 2048}"#;
    fs::write(folder.path().join("config.json"), settings).unwrap();
    fs::write(folder.path().join("README.md"), "SAEs").unwrap();
    fs::write(folder.path().join("optimizer.pt"), "large").unwrap();
    folder
}

#[test]
fn one_sae_of_many_is_all_that_is_downloaded() {
    let there = There::with(as_of_eleuther().path());
    let load = || Sae::load_from_hub(REPO, Some("layers.10"), there.options()).unwrap();
    assert!(load().encoder_weight.equal(&sae(10).encoder_weight));
    let files = [
        "config.json",
        "layers.10/cfg.json",
        "layers.10/sae.safetensors",
    ];
    assert_eq!(there.downloaded(), files);
    there.server.forget_requests();
    load();
    assert!(there.downloaded().is_empty(), "it is in the cache");
    assert_eq!(there.server.requests().len(), 1, "what the branch means");
    let offline = LoadOptions {
        offline: true,
        ..there.options()
    };
    Sae::load_from_hub(REPO, Some("layers.10"), offline.clone()).unwrap();
    let error = Sae::load_from_hub(REPO, Some("layers.2"), offline).unwrap_err();
    assert!(
        error.to_string().contains("is not in the cache"),
        "{error:?}"
    );
    assert_eq!(there.server.requests().len(), 1, "nobody was asked");
}

#[test]
fn many_come_in_natural_order_and_as_they_are_wanted() {
    let there = There::with(as_of_eleuther().path());
    let names = |patterns: &[&str]| {
        let options = LoadOptions {
            patterns: patterns.iter().map(|&pattern| pattern.into()).collect(),
            kind: Some(Kind::Half),
            ..there.options()
        };
        let many = Sae::load_many(REPO, options)?.into_iter();
        let names = many.map(|(name, sae)| {
            assert_eq!(sae.b_dec.kind(), Kind::Half);
            name
        });
        Ok::<Vec<_>, SaeError>(names.collect())
    };
    assert_eq!(names(&["layers.1*"]).unwrap(), ["layers.10"]);
    assert_eq!(names(&[]).unwrap(), ["layers.0", "layers.2", "layers.10"]);
    let error = names(&["layers.0", "layer.3"]).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(
        error.to_string().contains("no SAE called `layer.3`"),
        "{error:?}"
    );
    assert!(hint.contains("`layers.2`"), "{hint}");
}

#[test]
fn the_files_around_an_sae_tell_its_model() {
    let there = There::with(as_of_eleuther().path());
    let hub = there.options().hub().unwrap();
    let saes = HubSaes::list(&hub, REPO, None).unwrap();
    let names = saes.select(&["layers.2".into()]).unwrap();
    let found = saes.download(&hub, &names, &mut |_| {}).unwrap();
    assert_eq!(found[0].hookpoint, "layers.2");
    assert_eq!(
        crate::trained_on(&found[0]).map(|of| of.model).as_deref(),
        Some("meta-llama/Meta-Llama-3-8B")
    );
}

#[test]
fn a_single_sae_needs_no_name_and_several_do() {
    let folder = tempdir().unwrap();
    sae(1).save_to_disk(folder.path()).unwrap();
    let there = There::with(folder.path());
    let load = |there: &There, name| Sae::load_from_hub(REPO, name, there.options());
    assert!(
        load(&there, None)
            .unwrap()
            .encoder_weight
            .equal(&sae(1).encoder_weight)
    );
    let [(name, _)] = &Sae::load_many(REPO, there.options()).unwrap()[..] else {
        panic!("one SAE");
    };
    assert_eq!(name, "saes");

    let there = There::with(as_of_eleuther().path());
    let error = load(&there, None).unwrap_err();
    assert!(error.to_string().contains(" SAEs"), "{error:?}");
    assert!(error.hint().unwrap().contains("`layers.10`"));
    let error = load(&there, Some("layers.11")).unwrap_err();
    assert!(error.hint().unwrap().contains("`layers.10`"), "{error:?}");
}

#[test]
fn folders_of_saelens_below_others() {
    let folder = tempdir().unwrap();
    let dir = folder.path().join("gpt2/blocks.3.hook_resid_post");
    sae(3)
        .save_saelens(&dir, &SaeLensMetadata::default())
        .unwrap();
    fs::write(dir.join("sparsity.safetensors"), "not needed").unwrap();
    let there = There::with(folder.path());
    let name = "gpt2/blocks.3.hook_resid_post";
    let loaded = Sae::load_from_hub(REPO, Some(name), there.options()).unwrap();
    assert!(loaded.w_dec.equal(&sae(3).w_dec));
    assert_eq!(there.downloaded().len(), 2);
}

#[test]
fn a_repository_without_saes_says_what_it_has() {
    let folder = tempdir().unwrap();
    // A language model, and settings without weights. With both in one folder, it is a crosscoder's.
    fs::create_dir(folder.path().join("layers.0")).unwrap();
    for name in ["config.json", "model.safetensors", "layers.0/cfg.json"] {
        fs::write(folder.path().join(name), "{}").unwrap();
    }
    let there = There::with(folder.path());
    let error = Sae::load_many(REPO, there.options()).unwrap_err();
    assert!(
        error.to_string().contains("there is no SAE in"),
        "{error:?}"
    );
    assert!(error.to_string().contains("`model.safetensors`"), "{error}");
    assert!(there.downloaded().is_empty());
    let error = Sae::load_many("org/none", there.options()).unwrap_err();
    assert!(error.to_string().contains("org/none"), "{error:?}");
}

#[test]
fn paths_that_lead_elsewhere_are_refused_before_anything_is_written() {
    let folder = as_of_eleuther();
    for path in [
        "../evil/cfg.json",
        "/tmp/evil/cfg.json",
        "a/../../cfg.json",
        "a\\cfg.json",
    ] {
        let there = There::with(folder.path());
        there.server.rename_file(REPO, "layers.0/cfg.json", path);
        let error = Sae::load_from_hub(REPO, Some("layers.2"), there.options()).unwrap_err();
        let expected = format!("lists a file called {path:?}");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(there.downloaded().is_empty());
    }
}

#[test]
fn what_python_left_in_the_cache_is_enough_offline() {
    let there = There::with(as_of_eleuther().path());
    Sae::load_from_hub(REPO, Some("layers.2"), there.options()).unwrap();
    let own = there.cache.path().join("models--org--saes/.sae-run");
    fs::remove_dir_all(own).unwrap();
    let offline = LoadOptions {
        offline: true,
        ..there.options()
    };
    Sae::load_from_hub(REPO, Some("layers.2"), offline.clone()).unwrap();
    assert_eq!(Sae::load_many(REPO, offline).unwrap().len(), 1);
}

#[test]
fn a_huge_configuration_is_not_downloaded() {
    let folder = as_of_eleuther();
    let config = folder.path().join("layers.0").join(CONFIG_FILE);
    fs::write(config, " ".repeat(2 << 20)).unwrap();
    let there = There::with(folder.path());
    assert_eq!(Sae::load_many(REPO, there.options()).unwrap().len(), 2);
    assert!(
        there
            .downloaded()
            .iter()
            .all(|file| !file.contains("layers.0"))
    );
}

#[test]
fn another_layout_within_an_sae_is_no_sae_of_its_own() {
    let folder = tempdir().unwrap();
    let dir = folder.path().join("layers.3");
    sae(3).save_to_disk(&dir).unwrap();
    sae(3)
        .save_saelens(&dir.join("saelens"), &SaeLensMetadata::default())
        .unwrap();
    let there = There::with(folder.path());
    let many = Sae::load_many(REPO, there.options()).unwrap();
    let names: Vec<_> = many.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["layers.3"]);
}
