//! The curves of jobs, from the database to trackers such as TensorBoard.
//!
//! - `exporter.rs`: what trackers lack of a sweep's runs; `places.rs`: where they are
//! - `live.rs`: the same while a sweep runs, in a thread that nothing waits for

mod exporter;
mod live;
mod places;

pub(crate) use exporter::{Exported, Exporter};
pub(crate) use live::Tracking;
pub(crate) use places::Places;
