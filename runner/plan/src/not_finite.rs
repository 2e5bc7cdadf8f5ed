//! Numbers of training that diverged, in JSON.

use serde::{Deserialize, Deserializer};

/// JSON has no NaN and no infinity; `serde_json` writes null for both. Training that diverged must not
/// stop its own report.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
