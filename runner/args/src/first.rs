//! What one types first, or once: a first sweep, man pages, completions.

use clap_complete::Shell;
use std::path::PathBuf;

/// `sae-run init` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is a sweep of a few small SAEs on the model's middle block, with a comment on each line. It runs \
                  unchanged."
)]
pub struct InitArgs {
    /// Folder of a Hugging Face model, or the id of a model on the Hub.
    pub model: String,
    /// File, folder or pattern of files of this machine, or the id of a data set on the Hub.
    pub dataset: String,
    /// The file to write.
    #[arg(long, short, value_name = "SWEEP.toml", default_value = "sweep.toml")]
    pub out: PathBuf,
}

/// `sae-run man` as typed.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder, instead of that of `sae-run` to standard output.
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `sae-run completions` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For bash, add this line to ~/.bashrc:\n\n    source <(sae-run completions bash)\n\nThe script asks \
                  `sae-run` itself, so that it knows the jobs and sweeps of the runs folder."
)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}
