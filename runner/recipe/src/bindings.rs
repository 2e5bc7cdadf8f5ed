//! The records of `recipes/wit/recipe.wit` and the Python engine's exports, as Rust sees them.

#![allow(missing_docs, unreachable_pub, reason = "generated code")]

wasmtime::component::bindgen!({ path: "../../recipes/wit", world: "python-engine" });

pub use exports::sae_run::recipe::types::*;
