//! Runs, jobs, metrics and checkpoints in SQLite.
//!
//! [`Store::open`] gives a writer, [`Store::open_read_only`] a reader; any number of processes have either. Which of
//! the writers may train which job is not decided here but by locks on jobs and streams.
//! A writer records a plan, opens and closes the attempts at its streams, and folds the events that
//! workers append to `events.jsonl`. Those events are the truth: what a fold has not yet taken in is
//! not lost when the coordinator dies, and folding an event twice changes nothing.
//!
//! After a crash of the coordinator: [`Store::record_plan`], [`Store::fold`] what the streams have
//! written, [`Store::abandon_dead_attempts`], then [`Store::begin_attempt`] for the streams that are left.
//!
//! The schema, with the meaning of every column, is in `migrations/`.
//!
//! # Files
//!
//! - `open.rs`: opening; `file_system.rs`: where a write-ahead log is of use; `k.rs`: `k` in a column
//! - `annotation.rs`: notes and tags; `failure.rs`: why jobs failed; `outcome.rs`: what came of a sweep's SAEs
//! - `job_name.rs`: which job a name means; `show.rs`, `sweep_details.rs`: all about a job, about a sweep
//! - `record.rs`: a plan; `begun.rs`: how far its jobs are; `left_open.rs`: what killed processes left
//! - `fold.rs`: events; `result.rs`, `history.rs`: what came out, a job's past
//! - `query.rs`: read-only SQL; `compiled.rs`, `authorizer.rs`, `bounds.rs`: what a query is and may do
//! - `listing.rs`, `remove.rs`, `merge/` (another database), `publication.rs` (what the Hub has)
//! - `tracked.rs`: what trackers such as TensorBoard get; `watched.rs`: how far a sweep is; `speed.rs`: how fast earlier streams were trained
//! - `report.rs`: all that a report needs, asked in one moment

mod error;
mod file_system;
mod open;

mod annotation;
mod attempt;
mod begun;
mod calibration;
mod checkpoint;
mod evaluation;
mod extension;
mod failure;
mod job;
mod k;
mod left_open;
mod metric;
mod origin;
mod publication;
mod round;
mod sae;
mod stream;
mod stream_state;
mod sweep;
mod verdict;
mod worker;

mod authorizer;
mod bounds;
mod compiled;
mod fold;
mod history;
mod job_name;
mod listing;
mod merge;
mod outcome;
mod publishable;
mod query;
mod record;
mod remove;
mod report;
mod result;
mod show;
mod speed;
mod sweep_details;
mod tracked;
mod watched;

#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod kind_test;
#[cfg(test)]
mod schema_test;
#[cfg(test)]
mod testing;

pub use annotation::{Subject, UserNote};
pub use attempt::{AttemptEnd, AttemptRow, AttemptStatus, GivenTo, Outcome};
pub use begun::BegunJob;
pub use calibration::CalibratedSae;
pub use checkpoint::CheckpointRow;
pub use compiled::is_complete;
pub use error::StoreError;
pub use evaluation::EvaluationRow;
pub use extension::Extension;
pub use failure::JobFailure;
pub use file_system::is_of_network;
pub use history::{EvaluatedSae, JobCurvePoint, NoteRow, VerdictRow};
pub use job::{BegunOtherwise, JobStatus};
pub use left_open::{AbandonedAttempt, OpenStream, SlurmAttempt};
pub use listing::Listing;
pub use merge::{Merged, MergedJob, OtherDatabase};
pub use open::Store;
pub use origin::SweepOrigin;
pub use outcome::SaeOutcome;
pub use publication::{JobPublication, Publication, PublishedFile, PublishedSae};
pub use publishable::{ProvenanceRow, PublishableSae};
pub use query::{QueryLimits, QueryTable, RowSink};
pub use record::{JobProgress, RecordedJob, RecordedPlan, RecordedStream};
pub use remove::{KeptJob, Removal, RemovedJob};
pub use report::{
    CurvePoint, KindComparison, Report, ReportAttempt, ReportInput, ReportSae, ReportSweep,
};
pub use result::ResultRow;
pub use sae::SaeRow;
pub use show::{JobDetails, JobName};
pub use speed::TrainedStream;
pub use stream_state::StreamState;
pub use sweep::{PlannedJob, SweepSummary};
pub use sweep_details::{SweepDetails, SweepJobRow, SweepVersionRow};
pub use tracked::TrackedJob;
pub use watched::{WatchedStream, WatchedSweep};
