//! What trained SAEs do: on held-out sequences, on texts, and when they are read back from other layouts.
//!
//! Plain blocking code, as the trainer is; it reports by a function that it is given.
//!
//! - `evaluate/`: held-out evaluation of SAEs on disk. `evaluator.rs` (the passes), `replacement.rs` (what is put in
//!   the hookpoint's place), `predictions.rs` (cross-entropy, KL)
//! - `encode/`: texts or sequences become active latents in a file: `batches.rs`, `rows.rs`, `file/` with a file per
//!   format
//! - `proof.rs`: an SAE in another layout is read back, and must compute the same
//! - `models.rs`: one language model, or two; `sites.rs`: an SAE and the hookpoints where it belongs

mod encode;
mod error;
mod evaluate;
mod models;
mod proof;
mod sites;

pub use encode::{EncodedRows, encode};
pub use error::EvalError;
pub use evaluate::{
    Calibrated, CalibratedHookpoint, EvalRequest, Wanted, calibrate, evaluate, thresholds_of,
};
pub use proof::write_proven;
