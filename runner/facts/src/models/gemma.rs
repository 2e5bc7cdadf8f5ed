//! Gemma 2 and the text part of Gemma 3 (Gemma team 2024 and 2025), as transformers 5 computes them:
//! scaled embeddings, norms before and after, blocks with and without sliding windows. Gemma 2 caps
//! its attention scores, Gemma 3 norms queries and keys.

use crate::FactsError;
use crate::act_fn::ActFn;
use crate::config::ConfigFile;
use crate::decoder::{BlockNorms, DecoderConfig, LayerConfig, NormStyle, QkNorm};
use crate::keys::refuse_unsupported;
use crate::layout::Within;
use crate::rope::{ROPE_KEYS, ROPE_OBJECTS, RopeConfig, RopeDefaults};

/// Index of the rotary embedding of blocks that see all earlier positions, and of the others.
const GLOBAL_ROPE: usize = 0;
const LOCAL_ROPE: usize = 1;

impl DecoderConfig {
    /// `model_type` = `gemma2`. Every other block slides, the first among them. If the scores are not
    /// capped, which no published model has, transformers still spells the attention out and rounds
    /// differently in 16 bit.
    pub(crate) fn gemma2(file: &ConfigFile) -> Result<Self, FactsError> {
        let mut config = Self {
            score_softcap: file.positive_or_null("attn_logit_softcapping", Some(50.0))?,
            logit_softcap: file.positive_or_null("final_logit_softcapping", Some(30.0))?,
            ..Self::gemma(file, "gemma2")?
        };
        let slides = file.layer_slides(config.layers.len(), |layer_idx| layer_idx % 2 == 0)?;
        config.set_windows(file, &slides, GLOBAL_ROPE)?;
        Ok(config)
    }

    /// `model_type` = `gemma3_text`. All blocks slide except every sixth, and these have their own rotary
    /// embedding. `attn_logit_softcapping` has no effect, as in transformers.
    pub(crate) fn gemma3(file: &ConfigFile) -> Result<Self, FactsError> {
        let file = &GEMMA3_SIZES.iter().fold(file.clone(), |file, (key, size)| {
            file.with_default_if_absent(key, *size)
        });
        let mut config = Self {
            qk_norm: Some(QkNorm::AfterTranspose),
            logit_softcap: file.positive("final_logit_softcapping")?,
            ..Self::gemma(&file.without(ROPE_OBJECTS), "gemma3_text")?
        };
        config.ropes = gemma3_ropes(file, config.max_position_embeddings)?;
        let pattern = file.count("sliding_window_pattern")?.unwrap_or(6);
        let is_local = |layer_idx: usize| !(layer_idx + 1).is_multiple_of(pattern);
        let slides = file.layer_slides(config.layers.len(), is_local)?;
        config.set_windows(file, &slides, LOCAL_ROPE)?;
        Ok(config)
    }

    /// `model_type` = `gemma3`: Gemma 3 with a tower for images, of which the text part is read.
    pub(crate) fn gemma3_with_images(file: &ConfigFile) -> Result<Self, FactsError> {
        let text = file
            .object("text_config")?
            .ok_or_else(|| file.missing("text_config"))?;
        refuse_unsupported(&text)?;
        let kind = text.string("model_type")?.unwrap_or("gemma3_text");
        if kind != "gemma3_text" {
            return Err(text.unsupported("model_type", kind, ["gemma3_text"]));
        }
        let key = "tie_word_embeddings";
        let outer = file.bool(key, true)?;
        if text.bool(key, outer)? != outer {
            let problem = format!("is {outer}, but in `text_config` it is {}", !outer);
            return Err(file.bad(key, problem));
        }
        Ok(Self {
            model_type: "gemma3",
            tie_word_embeddings: outer,
            within: Some(&GEMMA3_WITH_IMAGES),
            ..Self::gemma3(&text)?
        })
    }

    fn gemma(file: &ConfigFile, model_type: &'static str) -> Result<Self, FactsError> {
        if file.bool("use_bidirectional_attention", false)? {
            let problem = "is true, but only causal attention is supported";
            return Err(file.bad("use_bidirectional_attention", problem.into()));
        }
        let attention_bias = file.bool("attention_bias", false)?;
        let scalar = file.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
        // Older files have `hidden_act` too, which has no effect.
        let file = &file
            .without(&["hidden_act"])
            .with_default_if_absent("num_key_value_heads", 4)
            .with_default_if_absent("head_dim", 256);
        let common = Self::read_common(file, model_type)?;
        Ok(Self {
            hidden_act: ActFn::read(file, "hidden_activation", ActFn::GeluTanh)?,
            tie_word_embeddings: file.bool("tie_word_embeddings", true)?,
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            norm_style: NormStyle::OnePlus,
            block_norms: BlockNorms::Sandwich,
            score_scale: scalar.powf(-0.5),
            embed_scale: Some((common.hidden_size as f64).sqrt()),
            ..common
        })
    }

