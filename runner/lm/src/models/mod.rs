//! What families compute that are not the common decoder, one a file.

pub(crate) mod gpt2;
pub(crate) mod gpt_neo;
pub(crate) mod gpt_neox;
