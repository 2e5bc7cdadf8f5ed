//! `sae-run publish` as typed.

use crate::StoreArgs;
use clap::ValueEnum;

/// `sae-run publish` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One commit adds what the repository lacks: files that are there with the same hash are not sent, and \
                  an interrupted upload resumes. The model card is written from the database. \
                  The SAEs of one job go into the repository's root, where sparsify's `Sae.load_many` finds them; \
                  those of several jobs into a folder for each job. Every SAE is first written in each layout, read \
                  back, and checked to compute the same."
)]
pub struct PublishArgs {
    /// Name of a sweep; or name or id of a job, or the beginning of its id.
    #[arg(value_name = "JOB|SWEEP", required_unless_present = "condition")]
    pub targets: Vec<String>,
    /// Also the SAEs for which this SQL expression over the columns of `result` is true, such as
    /// "fvu_eval < 0.1".
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// The model on the Hub; it is created if it is missing.
    #[arg(long, value_name = "ORG/NAME")]
    pub repo: String,
    /// Create the repository as a private one.
    #[arg(long)]
    pub private: bool,
    /// Branch; it is created if it is missing [default: main].
    #[arg(long, value_name = "BRANCH")]
    pub revision: Option<String>,
    /// How the SAEs are stored [default: for each job the first that holds its kind]. With `sparsify` and `saelens`,
    /// SAELens's is in a folder `saelens` of each SAE. `circuit-tracer` takes the transcoders of one job at the MLPs of
    /// all layers, also cross-layer transcoders. Crosscoders are in the layout `crosscoder-learning`.
    #[arg(long, value_name = "LAYOUT,...", value_delimiter = ',')]
    pub layout: Vec<LayoutArg>,
    /// A folder of the repository that all SAEs go into.
    #[arg(long, value_name = "FOLDER")]
    pub prefix: Option<String>,
    /// Licence for the model card, as the Hub spells it, such as `mit`.
    #[arg(long, value_name = "ID")]
    pub license: Option<String>,
    /// Put the text of the sweep into the model card, as it is: with its comments, and with the folders of this
    /// machine that it names. Without this option, the card has the resulting settings.
    #[arg(long)]
    pub include_sweep: bool,
    /// Publish also jobs that are not done, that diverged or that were never evaluated, and replace other SAEs
    /// in the repository.
    #[arg(long)]
    pub force: bool,
    /// Show what would be sent, and the model card as it would be public; send nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one object: where the SAEs are, and the files.
    #[arg(long)]
    pub json: bool,
    /// Hide progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// How SAEs are stored on the Hub: as sparsify has them, or as SAELens, circuit-tracer or crosscoder_learning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "clap would give each a paragraph of `--help`")]
pub enum LayoutArg {
    Sparsify,
    #[value(name = "saelens")]
    SaeLens,
    CircuitTracer,
    CrosscoderLearning,
}
