//! `sae-run watch` as typed.

use crate::StoreArgs;

/// `sae-run watch` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "At a terminal it shows the sweep until it ends; Ctrl-C ends the view, not the sweep. Elsewhere, and with \
                  `--once`, it prints the state of this moment."
)]
pub struct WatchArgs {
    /// Name of the sweep; by default the one that is running.
    pub sweep: Option<String>,
    /// Print how far it is and end.
    #[arg(long)]
    pub once: bool,
    /// Print how far it is as one object and end.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}
