//! Which keys of config.json a family reads, and which have no effect on what it computes. A key in
//! neither list is reported: it may change the computation.
//!
//! The lists are compared with the configuration classes of transformers, see `keys/tests.rs`.

use crate::FactsError;
use crate::config::ConfigFile;
use crate::rope::{BLOCK_KINDS, ROPE_KEYS, ROPE_OBJECTS};
use serde_json::Value;

/// The keys of a family, in addition to those of all.
#[derive(Debug)]
pub(crate) struct Keys {
    /// transformers' other names of keys (`attribute_map`): the name, and the key that it means.
    pub(crate) other_names: &'static [(&'static str, &'static str)],
    /// What is read, or refused by name.
    pub(crate) read: &'static [&'static [&'static str]],
    /// What has no effect on the outputs of modules.
    pub(crate) without_effect: &'static [&'static str],
    /// The key of a text part, and the keys of that.
    pub(crate) text_part: Option<(&'static str, &'static Keys)>,
}

/// Read, or refused by name, for every family.
const FOR_ALL: &[&str] = &[
    "compression_config",
    "dtype",
    "is_causal",
    "model_type",
    "per_layer_config",
    "quantization",
    "quantization_config",
    "torch_dtype",
];

/// Without effect for every family: training, generation, classification, files and machines.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "architectures",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "experts_implementation",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "target_lookbehind",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// What the decoders read.
const DECODER: &[&str] = &[
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

const GEMMA: &[&str] = &[
    "attention_bias",
    "final_logit_softcapping",
    "hidden_activation",
    "layer_types",
    "query_pre_attn_scalar",
    "sliding_window",
    "use_bidirectional_attention",
];

const QWEN: &[&str] = &[
    "hidden_act",
    "layer_types",
    "max_window_layers",
    "sliding_window",
    "use_sliding_window",
];

pub(crate) static GPT2: Keys = Keys {
    other_names: &[
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
    read: &[&[
        "activation_function",
        "add_cross_attention",
        "layer_norm_epsilon",
        "n_embd",
        "n_head",
        "n_inner",
        "n_layer",
        "n_positions",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "tie_word_embeddings",
        "vocab_size",
    ]],
    without_effect: &[
        "attn_pdrop",
        "classifier_dropout",
        "embd_pdrop",
        "hidden_dropout",
        "n_ctx",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "summary_activation",
        "summary_first_dropout",
        "summary_last_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    text_part: None,
};

pub(crate) static GPT_NEO: Keys = Keys {
    other_names: &[
        ("num_attention_heads", "num_heads"),
        ("num_hidden_layers", "num_layers"),
    ],
    read: &[&[
        "activation_function",
        "attention_layers",
        "attention_types",
        "hidden_size",
        "intermediate_size",
        "layer_norm_epsilon",
        "max_position_embeddings",
        "num_heads",
        "num_layers",
        "tie_word_embeddings",
        "vocab_size",
        "window_size",
    ]],
    without_effect: &[
        "classifier_dropout",
        "embed_dropout",
        "resid_dropout",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    text_part: None,
};

pub(crate) static GPT_NEOX: Keys = Keys {
    other_names: &[],
    read: &[&[
        "attention_bias",
        "head_dim",
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "layer_norm_eps",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "rotary_emb_base",
        "rotary_pct",
        "tie_word_embeddings",
        "use_parallel_residual",
        "vocab_size",
    ]],
    without_effect: &["classifier_dropout", "hidden_dropout"],
    text_part: None,
};

pub(crate) static LLAMA: Keys = Keys {
    other_names: &[],
    read: &[DECODER, &["attention_bias", "hidden_act", "mlp_bias"]],
    without_effect: &["is_llama_config", "pretraining_tp", "rope_interleaved"],
    text_part: None,
};

pub(crate) static MISTRAL: Keys = Keys {
    other_names: &[],
    read: &[DECODER, &["hidden_act", "layer_types", "sliding_window"]],
    without_effect: &[],
    text_part: None,
};

pub(crate) static QWEN2: Keys = Keys {
    other_names: &[],
    read: &[DECODER, QWEN],
    without_effect: &[],
    text_part: None,
};

pub(crate) static QWEN3: Keys = Keys {
    other_names: &[],
    read: &[DECODER, QWEN, &["attention_bias"]],
    without_effect: &[],
    text_part: None,
};

pub(crate) static GEMMA2: Keys = Keys {
    other_names: &[],
    read: &[DECODER, GEMMA, &["attn_logit_softcapping"]],
    without_effect: &["hidden_act"],
    text_part: None,
};

pub(crate) static GEMMA3_TEXT: Keys = Keys {
    other_names: &[],
    read: &[
        DECODER,
        GEMMA,
        &["rope_local_base_freq", "sliding_window_pattern"],
    ],
    without_effect: &[
        "_sliding_window_pattern",
        "attn_logit_softcapping",
        "hidden_act",
    ],
    text_part: None,
};

pub(crate) static GEMMA3: Keys = Keys {
    other_names: &[],
    read: &[&["text_config", "tie_word_embeddings"]],
    without_effect: &[
        "boi_token_id",
        "boi_token_index",
        "eoi_token_id",
        "eoi_token_index",
        "image_token_id",
        "image_token_index",
        "mm_tokens_per_image",
        "vision_config",
    ],
    text_part: Some(("text_config", &GEMMA3_TEXT)),
};

impl Keys {
    fn knows(&self, key: &str) -> bool {
        let lists = [FOR_ALL, WITHOUT_EFFECT, self.without_effect];
        let mut lists = lists.into_iter().chain(self.read.iter().copied());
        lists.any(|list| list.contains(&key))
    }

    /// The keys of `file` that are in no list, in order, as paths: `rope_scaling.finetuned`.
    pub(crate) fn unknown_in(&self, file: &ConfigFile) -> Result<Vec<String>, FactsError> {
        let mut unknown: Vec<String> = file
            .keys()
            .filter(|key| !self.knows(key))
            .map(str::to_owned)
            .collect();
        for key in ROPE_OBJECTS {
            if let Some(rope) = file.object(key)? {
                unknown.extend(
                    unknown_in_rope(&rope)?
                        .iter()
                        .map(|inner| format!("{key}.{inner}")),
                );
            }
        }
        if let Some((key, keys)) = self.text_part
            && let Some(text) = file.object(key)?
        {
            let inner = keys.unknown_in(&text)?;
            unknown.extend(inner.iter().map(|inner| format!("{key}.{inner}")));
        }
        Ok(unknown)
    }
}

fn unknown_in_rope(rope: &ConfigFile) -> Result<Vec<String>, FactsError> {
    let is_known = |key: &str| ROPE_KEYS.contains(&key) || BLOCK_KINDS.contains(&key);
    let mut unknown: Vec<String> = rope
        .keys()
        .filter(|key| !is_known(key))
        .map(str::to_owned)
        .collect();
    for kind in BLOCK_KINDS {
        if let Some(of_kind) = rope.object(kind)? {
            let inner = of_kind.keys().filter(|key| !ROPE_KEYS.contains(key));
            unknown.extend(inner.map(|inner| format!("{kind}.{inner}")));
        }
    }
    Ok(unknown)
}

/// Refuses what no family can do, and transformers could.
///
/// # Errors
/// The first such key.
pub(crate) fn refuse_unsupported(file: &ConfigFile) -> Result<(), FactsError> {
    if !file.bool("is_causal", true)? {
        let problem = "is false, but only causal attention is supported";
        return Err(file.bad("is_causal", problem.into()));
    }
    let key = "per_layer_config";
    if file
        .object(key)?
        .is_some_and(|layers| layers.keys().count() > 0)
    {
        let problem = "is there, but blocks with separate settings are not supported";
        return Err(file.bad(key, problem.into()));
    }
    for key in ["quantization_config", "quantization", "compression_config"] {
        if let Some(value) = file.value(key) {
            return Err(file.quantised(key, quantised_by(key, value)));
        }
    }
    Ok(())
}

/// Who quantised the checkpoint, as a value of `key` says it.
fn quantised_by(key: &str, value: &Value) -> String {
    let method = value.get("quant_method").and_then(Value::as_str);
    match (method, key) {
        (Some(method), _) => method.into(),
        (None, "quantization") => "MLX".into(),
        (None, _) => "another tool".into(),
    }
}

#[cfg(test)]
mod tests;