    fn set_windows(
        &mut self,
        file: &ConfigFile,
        slides: &[bool],
        local_rope: usize,
    ) -> Result<(), FactsError> {
        let window = file.count_or_null("sliding_window", 4096)?;
        if window.is_none() && slides.contains(&true) {
            let problem = "is null, but some blocks slide";
            return Err(file.bad("sliding_window", problem.into()));
        }
        let layer = |slides: &bool| {
            if *slides {
                LayerConfig {
                    window,
                    rope: local_rope,
                }
            } else {
                LayerConfig {
                    window: None,
                    rope: GLOBAL_ROPE,
                }
            }
        };
        self.layers = slides.iter().map(layer).collect();
        Ok(())
    }
}

/// Sizes that the files of Gemma 3 leave out if they have these values.
const GEMMA3_SIZES: [(&str, usize); 6] = [
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("max_position_embeddings", 131_072),
];

/// The names of Gemma 3's tensors with images: on the Hub, and as transformers 5 writes them.
static GEMMA3_WITH_IMAGES: Within = Within {
    text_prefixes: &["language_model.model.", "model.language_model."],
    head_names: &["language_model.lm_head.weight"],
    other_parts: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
};

/// The rotary embeddings, global and local: `rope_parameters` by kind of block, as transformers 5
/// keeps them, or the older `rope_theta`, `rope_scaling` and `rope_local_base_freq`.
fn gemma3_ropes(file: &ConfigFile, max_ctx_len: usize) -> Result<Vec<RopeConfig>, FactsError> {
    let by_kind = file.object("rope_parameters")?;
    let mut keys = by_kind.iter().flat_map(ConfigFile::keys);
    if let Some(key) = keys.find(|key| ROPE_KEYS.contains(key)) {
        let problem = format!(
            "has `{key}`, but this family keeps it by kind of block, in `full_attention` and \
             `sliding_attention`"
        );
        return Err(file.bad("rope_parameters", problem));
    }
    let of_kind = |kind: &str| match &by_kind {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    let local = of_kind("sliding_attention")?;
    let local_theta = ("rope_local_base_freq", 1e4);
    Ok(vec![
        global_rope(file, of_kind("full_attention")?, max_ctx_len)?,
        rope_of(file, local.as_ref(), local_theta, max_ctx_len)?,
    ])
}

/// `newer`: `full_attention` of `rope_parameters`, whose values those of `rope_scaling` replace in
/// transformers; here the two must agree.
fn global_rope(
    file: &ConfigFile,
    newer: Option<ConfigFile>,
    max_ctx_len: usize,
) -> Result<RopeConfig, FactsError> {
    let key = "rope_scaling";
    let of = |parameters| rope_of(file, parameters, ("rope_theta", 1e6), max_ctx_len);
    let Some(older) = file.object(key)? else {
        return of(newer.as_ref());
    };
    if older.value("type").is_some() && older.value("rope_type").is_none() {
        let problem = "has `type`, which has no effect for this family: call it `rope_type`";
        return Err(file.bad(key, problem.into()));
    }
    let Some(newer) = newer else {
        return of(Some(&older));
    };
    let rope = of(Some(&newer))?;
    if of(Some(&newer.overlaid_by(&older)))? != rope {
        let problem = "contradicts `full_attention` of `rope_parameters`: keep one of the two";
        return Err(file.bad(key, problem.into()));
    }
    Ok(rope)
}

/// `theta`: the key next to the parameters that has the base, and its default.
fn rope_of(
    file: &ConfigFile,
    parameters: Option<&ConfigFile>,
    (theta_key, theta): (&str, f64),
    max_ctx_len: usize,
) -> Result<RopeConfig, FactsError> {
    let outer = file.positive(theta_key)?;
    let defaults = RopeDefaults {
        theta: outer.unwrap_or(theta),
        max_ctx_len,
        file,
    };
    let rope = RopeConfig::of_parameters(parameters, defaults)?;
    rope.refuse_partial(file)?;
    match outer.filter(|outer| *outer != rope.rope_theta) {
        Some(outer) => {
            let problem = format!("is {outer}, but `rope_parameters` has {}", rope.rope_theta);
            Err(file.bad(theta_key, problem))
        }
        None => Ok(rope),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::RopeScaling;
    use crate::testing::TinyModel;
    use crate::testing::{is_about, lacks};
    use serde_json::{Value, json};

    fn file(changes: Value) -> ConfigFile {
        ConfigFile::read(TinyModel::with_config(changes).dir()).unwrap()
    }

    /// Gemma 3's files on the Hub have the older keys.
    #[test]
    fn old_and_new_keys_of_gemma3_mean_the_same() {
        let older = json!({"rope_parameters": null, "rope_theta": 5e5, "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 2});
        let newer = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}},
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]});
        for changes in [older, newer] {
            let config = DecoderConfig::gemma3(&file(changes)).unwrap();
            let [global, local] = config.ropes.as_slice() else {
                panic!("{config:?}");
            };
            assert_eq!(global.scaling, RopeScaling::Linear { factor: 8.0 });
            assert_eq!((global.rope_theta, local.rope_theta), (5e5, 2e4));
            assert_eq!(local.scaling, RopeScaling::Default);
            let windows: Vec<_> = config.layers.iter().map(|layer| layer.window).collect();
            assert_eq!(windows, [Some(4096), None, Some(4096), None]);
        }
    }

    #[test]
    fn contradictory_ropes_of_gemma3() {
        let newer = json!({"full_attention": {"rope_type": "default", "rope_theta": 5.0}});
        for (changes, named) in [
            (
                json!({"rope_parameters": newer, "rope_theta": 6.0}),
                "rope_theta",
            ),
            (
                json!({"rope_parameters": newer, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
                "rope_scaling",
            ),
            (
                json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 8.0}}),
                "rope_scaling",
            ),
            (
                json!({"rope_parameters": {"rope_theta": 5.0}}),
                "rope_parameters",
            ),
        ] {
            let error = DecoderConfig::gemma3(&file(changes)).unwrap_err();
            assert!(is_about(&error, named), "{error:?}");
        }
        let same = json!({"rope_parameters": newer, "rope_theta": 5.0, "rope_scaling": {"rope_theta": 5.0}});
        DecoderConfig::gemma3(&file(same)).unwrap();
    }

    /// As of `google/gemma-3-4b-it`: most sizes are left out.
    #[test]
    fn gemma3_with_images_by_its_text_part() {
        let text = json!({"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024});
        let folder = tempfile::tempdir().unwrap();
        let read = |config: &Value| {
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            crate::read_facts(folder.path())
        };
        let mut config = json!({"model_type": "gemma3", "text_config": text, "vision_config": {},
            "torch_dtype": "bfloat16", "mm_tokens_per_image": 256});
        let facts = read(&config).unwrap();
        assert_eq!((facts.hidden_size, facts.n_layers), (2560, 34));
        assert_eq!((facts.vocab_size, facts.max_ctx_len), (262_208, 131_072));
        assert_eq!(facts.model_type, "gemma3");
        let d_q = facts
            .hookpoints
            .iter()
            .find(|h| h.name == "layers.0.self_attn.q_proj");
        assert_eq!(d_q.unwrap().d_out, 2048);
        config["text_config"]["tie_word_embeddings"] = json!(false);
        let error = read(&config).unwrap_err();
        assert!(is_about(&error, "tie_word_embeddings"), "{error:?}");
        config["text_config"] = json!({"model_type": "llama"});
        let error = read(&config).unwrap_err();
        assert!(error.to_string().contains("is `llama`"), "{error}");
        config["text_config"] = Value::Null;
        let error = read(&config).unwrap_err();
        assert!(lacks(&error, "text_config"), "{error}");
    }

    #[test]
    fn caps_have_defaults_that_null_takes_away() {
        let caps = |changes| {
            let config = DecoderConfig::gemma2(&file(changes)).unwrap();
            (config.score_softcap, config.logit_softcap)
        };
        assert_eq!(caps(json!({})), (Some(50.0), Some(30.0)));
        let none = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
        assert_eq!(caps(none), (None, None));
    }

    #[test]
    fn what_is_not_supported() {
        let bidirectional = json!({"use_bidirectional_attention": true});
        let error = DecoderConfig::gemma3(&file(bidirectional)).unwrap_err();
        assert!(is_about(&error, "use_bidirectional_attention"), "{error:?}");
        let error = DecoderConfig::gemma2(&file(json!({"sliding_window": null}))).unwrap_err();
        assert!(is_about(&error, "sliding_window"), "{error:?}");
    }
}
