//! The real binary on a tiny model: what a user does, and what can go wrong meanwhile.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

mod bad_data;
mod bad_folder;
mod bad_model;
mod bad_settings;
mod borders;
mod config;
mod daily;
mod damaged_events;
mod data;
mod distributed;
mod encode;
mod eval;
mod failed;
#[cfg(target_os = "linux")]
mod fake_cuda;
mod finetune;
mod hostile_hub;
mod hostile_names;
mod hostile_ranks;
mod hub;
mod inspect;
#[cfg(target_os = "linux")]
mod installed;
mod interrupt;
mod kills;
mod lanes;
mod llama;
mod lost_checkpoints;
mod memory;
mod merge;
mod models;
mod names;
mod not_finite;
mod permissions;
mod plan;
mod planted_code;
mod private;
mod programs;
mod provenance;
mod publish;
mod publish_crosscoders;
mod publish_transcoders;
mod readme;
mod recipes;
mod remove;
mod report;
mod retries;
mod rounds;
mod run;
mod schema;
mod second_model;
mod secrets;
mod several;
mod side_by_side;
mod sparsify_options;
mod special_files;
mod sql;
mod terminal;
mod tokenizers;
mod train;
mod training;
mod verify_resume;
