//! Runs recipes: components that turn a sweep into jobs, in a sandbox without imports.
//!
//! A recipe is a `.py` file, run by the Python engine component, or any `.wasm` component of the
//! world `recipe` (`recipes/wit/recipe.wit`). It gets a request and limited fuel, memory and
//! output; it has no files, no network, no clock and no randomness but the request's seed. So
//! equal requests give equal answers, and a plan can be replayed from two digests.
//!
//! - `host.rs`: the engine; `guest.rs`: one call; `limits.rs`: its bounds; `source.rs`: where recipes are looked for
//! - `cache.rs`: compiled recipes

mod bindings;
mod cache;
mod convert;
mod error;
mod guest;
mod host;
mod limits;
mod source;
#[cfg(test)]
mod tests;

pub use error::RecipeError;
pub use host::{Host, HostOptions, compile_for_any, compiled_engine_path, engine_path};
pub use limits::Limits;
pub use source::{Recipe, built_in, in_folders};
