//! The JSON schema of sweep files, with which editors complete keys and mark mistakes.

use crate::Sweep;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// Made from the types that a sweep file is read into, and what their fields say of themselves.
pub fn sweep_schema() -> Value {
    // The draft that editors know.
    let generator = SchemaSettings::draft07().into_generator();
    generator.into_root_schema_for::<Sweep>().into()
}
