//! JSON files of a tokenizer.

use crate::TokensError;
use crate::error::bad_tokenizer;
use files::{READ_HINT, bound};
use serde_json::Value;
use std::path::Path;

/// The file's JSON; null if there is no file.
pub(crate) fn read_json(path: &Path) -> Result<Value, TokensError> {
    match files::read(path, bound::SETTINGS) {
        Ok(content) => files::from_json(&content).map_err(bad_tokenizer(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(TokensError::unreadable("read", path, READ_HINT)(error)),
    }
}
