//! Commands, one per file. Those that show what was done are in `show/`; `publish/` is a separate folder.

pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod export_log;
pub(crate) mod hookpoints;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod manifest;
mod matching;
pub(crate) mod merge;
pub(crate) mod notes;
pub(crate) mod plan;
pub(crate) mod plan_diff;
pub(crate) mod recipes;
pub(crate) mod rm;
pub(crate) mod schema;
pub(crate) mod verify_resume;
