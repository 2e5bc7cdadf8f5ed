//! What follows the jobs of a sweep in a cluster, as typed.

use crate::StoreArgs;

/// `sae-run status` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It takes in what the workers have reported, and asks Slurm about the jobs that `sae-run` has submitted."
)]
pub struct StatusArgs {
    /// Name of the sweep.
    pub sweep: String,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run cancel` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Jobs that run save a checkpoint first, as far as Slurm gives them time. Running the sweep again continues \
                  from it. What this machine trains itself is stopped with Ctrl-C."
)]
pub struct CancelArgs {
    /// Name of the sweep.
    pub sweep: String,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}
