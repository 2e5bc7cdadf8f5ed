//! `sae-run watch` as typed.

use crate::StoreArgs;

/// `sae-run watch` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "At a terminal it follows the sweep until it ends; Ctrl-C ends the view, not the sweep. Elsewhere, and with \
                  `--once`, it prints the current state."
)]
pub struct WatchArgs {
    /// Name of the sweep; by default the one that is running.
    pub sweep: Option<String>,
    /// Print the current state and exit.
    #[arg(long)]
    pub once: bool,
    /// Print the current state as one object and exit.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}
