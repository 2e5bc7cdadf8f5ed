//! `sae-run schema`: what editors complete and check sweep files with.

use crate::error::CliError;
use crate::show::table;

/// `sae-run schema`.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn schema() -> Result<u8, CliError> {
    table::print(&format!("{:#}\n", plan::sweep_schema()))
}
