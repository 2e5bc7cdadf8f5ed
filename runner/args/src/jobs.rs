//! Commands on jobs and sweeps of the past: notes and tags, what differs, what workers printed.

use crate::{RunOptions, StoreArgs};

/// `sae-run note` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a text, the notes are listed. They are in `sae-run show`, `sae-run ls` and the table `note`."
)]
pub struct NoteArgs {
    /// Name or id of a job, the beginning of its id, SWEEP/JOB, or name of a sweep.
    #[arg(value_name = "JOB|SWEEP")]
    pub target: String,
    /// The note, such as "good, but many dead latents".
    pub text: Option<String>,
    /// Remove all its notes.
    #[arg(long, conflicts_with = "text")]
    pub delete: bool,
    /// Print one object: all its notes.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run tag` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a tag, those that it has are listed. `sae-run ls --tag TAG` lists the SAEs of jobs that have \
                  one; in SQL they are in the column `tags` of `result` and in the table `tag`."
)]
pub struct TagArgs {
    /// Name or id of a job, the beginning of its id, SWEEP/JOB, or name of a sweep.
    #[arg(value_name = "JOB|SWEEP")]
    pub target: String,
    /// Tags to add, one word each, such as `paper`.
    #[arg(value_name = "TAG", value_parser = parse_tag)]
    pub tags: Vec<String>,
    /// Remove these tags.
    #[arg(long, requires = "tags")]
    pub delete: bool,
    /// Print one object: all its tags.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run extend` as typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A job continues from the state that it kept when it was done, and ends in the same weights as one that \
                  was trained this long from the start. A state is kept if no update depends on how many there will \
                  be (as with `lr_scheduler = \"constant\"`), or from before the first that does with `keep_state = \
                  true`. A job without a state is trained from the start. A larger `max_examples` or `epochs` in the \
                  sweep file does the same."
)]
pub struct ExtendArgs {
    /// Name or id of a job, the beginning of its id, SWEEP/JOB, or name of a sweep.
    #[arg(value_name = "JOB|SWEEP")]
    pub target: String,
    /// Tokens to train on in all, each once.
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "epochs",
        conflicts_with = "epochs"
    )]
    pub tokens: Option<u64>,
    /// How often to train on the same tokens in all.
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,
    /// Override a setting, such as `launch.device=cuda`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// How the jobs are run.
    #[command(flatten)]
    pub options: RunOptions,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run diff` as typed.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Name or id of a job, the beginning of its id, or SWEEP/JOB.
    #[arg(value_name = "JOB")]
    pub left: String,
    /// The job to compare it with.
    #[arg(value_name = "JOB")]
    pub right: String,
    /// Print one object.
    #[arg(long)]
    pub json: bool,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sae-run logs` as typed.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Name or id of a job, the beginning of its id, or SWEEP/JOB.
    pub job: String,
    /// Print only the last N lines.
    #[arg(long, short = 'n', value_name = "N")]
    pub tail: Option<usize>,
    /// Where the database is.
    #[command(flatten)]
    pub store: StoreArgs,
}

fn parse_tag(text: &str) -> Result<String, &'static str> {
    let is_of_tag = |c: char| c.is_alphanumeric() || "_-.:=".contains(c);
    if text.is_empty() || !text.chars().all(is_of_tag) {
        return Err("a tag is one word of letters, digits, `_`, `-`, `.`, `:` and `=`");
    }
    Ok(text.to_owned())
}
