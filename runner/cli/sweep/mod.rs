//! From a sweep file to a plan.
//!
//! - `config/`: figment layers become a sweep; unknown keys and wrong types with file and line. `given.rs`: the
//!   options of `sae-run train`; `finite.rs`, `secrets.rs`: what is refused; `listed.rs`: lists as typed
//! - `expand.rs`: drafts of a recipe become jobs and streams; `rounds.rs`: asks the recipe; `next_round.rs`: again
//! - `inputs.rs`: models and data of a sweep, each looked at once; `lacking.rs`: what a plan does without;
//!   `finetune.rs`: the SAEs that a job begins with
//! - `forecast.rs`: time and space of a plan; `data_length.rs`: how long its data is
//! - `used_model.rs`: a model of a stream, checked
//! - `models.rs`, `datasets.rs`: from a name to a folder or files, here or in the Hub's cache; `hub_access.rs`,
//!   `download.rs`; `named_data.rs`: data that a command names in place of a job's own
//! - `device_memory.rs`: what a worker may take; `paths.rs`: folders of this machine; `git.rs`: the commit

pub(crate) mod config;
mod data_length;
pub(crate) mod datasets;
pub(crate) mod device_memory;
pub(crate) mod download;
pub(crate) mod expand;
mod finetune;
pub(crate) mod forecast;
pub(crate) mod git;
pub(crate) mod hub_access;
pub(crate) mod inputs;
mod lacking;
pub(crate) mod models;
pub(crate) mod named_data;
pub(crate) mod next_round;
pub(crate) mod paths;
pub(crate) mod rounds;
mod used_model;
