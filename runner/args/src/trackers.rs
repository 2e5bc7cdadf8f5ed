//! Trackers such as TensorBoard: `sae-run export-log`, and options that name them.

use crate::StoreArgs;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use plan::TrackerKind;
use std::path::PathBuf;

/// `sae-run export-log` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What a tracker has already is not written again. `launch.log_to` of a sweep does the same while the \
                  sweep runs."
)]
pub struct ExportLogArgs {
    /// Name of a sweep.
    pub sweep: String,
    /// Trackers that get the curves of its jobs.
    #[arg(long, value_name = "TRACKER,...", required = true, value_delimiter = ',', value_parser = tracker())]
    pub to: Vec<TrackerKind>,
    /// The folder to write to; by default `trackers` in the runs folder, or what the variables TRACKIO_DIR, WANDB_DIR and
    /// MLFLOW_TRACKING_URI name.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Reads the name of a tracker.
pub(crate) fn tracker() -> impl TypedValueParser<Value = TrackerKind> {
    let names = PossibleValuesParser::new(TrackerKind::ALL.map(TrackerKind::name));
    names.map(|name| TrackerKind::by_name(&name).expect("only these names are let through"))
}
