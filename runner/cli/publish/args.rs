//! The options of `sae-run publish`.

use crate::args::StoreArgs;
use clap::ValueEnum;
use train::Layout;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "One commit has what the repository lacks: files that are there with the same hash are not sent, and \
                  an upload that was cut off goes on where it was. The model card is written from the database. \
                  The SAEs of one job come into the repository's root, where sparsify's `Sae.load_many` finds them; \
                  those of several jobs into a folder for each job. Every SAE is first written in each layout, read \
                  back, and held to what it computes."
)]
pub(crate) struct PublishArgs {
    /// Name of a sweep; or name or id of a job, or the beginning of its id.
    #[arg(value_name = "JOB|SWEEP", required_unless_present = "condition")]
    pub(crate) targets: Vec<String>,
    /// Also the SAEs for which this SQL expression over the columns of `result` is true, such as
    /// "fvu_eval < 0.1".
    #[arg(long = "where", value_name = "SQL")]
    pub(crate) condition: Option<String>,
    /// The model on the Hub; it is made where it is missing.
    #[arg(long, value_name = "ORG/NAME")]
    pub(crate) repo: String,
    /// Make the repository private, where it is made.
    #[arg(long)]
    pub(crate) private: bool,
    /// Branch; it is made where it is missing [default: main].
    #[arg(long, value_name = "BRANCH")]
    pub(crate) revision: Option<String>,
    /// How the SAEs are stored. SAELens's layout beside sparsify's lies in a folder `saelens` of each SAE.
    #[arg(
        long,
        value_name = "LAYOUT,...",
        value_delimiter = ',',
        default_value = "sparsify"
    )]
    pub(crate) layout: Vec<LayoutArg>,
    /// A folder of the repository that all SAEs come into.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) prefix: Option<String>,
    /// Licence for the model card, as the Hub spells it, such as `mit`.
    #[arg(long, value_name = "ID")]
    pub(crate) license: Option<String>,
    /// Publish also jobs that are not done, that diverged or that were never evaluated, and take the place of other
    /// SAEs in the repository.
    #[arg(long)]
    pub(crate) force: bool,
    /// Show what would be sent, and the model card; send nothing.
    #[arg(long, alias = "dry_run")]
    pub(crate) dry_run: bool,
    /// Draw no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// [`Layout`], as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutArg {
    Sparsify,
    #[value(name = "saelens")]
    SaeLens,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Sparsify => Self::Sparsify,
            LayoutArg::SaeLens => Self::SaeLens,
        }
    }
}
