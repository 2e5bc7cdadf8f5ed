//! The families, one a file: how each reads config.json.

pub(crate) mod gemma;
pub(crate) mod gpt2;
pub(crate) mod gpt_neo;
pub(crate) mod gpt_neox;
pub(crate) mod llama;
pub(crate) mod qwen;
