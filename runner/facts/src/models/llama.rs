//! Llama (Touvron et al. 2023) and Mistral (Jiang et al. 2023), as transformers 5 computes them with
//! sdpa attention: Llama 2, 3, 3.1 and 3.2, SmolLM2, and Mistral with its sliding window.

use crate::FactsError;
use crate::act_fn::ActFn;
use crate::config::{ConfigFile, MAX_COUNT};
use crate::decoder::{BlockNorms, DecoderConfig, LayerConfig, NormStyle};
use crate::rope::RopeConfig;

impl DecoderConfig {
    /// `model_type` = `llama`.
    pub(crate) fn llama(file: &ConfigFile) -> Result<Self, FactsError> {
        let attention_bias = file.bool("attention_bias", false)?;
        Ok(Self {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            mlp_bias: file.bool("mlp_bias", false)?,
            ..Self::read_common(file, "llama")?
        })
    }

    /// `model_type` = `mistral`. A null window means no window; the default is 4096. With `layer_types`, which
    /// for transformers makes it a Ministral, the window is that of the sliding blocks alone.
    pub(crate) fn mistral(file: &ConfigFile) -> Result<Self, FactsError> {
        let window = file.count_or_null("sliding_window", 4096)?;
        let file = &file.with_default_if_absent("num_key_value_heads", 8);
        let mut config = Self::read_common(file, "mistral")?;
        let slides = file.layer_slides(config.layers.len(), |_| window.is_some())?;
        if window.is_none() && slides.contains(&true) {
            let problem = "has sliding blocks, but `sliding_window` is null";
            return Err(file.bad("layer_types", problem.into()));
        }
        let layer = |slides: bool| LayerConfig {
            window: window.filter(|_| slides),
            rope: 0,
        };
        config.layers = slides.into_iter().map(layer).collect();
        Ok(config)
    }

    /// What the families read alike; the rest as in a Llama without biases.
    pub(crate) fn read_common(
        file: &ConfigFile,
        model_type: &'static str,
    ) -> Result<Self, FactsError> {
        let hidden_size = file.required_count("hidden_size")?;
        let num_attention_heads = file.required_count("num_attention_heads")?;
        let max_position_embeddings = file.required_count("max_position_embeddings")?;
        let head_dim = read_head_dim(file, hidden_size, num_attention_heads)?;
        let layer = LayerConfig {
            window: None,
            rope: 0,
        };
        Ok(Self {
            model_type,
            vocab_size: file.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: file.required_count("intermediate_size")?,
            num_attention_heads,
            num_key_value_heads: read_kv_heads(file, num_attention_heads)?,
            head_dim,
            hidden_act: ActFn::read(file, "hidden_act", ActFn::Silu)?,
            max_position_embeddings,
            rms_norm_eps: file.positive("rms_norm_eps")?.unwrap_or(1e-6),
            tie_word_embeddings: file.bool("tie_word_embeddings", false)?,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: None,
            norm_style: NormStyle::Plain,
            block_norms: BlockNorms::Before,
            score_scale: (head_dim as f64).powf(-0.5),
            score_softcap: None,
            logit_softcap: None,
            embed_scale: None,
            ropes: vec![read_rope(file, max_position_embeddings)?],
            layers: vec![layer; file.n_layers("num_hidden_layers")?],
            within: None,
        })
    }
}

fn read_rope(file: &ConfigFile, max_ctx_len: usize) -> Result<RopeConfig, FactsError> {
    let rope = RopeConfig::read(file, &["rope_theta"], max_ctx_len)?;
    rope.refuse_partial(file)?;
    Ok(rope)
}

fn read_kv_heads(file: &ConfigFile, n_heads: usize) -> Result<usize, FactsError> {
    let n_kv_heads = file.count("num_key_value_heads")?.unwrap_or(n_heads);
    if n_heads.is_multiple_of(n_kv_heads) {
        return Ok(n_kv_heads);
    }
    let problem = format!("is {n_kv_heads}, no divisor of `num_attention_heads` = {n_heads}");
    Err(file.bad("num_key_value_heads", problem))
}

