//! Gemma 2 and the text part of Gemma 3 (Gemma team 2024 and 2025), as transformers 5 computes them:
//! scaled embeddings, norms before and after, blocks with and without sliding windows. Gemma 2 caps
//! its attention scores, Gemma 3 norms queries and keys.

use crate::LmError;
use crate::config::ConfigFile;
use crate::decoder::{BlockNorms, DecoderConfig, LayerConfig, NormStyle, QkNorm};
use crate::nn::ActFn;
use crate::rope::RopeConfig;

/// Index of the rotary embedding of blocks that see all earlier positions, and of the others.
const GLOBAL_ROPE: usize = 0;
const LOCAL_ROPE: usize = 1;

impl DecoderConfig {
    /// `model_type` = `gemma2`. Every other block slides, the first among them. Where the scores are not
    /// capped, which no published model has, transformers spells the attention out all the same and
    /// rounds otherwise in 16 bit.
    pub(crate) fn gemma2(file: &ConfigFile) -> Result<Self, LmError> {
        let mut config = Self {
            score_softcap: file.positive_or_null("attn_logit_softcapping", Some(50.0))?,
            logit_softcap: file.positive_or_null("final_logit_softcapping", Some(30.0))?,
            ..Self::gemma(file, "gemma2")?
        };
        let slides = file.layer_slides(config.layers.len(), |layer_idx| layer_idx % 2 == 0)?;
        config.set_windows(file, &slides, GLOBAL_ROPE)?;
        Ok(config)
    }

    /// `model_type` = `gemma3_text`. All blocks slide but every sixth, and these have a rotary
    /// embedding of their own. `attn_logit_softcapping` has no effect, as in transformers.
    pub(crate) fn gemma3(file: &ConfigFile) -> Result<Self, LmError> {
        let mut config = Self {
            qk_norm: Some(QkNorm::AfterTranspose),
            logit_softcap: file.positive("final_logit_softcapping")?,
            ..Self::gemma(file, "gemma3_text")?
        };
        config.ropes = gemma3_ropes(file, config.max_position_embeddings)?;
        let pattern = file.count("sliding_window_pattern")?.unwrap_or(6);
        let is_local = |layer_idx: usize| !(layer_idx + 1).is_multiple_of(pattern);
        let slides = file.layer_slides(config.layers.len(), is_local)?;
        config.set_windows(file, &slides, LOCAL_ROPE)?;
        Ok(config)
    }

    fn gemma(file: &ConfigFile, model_type: &'static str) -> Result<Self, LmError> {
        if file.bool("use_bidirectional_attention", false)? {
            let problem = "is true, but only causal attention is supported";
            return Err(file.bad("use_bidirectional_attention", problem.into()));
        }
        let attention_bias = file.bool("attention_bias", false)?;
        let scalar = file.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
        let file = &file
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
    ) -> Result<(), LmError> {
        let window = file.count_or_null("sliding_window", 4096)?;
        if window.is_none() && slides.contains(&true) {
            let problem = "is null, but some blocks slide";
            return Err(file.bad("sliding_window", problem.into()));
        }
        let layer = |slides: &bool| match slides {
            true => LayerConfig {
                window,
                rope: local_rope,
            },
            false => LayerConfig {
                window: None,
                rope: GLOBAL_ROPE,
            },
        };
        self.layers = slides.iter().map(layer).collect();
        Ok(())
    }
}

/// The rotary embeddings, global and local: `rope_parameters` by kind of block, as transformers 5
/// keeps them, or the older `rope_theta`, `rope_scaling` and `rope_local_base_freq`.
fn gemma3_ropes(file: &ConfigFile, max_ctx_len: usize) -> Result<Vec<RopeConfig>, LmError> {
    let by_kind = file.object("rope_parameters")?;
    let of_kind = |kind: &str| match &by_kind {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    let global_theta = file.positive("rope_theta")?.unwrap_or(1e6);
    let local_theta = file.positive("rope_local_base_freq")?.unwrap_or(1e4);
    let global = of_kind("full_attention")?.or(file.object("rope_scaling")?);
    Ok(vec![
        RopeConfig::of_parameters(global.as_ref(), global_theta, max_ctx_len)?,
        RopeConfig::of_parameters(
            of_kind("sliding_attention")?.as_ref(),
            local_theta,
            max_ctx_len,
        )?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::RopeScaling;
    use crate::testing::TinyModel;
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
        assert!(
            matches!(error, LmError::BadKey { key, .. } if key == "use_bidirectional_attention")
        );
        let error = DecoderConfig::gemma2(&file(json!({"sliding_window": null}))).unwrap_err();
        assert!(matches!(error, LmError::BadKey { key, .. } if key == "sliding_window"));
    }
}
