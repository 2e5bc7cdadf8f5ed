//! Folders of SAEs with damage of all kinds: what is loaded can compute, and is no larger than its file.

use crate::mapped::MappedFile;
use crate::{
    CONFIG_FILE, LoadOptions, SAELENS_WEIGHTS_FILE, Sae, SaeConfig, SaeLensMetadata, WEIGHTS_FILE,
    find_saes,
};
use files::testing::any_bytes;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

/// Sound folders: sparsify's layout, and SAELens's kinds.
static SOUND: LazyLock<Vec<Folder>> = LazyLock::new(|| {
    let of_saelens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/saelens");
    let of_saelens = find_saes(&of_saelens).unwrap().into_iter();
    let mut folders: Vec<_> = of_saelens.map(|sae| Folder::read(&sae.dir)).collect();
    let transcoder = SaeConfig {
        transcode: true,
        skip_connection: true,
        ..SaeConfig::topk(4, 12, 2)
    };
    for cfg in [SaeConfig::topk(4, 12, 2), transcoder] {
        let sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        let dir = tempfile::tempdir().unwrap();
        sae.save_to_disk(dir.path()).unwrap();
        folders.push(Folder::read(dir.path()));
    }
    folders
});

#[derive(Clone, Debug)]
struct Folder {
    cfg: Vec<u8>,
    weights_name: &'static str,
    weights: Vec<u8>,
}

impl Folder {
    fn read(dir: &Path) -> Self {
        let names = [WEIGHTS_FILE, SAELENS_WEIGHTS_FILE];
        let weights_name = names.into_iter().find(|name| dir.join(name).is_file());
        let weights_name = weights_name.unwrap();
        Self {
            cfg: fs::read(dir.join(CONFIG_FILE)).unwrap(),
            weights_name,
            weights: fs::read(dir.join(weights_name)).unwrap(),
        }
    }

    fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG_FILE), &self.cfg).unwrap();
        fs::write(dir.path().join(self.weights_name), &self.weights).unwrap();
        dir
    }
}

/// Sound folders with damage to one of their files.
fn folders() -> impl Strategy<Value = Folder> {
    prop::sample::select(SOUND.as_slice()).prop_flat_map(|sound| {
        let other = sound.clone();
        let with_cfg = any_bytes(vec![sound.cfg.clone()]).prop_map(move |cfg| Folder {
            cfg,
            ..sound.clone()
        });
        // The header, and some of the data.
        let with_weights = any_bytes(vec![other.weights.clone()]).prop_map(move |weights| Folder {
            weights,
            ..other.clone()
        });
        prop_oneof![with_cfg, with_weights]
    })
}

fn n_bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

fn file_of(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(WEIGHTS_FILE);
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

proptest! {
    #[test]
    fn any_bytes_in_a_folder_are_an_sae_or_none(folder in folders(), decoder: bool) {
        let dir = folder.write();
        let options = LoadOptions { decoder, ..LoadOptions::default() };
        for found in find_saes(dir.path()).into_iter().flatten() {
            let _ = (found.hookpoint.len(), crate::trained_on(&found));
        }
        let Ok(sae) = Sae::load_from_disk(dir.path(), options) else {
            return Ok(());
        };
        // A threshold of all latents is written once, and numbers may become twice as wide.
        let n_loaded: usize = sae.named_weights().iter().map(|(_, tensor)| n_bytes(tensor)).sum();
        let most = 4 * folder.weights.len() + 8 * sae.num_latents();
        prop_assert!(n_loaded <= most, "{} bytes of {}", n_loaded, folder.weights.len());
        let x = Tensor::zeros([2, sae.cfg.d_in as i64], (sae.encoder_weight.kind(), Device::Cpu));
        let encoded = sae.encode(&x).unwrap();
        if decoder {
            prop_assert_eq!(sae.decode(&encoded).unwrap().size(), [2, sae.cfg.d_out() as i64]);
            let written = tempfile::tempdir().unwrap();
            let _ = sae.save_to_disk(written.path());
            let _ = sae.save_saelens(written.path(), &SaeLensMetadata::default());
        }
    }

    #[test]
    fn any_bytes_are_mapped_as_their_header_says(bytes in any_bytes(
        SOUND.iter().map(|folder| folder.weights.clone()).collect()
    )) {
        let (_dir, path) = file_of(&bytes);
        if let Ok(file) = MappedFile::open(&path) {
            for name in ["W_enc", "W_dec", "b_dec", "threshold", "encoder.weight"] {
                for shape in [&[12, 40][..], &[40, 12], &[12], &[40], &[12, 4], &[4]] {
                    if let Ok(weights) = file.weights(name, shape) {
                        prop_assert_eq!(weights.size(), shape);
                        prop_assert!(n_bytes(&weights) <= bytes.len());
                        let _ = weights.sum(Kind::Double).double_value(&[]);
                    }
                }
            }
        }
    }
}