fn read_head_dim(
    file: &ConfigFile,
    hidden_size: usize,
    n_heads: usize,
) -> Result<usize, FactsError> {
    let head_dim = match file.count("head_dim")? {
        Some(head_dim) => head_dim,
        None => file.head_dim_of("hidden_size", hidden_size, "num_attention_heads", n_heads)?,
    };
    if head_dim.saturating_mul(n_heads) > MAX_COUNT as usize {
        let problem = format!("is {head_dim}, too much for {n_heads} heads");
        return Err(file.bad("head_dim", problem));
    }
    if head_dim.is_multiple_of(2) {
        return Ok(head_dim);
    }
    let problem = format!("is {head_dim}, but rotary embeddings need pairs of channels");
    Err(file.bad("head_dim", problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;
    use crate::testing::{is_about, lacks};
    use serde_json::{Value, json};

    fn file(changes: Value) -> ConfigFile {
        ConfigFile::read(TinyModel::with_config(changes).dir()).unwrap()
    }

    fn read(changes: Value) -> Result<DecoderConfig, FactsError> {
        DecoderConfig::llama(&file(changes))
    }

    #[test]
    fn defaults_of_absent_and_null_keys() {
        let config = read(json!({
            "num_key_value_heads": null, "head_dim": null, "hidden_act": null,
            "rms_norm_eps": null, "tie_word_embeddings": null, "attention_bias": null,
        }))
        .unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (4, 8));
        assert_eq!(
            (config.hidden_act, config.rms_norm_eps),
            (ActFn::Silu, 1e-6)
        );
        assert!(!config.tie_word_embeddings && !config.qkv_bias);
    }

    #[test]
    fn every_required_key_is_named_when_missing() {
        for key in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ] {
            let error = read(json!({ key: null })).unwrap_err();
            assert!(lacks(&error, key), "{error:?}");
        }
    }

    #[test]
    fn wrong_and_contradictory_values_name_their_key() {
        for (changes, wrong_key) in [
            (json!({"hidden_size": "32"}), "hidden_size"),
            (json!({"hidden_size": -1}), "hidden_size"),
            (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
            (json!({"vocab_size": 1e30}), "vocab_size"),
            (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
            (json!({"mlp_bias": 1}), "mlp_bias"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (
                json!({"head_dim": null, "num_attention_heads": 6}),
                "hidden_size",
            ),
            (json!({"head_dim": 7}), "head_dim"),
            (json!({"head_dim": 1 << 24}), "head_dim"),
            (json!({"rope_parameters": 3}), "rope_parameters"),
        ] {
            let error = read(changes).unwrap_err();
            let named = is_about(&error, wrong_key);
            assert!(named, "{wrong_key}: {error:?}");
        }
    }

    /// Whole floats count as integers; what Python writes for NaN and infinity is shown unchanged.
    #[test]
    fn numbers_as_python_writes_them() {
        let config = read(json!({"hidden_size": 32.0, "max_position_embeddings": 1.28e2})).unwrap();
        assert_eq!(
            (config.hidden_size, config.max_position_embeddings),
            (32, 128)
        );
        let model = TinyModel::copy();
        let path = model.dir().join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let with = |key: &str, value: &str| {
            let text = text.replacen('{', &format!("{{\"{key}\": {value}, "), 1);
            std::fs::write(&path, text).unwrap();
            DecoderConfig::llama(&ConfigFile::read(model.dir()).unwrap())
        };
        with("initializer_range", "NaN").unwrap();
        let error = with("rope_theta", "-Infinity").unwrap_err().to_string();
        assert!(
            error.ends_with("must be a number above 0, got `-Infinity`"),
            "{error}"
        );
    }

    #[test]
    fn heads_need_not_fill_the_hidden_size() {
        let layout = read(json!({"head_dim": 6, "attention_bias": true}))
            .unwrap()
            .layout();
        let tensors = layout.tensors(1);
        let shape = |name: &str| {
            let spec = tensors.iter().find(|spec| spec.name == name);
            spec.map(|spec| spec.shape.clone())
        };
        assert_eq!(
            shape("layers.0.self_attn.q_proj.weight"),
            Some(vec![24, 32])
        );
        assert_eq!(shape("layers.0.self_attn.k_proj.bias"), Some(vec![12]));
        assert_eq!(
            shape("layers.0.self_attn.o_proj.weight"),
            Some(vec![32, 24])
        );
        assert_eq!(shape("layers.0.mlp.up_proj.bias"), None);
        assert_eq!(shape("layers.1.mlp.up_proj.weight"), None);
    }

    #[test]
    fn mistrals_window() {
        let window =
            |changes: Value| DecoderConfig::mistral(&file(changes)).unwrap().layers[0].window;
        assert_eq!(window(json!({})), Some(4096));
        assert_eq!(window(json!({"sliding_window": 7})), Some(7));
        assert_eq!(window(json!({"sliding_window": null})), None);
        let kinds = [
            "full_attention",
            "sliding_attention",
            "attention",
            "attention",
        ];
        let mixed = file(json!({"sliding_window": 7, "layer_types": kinds}));
        let layers = DecoderConfig::mistral(&mixed).unwrap().layers;
        let windows: Vec<_> = layers.iter().map(|layer| layer.window).collect();
        assert_eq!(windows, [None, Some(7), None, None]);
        let none = file(json!({"sliding_window": null, "layer_types": kinds}));
        let error = DecoderConfig::mistral(&none).unwrap_err();
        assert!(is_about(&error, "layer_types"), "{error:?}");
        let zero = DecoderConfig::mistral(&file(json!({"sliding_window": 0}))).unwrap_err();
        assert!(is_about(&zero, "sliding_window"), "{zero:?}");
    }
}
