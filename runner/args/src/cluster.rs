//! What follows the jobs of a sweep in a cluster or a pool, and what makes a machine part of one, as typed.

use crate::StoreArgs;

/// `sae-run status` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It takes in what the workers have reported, asks Slurm about the jobs that `sae-run` has submitted, and looks \
                  which machines of the pool have streams."
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
    after_help = "Jobs that run save a checkpoint first, as far as Slurm gives them time; so do machines of a pool. Running the sweep again continues \
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

/// `sae-run worker-pool` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It takes streams of sweeps with `launcher = \"pool\"`, one after the other. Run it on any number of machines that \
                  see the runs folder at the same path, once for each device. A machine that is lost loses its stream, which \
                  another continues."
)]
pub struct WorkerPoolArgs {
    /// Device that it trains on, such as `cuda:1` [default: that of the sweep].
    #[arg(long)]
    pub device: Option<String>,
    /// Exit when no stream waits and no machine has one.
    #[arg(long)]
    pub exit_when_idle: bool,
    /// Where the streams are.
    #[command(flatten)]
    pub store: StoreArgs,
}
