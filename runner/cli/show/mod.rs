//! What was done, shown.
//!
//! - `several.rs`: one runs folder or several; `ls.rs`; `job.rs`: `sae-run show`, `whole_sweep.rs`: of a sweep,
//!   `as_toml.rs`: as a sweep file; `sql.rs`: `sae-run sql`, and `prompt.rs`: its prompt; `answer.rs`: its output;
//!   `json.rs`: what `--json` prints
//! - `report/`: `columns.rs` (table), `plots.rs` (JSON), `provenance.rs`, `page.rs` (fills page.html); `page.js`
//!   draws it with uPlot, which is vendored
//! - `closing.rs`: what a run says at its end; `names.rs`: short names for tables
//! - `sweep.rs`: plans and results; `fitted.rs`: tables that fit the terminal; `table.rs`: tables and notes
//! - `forecast.rs`: time and space of a plan; `duration.rs`: durations; `doubts.rs`: numbers that mislead
//! - `plot.rs`: curves as text; `progress.rs`: bars, `progress_line.rs`: one that fits; `time_left.rs`: how long;
//!   `watch.rs`: the same of a sweep that another process runs
//! - `yes_or_no.rs`: asking before something is deleted

pub(crate) mod answer;
pub(crate) mod as_toml;
pub(crate) mod asker;
pub(crate) mod closing;
pub(crate) mod doubts;
pub(crate) mod duration;
pub(crate) mod fitted;
pub(crate) mod forecast;
pub(crate) mod job;
pub(crate) mod json;
pub(crate) mod ls;
pub(crate) mod names;
pub(crate) mod plot;
pub(crate) mod progress;
mod progress_line;
pub(crate) mod prompt;
pub(crate) mod remark;
pub(crate) mod report;
pub(crate) mod several;
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod sweep;
pub(crate) mod table;
pub(crate) mod time_left;
pub(crate) mod watch;
pub(crate) mod whole_sweep;
pub(crate) mod yes_or_no;
