//! Qwen2 and Qwen3 (Qwen team 2024 and 2025), as transformers 5 computes them with sdpa attention:
//! Llama with biases, or norms, of queries and keys, and sliding windows in some blocks.

use crate::FactsError;
use crate::config::ConfigFile;
use crate::decoder::{DecoderConfig, LayerConfig, QkNorm};

impl DecoderConfig {
    /// `model_type` = `qwen2`.
    pub(crate) fn qwen2(file: &ConfigFile) -> Result<Self, FactsError> {
        let file = &file.with_default_if_absent("num_key_value_heads", 32);
        let config = Self {
            qkv_bias: true,
            ..Self::read_common(file, "qwen2")?
        };
        config.with_late_windows(file)
    }

    /// `model_type` = `qwen3`. `head_dim` is 128 by default.
    pub(crate) fn qwen3(file: &ConfigFile) -> Result<Self, FactsError> {
        let file = &file
            .with_default_if_absent("num_key_value_heads", 32)
            .with_default_if_absent("head_dim", 128);
        let attention_bias = file.bool("attention_bias", false)?;
        let config = Self {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            qk_norm: Some(QkNorm::BeforeTranspose),
            ..Self::read_common(file, "qwen3")?
        };
        config.with_late_windows(file)
    }

    /// With `use_sliding_window`, windows in the blocks from `max_window_layers` on, or in those that
    /// `layer_types` names.
    fn with_late_windows(mut self, file: &ConfigFile) -> Result<Self, FactsError> {
        let window = if file.bool("use_sliding_window", false)? {
            file.count_or_null("sliding_window", 4096)?
        } else {
            None
        };
        let first = file.index("max_window_layers")?.unwrap_or(28);
        let n_layers = self.layers.len();
        let slides =
            file.layer_slides(n_layers, |layer_idx| window.is_some() && layer_idx >= first)?;
        if window.is_none() && slides.contains(&true) {
            let problem =
                "has sliding blocks, but `use_sliding_window` or `sliding_window` says none";
            return Err(file.bad("layer_types", problem.into()));
        }
        let layer = |slides: bool| LayerConfig {
            window: window.filter(|_| slides),
            rope: 0,
        };
        self.layers = slides.into_iter().map(layer).collect();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;
    use crate::testing::is_about;
    use serde_json::{Value, json};

    fn windows(changes: Value) -> Result<Vec<Option<usize>>, FactsError> {
        let file = ConfigFile::read(TinyModel::with_config(changes).dir())?;
        let config = DecoderConfig::qwen2(&file)?;
        Ok(config.layers.iter().map(|layer| layer.window).collect())
    }

    #[test]
    fn which_blocks_slide() {
        assert_eq!(windows(json!({})).unwrap(), [None; 4]);
        let late = json!({"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 2});
        assert_eq!(windows(late).unwrap(), [None, None, Some(5), Some(5)]);
        let kinds = [
            "sliding_attention",
            "full_attention",
            "full_attention",
            "full_attention",
        ];
        let named = json!({"use_sliding_window": true, "sliding_window": 5, "layer_types": kinds});
        assert_eq!(windows(named).unwrap(), [Some(5), None, None, None]);
    }

    #[test]
    fn layer_types_that_fit_nothing() {
        let kinds = [
            "sliding_attention",
            "full_attention",
            "full_attention",
            "full_attention",
        ];
        let contradictory = windows(json!({"layer_types": kinds})).unwrap_err();
        assert!(is_about(&contradictory, "layer_types"), "{contradictory:?}");
        let short = windows(json!({"layer_types": ["full_attention"]})).unwrap_err();
        assert_eq!(
            short.to_string().split('`').nth(4),
            Some(" names 1 blocks of 4")
        );
        let unknown = windows(json!({"layer_types": vec!["chunked_attention"; 4]})).unwrap_err();
        assert!(is_about(&unknown, "layer_types"), "{unknown:?}");
        assert!(unknown.to_string().contains("is `chunked_attention`"));
    }
}
