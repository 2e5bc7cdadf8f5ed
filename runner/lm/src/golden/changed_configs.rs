//! Models of the fixtures with other settings: `tests/fixtures/config_cases.json`.

use super::{cross_entropy, in_float32};
use crate::testing::{assert_close, fixtures, read_tensors, write_tensors};
use crate::{LanguageModel, LoadOptions};
use facts::{check_head, check_model, read_config};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;
use tch::Tensor;

#[derive(Deserialize)]
struct Case {
    name: String,
    folder: String,
    ctx_len: i64,
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    unset: Vec<String>,
    within: Option<String>,
    loss: f64,
    /// The first of the last token's.
    logits: Vec<f32>,
}

impl Case {
    fn write(&self, dir: &Path) {
        let source = fixtures().join(&self.folder);
        let config = std::fs::read(source.join("config.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_slice(&config).unwrap();
        config.retain(|key, _| !self.unset.contains(key));
        config.extend(self.set.clone());
        let (mut config, weights) = (Value::Object(config), "model.safetensors");
        let mut tensors = read_tensors(&source.join(weights));
        if let Some(prefix) = &self.within {
            config = json!({"model_type": "gemma3", "text_config": config, "vision_config": {}});
            let renamed = |name: String| format!("{prefix}{}", name.trim_start_matches("model."));
            let tower = tensors["model.norm.weight"].clone();
            tensors = tensors
                .into_iter()
                .map(|(name, tensor)| (renamed(name), tensor))
                .collect();
            tensors.insert("vision_tower.norm.weight".into(), tower);
        }
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        write_tensors(&dir.join(weights), &tensors);
    }

    fn input_ids(&self, vocab_size: usize) -> Tensor {
        let ids = (0..self.ctx_len).map(|i| (7 * i * i + 3) % vocab_size as i64);
        Tensor::from_slice(&ids.collect::<Vec<_>>()).view([1, -1])
    }
}

#[test]
fn as_transformers_computes_them() {
    let text = std::fs::read(fixtures().join("config_cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        case.write(folder.path());
        let config = read_config(folder.path()).unwrap();
        let n_layers = config.facts().n_layers;
        let unexpected = check_model(folder.path(), n_layers).unwrap();
        assert_eq!(unexpected, Vec::<String>::new(), "{}", case.name);
        check_head(folder.path()).unwrap();
        let options = LoadOptions {
            with_head: true,
            ..in_float32()
        };
        let model = LanguageModel::load(folder.path(), &options).unwrap();
        let input_ids = case.input_ids(model.facts().vocab_size);
        let logits = model.logits(&input_ids).unwrap();
        let loss = cross_entropy(&logits, &input_ids);
        assert_close(
            &format!("{}: loss", case.name),
            &loss,
            &Tensor::from(case.loss),
        );
        let last = logits.get(0).get(case.ctx_len - 1);
        let expected = Tensor::from_slice(&case.logits);
        let first = last.narrow(0, 0, case.logits.len() as i64);
        assert_close(&format!("{}: logits", case.name), &first, &expected);
    }
}
